"""The client library: it reconnects, checks the text's hash, and cancels a stream that is left."""

import asyncio

from streaming_inference import Client, ClientError


async def main() -> None:
    async with Client("http://127.0.0.1:8000") as client:
        question = {"role": "user", "content": "Tell me a story about a fox."}
        async with client.generate(model="storyteller", messages=[question], max_tokens=40) as stream:
            async for text in stream.text():
                print(text, end="", flush=True)
        print(f"\n[{stream.id} at {stream.cursor}]")

        # Another process can read the stream again by its name.
        result = await client.resume(stream.id or "").result()
        print(
            f"[{result.finish_reason} after {result.usage.completion_tokens} tokens, verified: {result.verified}]"
        )


try:
    asyncio.run(main())
except ClientError as error:
    raise SystemExit(f"{error.code}: {error.message}") from error
