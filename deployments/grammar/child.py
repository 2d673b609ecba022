"""The process that compiles what clients send, so that a schema that takes for ever or crashes the library harms nothing else.

It reads lines of JSON: the vocabulary first, then constraints. It answers each with a line: what is wrong with it, or an empty
string, as for the vocabulary. It ends when its input does, and by itself when a constraint takes more than `COMPILE_CPU_S`.
"""

from __future__ import annotations

import resource
import signal
import sys
import threading

import msgspec

from app.schema.constraint import Constraint
from deployments.grammar.compiler import InvalidGrammar, compile_grammar, read_vocabulary

COMPILE_CPU_S = 1.0
MEMORY_BYTES = 1 << 30
"""What it may take besides the vocabulary."""
STACK_BYTES = 1 << 20
"""Less than the threads of other processes have: what compiles here does not exceed theirs."""


class Vocabulary(msgspec.Struct):
    """The arguments of `compiler.read_vocabulary`."""

    tokenizer_json: str
    vocab_size: int
    end_ids: list[int]


def main() -> None:
    """Answers until the input ends."""
    lines = sys.stdin.buffer
    first = msgspec.json.decode(lines.readline(), type=Vocabulary)
    vocabulary = read_vocabulary(first.tokenizer_json, first.vocab_size, first.end_ids)
    with open("/proc/self/statm", encoding="ascii") as file:
        most = int(file.read().split()[0]) * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    decode = msgspec.json.Decoder(Constraint).decode
    _answer("")
    for line in lines:
        constraint = decode(line)
        signal.setitimer(signal.ITIMER_PROF, COMPILE_CPU_S)
        complaint = ""
        try:
            compile_grammar(vocabulary, constraint)
        except InvalidGrammar as error:
            complaint = str(error)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _answer(complaint)


def _answer(complaint: str) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(complaint) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    # A crash is expected of it, and no reason to keep its memory.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
