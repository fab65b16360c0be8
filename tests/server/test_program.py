"""The program `llmcli serve`: its options, its signals, its exit status, and what it prints."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmcli.cli.serve import write_log
from llmcli.server.request_log import RequestRecord
from llmcli.ui.terminal.console import console
from tests.server.program import Program
from tests.waiting import wait_until

pytestmark = pytest.mark.slow
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
KEY = "k" * 24
LONG = b'{"prompt": "a", "stream": true, "ignore_eos": true, "n": 4}'  # for half a minute
Maker = Callable[..., Program]


@pytest.fixture
def start(tiny: Path) -> Iterator[Maker]:
    programs: list[Program] = []

    def make(*args: str, **env: str) -> Program:
        programs.append(Program(tiny, "-c", "8000", *args, **env))
        return programs[-1]

    yield make
    for one in programs:
        one.close()


@posix
def test_sigterm_ends_it_in_good_order_with_status_0(start: Maker) -> None:
    program = start("--grace", "0.3")
    connection, response = program.open("/v1/completions", LONG)
    response.read(300)
    program.process.terminate()
    events = response.read().decode().strip().split("\n\n")
    connection.close()
    assert "the server is shutting down" in json.loads(events[-1].removeprefix("data: "))["error"]["message"]
    assert program.end() == 0
    line = program.line("POST /v1/completions")
    assert "error=unavailable_error" in line.string
    assert "Traceback" not in "".join(program.lines)


@posix
def test_the_next_server_restores_what_the_last_one_has_read(start: Maker) -> None:
    body = json.dumps({"prompt": "the an he the er " * 100, "max_tokens": 1}).encode()
    for is_known in (False, True):
        program = start()
        usage = program.request("/v1/completions", body).data["usage"]
        assert (usage["prompt_tokens_details"]["cached_tokens"] >= 256) == is_known
        program.process.terminate()
        assert program.end() == 0


@posix
def test_ctrl_c_ends_it_with_the_status_of_an_interrupt(start: Maker) -> None:
    program = start()
    assert program.request("/health").code == 200
    program.process.send_signal(signal.SIGINT)
    assert program.end() == -signal.SIGINT  # 130 in a shell


def test_a_key_for_a_model_that_is_not_served_gets_a_warning(start: Maker, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text(f"alice: {KEY} models=good,nope\n")
    keys.chmod(0o600)
    lines = "".join(start("--api-key-file", str(keys), "--alias", "good,fine").lines)
    assert "warning: the key of alice is for the model nope, which is not served\n  hint: use: fine, good\n" in lines
    assert "model good" not in lines


@posix
def test_a_second_ctrl_c_ends_it_at_once(start: Maker) -> None:
    program = start("--grace", "600")
    connection, response = program.open("/v1/completions", LONG)
    response.read(300)
    program.process.send_signal(signal.SIGINT)
    wait_until(lambda: program.request("/health").code == 503)
    assert program.process.poll() is None, "the answer may end"
    program.process.send_signal(signal.SIGINT)
    assert program.end() == -signal.SIGINT
    connection.close()


def test_two_servers_cannot_have_one_port(start: Maker, tiny: Path) -> None:
    port = str(start().port)
    command = [sys.executable, "-m", "llmcli", "serve", "-m", str(tiny), "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1
    assert f"error: cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr
    assert "hint: another program uses it: choose another --port" in done.stderr


def test_other_machines_are_served_with_keys_only(tiny: Path) -> None:
    command = [sys.executable, "-m", "llmcli", "serve", "-m", str(tiny), "--host", "0.0.0.0", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2
    assert "error: --host 0.0.0.0 is reached from other machines, and the server has no keys" in done.stderr
    assert "--api-key-file" in done.stderr


@posix
def test_keys_come_from_the_file_and_the_environment(start: Maker, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.touch(0o600)
    path.write_text(f"alice: {KEY}\n")
    program = start("--api-key-file", str(path), LLMCLI_API_KEY="e" * 24)
    ask = b'{"prompt": "a", "max_tokens": 2}'
    assert program.request("/v1/completions", ask).code == 401
    assert program.request("/v1/completions", ask, Authorization=f"Bearer {KEY}").code == 200
    assert " alice POST /v1/completions 200 tiny prompt=" in program.line(" 200 ").string
    assert program.request("/v1/completions", ask, **{"X-Api-Key": "e" * 24}).code == 200
    assert " LLMCLI_API_KEY POST" in program.line(" 200 ").string
    path.write_text(f"bob: {'b' * 24}\n")
    program.process.send_signal(signal.SIGHUP)
    wait_until(lambda: program.request("/v1/completions", ask, Authorization=f"Bearer {'b' * 24}").code == 200)
    assert program.request("/v1/completions", ask, Authorization=f"Bearer {KEY}").code == 401
    path.chmod(0o644)
    program.process.send_signal(signal.SIGHUP)
    assert program.line("the keys stay as they were: .* other users can read it")
    program.process.terminate()
    assert program.end() == 0
    assert not re.search("k{24}|e{24}|b{24}", "".join(program.lines))


def test_the_log_has_json_lines_and_content_if_asked(start: Maker) -> None:
    program = start("--log-json", "--log-content")
    program.request("/v1/completions", b'{"prompt": "a question", "max_tokens": 2}')
    data = json.loads(program.line("^{").string)
    assert (data["path"], data["status"], data["generated_tokens"]) == ("/v1/completions", 200, 2)
    assert data["prompts"] == ["a question"]


@posix
def test_a_closed_stderr_does_not_end_it(start: Maker) -> None:
    program = start()
    assert program.process.stderr
    program.process.stderr.close()
    for _ in range(3):
        assert program.request("/health").code == 200
    assert program.request("/v1/completions", b'{"prompt": "a", "max_tokens": 2}').code == 200
    program.process.terminate()
    assert program.end() == 0


def test_quiet_has_no_log_and_debug_has_tracebacks(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    record = RequestRecord("1", "GET", "/health", status=200, error=ValueError("a fault"))
    for is_quiet, n_lines in ((True, 0), (False, 1)):
        monkeypatch.setattr(console, "quiet", is_quiet)
        write_log(False, False, record)
        assert capfd.readouterr().err.count("\n") == n_lines
    monkeypatch.setattr(console, "debug", True)
    write_log(False, False, record)
    assert "ValueError: a fault" in capfd.readouterr().err


def test_a_model_is_called_as_its_aliases_say(start: Maker) -> None:
    program = start("--alias", "one, two", "--no-metrics", "--no-slots", "--verbose")
    (listed,) = program.request("/v1/models").data["data"]
    assert (listed["id"], listed["aliases"], listed["meta"]["file"][-5:]) == ("one", ["one", "two"], ".gguf")
    data = program.request("/v1/completions", b'{"prompt": "a", "max_tokens": 1, "model": "two"}').data
    assert (data["model"], data["__verbose"]["prompt"][-1]) == ("one", "a")
    assert program.request("/v1/completions", b'{"prompt": "a", "model": "tiny"}').code == 404
    assert [program.request(path).code for path in ("/metrics", "/slots")] == [501, 501]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "b"), "error: --alias is given 2 times for 1 model\n  hint: give it once for each --model"),
        (("a,b,a",), "error: --alias gives the name 'a' twice\n  hint: give each model names of its own"),
    ],
)
def test_aliases_that_are_ambiguous_are_refused(tiny: Path, names: tuple[str, ...], message: str) -> None:
    options = [word for name in names for word in ("--alias", name)]
    command = [sys.executable, "-m", "llmcli", "serve", "-m", str(tiny), "--port", "0", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert (done.returncode, message in done.stderr) == (2, True)
