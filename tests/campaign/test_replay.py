from __future__ import annotations

from typing import Any

import tests.fakes.quiet_ray  # noqa: F401
from tests.campaign.replay import SteeredStream, replayed

ARGS: dict[str, Any] = {"models": [{"name": "storyteller", "dtype": "float32", "threads": 1}]}
FIELDS: dict[str, Any] = {"prompt": "The fox", "max_tokens": 20, "ignore_eos": True, "n": 1, "seed": 3}


def test_a_stream_is_replayed_with_its_text_put_in_where_it_was() -> None:
    late, early, other, alone = replayed(
        ARGS,
        [
            SteeredStream(FIELDS, 12, " But then"),
            SteeredStream(FIELDS, 0, " But then"),
            SteeredStream(FIELDS, 12, " A"),
            SteeredStream(FIELDS, 20, " But then"),
        ],
    )
    assert [len(tokens) for tokens in (late, early, other, alone)] == [20] * 4
    assert late[:12] == other[:12] == alone[:12]
    put_in = len([1 for one, two in zip(late[12:], early, strict=False) if one == two])
    assert put_in > 0 and late[12 : 12 + 1] == early[:1] != other[12:13]
    assert late != alone
