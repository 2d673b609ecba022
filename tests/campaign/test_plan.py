from __future__ import annotations

from itertools import islice

from app.schema.native import StreamBody
from app.wire.grpc import to_body
from tests.campaign.plan import KINDS, PROTOCOLS, ROUND, Plan, is_plain, kinds_of
from tests.cases.grpc_requests import grpc_request


def test_a_seed_gives_the_same_plan_and_another_one_another() -> None:
    def drawn(seed: int) -> tuple[object, ...]:
        plan = Plan(seed, model="m")
        return (
            plan.requests,
            list(islice(plan.calls(), 50)),
            list(islice(plan.disturbances(ROUND), 50)),
        )

    assert drawn(1) == drawn(1)
    assert all(one != other for one, other in zip(drawn(1), drawn(2), strict=True))


def test_everything_is_drawn_sooner_or_later() -> None:
    plan = Plan(3, model="m", requests=200)
    for fields in plan.requests:
        StreamBody.model_validate(fields)
    calls = list(islice(plan.calls(), 200))
    assert {call.protocol for call in calls} == set(PROTOCOLS)
    for _ in range(3):
        assert sorted(kind for _, kind in islice(plan.disturbances(ROUND), len(ROUND))) == sorted(ROUND)
    edits = [call.edit for call in calls if call.edit is not None]
    assert {edit.kind for edit in edits} == {"steer", "update", "stop"}
    assert {edit.elsewhere for edit in edits} == {True, False}
    assert all(is_plain(plan.requests[call.request]) for call in calls if call.edit is not None)
    assert {fields["n"] for fields in plan.requests} == {1, 3}
    assert frozenset(KINDS) == frozenset().union(*map(kinds_of, plan.requests))
    for name in ("seed", "stop", "logprobs", "repetition_penalty", "presence_penalty", "top_p", "min_p"):
        assert 0 < sum(name in fields for fields in plan.requests) < 200
    assert all(("seed" in fields) != (fields["temperature"] == 0) for fields in plan.requests)
    assert any(call.leaves_after for call in calls) and any(call.delay_s for call in calls)
    assert not any(call.leaves_after for call in calls if call.protocol == "chat")


def test_no_kind_of_request_is_rare() -> None:
    requests = Plan(1, model="m").requests
    for kind in KINDS:
        assert sum(kind in kinds_of(fields) for fields in requests) >= 8
    assert sum(map(is_plain, requests)) >= 6


def test_every_protocol_can_say_the_requests() -> None:
    for fields in Plan(1, model="m").requests:
        assert StreamBody.model_validate(to_body(grpc_request(fields))) == StreamBody.model_validate(fields)
