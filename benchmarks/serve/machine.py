"""The machine and the package versions of a benchmark."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import msgspec

PACKAGES = (
    "ray", "uvicorn", "starlette", "fastapi", "uvloop", "grpcio", "torch", "transformers", "tokenizers", "litserve",
)  # fmt: skip


class Machine(msgspec.Struct, frozen=True):
    """`load` is the load average of the minute before the benchmark."""

    cpus: int
    cpu_model: str
    memory_bytes: int
    kernel: str
    python: str
    packages: dict[str, str]
    load: float


def this_machine() -> Machine:
    packages = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            packages[package] = metadata.version(package)
    facts = Path("/proc/cpuinfo").read_text().splitlines()
    models = (fact.split(":", 1)[1].strip() for fact in facts if fact.startswith("model name"))
    return Machine(
        cpus=len(os.sched_getaffinity(0)),
        cpu_model=next(models, platform.machine()),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        kernel=platform.release(),
        python=platform.python_version(),
        packages=packages,
        load=os.getloadavg()[0],
    )
