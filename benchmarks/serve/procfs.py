"""Processes as `/proc` shows them: their identity and what they have used.

CPU time is user and system time of all threads, in the kernel's ticks (10 ms). A process is identified by its id and its start
time together, because the kernel reuses ids.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PROC = Path("/proc")


class ProcessKey(NamedTuple):
    pid: int
    start_ticks: int


class Process(msgspec.Struct, frozen=True):
    """One process at one moment. `title` is its command line, or its name where it has none."""

    key: ProcessKey
    parent: int
    session: int
    name: str
    title: str
    cpu_s: float
    rss_bytes: int


def read_process(pid: int) -> Process | None:
    """The process `pid` now; None when it has ended or is a zombie."""
    directory = PROC / str(pid)
    try:
        stat = (directory / "stat").read_bytes()
        command = (directory / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return parse_process(pid, stat, command)


def parse_process(pid: int, stat: bytes, command: bytes) -> Process | None:
    """A process from the bytes of its `stat` and `cmdline`; None for a zombie."""
    # The name stands in parentheses and may contain spaces and parentheses itself.
    opening, closing = stat.index(b"("), stat.rindex(b")")
    fields = stat[closing + 2 :].split()
    if fields[0] in (b"Z", b"X"):
        return None
    name = stat[opening + 1 : closing].decode(errors="replace")
    title = command.replace(b"\0", b" ").strip().decode(errors="replace")
    return Process(
        key=ProcessKey(pid, int(fields[19])),
        parent=int(fields[1]),
        session=int(fields[3]),
        name=name,
        title=title or name,
        cpu_s=(int(fields[11]) + int(fields[12])) / TICKS_PER_S,
        rss_bytes=int(fields[21]) * PAGE_BYTES,
    )


def all_processes() -> dict[int, Process]:
    """Every process that can be read now, by its id."""
    pids = (int(entry) for entry in os.listdir(PROC) if entry.isdigit())
    return {pid: process for pid in pids if (process := read_process(pid)) is not None}


def family(processes: dict[int, Process], root: int, marker: str) -> dict[ProcessKey, Process]:
    """The processes that came from `root`: its descendants, its session, and those with `marker` in the environment.

    Descendants alone would miss a daemon whose parent has ended, the environment alone a process whose title overwrote it.
    """
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process.key.pid)
    found: set[int] = set()

    def carries_the_mark(pid: int) -> bool:
        try:
            return marker.encode() in (PROC / str(pid) / "environ").read_bytes()
        except OSError:
            return False

    waiting = [
        pid
        for pid, process in processes.items()
        if pid == root or process.session == root or carries_the_mark(pid)
    ]
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting.extend(children.get(pid, ()))
    found.discard(os.getpid())
    return {processes[pid].key: processes[pid] for pid in found if pid in processes}


def still_alive(keys: Iterable[ProcessKey]) -> list[ProcessKey]:
    """Those of `keys` whose process still runs."""
    return [key for key in keys if (process := read_process(key.pid)) is not None and process.key == key]


def busy_cpu_s() -> float:
    """CPU seconds of the whole machine since its boot, all processes and the kernel."""
    first_line = (PROC / "stat").read_text().split("\n", 1)[0]
    user, nice, system, _idle, _iowait, irq, softirq, *_ = (int(field) for field in first_line.split()[1:])
    return (user + nice + system + irq + softirq) / TICKS_PER_S
