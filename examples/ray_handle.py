"""The handle of the application, for code in the same Ray cluster. RAY_ADDRESS names the cluster."""

import os
from typing import Any

# With gRPC the server notices when this process dies. Ray reads it on import.
os.environ["RAY_SERVE_USE_GRPC_BY_DEFAULT"] = "1"

import ray
from ray import serve

ray.init(namespace="serve", log_to_driver=False)
streaming: Any = serve.get_app_handle("streaming")
request = {"model": "storyteller", "prompt": "Once upon a time", "max_tokens": 40}
for frame in streaming.generate.options(stream=True).remote(request):
    if frame["type"] == "delta":
        print(frame["text"], end="", flush=True)
    elif frame["type"] == "end":
        print(f"\n[{frame['usage']['completion_tokens']} tokens]")
    elif frame["type"] == "error":
        raise SystemExit(frame["error"]["message"])
