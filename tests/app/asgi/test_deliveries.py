"""Who may still wait for a terminal frame."""

from __future__ import annotations

from app.asgi.deliveries import Deliveries


def test_an_end_that_nobody_has_had_here_is_awaited() -> None:
    assert Deliveries().is_awaited("st_1:5")


def test_an_end_that_was_written_is_awaited_no_more() -> None:
    deliveries = Deliveries()
    deliveries.completed("st_1:5", again=False)
    assert not deliveries.is_awaited("st_1:5")
    assert deliveries.is_awaited("st_2:5")


def test_each_client_that_was_cut_off_gets_it_once_more() -> None:
    deliveries = Deliveries()
    deliveries.cut("st_1:5", again=False)
    deliveries.completed("st_1:5", again=False)
    deliveries.cut("st_1:5", again=False)
    for _ in range(2):
        assert deliveries.is_awaited("st_1:5")
        deliveries.cut("st_1:5", again=True)
        assert deliveries.is_awaited("st_1:5")
        deliveries.completed("st_1:5", again=True)
    assert not deliveries.is_awaited("st_1:5")


def test_what_is_remembered_is_bounded_and_the_latest() -> None:
    deliveries = Deliveries(max_event_ids=2)
    for stream in ("a", "b", "a", "c"):
        deliveries.completed(f"{stream}:5", again=False)
    assert [deliveries.is_awaited(f"{stream}:5") for stream in "abc"] == [False, True, False]
