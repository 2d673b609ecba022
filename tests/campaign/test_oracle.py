"""The oracle finds each kind of fault in a record that was doctored, and none in one that was not."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.campaign.oracle import violations
from tests.campaign.plan import Edit
from tests.campaign.record import Frame, Record


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def record() -> Record:
    texts = ["abc", "xy"]
    frames: list[Frame] = [
        {"type": "start", "cursor": "0", "stream": "st_1"},
        {
            "type": "delta",
            "cursor": "1.0",
            "index": 0,
            "text": "a",
            "tokens": 1,
            "logprobs": [{"logprob": -1.0}],
        },
        {
            "type": "delta",
            "cursor": "1.2",
            "index": 1,
            "text": "xy",
            "tokens": 2,
            "logprobs": [{"logprob": -2.0}],
        },
        {"type": "delta", "cursor": "3.2", "index": 0, "text": "bc", "tokens": 2, "logprobs": []},
        {
            "type": "end",
            "cursor": "3.3",
            "choices": [{"index": index, "finish_reason": "stop"} for index in range(2)],
            "usage": {"completion_tokens": 6},
            "text_sha256": [sha256(text) for text in texts],
        },
    ]
    made = Record()
    for frame in frames:
        made.take(frame)
    return made


def test_a_stream_as_it_must_be_has_nothing_wrong() -> None:
    assert violations(record(), record()) == []


def other_text(frames: list[Frame]) -> None:
    """Consistent in itself."""
    frames[1]["text"] = "b"
    frames[-1]["text_sha256"][0] = sha256("bbc")


FAULTS: dict[str, tuple[Callable[[list[Frame]], Any], str]] = {
    "no terminal": (lambda frames: frames.pop(), "terminal"),
    "two terminals": (lambda frames: frames.append(frames[-1]), "terminal"),
    "terminal before the last": (lambda frames: frames.append(frames.pop(-2)), "terminal"),
    "no start": (lambda frames: frames.pop(0), "start"),
    "two starts": (lambda frames: frames.insert(2, frames[0]), "start"),
    "a gap": (lambda frames: frames.pop(1), "gap"),
    "a repetition": (lambda frames: frames.insert(2, frames[1]), "gap"),
    "a wrong hash": (lambda frames: frames[-1]["text_sha256"].reverse(), "hash"),
    "another text": (other_text, "undisturbed"),
    "other usage": (lambda frames: frames[-1].update(usage={"completion_tokens": 7}), "tokens"),
    "another reason": (lambda frames: frames[-1]["choices"][0].update(finish_reason="length"), "choices"),
    "another end": (lambda frames: frames[-1].update(cursor="4.3"), "cursor"),
    "other log probabilities": (
        lambda frames: frames[1].update(logprobs=[{"logprob": -1.5}]),
        "probabilities",
    ),
    "an error": (lambda frames: frames[-1].update(type="error", error="lost"), "lost"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_found(name: str) -> None:
    doctor, word = FAULTS[name]
    doctored = copy.deepcopy(record())
    doctor(doctored.frames)
    found = violations(doctored, record())
    assert found and word in " ".join(found)


def test_a_stream_that_broke_is_the_beginning_of_the_right_one() -> None:
    broken = record()
    broken.cut = True
    assert violations(broken, record())
    broken.frames = broken.frames[:2]
    assert violations(broken, record()) == []
    broken.frames[1]["text"] = "b"
    assert violations(broken, record())


def test_the_longest_gap_is_looked_for_around_a_disturbance() -> None:
    made = record()
    made.came_s = [0.0, 1.0, 4.0, 4.5, 9.0]
    assert made.longest_gap_s(1.5, 2.0) == 3.0
    assert made.longest_gap_s(4.1, 4.2) == 0.5
    assert made.longest_gap_s(4.1, 5.0) == 4.5
    assert made.longest_gap_s(10.0, 11.0) is None


def edited(*tokens: int, reason: str = "length", stop: str | None = None) -> Record:
    """A stream of one choice, a letter for each token; negative ones were put in."""
    made, text = Record(), ""
    made.take({"type": "start", "cursor": "0", "stream": "st_1"})
    for count, token in enumerate(tokens, 1):
        letter = chr(abs(token))
        text += letter
        delta = {"type": "delta", "index": 0, "cursor": str(count), "text": letter, "tokens": 1}
        made.take({**delta, "token_ids": [token], "steered": token < 0})
    made.take(
        {
            "type": "end",
            "cursor": str(len(tokens)),
            "choices": [{"index": 0, "finish_reason": reason, "stop_reason": stop}],
            "usage": {"completion_tokens": len(tokens)},
            "text_sha256": [sha256(text)],
        }
    )
    return made


WHOLE = edited(97, 98, 99, 100)
STEER, STOP, UPDATE = Edit("steer", 1, "x"), Edit("stop", 1), Edit("update", 1, "c")


def test_a_steered_stream_is_as_one_that_was_steered_alike() -> None:
    steered = edited(97, -120, 121)
    assert violations(steered, WHOLE, STEER, [97, -120, 121]) == []
    assert "tokens" in violations(steered, WHOLE, STEER, [97, -120, 122])[0]
    assert "steered once" in violations(edited(97, -120, -120), WHOLE, STEER, [97, -120, -120])[0]
    assert violations(steered, WHOLE, STEER)  # without the tokens it is only another text
    assert violations(WHOLE, WHOLE, STEER) == []  # it came too late


def test_a_stream_that_was_stopped_is_a_beginning() -> None:
    assert violations(edited(97, 98, reason="stop"), WHOLE, STOP) == []
    assert violations(WHOLE, WHOLE, STOP) == []
    assert "beginning" in violations(edited(97, 99, reason="stop"), WHOLE, STOP)[0]
    assert violations(edited(97, 98, reason="stop"), WHOLE)  # nobody stopped it
    assert violations(edited(97, 98, reason="stop", stop="c"), WHOLE, STOP)


def test_a_stop_string_that_was_added_is_what_comes_next() -> None:
    assert violations(edited(97, 98, reason="stop", stop="c"), WHOLE, UPDATE) == []
    assert violations(WHOLE, WHOLE, UPDATE) == []
    assert "come next" in violations(edited(97, reason="stop", stop="c"), WHOLE, UPDATE)[0]
    assert violations(edited(97, 98, reason="stop", stop="d"), WHOLE, UPDATE)
