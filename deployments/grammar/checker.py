"""Tells whether a constraint of a client can be kept, without harm to the process that asks."""

from __future__ import annotations

import hashlib
import logging
import signal
import subprocess
import sys
import threading
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import msgspec

from app.errors import InvalidRequest
from app.schema.constraint import Constraint
from deployments.grammar.child import Vocabulary

logger = logging.getLogger(__name__)

MAX_REMEMBERED = 256
WAIT_S = 30.0
"""The process bounds its own CPU time. This is for one that hangs, or gets no CPU."""
_TOO_LONG = "It takes too long to compile."
_TOO_COMPLEX = "It is too complex."
_HANGS = "It took too long to compile."


class GrammarChecker:
    """Checks the constraints for one vocabulary, one at a time, in a process of its own. To be closed.

    The process starts with the first constraint, and again after one that ended it. Safe to call from several threads.
    """

    def __init__(self, tokenizer_json: str, vocab_size: int, end_ids: frozenset[int]) -> None:
        self._vocabulary = msgspec.json.encode(Vocabulary(tokenizer_json, vocab_size, sorted(end_ids)))
        self._complaints: OrderedDict[bytes, str] = OrderedDict()
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def check(self, constraint: Constraint) -> None:
        """Raises `InvalidRequest` for a constraint that can't be kept. Blocks for some CPU seconds at most."""
        key = hashlib.sha256(f"{constraint.kind} {constraint.text}".encode()).digest()
        with self._lock:
            complaint = self._complaints.pop(key, None)
            if complaint is None:
                complaint = self._ask(constraint)
            if complaint != _HANGS:  # perhaps the machine does
                self._complaints[key] = complaint
            if len(self._complaints) > MAX_REMEMBERED:
                self._complaints.popitem(last=False)
        if complaint:
            what = {"json_schema": "schema", "regex": "regular expression", "lark": "grammar"}
            raise InvalidRequest(
                f"The {what[constraint.kind]} can't be honoured. {complaint}", param=constraint.param
            )

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._end()

    def _ask(self, constraint: Constraint) -> str:
        is_fresh = self._child is None
        answer = self._exchange(self._child or self._start(), msgspec.json.encode(constraint))
        if answer:
            return msgspec.json.decode(answer, type=str)
        code = self._end()
        if not is_fresh:
            return self._ask(constraint)  # the process may have ended before, for a reason of its own
        logger.warning("a constraint ended the process that compiles it, with the exit code %d", code)
        return {-signal.SIGPROF: _TOO_LONG, -signal.SIGKILL: _HANGS}.get(code, _TOO_COMPLEX)

    def _exchange(self, child: subprocess.Popen[bytes], line: bytes) -> bytes:
        """The line with which the process answers one; none if it ends, as it does when it hangs."""
        assert child.stdin is not None and child.stdout is not None
        watchdog = threading.Timer(WAIT_S, child.kill)
        watchdog.start()
        try:
            child.stdin.write(line + b"\n")
            child.stdin.flush()
            return child.stdout.readline()
        except BrokenPipeError:
            return b""
        finally:
            watchdog.cancel()

    def _start(self) -> subprocess.Popen[bytes]:
        child = self._child = subprocess.Popen(
            [sys.executable, "-m", "deployments.grammar.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Where this code is, whatever the paths of this process are.
            cwd=Path(__file__).parents[2],
        )
        if not self._exchange(child, self._vocabulary):
            raise RuntimeError(f"the process that compiles constraints ended with {self._end()}")
        return child

    def _end(self) -> int:
        """Ends the process if there is one, and returns its exit code."""
        child, self._child = self._child, None
        if child is None:
            return 0
        assert child.stdin is not None and child.stdout is not None
        with suppress(BrokenPipeError):
            child.stdin.close()
        child.stdout.close()
        return child.wait()
