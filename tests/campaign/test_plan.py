from __future__ import annotations

from itertools import islice

from app.schema.native import StreamBody
from tests.campaign.plan import DISTURBANCES, PROTOCOLS, Plan
from tests.campaign.report import quantile


def test_a_seed_gives_the_same_plan_and_another_one_another() -> None:
    def drawn(seed: int) -> tuple[object, ...]:
        plan = Plan(seed, model="m")
        return plan.requests, list(islice(plan.calls(), 50)), list(islice(plan.disturbances(), 50))

    assert drawn(1) == drawn(1)
    assert all(one != other for one, other in zip(drawn(1), drawn(2), strict=True))


def test_everything_is_drawn_sooner_or_later() -> None:
    plan = Plan(3, model="m", requests=200)
    for fields in plan.requests:
        StreamBody.model_validate(fields)
    calls = list(islice(plan.calls(), 200))
    assert {call.protocol for call in calls} == set(PROTOCOLS)
    assert {kind for _, kind in islice(plan.disturbances(), 100)} == set(DISTURBANCES)
    assert {fields["n"] for fields in plan.requests} == {1, 3}
    for name in ("seed", "stop", "logprobs", "repetition_penalty", "presence_penalty", "top_p", "min_p"):
        assert 0 < sum(name in fields for fields in plan.requests) < 200
    assert any(call.leaves_after for call in calls) and any(call.delay_s for call in calls)
    assert not any(call.leaves_after for call in calls if call.protocol == "chat")


def test_a_quantile_is_one_of_the_values() -> None:
    values = [5.0, 1.0, 3.0, 2.0, 4.0]
    assert [quantile(values, share) for share in (0, 0.5, 0.95, 1)] == [1.0, 3.0, 5.0, 5.0]
