"""Which clients may still wait for a terminal frame."""

from __future__ import annotations

from app.asgi.deliveries import MAX_SATISFIED, Deliveries


def returns(deliveries: Deliveries, event_id: str) -> int:
    """How many clients get the frame before one is told to stop."""
    count = 0
    while deliveries.is_awaited(event_id):
        deliveries.repeated(event_id)
        count += 1
        assert count < 100
    deliveries.dismissed(event_id)
    return count


def test_of_an_unknown_end_nothing_is_known() -> None:
    deliveries = Deliveries()
    assert deliveries.is_awaited("st_1:5")
    assert [returns(deliveries, "st_1:5") for _ in range(2)] == [1, 0]


def test_an_end_that_was_carried_in_one_write_is_awaited_no_more() -> None:
    deliveries = Deliveries()
    deliveries.completed("st_1:5", apart=False)
    assert not deliveries.is_awaited("st_1:5")
    assert deliveries.is_awaited("st_2:5")


def test_an_end_that_was_carried_in_a_write_of_its_own_may_have_been_lost() -> None:
    deliveries = Deliveries()
    deliveries.completed("st_1:5", apart=True)
    assert [returns(deliveries, "st_1:5") for _ in range(2)] == [1, 0]


def test_every_client_that_was_cut_is_waited_for() -> None:
    deliveries = Deliveries()
    for _ in range(2):
        deliveries.cut("st_1:5")
    assert [returns(deliveries, "st_1:5") for _ in range(2)] == [2, 0]
    deliveries.cut("st_1:5")
    assert returns(deliveries, "st_1:5") == 1


def test_whoever_had_the_frame_may_come_first_and_does_not_take_it_from_one_who_had_not() -> None:
    deliveries = Deliveries()
    deliveries.completed("st_1:5", apart=False)
    deliveries.cut("st_1:5")
    deliveries.completed("st_1:5", apart=False)
    assert [returns(deliveries, "st_1:5") for _ in range(2)] == [3, 0]


def test_whoever_was_told_to_stop_comes_no_more() -> None:
    deliveries = Deliveries()
    deliveries.completed("st_1:5", apart=False)
    deliveries.dismissed("st_1:5")
    deliveries.cut("st_1:5")
    assert returns(deliveries, "st_1:5") == 1


def test_nobody_gets_the_frame_without_end() -> None:
    deliveries = Deliveries()
    for _ in range(1000):
        deliveries.completed("st_1:5", apart=False)
    deliveries.cut("st_1:5")
    assert returns(deliveries, "st_1:5") == MAX_SATISFIED + 1


def test_the_oldest_are_forgotten() -> None:
    deliveries = Deliveries(max_event_ids=2)
    for stream in "abac":
        deliveries.completed(f"{stream}:5", apart=False)
    assert [deliveries.is_awaited(f"{stream}:5") for stream in "abc"] == [False, True, False]
