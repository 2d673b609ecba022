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
    if not tools:
        return told
    functions = "\n".join(_json(tool["function"]) for tool in tools)
    text = (
        f"You can call these functions:\n<tools>\n{functions}\n</tools>\n"
        "To call one, answer with its name and arguments as JSON:\n"
        '<tool_call>\n{"name": "...", "arguments": {...}}\n</tool_call>\n'
        "Its result comes between <tool_response> and </tool_response>."
    )
    teller = "system" if in_system_turn else "user"
    first = next((turn for turn in told if turn["role"] == teller), None)
    if first is None:
        return [{"role": teller, "content": text}, *told]
    texts = [first["content"], text] if in_system_turn else [text, first["content"]]
    first["content"] = "\n\n".join(texts)
    return told


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
