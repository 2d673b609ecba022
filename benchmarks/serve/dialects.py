"""The wire formats of the load client: the body of a request, the tokens of an event, the check of a whole stream.

`tokens_in` runs for every event during the load and only searches bytes. `verdict` runs after the load and decodes every event.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from benchmarks.serve.workload import DialectName, Endpoint, Workload

_TEXT_PROMPT = "Tell me a story about the sea and a small boat that came home late. "
_QUESTIONS = (
    "Tell me a story about a fox and a river.",
    "Tell me a story about an old lighthouse.",
    "Tell me a short story about a lost kite.",
    "Tell me a story about a girl and her dog.",
    "What color is the sky?",
    "Tell me a story about a bear in the snow.",
    "Tell me a story about a boat and a storm.",
    "Tell me a story about a garden in spring.",
)


class Verdict(msgspec.Struct, frozen=True):
    """The check of a whole stream; `problem` is None when the stream is correct."""

    problem: str | None
    completion_tokens: int | None = None


class Dialect(Protocol):
    def body(self, endpoint: Endpoint, workload: Workload, number: int, tokens: int) -> dict[str, Any]:
        """The JSON of request `number`, for `tokens` tokens."""
        ...

    def tokens_in(self, data: bytes) -> int:
        """The number of tokens in the event; 0 when it is not a delta."""
        ...

    def verdict(self, events: Sequence[bytes], workload: Workload, tokens: int) -> Verdict:
        """Whether these are all events of a stream of `tokens` tokens with the correct ending."""
        ...


def prompt_of(prompt_tokens: int) -> str:
    """English text of about `prompt_tokens` tokens, a word for a token."""
    words = _TEXT_PROMPT.split()
    return " ".join(words[index % len(words)] for index in range(prompt_tokens))


class NativeDialect:
    """`POST /v1/streams`: frames with `"tokens":k`, a terminal frame, and the hash of the whole text."""

    def body(self, endpoint: Endpoint, workload: Workload, number: int, tokens: int) -> dict[str, Any]:
        return {
            "model": endpoint.model,
            "prompt": prompt_of(workload.prompt_tokens),
            "max_tokens": tokens,
            "ignore_eos": workload.ignore_eos,
            "stream": True,
        }

    def tokens_in(self, data: bytes) -> int:
        # Quotes are escaped inside a JSON string, so neither key can be a part of the text.
        if b'"type":"delta"' not in data:
            return 0
        start = data.rfind(b'"tokens":') + 9
        end = start
        while data[end : end + 1].isdigit():
            end += 1
        return int(data[start:end]) if end > start >= 9 else 0

    def verdict(self, events: Sequence[bytes], workload: Workload, tokens: int) -> Verdict:
        frames = [msgspec.json.decode(event) for event in events]
        kinds = [frame["type"] for frame in frames]
        if not kinds or kinds[0] != "start":
            return Verdict("the first frame is no start frame")
        if kinds[-1] == "error":
            return Verdict(f"ended with the error {frames[-1]['error']['code']}")
        if kinds[-1] != "end" or set(kinds[1:-1]) - {"delta"}:
            return Verdict("the stream is not start, deltas, end")
        deltas, end = frames[1:-1], frames[-1]
        completion_tokens = int(end["usage"]["completion_tokens"])
        cursor = 0
        for delta in deltas:
            cursor += int(delta["tokens"])
            if delta["cursor"] != str(cursor):
                return Verdict(f"the cursor {delta['cursor']} follows {cursor} tokens", completion_tokens)
        text = "".join(delta["text"] for delta in deltas)
        if [hashlib.sha256(text.encode()).hexdigest()] != end["text_sha256"]:
            return Verdict("the text is not the one of text_sha256", completion_tokens)
        if cursor > completion_tokens or (workload.ignore_eos and completion_tokens != tokens):
            return Verdict(
                f"{cursor} tokens came, {completion_tokens} were counted, {tokens} asked for",
                completion_tokens,
            )
        return Verdict(None, completion_tokens)


class ChatDialect:
    """`POST /v1/chat/completions` of the OpenAI dialect; a chunk with text counts as one token, `usage` overrides the count."""

    def body(self, endpoint: Endpoint, workload: Workload, number: int, tokens: int) -> dict[str, Any]:
        return {
            "model": endpoint.model,
            "messages": [{"role": "user", "content": _QUESTIONS[number % len(_QUESTIONS)]}],
            "max_tokens": tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        } | ({"ignore_eos": True} if workload.ignore_eos else {})

    def tokens_in(self, data: bytes) -> int:
        return 1 if b'"content":"' in data and b'"content":""' not in data else 0

    def verdict(self, events: Sequence[bytes], workload: Workload, tokens: int) -> Verdict:
        chunks = [msgspec.json.decode(event) for event in events if event != b"[DONE]"]
        completion_tokens = None
        finish_reason = None
        for chunk in chunks:
            if "error" in chunk:
                return Verdict("ended with an error chunk")
            if usage := chunk.get("usage"):
                completion_tokens = int(usage["completion_tokens"])
            for choice in chunk.get("choices") or ():
                finish_reason = choice.get("finish_reason") or finish_reason
        if finish_reason is None:
            return Verdict("no chunk has a finish_reason", completion_tokens)
        if workload.ignore_eos and completion_tokens not in (None, tokens):
            return Verdict(f"{completion_tokens} tokens were counted, {tokens} asked for", completion_tokens)
        return Verdict(None, completion_tokens)


class PlainDialect:
    """The baselines' format: one event with a piece of text for each token, then `[DONE]`."""

    def body(self, endpoint: Endpoint, workload: Workload, number: int, tokens: int) -> dict[str, Any]:
        return {"prompt": prompt_of(workload.prompt_tokens), "max_tokens": tokens}

    def tokens_in(self, data: bytes) -> int:
        return 0 if data == b"[DONE]" else 1

    def verdict(self, events: Sequence[bytes], workload: Workload, tokens: int) -> Verdict:
        if not events or events[-1] != b"[DONE]":
            return Verdict("the last event is not [DONE]")
        if len(events) - 1 != tokens:
            return Verdict(f"{len(events) - 1} tokens came, {tokens} asked for")
        return Verdict(None)


DIALECTS: dict[DialectName, Dialect] = {
    "native": NativeDialect(),
    "chat": ChatDialect(),
    "plain": PlainDialect(),
}
