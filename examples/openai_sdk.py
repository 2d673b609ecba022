"""The OpenAI dialect, with the SDK of OpenAI."""

from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
chunks = client.chat.completions.create(
    model="storyteller",
    messages=[{"role": "user", "content": "Tell me a story about a fox."}],
    max_tokens=40,
    stream=True,
    stream_options={"include_usage": True},
)
for chunk in chunks:
    for choice in chunk.choices:
        print(choice.delta.content or "", end="", flush=True)
    if chunk.usage is not None:
        print(f"\n[{chunk.usage.completion_tokens} tokens]")
