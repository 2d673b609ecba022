"""What a generator replica has for one ingress: made but not yet sent, and sent but perhaps not received.

The steps of the engine are joined until the channel takes them, so a channel that is slow gets fewer, larger messages. What is
waiting is bounded by what the engine's places can make: once it is long, the batches of a choice are merged into one. Of what
was sent, the last `SENT_LIMIT_BYTES` are kept; a channel that is opened again gets what it did not receive.
"""

from __future__ import annotations

import asyncio
from collections import deque

from app.schema.tokens import TokenBatch
from deployments.messages.generation import ChannelMessage, encode, merge

SENT_LIMIT_BYTES = 4 * 1024 * 1024
SENT_LIMIT_MESSAGES = 4096
MERGE_FROM_BATCHES = 4096


class Outbox:
    """The outgoing batches of one ingress. Lives on the event loop of the generator."""

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
        """Whether an open channel has not taken all that was made."""
        return self.attached and bool(self._waiting)

    def put(self, batches: list[TokenBatch]) -> None:
        """Adds the batches of a step. Keeps the list if there is nothing else waiting."""
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
        """Makes the reader say something even if there is nothing to say."""
        if self._reader is not None:
            self._reader.beat_due = True
            self._reader.wake()

    def attach(self, after: int) -> OutboxReader:
        """A reader for an ingress that has the messages up to number `after`. Ends the reader before it, if there is one.

        When some of what it lacks is kept no more, the numbers show the gap.
        """
        if self._reader is not None:
            self._reader.end()
        if not self._sent:
            self.number = max(
                self.number, after
            )  # nothing was ever sent from here: the count goes on from theirs
        missing = min(self.number - after, len(self._sent))
        replay = list(self._sent)[len(self._sent) - missing :] if missing > 0 else []
        self._reader = OutboxReader(self, replay)
        return self._reader

    def detach(self, reader: OutboxReader) -> None:
        if self._reader is reader:
            self._reader = None

    def take(self) -> bytes | None:
        """Everything that waits, as one message; None when nothing does."""
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
    """One channel's view of an outbox: first what it missed, then what comes. To be closed."""

    def __init__(self, outbox: Outbox, replay: list[bytes]) -> None:
        self.beat_due = True  # the first message says that the channel is open
        self._outbox = outbox
        self._replay = deque(replay)
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def end(self) -> None:
        """Makes `next` return None: another reader has taken over."""
        self._ended = True
        self.wake()

    async def next(self) -> bytes | None:
        """The next message, as soon as there is one; None when the reader has been ended."""
        while not self._ended:
            message = self._next()
            if message is not None:
                return message
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return None

    def close(self) -> None:
        """Leaves the outbox to the next reader. Idempotent."""
        self._outbox.detach(self)

    def _next(self) -> bytes | None:
        if self._replay:
            return self._replay.popleft()
        message = self._outbox.take()
        if message is None and self.beat_due:
            message = encode(ChannelMessage(self._outbox.number, []))
        self.beat_due = False
        return message
