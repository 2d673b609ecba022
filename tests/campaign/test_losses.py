from __future__ import annotations

from pathlib import Path

from app.producer import LOST
from tests.campaign.losses import Losses


def test_losses_are_read_from_the_logs_once_each(tmp_path: Path) -> None:
    losses = Losses(tmp_path)
    one, other = tmp_path / "replica_streaming_Ingress_1.log", tmp_path / "replica_streaming_Ingress_2.log"
    one.write_text(f"something else\n{LOST % ('st_1a', 'r1')}\n")
    other.write_text(f"{LOST % ('st_2b', 'r1')}\n{LOST % ('st_3c', 'r1')}")
    assert losses.fresh() == {"st_1a", "st_2b"}
    with other.open("a") as log:
        log.write("\n")
    assert losses.fresh() == {"st_3c"}
    assert losses.fresh() == frozenset()
