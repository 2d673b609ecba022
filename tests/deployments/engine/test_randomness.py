from __future__ import annotations

from deployments.engine.randomness import mix, place_key


def test_mix_is_splitmix64() -> None:
    """The first outputs of the published generator when its state is 0."""
    assert mix(0) == 0xE220A8397B1DCDAF
    assert mix(0x9E3779B97F4A7C15) == 0x6E789E6AA1B965F4


def test_keys_stay_what_they_were() -> None:
    """A change here changes the output of every seeded request."""
    assert [place_key(1234, 0, 0), place_key(1234, 3, 17), place_key(-1, 0, 0)] == [
        5960182133528308962,
        8911498952344259504,
        -287061555193568806,
    ]
