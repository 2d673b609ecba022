"""Whether a stream is what it must be, whatever was done to the server while it ran."""

from __future__ import annotations

import hashlib

from tests.campaign.record import TERMINAL, Record


def violations(record: Record, undisturbed: Record) -> list[str]:
    """What is wrong with `record`, in words; nothing if nothing is. `undisturbed` is the same request on a server left alone."""
    if record.cut:
        return _of_a_beginning(record, undisturbed)
    return _of_frames(record) or _of_contents(record, undisturbed)


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


def _of_contents(record: Record, undisturbed: Record) -> list[str]:
    end, wanted = record.frames[-1], undisturbed.frames[-1]
    if end["type"] == "error":
        return [f"it ended with {end['error']}"]
    found = []
    hashes = [_sha256(record.texts.get(index, "")) for index in range(len(wanted["text_sha256"]))]
    if "text_sha256" in end and hashes != end["text_sha256"]:
        found.append("the text has not the hash of the end frame")
    if hashes != wanted["text_sha256"]:
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


def _of_a_beginning(record: Record, undisturbed: Record) -> list[str]:
    """Of a stream that broke where it could not go on: its text must be the beginning of the right one."""
    if any(frame["type"] in TERMINAL for frame in record.frames):
        return ["it went on after its end"]
    return [
        f"the text of choice {index} is not the beginning of the undisturbed one"
        for index, text in record.texts.items()
        if not undisturbed.texts.get(index, "").startswith(text)
    ]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
