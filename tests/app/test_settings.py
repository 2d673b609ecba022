"""The settings: what is refused, and that the refusal names the key."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from app.settings import Settings


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ({"colour": 1}, "colour"),
        ({"limits": {"max_body_kib": 1}}, "limits.max_body_kib"),
        ({"models": []}, "models"),
        ({"models": [{"name": "a"}, {"name": "a"}]}, "same name: a"),
        ({"models": [{"min_replicas": 3, "max_replicas": 2}]}, "max_replicas"),
        ({"models": [{"kv_cache_tokens": 100, "max_model_len_tokens": 101}]}, "kv_cache_tokens (100)"),
        ({"limits": {"max_body_bytes": 11, "max_held_body_bytes": 10}}, "max_held_body_bytes (10)"),
        ({"models": [{"engine": "magic"}]}, "models.0.engine"),
        ({"streams": {"grace_s": float("inf")}}, "streams.grace_s"),
        ({"streams": {"backend": "redis"}}, "redis_url"),
        ({"auth": {"keys_file": "keys.json"}}, "auth.keys_file"),
        ({"safety": {"patterns_file": "patterns"}}, "safety.patterns_file"),
    ],
)
def test_what_is_refused_is_named(args: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Settings.model_validate(args)
    assert named in str(raised.value)


def test_the_defaults_stand_by_themselves() -> None:
    settings = Settings()
    assert [model.name for model in settings.models] == ["storyteller"]
    assert settings.models[0].sequences_per_replica == 96
