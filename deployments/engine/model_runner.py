"""Runs the model on the chunks of a step, and makes sure at the start that the model can be run this way at
all.

`ModelRunner` takes a transformers model as it is. Before it serves, three things are checked: what the
model's class and configuration say, what its layers do in a first pass, and that logits computed in chunks
and one by one equal the model's own forward pass.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel

from app.schema.sampling import SamplingParams
from app.schema.tokens import Job
from app.settings import context_tokens
from deployments.engine.attention import NAME, AttentionStep, ExtentStep, ShapeProbe, extent_attention
from deployments.engine.batch_invariant import make_batch_invariant
from deployments.engine.config import EngineConfig
from deployments.engine.extents import SMALLEST_EXTENT_TOKENS
from deployments.engine.handed_over import HandedOverToken, handed_over_tokens
from deployments.engine.kv_cache import KVCache
from deployments.engine.protocol import UnsupportedModel
from deployments.engine.scheduler import Chunk
from deployments.engine.self_test import unequal_attention, unequal_products
from deployments.engine.sequence import Sequence
from deployments.engine.step_progress import StepProgress

logger = logging.getLogger(__name__)

AttentionInterface.register(NAME, extent_attention)

_LAYER_TYPES = {"full_attention", "sliding_attention"}
_PROBE_TOKENS = (24, 17)
_TOLERANCES = {torch.float32: 5e-3, torch.float16: 0.1, torch.bfloat16: 0.3}
"""The largest allowed difference of logits, in standard deviations: see `ModelRunner._difference`."""


class ModelRunner:
    """Owns the model and its key-value memory. `max_model_len_tokens` is the length of the model, or what
    the configuration and the memory leave of it. `progress` is called in every layer.

    `deterministic`: the logits of a token have the same bits whatever shares its batch and however its sequence was cut into
    chunks, as a self-test found on this machine; never without `batch_invariant`. Raises `UnsupportedModel`.
    """

    def __init__(self, model: PreTrainedModel, config: EngineConfig) -> None:
        text_config = model.config.get_text_config()
        check_supported(model)
        self.progress: Callable[[], None] = lambda: None
        self._model = model
        self._model.train(False)
        self._device = model.device
        self._takes_logits_index = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.vocab_size = int(text_config.vocab_size)
        longest = getattr(text_config, "max_position_embeddings", None) or None
        self.max_model_len_tokens = context_tokens(
            longest, config.max_model_len_tokens, config.kv_cache_tokens
        )
        if longest is not None and self.max_model_len_tokens == config.kv_cache_tokens < longest:
            logger.warning(
                "the context has the %d tokens of kv_cache_tokens; the model takes %d",
                self.max_model_len_tokens,
                longest,
            )
        probes = self._probes(config.kv_cache_tokens)
        expected = self._reference(probes)
        model.set_attn_implementation(NAME)
        makes = config.batch_invariant and self._device.type == "cpu"
        self._row_multiple = make_batch_invariant(model) if makes else 1
        probe = ShapeProbe()
        ids = torch.arange(2, device=self._device)
        try:
            with torch.inference_mode():
                self._logits(ids, ids, probe, [1])
        except Exception as error:
            raise UnsupportedModel(
                f"{_name(model)} can't be served: its layers don't run with this engine's attention ({error})"
            ) from error
        check_layers(model, probe)
        layers = [shape for _, shape in sorted(probe.shapes.items())]
        self.kv_cache = KVCache(
            layers,
            config.kv_cache_tokens,
            self.max_model_len_tokens,
            self._device,
            has_windows=any(probe.windows.values()),
        )
        self._probe, self._probe_expected = probes[0], expected[0]
        self._verify(probes, expected)
        self.deterministic = config.batch_invariant and self._tests_equal(probe, probes)

    @torch.inference_mode()
    def forward(self, chunks: list[Chunk]) -> tuple[torch.Tensor, list[Sequence], list[HandedOverToken]]:
        """The logits of the next tokens and of the handed-over tokens that are to be checked: (rows, vocab_size), of the model's
        dtype; the sequences of the first rows, and the handed-over tokens of the others.
        """
        step = ExtentStep(chunks, self.kv_cache, self._device, self._row_multiple)
        sampled: list[Sequence] = []
        handed_over: list[HandedOverToken] = []
        last_tokens: list[int] = []
        checked: list[int] = []
        tokens = 0
        for chunk in step.ordered:
            first = tokens + chunk.sequence.prompt_length - 1 - chunk.start
            unchecked = handed_over_tokens(chunk)
            checked += [first + token.position for token in unchecked]
            handed_over += unchecked
            tokens += chunk.count
            if chunk.samples:
                sampled.append(chunk.sequence)
                last_tokens.append(tokens - 1)
        return self._logits(step.ids, step.positions, step, last_tokens + checked), sampled, handed_over

    def works(self) -> bool:
        """Whether the model still gives what it gave at the start. False too when there is no memory to
        try.
        """
        try:
            difference = self._difference([self._probe], [self._probe_expected])
        except Exception:
            logger.exception("the model fails on a prompt that it did at the start")
            return False
        return difference <= _TOLERANCES[self._model.dtype]

    def _logits(
        self, ids: torch.Tensor, positions: torch.Tensor, step: AttentionStep, rows: list[int]
    ) -> torch.Tensor:
        """The logits of the tokens at places `rows` of the step: (len(rows), vocab_size), of the model's dtype.

        `ids` and `positions`: (tokens,), int64.
        """
        arguments: dict[str, Any] = {
            "input_ids": ids[None],
            "position_ids": positions[None],
            "use_cache": False,
        }
        everything = rows == list(range(len(ids)))
        padding = rows[-1:] * (-len(rows) % self._row_multiple)
        index = torch.tensor(rows + padding, dtype=torch.long).to(self._device, non_blocking=True)
        if self._takes_logits_index and not everything:
            arguments["logits_to_keep"] = index
        logits: torch.Tensor = self._model(
            **arguments, attention_step=StepProgress(step, self.progress)
        ).logits[0]
        if everything:
            return logits
        return logits[: len(rows)] if self._takes_logits_index else logits[index[: len(rows)]]

    # Checks at the start.

    def _probes(self, kv_cache_tokens: int) -> list[list[int]]:
        """Short prompts of which no token is like its neighbour: two, or one where the memory holds no
        two.
        """
        count = min(len(_PROBE_TOKENS), -(-kv_cache_tokens // SMALLEST_EXTENT_TOKENS))
        lengths = [min(length, self.max_model_len_tokens) for length in _PROBE_TOKENS[:count]]
        return [[(7 + 13 * place * place) % self.vocab_size for place in range(length)] for length in lengths]

    @torch.inference_mode()
    def _reference(self, probes: list[list[int]]) -> list[torch.Tensor]:
        """The logits of every position by the model's own eager forward pass: for each probe (tokens, vocab_size),
        float32.
        """
        self._model.set_attn_implementation("eager")
        return [
            self._model(input_ids=torch.tensor([probe], device=self._device), use_cache=False)
            .logits[0]
            .float()
            for probe in probes
        ]

    def _verify(self, probes: list[list[int]], expected: list[torch.Tensor]) -> None:
        """Raises `UnsupportedModel` when the logits differ. `expected`: for each probe (tokens, vocab_size), float32."""
        try:
            difference = self._difference(probes, expected)
        except (RuntimeError, IndexError) as error:
            raise UnsupportedModel(f"{_name(self._model)} can't be run by this engine: {error}") from error
        if not difference <= _TOLERANCES[self._model.dtype]:
            raise UnsupportedModel(
                f"{_name(self._model)} gives other logits in this engine than by itself: they differ by {difference:.3g} "
                "standard deviations"
            )

    def _difference(self, probes: list[list[int]], expected: list[torch.Tensor]) -> float:
        """The difference to `expected` in standard deviations of the logits: at the worst position in float32, at the median
        position otherwise.

        In half precision a mixture of experts now and then sends a token to another expert, by its own implementations of
        attention too. `expected`: for each probe (tokens, vocab_size), float32.
        """
        positions = [
            (logits.float() - wanted).abs().amax(dim=-1) / wanted.std()
            for logits, wanted in zip(self._probe_logits(probes, in_thirds=True), expected, strict=True)
        ]
        differences = torch.cat(positions).nan_to_num(float("inf"))
        return float(differences.max() if self._model.dtype == torch.float32 else differences.median())

    def _tests_equal(self, probe: ShapeProbe, probes: list[list[int]]) -> bool:
        """Whether a self-test finds all bits equal. Writes the result to the log."""
        began_s = time.perf_counter()
        unequal = (
            unequal_products(self._model, self._row_multiple)
            or unequal_attention(probe, self._device)
            or self._unequal(probes)
        )
        logger.log(
            logging.INFO if unequal is None else logging.WARNING,
            "the self-test of %.2f s says that texts %s%s",
            time.perf_counter() - began_s,
            "don't depend on what else is computed"
            if unequal is None
            else "may depend on what else is computed: not the same are ",
            unequal or "",
        )
        return unequal is None

    def _unequal(self, probes: list[list[int]]) -> str | None:
        """Why the logits of a token are not the same bits in every company, as far as the probes show it; None if they are."""
        together = self._probe_logits(probes, in_thirds=True)
        for probe, logits in zip(probes, together, strict=True):
            (alone,) = self._probe_logits([probe], in_thirds=False)
            if not torch.equal(alone, logits):
                return "the logits of a prompt that is computed alone and whole"
        return None

    @torch.inference_mode()
    def _probe_logits(self, probes: list[list[int]], *, in_thirds: bool) -> list[torch.Tensor]:
        """The logits of every position, all probes side by side: for each (tokens, vocab_size). They are computed whole, or
        `in_thirds`: two chunks, then token by token.
        """
        sequences = [_probe_sequence(probe, number) for number, probe in enumerate(probes)]
        logits: list[list[torch.Tensor]] = [[] for _ in probes]
        try:
            for sequence in sequences:
                sequence.extent = self.kv_cache.allocate(len(sequence.tokens))
                if sequence.extent is None:
                    raise RuntimeError("no key-value memory is free")
            while any(sequence.remaining for sequence in sequences):
                chunks = []
                for sequence in sequences:
                    third = len(sequence.tokens) // 3
                    count = third if third and sequence.computed < 2 * third else 1
                    if sequence.remaining:
                        count = count if in_thirds else sequence.remaining
                        chunks.append(Chunk(sequence, sequence.computed, count))
                step = ExtentStep(chunks, self.kv_cache, self._device, self._row_multiple)
                rows = list(range(sum(chunk.count for chunk in chunks)))
                parts = self._logits(step.ids, step.positions, step, rows).split(
                    [chunk.count for chunk in step.ordered]
                )
                for chunk, part in zip(step.ordered, parts, strict=True):
                    logits[chunk.sequence.choice].append(part)
                    chunk.sequence.computed = chunk.end
        finally:
            for sequence in sequences:
                if sequence.extent is not None:
                    self.kv_cache.free(sequence.extent)
        return [torch.cat(parts) for parts in logits]


def check_supported(model: PreTrainedModel) -> None:
    """Raises `UnsupportedModel` for what the class and the configuration of a model rule out."""
    config = model.config.get_text_config()
    if not model._supports_attention_backend:
        raise UnsupportedModel(
            f"{_name(model)} can't be served: its code does not let its attention be replaced "
            "(_supports_attention_backend is false)"
        )
    if model.config.is_encoder_decoder:
        raise UnsupportedModel(f"{_name(model)} can't be served: it is an encoder-decoder model")
    others = sorted(set(getattr(config, "layer_types", None) or ()) - _LAYER_TYPES)
    if others:
        raise UnsupportedModel(
            f"{_name(model)} can't be served: it has layers of the type {', '.join(others)}; this engine knows "
            "full_attention and sliding_attention"
        )
    if model.dtype not in _TOLERANCES:
        raise UnsupportedModel(f"{_name(model)} can't be served in {model.dtype}")


def check_layers(model: PreTrainedModel, probe: ShapeProbe) -> None:
    """Raises `UnsupportedModel` when the layers don't call attention as the configuration says."""
    config = model.config.get_text_config()
    count = int(config.num_hidden_layers)
    if sorted(probe.shapes) != list(range(count)):
        raise UnsupportedModel(
            f"{_name(model)} can't be served: not each of its {count} layers keeps keys and values"
        )
    types = getattr(config, "layer_types", None)
    sliding = [index for index, kind in enumerate(types or ()) if kind == "sliding_attention"]
    for index in sliding:
        if not probe.windows[index]:
            raise UnsupportedModel(f"{_name(model)} can't be served: layer {index} hides its sliding window")


def _name(model: PreTrainedModel) -> str:
    return type(model).__name__


def _probe_sequence(tokens: list[int], number: int) -> Sequence:
    generated: list[list[int]] = [[]] * (number + 1)
    sampling = SamplingParams(max_tokens=1)
    job = Job(ingress="", key=0, prompt=tokens, sampling=sampling, n=number + 1, generated=generated)
    return Sequence(job, number, len(tokens) + 1, number)
