from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def unpaced_recorder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time stands still in these tests, except in those of the pace itself."""
    if "paced" not in request.node.name:
        monkeypatch.setattr("app.streams.recorder.PACE_S", 0.0)
