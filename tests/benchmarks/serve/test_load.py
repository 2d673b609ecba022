"""Client processes that can't do what they are told."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.serve import load
from benchmarks.serve.load import LoadFailed, run_load
from benchmarks.serve.server import free_port
from benchmarks.serve.workload import Endpoint, Workload


def test_moments_enclose_the_load_and_nobody_listening_is_a_result() -> None:
    moments = iter(["before", "after"])
    found = run_load(
        Endpoint(free_port(), "/", "plain"),
        Workload(clients=2, requests=4, tokens=1),
        processes=8,
        moment=lambda: next(moments),
    )
    assert (found.before, found.after) == ("before", "after")
    assert [sample.outcome for sample in found.samples] == ["broken"] * 4


def test_a_client_process_that_ends_or_says_something_else() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "print('what?')"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as client:
        with pytest.raises(LoadFailed, match=r"said b'what\?' where b'ready' was due"):
            load._await_all([client], b"ready", 10)
        client.wait()
        with pytest.raises(LoadFailed, match="ended with status 0"):
            load._say(client, b"go")
