"""Streams that were steered, generated again by an engine in this process, alone and undisturbed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.context import fit_sampling
from app.schema.native import StreamBody
from app.schema.tokens import Job, Steering
from app.settings import Settings
from deployments.generator.deployment import build_engine
from deployments.tokenizer.prompt_encoder import PromptEncoder

INGRESS = "replay"


@dataclass(frozen=True)
class SteeredStream:
    """The stream of the request `fields`, with one choice, which got `text` when it had `position` tokens."""

    fields: dict[str, Any]
    position: int
    text: str


def replayed(args: dict[str, Any], streams: Sequence[SteeredStream]) -> list[list[int]]:
    """The tokens of each stream. `args` are those of the application, with one model. Takes seconds and blocks."""
    if not streams:
        return []
    settings = Settings.model_validate(args)
    [model] = settings.models
    encoder, engine = PromptEncoder(model), build_engine(model)
    tokens: list[list[int]] = []
    for stream in streams:
        request = StreamBody.model_validate(stream.fields).to_request(settings.limits, model.name)
        prompt = encoder.encode(request)
        sampling = fit_sampling(request, prompt, request.seed or 0, encoder.card, settings.limits)
        engine.add(Job(ingress=INGRESS, key=1, prompt=prompt, sampling=sampling))
        steering = Steering("once", list(encoder.encode_text(stream.text))[: sampling.max_tokens])
        made: list[int] = []
        if stream.position == 0:
            engine.steer(INGRESS, 1, steering)
        while engine.has_work:
            for batch in engine.step().get(INGRESS, []):
                made += batch.token_ids
                if len(made) == stream.position:
                    engine.steer(INGRESS, 1, steering)
        tokens.append(made)
    return tokens
