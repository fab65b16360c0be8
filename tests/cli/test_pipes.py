"""Pipes, files, full disks and Ctrl-C: the output contract, kept by the real program under a real shell."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.waiting import wait_until

pytestmark = [
    pytest.mark.usefixtures("with_starter", "one_thread"),
    pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell"),
]

with_tiny = pytest.mark.usefixtures("with_tiny")  # where it does not count what is said, nor how fast
LLMCLI = f'"{sys.executable}" -m llmcli'
BY_SIGINT = -signal.SIGINT  # a shell shows 130


@pytest.fixture
def one_thread(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads would wait for each other on a busy machine."""
    monkeypatch.setenv("LLMCLI_N_THREADS", "1")


def shell(command: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash in which $L is the program."""
    line = command.replace("$L", LLMCLI)
    return subprocess.run(["bash", "-c", line], capture_output=True, stdin=subprocess.DEVNULL, env=os.environ | env)


def test_a_pipe_gets_the_answer_and_stderr_gets_the_note() -> None:
    ran = shell("printf 'text' | $L generate 'Summarize:' -n 8 --seed 1 | cat; echo ${PIPESTATUS[*]}")
    assert ran.stderr == b"cut off: max_tokens is 8; raise it with -n\n"
    assert ran.stdout.endswith(b"\n0 0 0\n")
    assert b"\x1b" not in ran.stdout


def test_a_closed_pipe_ends_the_program_quietly_with_141() -> None:
    ran = shell("$L generate hi --ignore-eos -n 2000 | head -c 1; echo ' '${PIPESTATUS[0]}")
    assert ran.stderr == b""
    assert ran.stdout.endswith(b" 141\n")


def test_a_closed_pipe_ends_a_chat_quietly_and_keeps_the_text() -> None:
    ran = shell("$L chat hi --session cut --ignore-eos -n 2000 | head -c 1; echo ' '${PIPESTATUS[0]}")
    assert ran.stderr == b""
    assert ran.stdout.endswith(b" 141\n")
    assert b"2 model" in shell("$L sessions show cut").stdout


@with_tiny
def test_a_file_and_a_pipe_get_the_same_bytes(tmp_path: Path) -> None:
    file = tmp_path / "f"
    command = "$L generate hi -q -n 16 --seed 3 --grammar 'root ::= [a-z]+'"
    ran = shell(f"{command} > '{file}'")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")
    piped = shell(f"{command} | cat").stdout
    assert file.read_bytes() == piped
    assert b"\x1b" not in piped
    assert piped.endswith(b"\n")
    assert not piped.endswith(b"\n\n")


@with_tiny
def test_json_is_read_by_a_json_tool() -> None:
    ran = shell(f"$L generate hi -n 8 --ignore-eos --json | '{sys.executable}' -m json.tool")
    assert ran.returncode == 0
    assert json.loads(ran.stdout)["completion_tokens"] == 8


@with_tiny
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_error_and_status_6() -> None:
    for flags in ("", "--json", "--no-stream"):
        ran = shell(f"$L generate hi -n 4 {flags} > /dev/full")
        assert ran.returncode == 6
        assert ran.stderr.startswith(b"error: ")
        assert ran.stderr.count(b"error: ") == 1
        assert b"No space left on device" in ran.stderr


@with_tiny
def test_a_closed_stdout_is_one_error_and_status_6() -> None:
    ran = shell("$L generate hi -n 4 >&-")
    assert ran.returncode == 6
    assert ran.stderr.count(b"error: ") == 1
    assert ran.stderr.startswith(b"error: stdout is closed")
    assert b"Traceback" not in ran.stderr


@with_tiny
def test_a_closed_stderr_and_a_closed_stdin_change_nothing() -> None:
    assert shell("$L generate hi -n 4 --stats 2>&-").returncode == 0
    assert shell("$L generate hi -n 4 <&-").returncode == 0
    assert shell("printf 'hi\\n/history\\n' | $L chat --no-save -n 4 2>&-").returncode == 0


@with_tiny
def test_text_is_utf8_whatever_the_locale() -> None:
    for locale in ({"LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        ran = shell("$L generate --raw 'naïve 日本 🙂' -n 1 --echo", **locale)
        assert ran.returncode == 0
        assert ran.stdout.startswith("naïve 日本 🙂".encode())


LOOP = "while read -r l; do $L generate \"Word: $l\" --raw --show-prompt {}; done < '{}'"


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_text("a\nb\nc\n")
    return path


@with_tiny
def test_a_loop_whose_input_is_swallowed_gets_a_warning(lines: Path) -> None:
    ran = shell(LOOP.format("", lines))
    assert ran.stdout == b"Word: a\n\nb\nc\n"
    assert ran.stderr.count(b"warning: the rest of stdin becomes part of this prompt") == 1
    assert b"hint: add --no-stdin to keep stdin for the loop" in ran.stderr


@with_tiny
def test_no_stdin_leaves_the_input_to_the_loop(lines: Path) -> None:
    ran = shell(LOOP.format("--no-stdin", lines))
    assert (ran.stdout, ran.stderr) == (b"Word: a\nWord: b\nWord: c\n", b"")


@with_tiny
def test_stdin_that_is_read_on_purpose_gets_no_warning(lines: Path) -> None:
    for command in (
        f"$L generate Q --raw --show-prompt < '{lines}'",
        f"{{ read -r l; $L generate Q -f - --raw --show-prompt; }} < '{lines}'",
        f"{{ read -r l; $L generate - --raw --show-prompt; }} < '{lines}'",
        f"{{ cat > /dev/null; $L generate Q --raw --show-prompt; }} < '{lines}'",
    ):
        ran = shell(command)
        assert (ran.returncode, ran.stderr) == (0, b""), command


@with_tiny
def test_no_stdin_and_a_dash_cannot_be_used_together() -> None:
    for arguments, option in (("-", "--prompt"), ("Q -f -", "--file"), ("Q -s @/dev/stdin", "--system")):
        ran = shell(f"$L generate {arguments} --no-stdin")
        assert ran.returncode == 2
        assert f"--no-stdin and {option} (stdin) cannot be used together" in ran.stderr.decode()


@with_tiny
def test_stdin_is_the_system_prompt_if_it_is_asked_for() -> None:
    for name in ("-", "@-", "@/dev/stdin"):
        ran = shell(f"printf 'Be kind.' | $L generate Q -s {name} --show-prompt")
        assert (ran.returncode, ran.stderr) == (0, b"")
        assert ran.stdout == b"system: Be kind.\nuser: Q\nassistant: \n"


def test_a_piped_line_and_an_argument_get_the_same_answer() -> None:
    piped, given = (shell(f"{line} -n 8 --seed 4 -q") for line in ("echo hi | $L generate", "$L generate hi"))
    assert piped.stdout == given.stdout


@with_tiny
def test_a_piped_chat_reads_its_encoding() -> None:
    for text, flags in (("caf\\xe9", "--encoding latin-1"), ("\\xff\\xfec\\0a\\0f\\0\\xe9\\0", "")):
        shell(f"printf '{text}' | $L chat {flags} -n 1 -S coffee")
        ran = shell("$L sessions show coffee; $L sessions rm -y coffee")
        assert ran.stdout.decode().count("café") == 1
    ran = shell("printf 'caf\\xe9' | $L chat -n 1 --no-save")
    assert b"warning: stdin is not UTF-8 (byte 0xe9 at position 3)" in ran.stderr


@with_tiny
@pytest.mark.parametrize(("prompt", "hint"), [("Q", b"use --no-stdin to ignore it"), ("-", b"end it with Ctrl-D")])
def test_a_silent_pipe_gets_a_note_with_a_remedy(prompt: str, hint: bytes) -> None:
    code = f"""
import sys
from llmcli.cli import app, stdin
stdin._PATIENCE = 0.1
sys.argv = ["llmcli", "generate", {prompt!r}, "--raw", "--show-prompt"]
app.main()
"""
    program = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert program.stderr
    note = program.stderr.readline()
    assert note.startswith(b"waiting for stdin")
    assert note.endswith(hint + b"\n")
    text, _ = program.communicate(b"text")
    assert text.endswith(b"text\n")


def heeding(*command: str, ctrl_c: str = "SIG_DFL") -> list[str]:
    """A command that heeds Ctrl-C, or not: the tests themselves may run as a background job, which ignores it."""
    code = (
        f"import os, signal, sys; signal.signal(signal.SIGINT, signal.{ctrl_c}); os.execvp(sys.argv[1], sys.argv[1:])"
    )
    return [sys.executable, "-c", code, *command]


def start(*args: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        heeding(sys.executable, "-m", "llmcli", "generate", *args),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_ctrl_c_keeps_the_partial_text_and_ends_by_sigint() -> None:
    program = start("Tell me a long story.", "--ignore-eos", "-n", "5000")
    assert program.stdout
    begun = os.read(program.stdout.fileno(), 20)  # without a buffer, which `communicate` would not read
    program.send_signal(signal.SIGINT)
    rest, errors = program.communicate(timeout=60)
    text = begun + rest
    assert program.returncode == BY_SIGINT
    assert text.endswith(b"\n")
    assert not text.endswith(b"\n\n")
    assert errors == b""


def test_ctrl_c_with_json_still_prints_the_object(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    program = start("Tell me a long story.", "--ignore-eos", "-n", "5000", "--json", "--trace", str(trace))
    wait_until(lambda: trace.exists() and trace.stat().st_size > 0)  # the first tokens
    program.send_signal(signal.SIGINT)
    text, errors = program.communicate(timeout=60)
    assert program.returncode == BY_SIGINT
    assert json.loads(text)["finish_reason"] == "interrupt"
    assert errors == b""


def wait_computing(program: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait until a program has computed for so many seconds more, or has ended."""
    stat = Path(f"/proc/{program.pid}/stat")
    if not stat.exists():
        time.sleep(seconds)
        return

    def computed() -> float:
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # proc(5): utime, stime

    begun = computed()
    wait_until(lambda: program.poll() is not None or computed() > begun + seconds)


def test_ctrl_c_while_the_prompt_is_read_answers_at_once(tmp_path: Path) -> None:
    """In the midst of a batch, whose end would take seconds: then none of its tokens counts as read."""
    prompt = tmp_path / "long.txt"
    prompt.write_text("The quick brown fox jumps over the lazy dog. " * 280)
    for number in range(5):  # on a busy machine this test may come too late, when a batch is complete
        trace = tmp_path / f"{number}.jsonl"
        program = start("--raw", "-n", "1", "-ub", "2048", "-f", str(prompt), "--trace", str(trace), "--stats")
        wait_until(trace.exists)  # now the prompt is read
        wait_computing(program, 0.4)
        program.send_signal(signal.SIGINT)
        text, errors = program.communicate(timeout=120)
        if errors.startswith(b"prompt 0 tokens"):
            break
    assert (program.returncode, text, errors.count(b"\n")) == (BY_SIGINT, b"\n", 1)
    assert errors.startswith(b"prompt 0 tokens")
    assert b" | end: interrupt | " in errors


def test_ctrl_c_does_not_wait_for_the_end_of_python() -> None:
    code = "import atexit; from llmcli.cli import app; atexit.register(print, 'late'); print('text', end='')"
    ends = "app.run = lambda _: __import__('signal').raise_signal(2); app.main()"
    done = subprocess.run(heeding(sys.executable, "-c", f"{code}; {ends}"), capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (BY_SIGINT, b"text", b"")


def test_ctrl_c_ends_the_loop_of_a_shell() -> None:
    line = f"for x in 1 2 3; do echo run $x; {LLMCLI} generate hi -q --ignore-eos -n 5000; done"
    program = subprocess.Popen(
        heeding("bash", "-c", line), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
    )
    assert program.stdout
    begun = program.stdout.read(20)
    os.killpg(program.pid, signal.SIGINT)  # as a terminal does
    text = begun + program.communicate(timeout=120)[0]
    assert program.returncode == BY_SIGINT
    assert text.startswith(b"run 1\n")
    assert text.count(b"run ") == 1


def test_ctrl_c_in_a_piped_chat_ends_the_loop_and_keeps_the_session(home: Path) -> None:
    chat = f"printf 'Tell a long story.\\nhi\\n' | {LLMCLI} chat --ignore-eos -n 5000"
    line = f"for x in 1 2 3; do echo run $x; {chat}; done"
    program = subprocess.Popen(
        heeding("bash", "-c", line), stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert program.stdout
    begun = program.stdout.read(30)
    os.killpg(program.pid, signal.SIGINT)
    text = begun + program.communicate(timeout=120)[0]
    assert program.returncode == BY_SIGINT
    assert text.count(b"run ") == 1
    (session,) = (home / "data" / "sessions").glob("*.jsonl")
    events = [json.loads(line) for line in session.read_text().splitlines()]
    messages = [event for event in events if event["type"] == "message"]
    assert [one["role"] for one in messages] == ["user", "assistant"]
    assert messages[1]["finish_reason"] == "interrupt"


def test_ctrl_c_in_a_comparison_of_a_piped_chat_ends_it() -> None:
    program = subprocess.Popen(
        heeding(sys.executable, "-m", "llmcli", "chat", "--ignore-eos", "-n", "2000", "-c", "4096", "--verbose"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert program.stdin
    assert program.stderr
    program.stdin.write(b"/compare answers=2 Tell a long story.\nhi\n")
    program.stdin.flush()
    assert any(line.startswith(b"loaded in ") for line in program.stderr)
    wait_computing(program, 0.4)  # the comparison
    program.send_signal(signal.SIGINT)
    program.communicate(timeout=120)
    assert program.returncode == BY_SIGINT


def test_a_piped_chat_that_meets_its_time_limit_ends_with_124() -> None:
    ran = shell("printf 'Tell a long story.\\n' | $L chat --ignore-eos -n 5000 --timeout 0.5 --no-save")
    assert ran.returncode == 124


def test_a_binary_stdin_is_refused_as_a_binary_file() -> None:
    ran = shell("printf 'a\\0b' | $L generate 'What is it?'")
    assert (ran.returncode, ran.stdout) == (6, b"")
    assert ran.stderr == (
        b"error: stdin is not a text file\n  hint: give a text file, or its encoding, such as --encoding utf-16-le\n"
    )


@with_tiny
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have only names in Unicode")
def test_a_file_name_that_is_not_utf_8_is_opened(tmp_path: Path, with_tiny: Path) -> None:
    for name, source in (("caf\\xe9.txt", tmp_path / "text"), ("caf\\xe9.gguf", with_tiny)):
        (tmp_path / "text").write_text("Be kind.")
        shell(f"cp '{source}' \"$(printf '{tmp_path}/{name}')\"")
    path = f"$(printf '{tmp_path}/caf\\xe9')"
    ran = shell(f'$L generate Q -m "{path}.gguf" -s "@{path}.txt" -f "{path}.txt" --show-prompt')
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert ran.stdout.decode().count("Be kind.") == 2


@with_tiny
def test_names_that_the_terminal_cannot_show_are_one_error() -> None:
    for arguments in ("hi -m 模型.gguf", "hi -f 模型.txt", "hi --模型", "hi --trace /nonexistent/模型"):
        ran = shell(f"$L generate {arguments}", PYTHONIOENCODING="ascii")
        assert ran.returncode in (2, 3, 6)
        assert ran.stderr.startswith(b"error: ")
        assert b"??" in ran.stderr
        assert b"bug" not in ran.stderr


def test_a_background_job_ignores_ctrl_c() -> None:
    program = subprocess.Popen(
        heeding(sys.executable, "-m", "llmcli", "generate", "hi", "-q", "--ignore-eos", "-n", "60", ctrl_c="SIG_IGN"),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert program.stdout
    program.stdout.read(3)
    program.send_signal(signal.SIGINT)
    assert program.communicate(timeout=120)[1] == b""
    assert program.returncode == 0


@pytest.mark.parametrize(
    "place", ["model_preload.start", "command_line.direct_line", "generate.command_layers", "model_preload.cancel"]
)
def test_ctrl_c_during_the_start_ends_quietly(place: str) -> None:
    module, _, name = place.partition(".")
    code = f"""
import signal, sys
from llmcli.cli import app, {module}
def press(*_):
    signal.raise_signal(signal.SIGINT)
{module}.{name} = press
sys.argv = ["llmcli", "generate", "hi", "-n", "2", "-q"]
app.main()
"""
    done = subprocess.run(heeding(sys.executable, "-c", code), capture_output=True, stdin=subprocess.DEVNULL)
    assert done.returncode == BY_SIGINT
    assert done.stderr == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", ["--help", "--version", "config list --all", "doctor"])
def test_every_command_reports_a_full_disk(command: str) -> None:
    ran = shell(f"$L {command} > /dev/full")
    assert ran.returncode == 6
    assert b"No space left on device" in ran.stderr
    assert b"Traceback" not in ran.stderr
