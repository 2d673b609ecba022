"""`/proc` read for real processes, and for titles that real ones seldom have."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from benchmarks.serve import procfs
from benchmarks.serve.procfs import ProcessKey

BURN_S = 0.3
BURN = f"""
import threading, time
def burn():
    while time.thread_time() < {BURN_S}:
        pass
thread = threading.Thread(target=burn)
thread.start()
thread.join()
print("burnt", flush=True)
input()
"""
# Leaves a daemon behind in a session of its own, whose parent is gone.
ORPHAN = """
import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        sys.stdin.read()
    os._exit(0)
os.wait()
sys.stdin.read()
"""


def test_a_child_that_works_in_a_thread_is_seen_to_work() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None and child.stdin is not None
        assert child.stdout.readline() == "burnt\n"
        process = procfs.read_process(child.pid)
        assert process is not None
        assert process.parent == os.getpid()
        assert process.rss_bytes > 1024 * 1024
        assert "burn" in process.title
        assert procfs.still_alive([process.key]) == [process.key]
        assert procfs.still_alive([ProcessKey(child.pid, process.key.start_ticks + 1)]) == []
        before_s = resource.getrusage(resource.RUSAGE_CHILDREN)
        child.stdin.write("\n")
        child.stdin.close()
        child.wait()
        after_s = resource.getrusage(resource.RUSAGE_CHILDREN)
    really_s = after_s.ru_utime + after_s.ru_stime - before_s.ru_utime - before_s.ru_stime
    assert process.cpu_s >= BURN_S - 2 / procfs.TICKS_PER_S
    # The end of the interpreter comes after the reading.
    assert process.cpu_s - 2 / procfs.TICKS_PER_S <= really_s <= process.cpu_s + 0.2
    assert procfs.read_process(child.pid) is None
    assert procfs.still_alive([process.key]) == []


def test_a_family_has_daemons_that_left_it() -> None:
    environment = dict(os.environ) | {"BENCH_MARKER": "of-this-test"}
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as child:
        assert child.stdout is not None
        orphan = int(child.stdout.readline())
        processes = procfs.all_processes()
        assert processes[orphan].parent != child.pid
        marked = procfs.family(processes, child.pid, "BENCH_MARKER=of-this-test")
        unmarked = procfs.family(processes, child.pid, "BENCH_MARKER=of-no-test")
        assert {key.pid for key in marked} == {child.pid, orphan}
        assert {key.pid for key in unmarked} == {child.pid}


def stat(name: str, state: str = "S") -> bytes:
    fields = [state, "1", "2", "3"] + ["0"] * 7 + ["150", "50"] + ["0"] * 6 + ["987", "0", "10"]
    return f"42 ({name}) {' '.join(fields)}\n".encode()


@pytest.mark.parametrize("name", ["python", "a b", "a) S 9 (b", "((("])
def test_names_may_be_anything(name: str) -> None:
    process = procfs.parse_process(42, stat(name), b"")
    assert process is not None
    assert (process.name, process.title) == (name, name)
    assert process.key == ProcessKey(42, 987)
    assert (process.parent, process.session) == (1, 3)
    assert process.cpu_s == 200 / procfs.TICKS_PER_S
    assert process.rss_bytes == 10 * procfs.PAGE_BYTES


def test_titles_and_zombies() -> None:
    process = procfs.parse_process(42, stat("python"), b"python\0-m\0thing\0")
    assert process is not None and process.title == "python -m thing"
    assert procfs.parse_process(42, stat("python", "Z"), b"") is None


def test_the_machine_s_work_only_grows() -> None:
    before_s = procfs.busy_cpu_s()
    assert 0 < before_s <= procfs.busy_cpu_s()
