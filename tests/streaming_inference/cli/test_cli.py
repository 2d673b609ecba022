"""The command line against a server of fakes: what it prints, how it ends, and that Ctrl-C leaves nothing running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from app.key_file import create_key, read_keys
from app.schema.frames import Delta, End, Frame, Start
from streaming_inference.cli import main
from tests.fakes.live_server import ANSWER, BROKEN, ENDLESS, LiveServer, live_server

ROOT = Path(__file__).parents[3]
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with live_server() as running:
        yield running


def invoke(server: LiveServer | None, words: str, stdin: str | None = None, **environment: str) -> Result:
    url = {} if server is None else {"STREAMING_INFERENCE_URL": server.url}
    return CliRunner().invoke(main, words.split(), input=stdin, env={**url, **environment})


def until(condition: Callable[[], Any], what: Callable[[], object] = lambda: "it did not happen") -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_s, what()
        time.sleep(0.01)


def test_generate_prints_the_text_and_nothing_else(server: LiveServer) -> None:
    found = invoke(server, "generate --model letters hello")
    assert (found.exit_code, found.stdout, found.stderr) == (0, ANSWER + "\n", "")
    assert server.generators["letters"].prompts[-1] == "hello"


def test_generate_reads_a_pipe_and_takes_options(server: LiveServer) -> None:
    words = "generate --model letters --chat --max-tokens 9 --temperature 0 --top-p 0.5 --seed 3 --stop zz --stop yy"
    found = invoke(server, words, stdin="from a pipe\n")
    assert (found.exit_code, found.stdout) == (0, ANSWER + "\n")
    job = server.generators["letters"].generations[-1].job
    assert (job.sampling.max_tokens, job.sampling.temperature, job.sampling.top_p, job.sampling.seed) == (
        9,
        0,
        0.5,
        3,
    )
    assert server.generators["letters"].prompts[-1] == "from a pipe\n"


def test_json_is_one_frame_in_each_line(server: LiveServer) -> None:
    found = invoke(server, "generate --model letters --json hello")
    frames = [msgspec.json.decode(line, type=Frame) for line in found.stdout.splitlines()]
    assert isinstance(frames[0], Start) and isinstance(frames[-1], End)
    assert "".join(frame.text for frame in frames if isinstance(frame, Delta)) == ANSWER


def test_a_detached_stream_is_resumed_looked_at_and_cancelled(server: LiveServer) -> None:
    name = invoke(server, f"generate --model {ENDLESS} --detach hello").stdout.strip()
    assert name.startswith("st_")
    cancelled = json.loads(invoke(server, f"cancel --json {name}").stdout)
    assert (cancelled["state"], cancelled["choices"][0]["finish_reason"]) == ("ended", "cancelled")
    cursor = cancelled["cursor"]
    assert invoke(server, f"cancel {name}").stdout == f"{name}: cancelled at {cursor}\n"
    whole = invoke(server, f"resume {name}")
    assert whole.exit_code == 0 and ANSWER.startswith(whole.stdout[:5].strip())
    rest = invoke(server, f"resume {name} --after {cursor} --json")
    assert [json.loads(line)["type"] for line in rest.stdout.splitlines()] == ["end"]
    finished = json.loads(invoke(server, "generate --model letters --detach --json hello").stdout)
    assert invoke(server, f"resume {finished['stream']}").stdout == ANSWER + "\n"


def test_models(server: LiveServer) -> None:
    assert invoke(server, "models").stdout.split() == ["letters", ENDLESS, BROKEN]
    lines = invoke(server, "models --json").stdout.splitlines()
    assert [json.loads(line)["owned_by"] for line in lines] == ["tests"] * 3


def test_chat_over_a_pipe_remembers_what_was_said(server: LiveServer) -> None:
    found = invoke(
        server, "chat --model letters --system Be.", stdin="one\n\ntwo\n/new\nthree\n/exit\nfour\n"
    )
    assert (found.exit_code, found.stdout, found.stderr) == (0, f"{ANSWER}\n" * 3, "")
    prompts = server.generators["letters"].prompts[-3:]
    assert prompts == ["Be.one", f"Be.one{ANSWER}two", "Be.three"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("generate --model nope hello", 1, "error: The model 'nope' does not exist"),
        ("generate --model letters --temperature 3 hello", 1, "temperature must be at most 2"),
        (f"generate --model {BROKEN} hello", 1, "(generation_failed)"),
        ("resume st_none", 1, "(stream_not_found)"),
        ("cancel st_none", 1, "(stream_not_found)"),
        ("chat --model nope", 1, "(model_not_found)"),
        ("generate --model letters", 2, "The prompt on stdin is empty"),
        ("generate --max-tokens many hello", 2, "Invalid value for '--max-tokens'"),
        ("resume st_1 --after x", 2, "not a cursor"),
        ("models --url nowhere", 2, "not the address of an HTTP server"),
        ("nonsense", 2, "No such command"),
        (
            "models --url http://127.0.0.1:9 --retries 1",
            3,
            "error: No server answers at http://127.0.0.1:9/.",
        ),
        ("chat --url http://127.0.0.1:9 --retries 0", 3, "(not_reachable)"),
    ],
)
def test_errors_are_readable_and_have_a_code(server: LiveServer, words: str, code: int, said: str) -> None:
    found = invoke(server, words, stdin="hi\n" if words.startswith("chat") else "")
    assert found.exit_code == code
    assert said in found.stderr and "Traceback" not in found.output


def test_errors_for_machines(server: LiveServer) -> None:
    error = json.loads(invoke(server, "models --url http://127.0.0.1:9 --retries 0 --json").stderr)["error"]
    assert (error["code"], error["retryable"], error["stream"]) == ("not_reachable", True, None)
    found = invoke(server, f"generate --model {BROKEN} --json hello")
    assert json.loads(found.stdout.splitlines()[-1])["type"] == "error"
    assert json.loads(found.stderr)["error"]["stream"].startswith("st_")


def test_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    made = invoke(None, f"key create --name ann --file {path}")
    key = made.stdout.strip()
    assert made.exit_code == 0 and key.startswith("sk-") and key not in made.stderr
    assert [entry.name for entry in read_keys(path)] == ["ann"]
    again = invoke(None, f"key create --name ann --file {path}")
    assert again.exit_code == 1 and "has a key named ann already" in again.stderr
    with live_server(path) as server:
        assert invoke(server, "models").exit_code == 1
        assert "(invalid_api_key)" in invoke(server, "models --api-key sk-wrong").stderr
        assert invoke(server, "models", STREAMING_INFERENCE_API_KEY=key).exit_code == 0
        bob = create_key(path, "bob")
        until(lambda: invoke(server, f"models --api-key {bob}").exit_code == 0)


def test_no_command_waits_for_what_only_another_needs() -> None:
    program = (
        "import sys\nfrom streaming_inference.cli import main\n"
        "main(['generate', '--help'], standalone_mode=False)\n"
        "assert 'benchmarks' not in sys.modules and 'pydantic' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_every_command_has_help() -> None:
    found = invoke(None, "--help")
    assert found.exit_code == 0
    for name in ("bench", "cancel", "chat", "generate", "key", "models", "resume"):
        assert name in found.stdout
        assert invoke(None, f"{name} --help").exit_code == 0


# Real programs.

_IN_TERMINAL = "import os; os.login_tty(int(__import__('sys').argv.pop(1))); from streaming_inference.cli import main; main()"


class Terminal:
    """A program on a terminal of its own, at which the test sits."""

    def __init__(self, server: LiveServer, *words: str) -> None:
        self._master, slave = os.openpty()
        environment = {
            **os.environ,
            "STREAMING_INFERENCE_URL": server.url,
            "PYTHONPATH": str(ROOT),
            "TERM": "xterm",
            "LINES": "24",
            "COLUMNS": "80",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", _IN_TERMINAL, str(slave), *words],
            pass_fds=[slave],
            env=environment,
            cwd=ROOT,
        )
        os.close(slave)
        os.set_blocking(self._master, False)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, text: str) -> None:
        """Waits for `text` among what has not been expected yet."""
        until(lambda: text in self._read(), lambda: f"{text!r} is not in {self.seen!r}")
        self.seen = self.seen.partition(text)[2]

    def wait(self) -> int:
        until(lambda: (self._read(), self._process.poll())[1] is not None, lambda: self.seen)
        self._read()
        return self._process.returncode

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def _read(self) -> str:
        """All that is on the screen and has not been expected yet."""
        try:
            while data := os.read(self._master, 65536):
                self.seen += data.decode(errors="replace")
        except OSError:  # nothing there now, or nobody at the other end
            pass
        return self.seen


@pytest.fixture
def terminal(server: LiveServer) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*words: str) -> Terminal:
        opened.append(Terminal(server, *words))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def test_ctrl_c_cancels_the_answer_and_not_the_chat(
    server: LiveServer, terminal: Callable[..., Terminal]
) -> None:
    chat = terminal("chat", "--model", ENDLESS)
    chat.expect("> ")
    chat.type("hello\r")
    chat.expect(ANSWER)
    assert server.running == 1
    chat.type("\x03")
    chat.expect("(cancelled)")
    chat.expect("> ")
    until(lambda: server.running == 0)
    # What was typed can be thrown away, and the conversation goes on with what was seen of the answer.
    chat.type("nonsense\x03")
    chat.expect("> ")
    chat.type("again\r")
    chat.expect(ANSWER)
    assert server.generators[ENDLESS].prompts[-1].startswith(f"hello{ANSWER}")
    assert server.generators[ENDLESS].prompts[-1].endswith("again")
    chat.type("\x03")
    chat.expect("> ")
    chat.type("\x04")
    assert chat.wait() == 0
    until(lambda: server.running == 0)


def test_the_pace_is_shown_below_the_text(terminal: Callable[..., Terminal]) -> None:
    chat = terminal("chat", "--model", "letters")
    chat.expect("> ")
    chat.type("hello\r")
    chat.expect("\x1b[1;23r")  # the lowest row does not scroll
    chat.expect("\x1b[24;1H\x1b[K")
    chat.expect("\x1b[r")
    chat.expect("tokens/s, TTFT ")
    chat.expect(" ms, stop]")
    chat.expect("> ")
    chat.type("/exit\r")
    assert chat.wait() == 0


def test_errors_do_not_end_a_chat_with_a_person(terminal: Callable[..., Terminal]) -> None:
    chat = terminal("chat", "--model", "nope")
    for _ in range(2):
        chat.expect("> ")
        chat.type("hello\r")
        chat.expect("error: The model 'nope' does not exist")
    chat.expect("> ")
    chat.type("\x04")
    assert chat.wait() == 0


def test_ctrl_c_ends_generate_and_cancels_its_stream(
    server: LiveServer, terminal: Callable[..., Terminal]
) -> None:
    generate = terminal("generate", "--model", ENDLESS, "hello")
    generate.expect(ANSWER)
    generate.type("\x03")
    assert generate.wait() == 130
    assert "interrupted]" in generate.seen and "Traceback" not in generate.seen
    until(lambda: server.running == 0)


def endless_answer(server: LiveServer) -> list[str]:
    """A command whose answer does not end."""
    words = ["generate", "--model", ENDLESS, "--url", server.url, "hello"]
    return [sys.executable, "-m", "streaming_inference", *words]


def test_a_pipe_that_closes_cancels_the_stream(server: LiveServer) -> None:
    with subprocess.Popen(
        endless_answer(server), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.read(5) == ANSWER[:5].encode()
        process.stdout.close()
        assert process.wait(PATIENCE_S) == 1
        assert process.stderr is not None and b"Traceback" not in process.stderr.read()
    until(lambda: server.running == 0)


def test_a_signal_to_a_program_without_a_terminal_does_the_same(server: LiveServer) -> None:
    with subprocess.Popen(endless_answer(server), cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.read(5) == ANSWER[:5].encode()
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(PATIENCE_S) == 130
    until(lambda: server.running == 0)
