"""Whether a stream is what it must be, whatever was done to the server while it ran."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from tests.campaign.plan import Edit
from tests.campaign.record import TERMINAL, Record


def violations(
    record: Record, undisturbed: Record, edit: Edit | None = None, steered: Sequence[int] | None = None
) -> list[str]:
    """What is wrong with `record`, in words; nothing if nothing is. `undisturbed` is the same request on a server left alone.

    `edit` may have changed the stream, or may have come too late. `steered` are the tokens of a stream that was steered as this
    one was and not disturbed; None when no steered text has come.
    """
    if record.cut:
        return _of_a_beginning(record, undisturbed)
    found = _of_frames(record)
    if found:
        return found
    if record.frames[-1]["type"] == "error":
        return [f"it ended with {record.frames[-1]['error']}"]
    if steered is not None:
        return _of_hash(record) + _of_steering(record, steered)
    if edit is not None and _ended_by(record, edit):
        return _of_hash(record) + _of_an_early_end(record, undisturbed, edit)
    return _of_contents(record, undisturbed)


def _of_frames(record: Record) -> list[str]:
    kinds = [frame["type"] for frame in record.frames]
    found = []
    if [kind for kind in kinds if kind in TERMINAL] != kinds[-1:]:
        found.append(f"the terminal frames are not one, at the end: {kinds[:2]} … {kinds[-3:]}")
    if kinds.count("start") != 1 or kinds[0] != "start":
        found.append(f"{kinds.count('start')} start frames")
    counts: list[int] | None = None
    for frame in record.frames:
        if frame["type"] != "delta":
            continue
        cursor = [int(count) for count in frame["cursor"].split(".")]
        counts = counts or [0] * len(cursor)
        counts[frame["index"]] += frame["tokens"]
        if cursor != counts:
            found.append(f"a gap or a repetition: {frame['cursor']} where {counts} was next")
            break
    return found


def _of_hash(record: Record) -> list[str]:
    end = record.frames[-1]
    hashes = [_sha256(record.texts.get(index, "")) for index in range(len(end.get("text_sha256", ())))]
    if hashes != end.get("text_sha256", []):
        return ["the text has not the hash of the end frame"]
    return []


def _of_contents(record: Record, undisturbed: Record) -> list[str]:
    end, wanted = record.frames[-1], undisturbed.frames[-1]
    found = _of_hash(record)
    if [_sha256(record.texts.get(index, "")) for index in range(len(wanted["text_sha256"]))] != wanted[
        "text_sha256"
    ]:
        found.append("the text is not that of the undisturbed run")
    tokens = wanted["usage"]["completion_tokens"]
    if "usage" in end and end["usage"]["completion_tokens"] != tokens:
        found.append(f"it counts {end['usage']['completion_tokens']} tokens instead of {tokens}")
    found += [
        f"{name}: {end[name]} instead of {wanted[name]}"
        for name in ("choices", "cursor")
        if name in end and end[name] != wanted[name]
    ]
    if record.logprobs and record.logprobs != undisturbed.logprobs:
        found.append("the log probabilities are not those of the undisturbed run")
    return found


def _of_steering(record: Record, steered: Sequence[int]) -> list[str]:
    found = []
    if len(record.steered) > 1:
        found.append(f"it was steered once, and has {len(record.steered)} steered deltas")
    if record.token_ids != list(steered):
        found.append("the tokens are not those of a stream that was steered alike and not disturbed")
    tokens = record.frames[-1]["usage"]["completion_tokens"]
    if tokens != len(steered):
        found.append(f"it counts {tokens} tokens instead of {len(steered)}")
    return found


def _ended_by(record: Record, edit: Edit) -> bool:
    [choice] = record.frames[-1]["choices"]
    wanted = {"update": edit.text, "stop": None}
    return (
        edit.kind in wanted
        and choice["finish_reason"] == "stop"
        and choice["stop_reason"] == wanted[edit.kind]
    )


def _of_an_early_end(record: Record, undisturbed: Record, edit: Edit) -> list[str]:
    """Its text must be the beginning of the right one, up to the stop string if one was added."""
    text, whole = record.texts.get(0, ""), undisturbed.texts.get(0, "")
    if not whole.startswith(text):
        return ["the text is not the beginning of the undisturbed one"]
    if not whole[len(text) :].startswith(edit.text):
        return [f"it ended with {edit.text!r}, which does not come next in the undisturbed text"]
    return []


def _of_a_beginning(record: Record, undisturbed: Record) -> list[str]:
    """Of a stream that broke where it could not go on: its text must be the beginning of the right one."""
    if any(frame["type"] in TERMINAL for frame in record.frames):
        return ["it went on after its end"]
    if record.steered:
        return []
    return [
        f"the text of choice {index} is not the beginning of the undisturbed one"
        for index, text in record.texts.items()
        if not undisturbed.texts.get(index, "").startswith(text)
    ]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
