"""A caller in the cluster: streams through handles, from a plain driver and from an application of its own.

Prints what it saw, one JSON object for each scenario. `test_handles.py` judges it.

    python -m tests.integration.handle_driver SCENARIO...
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import ray
from ray import serve

from app.errors import ServiceError

APPLICATION = "caller"
LONG = {"model": "pace", "prompt": "Once upon a time", "max_tokens": 100, "seed": 3}
ENDLESS = {"model": "single", "prompt": "x", "max_tokens": 2000}
SHORT = {"model": "single", "prompt": "y", "max_tokens": 1}


def summary(frames: Iterable[dict[str, Any]]) -> dict[str, Any]:
    frames = list(frames)
    text = "".join(frame.get("text", "") for frame in frames)
    return {
        "kinds": sorted({frame["type"] for frame in frames}),
        "whole": [hashlib.sha256(text.encode()).hexdigest()] == frames[-1]["text_sha256"],
        "hashes": frames[-1]["text_sha256"],
    }


def failure(error: Exception) -> dict[str, Any]:
    """What a caller can tell of an error."""
    seen: Any = error
    return {
        "service_error": isinstance(error, ServiceError),
        "code": seen.code,
        "param": seen.param,
        "message": seen.message,
        "retry_after_s": seen.retry_after_s,
    }


class Driver:
    """Calls from outside of any event loop."""

    def __init__(self) -> None:
        self.handle: Any = serve.get_app_handle("streaming")
        self.calls: Any = self.handle.generate.options(stream=True)

    def whole(self) -> dict[str, Any]:
        """A stream from start to end."""
        return summary(self.calls.remote(LONG))

    def resumed(self) -> dict[str, Any]:
        """A stream that is left and read on by another call."""
        call = self.calls.remote({**LONG, "on_disconnect": "grace"})
        frames = [next(call) for _ in range(10)]
        call.cancel()
        stream, after = frames[0]["stream"], frames[-1]["cursor"]
        frames += self.handle.resume.options(stream=True).remote(stream, after)
        return summary(frames)

    def refused(self) -> dict[str, Any]:
        """What is wrong with a request."""
        return self._failure(lambda: next(self.calls.remote({**LONG, "temperature": 2.5})))

    def unknown(self) -> dict[str, Any]:
        """A stream that isn't there."""
        return self._failure(lambda: next(self.handle.resume.options(stream=True).remote("st_1", "0")))

    def unknown_to_cancel(self) -> dict[str, Any]:
        """The same, to cancel."""
        return self._failure(self.handle.cancel.remote("st_1").result)

    def broken(self) -> dict[str, Any]:
        """An error in the middle of a stream."""
        frames = list(self.calls.remote({**LONG, "max_tokens": 2000, "timeout_s": 0.5}))
        return {"last": frames[-1]["error"]["code"], "frames": len(frames)}

    def cancelled(self) -> dict[str, Any]:
        """A stream that is cancelled by its name."""
        call = self.calls.remote(LONG)
        status = self.handle.cancel.remote(next(call)["stream"]).result()
        return {"state": status["state"], "end": list(call)[-1]["choices"][0]["finish_reason"]}

    def dropped(self) -> dict[str, Any]:
        """A call that is dropped on the generator that has one place."""
        call = self.calls.remote(ENDLESS)
        for _ in range(5):
            next(call)
        call.cancel()
        began_s = time.monotonic()
        list(self.calls.remote(SHORT))
        return {"freed_s": round(time.monotonic() - began_s, 3)}

    def hang(self) -> dict[str, Any]:
        """Reads a stream until somebody kills this process."""
        call = self.calls.remote(ENDLESS)
        for frame in call:
            if frame["type"] == "delta":
                print(json.dumps({"scenario": "hang"}), flush=True)
                time.sleep(600)
        return {}

    def application(self) -> dict[str, Any]:
        """The same from another application."""
        deployment: Any = serve.deployment(Caller, ray_actor_options={"num_cpus": 0})
        handle: Any = serve.run(deployment.bind(), name=APPLICATION, route_prefix="/caller")
        try:
            result: dict[str, Any] = handle.call.remote().result(timeout_s=90)
            return result
        finally:
            serve.delete(APPLICATION)

    def _failure(self, call: Callable[[], object]) -> dict[str, Any]:
        try:
            call()
        except Exception as error:
            return failure(error)
        return {}


class Caller:
    """A deployment that streams through the handle of another application."""

    async def call(self) -> dict[str, Any]:
        handle: Any = serve.get_app_handle("streaming")
        calls: Any = handle.generate.options(stream=True)
        whole = summary([frame async for frame in calls.remote(LONG)])
        try:
            await anext(calls.remote({**LONG, "n": 0}))
        except Exception as error:
            refused = failure(error)
        dropped = calls.remote(ENDLESS)
        for _ in range(5):
            await anext(dropped)
        dropped.cancel()
        began_s = time.monotonic()
        async with asyncio.timeout(60):
            [_ async for _ in calls.remote(SHORT)]
        freed_s = round(time.monotonic() - began_s, 3)
        return {"whole": whole, "refused": refused, "freed_s": freed_s}


def main() -> None:
    ray.init(namespace="serve", log_to_driver=False, logging_level=logging.WARNING)
    try:
        driver = Driver()
        for name in sys.argv[1:]:
            print(json.dumps({"scenario": name, **getattr(driver, name)()}), flush=True)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
