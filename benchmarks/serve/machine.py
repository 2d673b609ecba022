"""On what and with what a benchmark ran."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import msgspec

PACKAGES = (
    "ray", "uvicorn", "starlette", "fastapi", "uvloop", "grpcio", "torch", "transformers", "tokenizers", "litserve",
)  # fmt: skip


class Machine(msgspec.Struct, frozen=True):
    """`load` is the number of runnable processes over the last minute, before the benchmark began."""

    cpus: int
    cpu_model: str
    memory_bytes: int
    kernel: str
    python: str
    packages: dict[str, str]
    load: float


def this_machine() -> Machine:
    return Machine(
        cpus=len(os.sched_getaffinity(0)),
        cpu_model=_cpu_model(),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        kernel=platform.release(),
        python=platform.python_version(),
        packages=_versions(),
        load=os.getloadavg()[0],
    )


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
