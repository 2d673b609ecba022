// Reads each stream with an EventSource of its own. It reconnects by itself, and nobody closes it.
export function watch(EventSource, origin, streams) {
  return streams.map((stream) => {
    const seen = { events: [], opened: 0, stopped: false };
    const source = new EventSource(`${origin}/v1/streams/${stream}/events`);
    source.onopen = () => {
      seen.opened += 1;
    };
    source.onmessage = (event) => {
      seen.events.push([event.lastEventId, JSON.parse(event.data)]);
    };
    source.onerror = () => {
      seen.stopped = source.readyState === EventSource.CLOSED;
    };
    return seen;
  });
}
