"""What the programs of all Python clients have in common: what they ask, and the report that they print.

A program runs in a virtual environment of its client, as `python PROGRAM BASE_URL MODEL ABILITIES`, and prints one JSON object:
for each check what it saw. `tests/integration/test_clients.py` says what it should see.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Any, Literal

from pydantic import BaseModel, Field

BASE_URL, MODEL = sys.argv[1:3]
ABILITIES = set(filter(None, sys.argv[3].split(",")))
"""What `GET /v1/models` says that the model can do."""
SINGLE = "single"
"""A model that runs one sequence at a time and makes a token every 20 ms: who leaves must not hold its place."""
QUESTION = "Tell me a story about a fox."
MAX_TOKENS = 40
LONG_ANSWER_TOKENS = 900
TOO_LONG = "fox " * 3000
"""More tokens than the model's context has."""


class Animal(BaseModel):
    """An animal of a story."""

    kind: Literal["fox", "cow", "owl"]
    age: int = Field(ge=0, le=99)
    tame: bool


class Weather(BaseModel):
    """Says what the weather is like in a city."""

    city: Literal["Paris", "London", "Rome"]


def error(call: Callable[[], Any]) -> dict[str, Any]:
    """What the client raises: its class, the status and the message that came."""
    try:
        returned = call()
    except Exception as raised:
        status = getattr(raised, "status_code", None)
        return {"class": type(raised).__name__, "status": status, "message": str(raised)}
    raise AssertionError(f"no error, but {returned!r}")


def parts(texts: Iterable[str | None]) -> list[str]:
    """The texts that are not empty."""
    return [text for text in texts if text]


def run(checks: dict[str, Callable[[], Any]], *, needs: dict[str, str]) -> None:
    """Does the checks and prints the report. `needs` has the ability that a check needs; without it, it is left out."""
    report = {}
    for name, check in checks.items():
        if name in needs and needs[name] not in ABILITIES:
            continue
        try:
            report[name] = check()
        except Exception:
            report[name] = {"failed": traceback.format_exc()}
    print(json.dumps(report))
