"""Streams as frames, one for each thing that a wire format must be able to say."""

from __future__ import annotations

from app.schema.frames import (
    ChoiceEnd,
    Delta,
    End,
    Error,
    ErrorDetail,
    Frame,
    Logprob,
    Message,
    Start,
    Timings,
    ToolCall,
    ToolCallPiece,
    TopLogprob,
    Usage,
)

STREAM = "st_0123456789abcdef"
SHA_OF_NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
TIMINGS = Timings(0.4, 9.1, 310.0, 183.9)


def start() -> Start:
    return Start("0", STREAM, "storyteller", 1790000000, 1234, 17, deterministic=True)


def usage(completion_tokens: int, cached_tokens: int = 0) -> Usage:
    return Usage(17, completion_tokens, 17 + completion_tokens, cached_tokens)


STREAMS: dict[str, list[Frame]] = {
    "plain": [
        start(),
        Delta("1", 0, "Once", 1),
        Delta("2", 0, "", 1),
        Delta("4", 0, ' the "re"\n', 2),
        Delta("6", 0, "naïve ☃\u2028🦊\\", 2),
        End("6", [ChoiceEnd(0, "stop", "END")], usage(6, 16), TIMINGS, ["ab" * 32]),
    ],
    "empty": [
        start(),
        End("0", [ChoiceEnd(0, "stop", None)], usage(0), Timings(0.4, None, 9.5, 0.0), [SHA_OF_NOTHING]),
    ],
    "two_choices": [
        start(),
        Delta("1.0", 0, "A", 1),
        Delta("1.2", 1, "B B", 2),
        Delta("2.2", 0, " a", 1),
        End(
            "2.2",
            [ChoiceEnd(0, "length", None), ChoiceEnd(1, "cancelled", None)],
            usage(4),
            TIMINGS,
            ["ab" * 32, "cd" * 32],
        ),
    ],
    "tokens": [
        start(),
        Delta("1", 0, "He", 1, [512], [Logprob("He", -0.25, [72, 101], [TopLogprob("Sh", -1.5, [83, 104])])]),
        Delta("2", 0, "", 1, [7], [Logprob("\ufffd", -2.0, [240], [])]),
        End("2", [ChoiceEnd(0, "stop", 7)], usage(2), TIMINGS, ["ab" * 32]),
    ],
    "parts": [
        start(),
        Delta("2", 0, "", 2, reasoning='They "ask"\u2028'),
        Delta("3", 0, "Sure", 1),
        Delta("4", 0, ".", 1, tool_call=ToolCallPiece(0, "call_1", "get_weather", "")),
        Delta("6", 0, "", 2, tool_call=ToolCallPiece(0, "call_1", "get_weather", '{"city": "Os')),
        Delta("7", 0, "", 1, tool_call=ToolCallPiece(0, "call_1", "get_weather", 'lo"}')),
        End(
            "8",
            [
                ChoiceEnd(
                    0,
                    "stop",
                    None,
                    Message(
                        "Sure.",
                        'They "ask"\u2028',
                        [
                            ToolCall("call_1", "get_weather", '{"city": "Oslo"}'),
                            ToolCall("call_2", "get_time", "{}"),  # what the last token left over
                        ],
                    ),
                )
            ],
            Usage(17, 8, 25, 0, 2),
            TIMINGS,
            ["ab" * 32],
        ),
    ],
    "broken": [
        start(),
        Delta("1", 0, "On", 1),
        Error("1", ErrorDetail("generator_unavailable", 'It is\n"gone".', "server_error", True)),
    ],
}

CHOICES = {name: 2 if name == "two_choices" else 1 for name in STREAMS}
