"""Which clients may still wait for a terminal frame: what decides between 200 and 204 for an EventSource that comes back.

An EventSource reconnects after every end of body, and only a 204 tells it to stop. All it says is the id of its last event.
Where a stream ended with a token that has no text, as models end theirs, only the terminal frame has the last id, and 204 is
right in every process (`Reader.knows_end`); nothing is kept here for that. Elsewhere, as at `max_tokens` and after `cancel`,
the last delta has the same id, since no token lies between them. A client that comes back with it has either seen the end, or
was cut off one event before it. The second must get the terminal frame, whatever it costs the first:

- a client whose response was cut off at that id has not seen it;
- one that got the terminal frame in a write of its own, after the delta, may have been cut off in between without the server's
  seeing it: it gets the frame once more too;
- one that got both in one write has seen it, and gets 204. Only while another one is missing it can't be told apart from that
  one, and gets the frame once more;
- so does everyone in a process that has not carried the terminal frame to anybody.

After that the next reconnect gets its 204. A client that had seen the end sees it twice, with the same id.

What is not seen here: a connection that breaks between two events of one write, and clients that are missing the frame in
another process. `?after=` always gives the terminal frame, and so does every way to resume but the bare reconnect of an
EventSource.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

MAX_EVENT_IDS = 20_000
# Most of those who have seen the end never come back: beyond so many they are not expected to come before one who has not.
MAX_SATISFIED = 8


@dataclass
class _Expected:
    """Clients that may come back: without the terminal frame, and with it."""

    missing: int = 0
    satisfied: int = 0


class Deliveries:
    """Counts, for each event id, the clients that may come back with it. Forgets the oldest ids.

    An id that is not known is that of a stream that was not read to its end here.
    """

    def __init__(self, max_event_ids: int = MAX_EVENT_IDS) -> None:
        self._max_event_ids = max_event_ids
        self._expected: OrderedDict[str, _Expected] = OrderedDict()

    def is_awaited(self, event_id: str) -> bool:
        """Whether a client that comes back with the id of a terminal frame may not have seen that frame."""
        expected = self._expected.get(event_id)
        return expected is None or expected.missing > 0

    def completed(self, event_id: str, *, apart: bool) -> None:
        """A terminal frame was written to its end; `apart`: in another write than the last frame with the same id."""
        expected = self._at(event_id)
        if apart:
            expected.missing += 1
        else:
            expected.satisfied = min(expected.satisfied + 1, MAX_SATISFIED)

    def cut(self, event_id: str) -> None:
        """A response ended without a terminal frame, with the event `event_id` as its last."""
        self._at(event_id).missing += 1

    def repeated(self, event_id: str) -> None:
        """A terminal frame was written to its end to one who came back with its id: perhaps one who had it."""
        expected = self._at(event_id)
        if expected.satisfied:
            expected.satisfied -= 1
        elif expected.missing:
            expected.missing -= 1

    def dismissed(self, event_id: str) -> None:
        """A client that had the frame came back, and was told that nothing more will come."""
        expected = self._at(event_id)
        expected.satisfied = max(expected.satisfied - 1, 0)

    def _at(self, event_id: str) -> _Expected:
        expected = self._expected.setdefault(event_id, _Expected())
        self._expected.move_to_end(event_id)
        if len(self._expected) > self._max_event_ids:
            self._expected.popitem(last=False)
        return expected
