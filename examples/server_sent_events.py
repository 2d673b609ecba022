"""Server-sent events of the native API, with httpx alone."""

import json

import httpx

request = {"model": "storyteller", "prompt": "Once upon a time", "max_tokens": 40}
with httpx.stream("POST", "http://127.0.0.1:8000/v1/streams", json=request, timeout=60) as response:
    if response.status_code != 200:
        raise SystemExit(response.read().decode())
    for line in response.iter_lines():
        if not line.startswith("data: "):
            continue  # an id, the empty line after an event, or the comment of a heartbeat
        frame = json.loads(line.removeprefix("data: "))
        if frame["type"] == "delta":
            print(frame["text"], end="", flush=True)
        elif frame["type"] == "end":
            print(
                f"\n[{frame['choices'][0]['finish_reason']} after {frame['usage']['completion_tokens']} tokens]"
            )
        elif frame["type"] == "error":
            raise SystemExit(frame["error"]["message"])
