"""The messages of a generator replica to one ingress: batches that wait, and messages that are sent but may not have arrived.

Steps of the engine are joined until the channel takes them, so a slow channel gets fewer, larger messages. What waits is bounded
by the engine's places: once it is long, the batches of a choice are merged into one. Of the messages sent, the last
`SENT_LIMIT_BYTES` are kept. A channel that opens again gets those that it has not received.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from app.schema.tokens import TokenBatch
from app.wakeup import Wakeup
from deployments.messages.call import encode
from deployments.messages.generation import ChannelMessage

SENT_LIMIT_BYTES = 4 * 1024 * 1024
SENT_LIMIT_MESSAGES = 4096
MERGE_FROM_BATCHES = 4096


def merge(batches: Iterable[TokenBatch]) -> list[TokenBatch]:
    """The same tokens with one batch for each choice: the batches of several steps are joined. Choices keep their order."""
    parts: dict[tuple[int, int], list[TokenBatch]] = {}
    for batch in batches:
        parts.setdefault((batch.key, batch.choice), []).append(batch)
    return [_joined(part) for part in parts.values()]


def _joined(part: list[TokenBatch]) -> TokenBatch:
    """The batches of one choice as one."""
    first, last = part[0], part[-1]
    if first is last:
        return first
    has_logprobs = any(batch.logprobs is not None for batch in part)
    return TokenBatch(
        first.key,
        first.choice,
        first.position,
        [token_id for batch in part for token_id in batch.token_ids],
        last.finish,
        last.stop_token,
        [logprob for batch in part for logprob in batch.logprobs or []] if has_logprobs else None,
        last.error,
        [edit for batch in part for edit in batch.edits or []] or None,
    )


class Outbox:
    """The outgoing batches for one ingress. Lives on the event loop of the generator."""

    def __init__(self, *, sent_limit_bytes: int = SENT_LIMIT_BYTES) -> None:
        self.number = 0
        self._waiting: list[TokenBatch] = []
        self._merge_from = MERGE_FROM_BATCHES
        self._sent: deque[bytes] = deque()
        self._sent_bytes = 0
        self._sent_limit_bytes = sent_limit_bytes
        self._reader: OutboxReader | None = None

    @property
    def attached(self) -> bool:
        return self._reader is not None

    @property
    def has_waiting(self) -> bool:
        """Whether an open channel has not taken everything yet."""
        return self.attached and bool(self._waiting)

    def put(self, batches: list[TokenBatch]) -> None:
        """Adds the batches of a step. Keeps the list itself if nothing else waits."""
        if self._waiting:
            self._waiting.extend(batches)
            if len(self._waiting) >= self._merge_from:
                self._waiting = merge(self._waiting)
                self._merge_from = max(MERGE_FROM_BATCHES, 2 * len(self._waiting))
        else:
            self._waiting = batches
        if self._reader is not None:
            self._reader.wake()

    def beat(self) -> None:
        """Makes the reader send a message, an empty one if nothing waits."""
        if self._reader is not None:
            self._reader.beat_due = True
            self._reader.wake()

    def attach(self, after: int) -> OutboxReader:
        """A reader for an ingress that has the messages up to number `after`. Ends the previous reader, if there is one.

        When a missing message is no longer kept, the numbers show the gap.
        """
        if self._reader is not None:
            self._reader.end()
        if not self._sent:
            self.number = max(self.number, after)  # this outbox is new: it continues the ingress's count
        missing = min(self.number - after, len(self._sent))
        replay = list(self._sent)[len(self._sent) - missing :] if missing > 0 else []
        self._reader = OutboxReader(self, replay)
        return self._reader

    def detach(self, reader: OutboxReader) -> None:
        if self._reader is reader:
            self._reader = None

    def take(self) -> bytes | None:
        """Everything that waits, as one encoded message; None when nothing waits."""
        if not self._waiting:
            return None
        self.number += 1
        message = encode(ChannelMessage(self.number, self._waiting))
        self._waiting = []
        self._sent.append(message)
        self._sent_bytes += len(message)
        while len(self._sent) > SENT_LIMIT_MESSAGES or self._sent_bytes > self._sent_limit_bytes:
            self._sent_bytes -= len(self._sent.popleft())
        return message


class OutboxReader:
    """One channel's view of an outbox: first the messages that it missed, then new ones. To be closed."""

    def __init__(self, outbox: Outbox, replay: list[bytes]) -> None:
        self.beat_due = True  # the first message shows that the channel is open
        self.wake = Wakeup()
        self._outbox = outbox
        self._replay = deque(replay)
        self._ended = False

    def end(self) -> None:
        """Makes `next` return None: another reader has taken over."""
        self._ended = True
        self.wake()

    async def next(self) -> bytes | None:
        """The next message, as soon as there is one; None when the reader has been ended."""
        while not self._ended:
            if self._replay:
                return self._replay.popleft()
            message = self._outbox.take()
            if message is None and self.beat_due:
                message = encode(ChannelMessage(self._outbox.number, []))
            self.beat_due = False
            if message is not None:
                return message
            await self.wake.wait()
        return None

    def close(self) -> None:
        """Leaves the outbox to the next reader. Idempotent."""
        self._outbox.detach(self)
