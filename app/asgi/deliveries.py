"""Which clients may still wait for a terminal frame: what decides between 200 and 204 for an EventSource that comes back.

An EventSource reconnects after every end of body, and only a 204 tells it to stop. All it says is the id of its last event. The
last delta and the terminal frame have the same id, since no token lies between them, so a client that comes back with that id
has either seen the end, or was cut off one event before it. The second must get the terminal frame, whatever it costs the first:

- 204 only if a response of this process has carried the terminal frame to its end, and no other was cut off at that id since
  without its client having come back for the frame;
- else the terminal frame once more, with 200, after which the next reconnect gets its 204. A client that had seen the end
  already sees it twice, with the same id; so it does when it comes back to another process, which knows nothing of the first.

A response counts as carried when the server has taken its last byte. What is lost on the network behind that is not seen here;
`?after=` always gives the terminal frame, and so does every way to resume but the bare reconnect of an EventSource.
"""

from __future__ import annotations

from collections import OrderedDict

MAX_EVENT_IDS = 20_000


class Deliveries:
    """Counts, for each event id, the clients that were cut off there and have not come back. Forgets the oldest ids.

    An id that is not known is that of a stream which nobody has read to its end here.
    """

    def __init__(self, max_event_ids: int = MAX_EVENT_IDS) -> None:
        self._max_event_ids = max_event_ids
        self._waiting: OrderedDict[str, int] = OrderedDict()

    def is_awaited(self, event_id: str) -> bool:
        """Whether a client that comes back with the id of a terminal frame may not have seen that frame."""
        return self._waiting.get(event_id, 1) > 0

    def completed(self, event_id: str, *, again: bool) -> None:
        """A terminal frame was written to its end; `again` to a client that came back with its id."""
        waiting = self._waiting.get(event_id, 0)
        self._put(event_id, max(waiting - 1, 0) if again else waiting)

    def cut(self, event_id: str, *, again: bool) -> None:
        """A response ended without a terminal frame, with the event `event_id` as its last."""
        if not again:
            self._put(event_id, self._waiting.get(event_id, 0) + 1)

    def _put(self, event_id: str, waiting: int) -> None:
        self._waiting[event_id] = waiting
        self._waiting.move_to_end(event_id)
        if len(self._waiting) > self._max_event_ids:
            self._waiting.popitem(last=False)
