"""Two streams on one WebSocket. The first is stopped after 10 tokens."""

import asyncio
import json

from websockets.asyncio.client import connect


async def main() -> None:
    async with connect("ws://127.0.0.1:8000/v1/ws", compression=None) as socket:
        for ref, prompt in (("fox", "Once upon a time a fox"), ("hen", "Once upon a time a hen")):
            request = {"model": "storyteller", "prompt": prompt, "max_tokens": 40}
            await socket.send(json.dumps({"type": "generate", "ref": ref, **request}))

        refs: dict[str, str] = {}
        running, stopped = 2, False
        while running:
            frame = json.loads(await socket.recv())
            if frame["type"] == "start":
                refs[frame["stream"]] = frame["ref"]
            elif frame["type"] == "delta":
                ref = refs[frame["stream"]]
                print(f"{ref} {frame['cursor']:>2} {frame['text']!r}")
                if ref == "fox" and int(frame["cursor"]) >= 10 and not stopped:
                    stopped = True
                    await socket.send(json.dumps({"type": "stop", "stream": frame["stream"]}))
            elif frame["type"] == "end":
                print(refs[frame["stream"]], frame["cursor"], frame["choices"][0]["finish_reason"])
                running -= 1
            elif frame["error"]["code"] != "stream_ended":  # it ended before the stop arrived
                raise SystemExit(frame["error"]["message"])


asyncio.run(main())
