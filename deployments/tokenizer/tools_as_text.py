"""Tools for chat templates that know none: tools, calls and results become the text of ordinary turns, in the format of Hermes.

Agents and chat pages send tools with their first message, whatever the model is. A model that was not trained on them can call
them all the same: it is told how, and `tool_choice: required` leaves it nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

Turn = dict[str, Any]


def tools_as_text(turns: Sequence[Turn], tools: Sequence[Turn], *, in_system_turn: bool) -> list[Turn]:
    """The turns and tools, both as templates take them, as turns without calls and results.

    The tools stand in the system's turn, of which there is one then, or before the first turn of the user.
    """
    told: list[Turn] = []
    role = ""
    for turn in turns:
        content = turn["content"] or ""
        if turn["role"] == "tool":
            content = f"<tool_response>\n{content}\n</tool_response>"
            if role == "tool":
                told[-1]["content"] += f"\n{content}"
            else:
                told.append({"role": "user", "content": content})
        else:
            calls = [
                f"<tool_call>\n{_json(call['function'])}\n</tool_call>" for call in turn.get("tool_calls", ())
            ]
            if calls:  # otherwise the content is the client's, and may be more than a string
                content = "\n".join([content, *calls] if content else calls)
            told.append({"role": turn["role"], "content": content})
        role = turn["role"]
    if tools:
        _tell(told, tools, "system" if in_system_turn else "user")
    return told


def _tell(turns: list[Turn], tools: Sequence[Turn], role: str) -> None:
    functions = "\n".join(_json(tool["function"]) for tool in tools)
    text = (
        f"You can call these functions:\n<tools>\n{functions}\n</tools>\n"
        "To call one, answer with its name and arguments as JSON:\n"
        '<tool_call>\n{"name": "...", "arguments": {...}}\n</tool_call>\n'
        "Its result comes between <tool_response> and </tool_response>."
    )
    first = next((turn for turn in turns if turn["role"] == role), None)
    if first is None:
        turns.insert(0, {"role": role, "content": text})
    elif role == "system":
        first["content"] += f"\n\n{text}"
    else:
        first["content"] = f"{text}\n\n{first['content']}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
