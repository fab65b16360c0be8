"""`llmcli rpc serve` and `--rpc`: the whole way over loopback, by the real commands."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from llmcli.engine.llama import rpc
from llmcli.engine.llama.probe import probe_record
from llmcli.inference import rpc_engine
from llmcli.models.notes import record_probed
from tests.cli.rpc_processes import CountingProxy, RpcServe, SilentProxy, fake_ssh, quiet_port
from tests.conftest import Run
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.model,
    pytest.mark.skipif(not rpc.is_supported(), reason="this build of llama.cpp has no RPC backend"),
]
GREEDY = ("--temp", "0", "-t", "1", "-c", "512")
LONG = (*GREEDY, "-n", "400", "--ignore-eos", "--no-stdin")
TRIES = 5  # where a limit is a second: a busy machine can stop a program for so long, before it is time
# Three loads, and four ways to draw with each.
LOADS = ((), ("-ub", "32", "-ctk", "q8_0", "-ctv", "q8_0"), ("-fa", "off", "-ctk", "f32", "-ctv", "f32"))
LINES = (
    {"temperature": 0},
    {"temperature": 0, "repeat_penalty": 1.3},
    {"temperature": 0.8, "seed": 5, "dry_multiplier": 0.8},
    {"temperature": "0.3..1.3", "seed": 7, "top_k": 0},
)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RpcServe]]:
    folder = tmp_path_factory.mktemp("rpc")
    with RpcServe(home=folder) as first, RpcServe("--memory", "1G", home=folder) as second:
        yield [first, second]


@pytest.fixture
def short(home: Path, short_starter: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first layers of the starter, tried before, as the model that the environment names."""
    monkeypatch.setenv("LLMCLI_MODEL", str(short_starter))
    (home / "cache").mkdir(parents=True, exist_ok=True)
    record_probed(home / "data", [short_starter], probe_record())
    return short_starter


def flags(*addresses: str) -> list[str]:
    return [word for one in addresses for word in ("--rpc", one)]


def test_twelve_settings_give_the_text_of_one_machine(short: Path, servers: list[RpcServe], run: Run) -> None:
    lines = "".join(json.dumps({"prompt": "Name three rivers of Asia.", **one}) + "\n" for one in LINES)
    split = flags(*(one.address for one in servers))
    for load in LOADS:
        command = ("batch", "-", "-n", "16", "-t", "1", "-c", "256", "--parallel", "1", *load)
        here, there = run(*command, stdin=lines), run(*command, *split, stdin=lines)
        assert (here.status, there.status) == (0, 0), there.stderr
        texts = [[json.loads(line)["text"] for line in one.text.splitlines()] for one in (here, there)]
        assert len(set(texts[0])) > 2
        assert texts[0] == texts[1], load


def test_a_replay_computes_on_the_servers_that_have_the_layers(
    short: Path, servers: list[RpcServe], run: Run, tmp_path: Path
) -> None:
    split = flags(*(one.address for one in servers))
    made = run("generate", "Name a river.", "-n", "4", "--seed", "1", "-t", "1", "-c", "256", "--json", *split)
    assert made.status == 0, made.stderr
    answer = tmp_path / "answer.json"
    answer.write_text(made.text)
    ran = run("replay", str(answer), "-v", *split)
    assert ran.status == 0, ran.stderr
    assert "same answer" in ran.stderr
    assert f"RPC0 ({servers[0].address}): " in ran.stderr


def test_a_chat_says_which_device_has_which_layers(short: Path, servers: list[RpcServe], run: Run) -> None:
    split = flags(*(one.address for one in servers))
    result = run("chat", "--no-save", *GREEDY, "-n", "8", "-ts", "1,1", "-v", *split, stdin="Hello\nAnd you?\n")
    assert result.status == 0, result.stderr
    assert f"RPC0 ({servers[0].address}): 3 layers" in result.stderr
    assert f"RPC1 ({servers[1].address}): 2 layers" in result.stderr
    assert result.text.count("\n") >= 2


def test_a_second_load_sends_no_large_tensor_again(short: Path, run: Run, tmp_path: Path) -> None:
    """The output layer alone is at the server: its weights are one tensor of 28 MB, and a vector."""
    with RpcServe("--cache", home=tmp_path) as other, closing(CountingProxy(other.address)) as proxy:
        command = ("generate", "Hi", *GREEDY, "-n", "2", "--no-stdin", "-ngl", "1", *flags(proxy.address))
        counts = []
        for _ in range(2):
            result = run(*command)
            assert result.status == 0, result.stderr
            counts.append(proxy.n_sent)
    assert counts[0] > 25e6
    assert counts[1] - counts[0] < 2e6


def test_a_server_that_is_killed_ends_the_answer_only(
    short: Path, servers: list[RpcServe], run: Run, tmp_path: Path
) -> None:
    with RpcServe(home=tmp_path) as other:
        command = [
            sys.executable,
            "-m",
            "llmcli",
            "generate",
            "Hello",
            *LONG,
            *flags(servers[0].address, other.address),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout
            begun = process.stdout.read(40)  # some ten tokens
            other.process.kill()
            rest, errors = process.communicate()
    assert process.returncode == 5
    assert begun.strip()
    assert f"error: a part of the model is lost: the RPC server {other.address} is not reached" in errors
    assert errors.count("\n") == 2, errors
    assert "hint: start it again with `llmcli rpc serve`; a new try loads" in errors
    assert rest.endswith("\n")
    assert run("generate", "Hello", *GREEDY, "-n", "2", "--no-stdin", *flags(servers[0].address)).status == 0


def test_the_lost_server_is_the_one_that_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one may only be slow to see that its last client has gone."""
    monkeypatch.setattr(rpc_engine, "_ASK", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        slow, gone = f"127.0.0.1:{silent.getsockname()[1]}", f"127.0.0.1:{quiet_port()}"
        error = rpc_engine.error_of("error: an RPC server has ended\n", [slow, gone])
    assert str(error).startswith(f"a part of the model is lost: the RPC server {gone} is not reached")


@pytest.mark.parametrize("last_words", [b"", b"nonsense" * 8], ids=["dies", "nonsense"])
def test_a_server_that_is_lost_during_the_load_is_an_error(
    short: Path, servers: list[RpcServe], run: Run, last_words: bytes
) -> None:
    with closing(CountingProxy(servers[0].address, 5e6, last_words)) as proxy:
        result = run("generate", "Hello", *LONG, *flags(proxy.address))
    assert (result.status, result.text) == (5, "")
    assert result.stderr.count("error: ") == 1
    assert "an RPC server" in result.stderr or "the RPC server" in result.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.parametrize("is_closed", [False, True], ids=["killed", "terminal"])
def test_the_process_of_a_model_ends_with_its_command(
    short: Path, servers: list[RpcServe], tmp_path: Path, is_closed: bool
) -> None:
    """A terminal that is closed sends its signal to both of them."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    command = [sys.executable, "-m", "llmcli", "generate", "Hello", *LONG, *flags(servers[0].address)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
    ) as process:
        assert process.stdout
        assert process.stdout.read(20)
        assert _is_running("rpc_worker")
        if is_closed:
            os.killpg(process.pid, signal.SIGHUP)
        else:
            process.kill()
    wait_until(lambda: not _is_running("rpc_worker"))
    assert [*temporary.iterdir()] == []


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe of Windows is in no folder")
@pytest.mark.parametrize("length", [1, 120])  # the path of a socket has at most 108 bytes
def test_a_command_leaves_no_temporary_file(
    short: Path, servers: list[RpcServe], run: Run, tmp_path: Path, length: int
) -> None:
    temporary = tmp_path / ("t" * length)
    temporary.mkdir()
    for where, status in ((servers[0].address, 0), ("127.0.0.1:1", 5)):
        command = ("generate", "Hi", *GREEDY, "-n", "2", "--no-stdin", *flags(where))
        result = run(*command, env={"TMPDIR": str(temporary)})
        assert result.status == status, result.stderr
        assert [*temporary.iterdir()] == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_process_that_is_killed_is_no_server_that_is_lost(short: Path, servers: list[RpcServe]) -> None:
    command = [sys.executable, "-m", "llmcli", "generate", "Hello", *LONG, *flags(servers[0].address)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.read(20)
        os.kill(_find_process("rpc_worker"), signal.SIGKILL)
        _, errors = process.communicate()
    assert process.returncode == 5
    assert "error: the process of the model was ended by SIGKILL" in errors


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGSTOP")
def test_a_server_that_hangs_counts_as_gone_in_time(short: Path, run: Run, tmp_path: Path) -> None:
    with RpcServe(home=tmp_path) as other:
        where = (*flags(other.address), "--rpc-timeout", "1")
        command = [sys.executable, "-m", "llmcli", "generate", "Hello", *LONG, *where]
        begun = ""
        for _ in range(TRIES):
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
                assert process.stdout
                begun = process.stdout.read(20)
                other.send(signal.SIGSTOP)
                _, errors = process.communicate()
            if begun:
                break
            other.send(signal.SIGCONT)
        assert begun
        assert process.returncode == 5
        assert f"error: the RPC server {other.address} gave no sign of life for 1 s" in errors
        refused = run("generate", "Hello", *LONG, *where)  # it is asked before the load
        assert refused.status == 5
        assert f"error: the RPC server {other.address} does not answer" in refused.stderr
        other.send(signal.SIGCONT)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGSTOP")
def test_vectors_that_nobody_wants_do_not_wait_for_a_server_that_hangs(short: Path, run: Run, tmp_path: Path) -> None:
    """These are computed in the process of the command, which waits for 10 seconds and not for --rpc-timeout."""
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"Sentence {number} about rivers.\n" for number in range(20_000)))
    with RpcServe(home=tmp_path) as other:
        where = (*flags(other.address), "--rpc-timeout", "86400")
        command = [sys.executable, "-m", "llmcli", "embed", "-f", str(texts), "-t", "1", *where]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout
            assert process.stdout.readline()
            reader = threading.Thread(target=process.stdout.read, daemon=True)
            reader.start()
            other.send(signal.SIGSTOP)
            time.sleep(1)  # until a call waits for it
            process.send_signal(signal.SIGINT)
            assert process.stderr
            errors = process.stderr.read()
            reader.join()
        other.send(signal.SIGCONT)
    assert process.returncode in (5, -signal.SIGINT)  # it was between two texts
    assert process.returncode < 0 or "an RPC server has not stopped within" in errors


@pytest.mark.parametrize("n_answers", [0, 1, 2, 3, 6], ids=["hello", "count", "again", "memory", "later"])
def test_a_server_that_is_silent_after_the_check_counts_as_gone_in_time(
    short: Path, servers: list[RpcServe], run: Run, n_answers: int
) -> None:
    """As one that another client has taken meanwhile, or that stops: whatever llama.cpp asks it first."""
    for _ in range(TRIES):
        with closing(SilentProxy(servers[0].address, n_answers)) as proxy:
            result = run("generate", "Hello", *LONG, *flags(proxy.address), "--rpc-timeout", "1")
        if "sign of life" in result.stderr:  # and not already the check
            break
    assert (result.status, result.text) == (5, "")
    assert f"error: the RPC server {proxy.address} gave no sign of life for 1 s" in result.stderr


def test_a_chat_goes_on_when_a_server_is_there_again(short: Path, run: Run, tmp_path: Path) -> None:
    """The second message is lost with the server that had the model; the third one loads it again at the same port."""
    port = str(quiet_port())
    with RpcServe("--port", port, home=tmp_path) as other:
        command = [sys.executable, "-m", "llmcli", "chat", "--no-save", *GREEDY, "-n", "4", *flags(other.address)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as chat:
            assert chat.stdin
            assert chat.stdout
            chat.stdin.write("Hello\n")
            chat.stdin.flush()
            assert chat.stdout.readline()
            other.process.kill()
            other.process.wait()
            with RpcServe("--port", port, home=tmp_path):
                rest, errors = chat.communicate("Are you there?\nAnd now?\n")
    assert errors.count("error: ") == 1
    assert f"the RPC server {other.address} has ended, or has sent a wrong answer" in errors
    assert chat.returncode == 5  # of the first error, for scripts
    assert rest.strip()


def test_a_server_loads_the_model_again_after_a_loss(short: Path, tmp_path: Path) -> None:
    port = str(quiet_port())
    with RpcServe("--port", port, home=tmp_path) as other:
        command = [sys.executable, "-m", "llmcli", "serve", "--port", "0", *GREEDY, *flags(other.address)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as serve:
            assert serve.stderr
            words = (word for line in serve.stderr for word in line.split())
            there = next(word for word in words if word.startswith("http://")).removeprefix("http://")
            question = json.dumps({"prompt": "Hello", "max_tokens": 4, "temperature": 0})

            def ask() -> tuple[int, dict[str, Any]]:
                with closing(HTTPConnection(there, timeout=60)) as connection:
                    connection.request("POST", "/v1/completions", question, {"Content-Type": "application/json"})
                    response = connection.getresponse()
                    return response.status, json.loads(response.read())

            first = ask()
            other.process.kill()
            other.process.wait()
            lost = ask()
            with RpcServe("--port", port, home=tmp_path):
                second = ask()
            serve.terminate()
            serve.communicate()
    assert first[0] == 200, first
    assert lost[0] >= 500
    assert "RPC server" in lost[1]["error"]["message"]
    assert second[0] == 200, second
    assert second[1]["choices"] == first[1]["choices"]


def test_a_command_that_uses_a_warm_model_says_which_server_is_lost(short: Path, run: Run, tmp_path: Path) -> None:
    with RpcServe(home=tmp_path) as other:
        load = ("-t", "1", *flags(other.address))
        assert run("warm", str(short), *load).status == 0
        command = [sys.executable, "-m", "llmcli", "generate", "Hello", *LONG, *flags(other.address)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout
            assert process.stdout.read(20)
            other.send(signal.SIGKILL)
            _, errors = process.communicate()
    assert process.returncode == 5
    assert f"the RPC server {other.address} is not reached" in errors


def test_a_load_that_has_failed_is_no_warm_model(short: Path, run: Run, tmp_path: Path) -> None:
    """Its process lingers for a moment, for those who ask why."""
    port = str(quiet_port())
    load = ("warm", str(short), "-t", "1", *flags(f"127.0.0.1:{port}"))
    with subprocess.Popen([sys.executable, "-m", "llmcli", *load], stderr=subprocess.PIPE, text=True) as process:
        _, errors = process.communicate()
        assert "is not reached" in errors
    again = run(*load)
    assert again.status != 0
    assert "is loaded already" not in again.stderr
    with RpcServe("--port", port, home=tmp_path):
        assert "stays loaded" in run(*load).stderr
        assert "is loaded already" in run(*load).stderr
        assert run("stop", "--all").status == 0


@pytest.mark.skipif(sys.platform == "win32", reason="the program in place of ssh is a script")
def test_ssh_starts_the_server_and_ends_it(short: Path, run: Run, tmp_path: Path) -> None:
    environment = fake_ssh(tmp_path / "bin")
    command = ("generate", "Hello", *GREEDY, "-n", "4", "--no-stdin")
    here, there = run(*command), run(*command, "--rpc", "ssh://me@there", "-v", env=environment)
    assert there.status == 0, there.stderr
    assert there.text == here.text
    assert "RPC0" in there.stderr
    wait_until(lambda: not _is_running("--until-eof"))

    refused = run(*command, "--rpc", "ssh://me@refused", env=environment)
    assert refused.status == 5
    assert "error: ssh to ssh://me@refused: me@refused: Permission denied (publickey).\n  hint: " in refused.stderr


def _is_running(word: str) -> bool:
    return _find_process(word) != 0


def _find_process(word: str) -> int:
    """A process of this test with such a command line, where the system tells (Linux); else 0."""
    home = os.environ["LLMCLI_HOME"].encode()
    for one in Path("/proc").glob("[0-9]*"):
        try:
            if word.encode() in (one / "cmdline").read_bytes() and home in (one / "environ").read_bytes():
                return int(one.name)
        except OSError:
            continue
    return 0


@pytest.mark.skipif(sys.platform == "win32", reason="a process of Windows cannot be asked to end")
def test_the_log_says_who_uses_the_devices(short: Path, run: Run, tmp_path: Path) -> None:
    with RpcServe("--memory", "300M", home=tmp_path) as other:
        assert any("300 of " in line for line in other.log)
        assert run("generate", "Hello", *LONG, *flags(other.address)).status == 0
        wait_until(lambda: any(" has left" in line for line in other.log))
        other.send(signal.SIGTERM)
        assert other.process.wait() == 0
    assert any(" uses it" in line for line in other.log)


def test_the_log_has_a_client_that_stays_for_a_moment_but_no_check(short: Path, run: Run, tmp_path: Path) -> None:
    with RpcServe(home=tmp_path) as other:
        assert run("doctor", *flags(other.address)).status in (0, 1)
        command = ("generate", "Hi", *GREEDY, "-n", "1", "--no-stdin", *flags(other.address))
        for _ in range(2):
            assert run(*command).status == 0
        wait_until(lambda: sum(" has left" in line for line in other.log) >= 2)
        other.send(signal.SIGTERM)
        assert other.process.wait() == 0
    assert sum(" has left after " in line and "MB in both directions" in line for line in other.log) == 2
    assert sum(" has left" in line for line in other.log) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell of POSIX")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&-"])
def test_a_server_needs_no_stdin_and_no_stdout(short: Path, run: Run, tmp_path: Path, closed: str) -> None:
    with RpcServe(home=tmp_path, before=("sh", "-c", f'exec "$0" "$@" {closed}')) as other:
        assert run("generate", "Hi", *GREEDY, "-n", "2", "--no-stdin", *flags(other.address)).status == 0
        wait_until(lambda: any("has left after" in line for line in other.log))
        other.send(signal.SIGTERM)
        assert other.process.wait() == 0


@pytest.mark.parametrize("message", [struct.pack("<BQ", 6, 1 << 63), struct.pack("<BQI", 11, 4, 9)])
def test_a_client_that_sends_nonsense_ends_the_server_with_a_reason_at_worst(tmp_path: Path, message: bytes) -> None:
    with RpcServe(home=tmp_path) as other:
        host, _, port = other.address.partition(":")
        with socket.create_connection((host, int(port))) as client, suppress(OSError):
            client.sendall(struct.pack("<BQ", 14, 24) + bytes(24) + message)
            client.shutdown(socket.SHUT_WR)
            while client.recv(100):
                pass
        with suppress(subprocess.TimeoutExpired):
            other.process.wait(2)
        other.send(signal.SIGTERM)
        status = other.process.wait()
    assert status in (0, 5)
    assert status == 0 or "hint: a client sent nonsense" in "".join(other.log)


def test_an_empty_limit_of_memory_is_refused(run: Run) -> None:
    for text in ("", ","):  # of a variable of a script that is not set
        result = run("rpc", "serve", "--port", "0", "--memory", text)
        assert result.status == 2
        assert "--memory must be sizes above 0" in result.stderr


def test_a_model_larger_than_all_memory_is_refused(short: Path, run: Run, tmp_path: Path) -> None:
    with RpcServe("--memory", "40M", home=tmp_path) as other:
        result = run("generate", "Hello", *LONG, "-ngl", "all", *flags(other.address))
        assert result.status == 1
        assert "and 40 MiB are free there" in result.stderr
        assert "hint: use --gpu-layers auto" in result.stderr
        result = run("generate", "Hello", *GREEDY, "-n", "2", "--no-stdin", "-v", *flags(other.address))
        assert result.status == 0, result.stderr
