"""One choice of a stream, from the frames that carry it."""

from __future__ import annotations

from streaming_inference.frames import Delta, Logprob


class ChoiceFold:
    """What the deltas of one choice add up to."""

    def __init__(self) -> None:
        self.token_ids: list[int] | None = None
        self.logprobs: list[Logprob] | None = None
        self._texts: list[str] = []

    def add(self, delta: Delta) -> None:
        """Takes the next delta of the choice."""
        self._texts.append(delta.text)
        if delta.token_ids is not None:
            self.token_ids = (self.token_ids or []) + delta.token_ids
        if delta.logprobs is not None:
            self.logprobs = (self.logprobs or []) + delta.logprobs

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._texts)
