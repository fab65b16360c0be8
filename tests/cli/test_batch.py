"""`llmcli batch`, as a user runs it: its streams, its exit statuses, and what an interruption leaves."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.cli_result import shell_status
from tests.conftest import Run
from tests.waiting import wait_until

with_starter = pytest.mark.usefixtures("with_starter")
with_tiny = pytest.mark.usefixtures("with_tiny")
only_posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

FAST = ("-t", "1", "-n", "6", "--seed", "1", "--ignore-eos")
# f32 and small batches: on the tiny model a row has the same result whatever rows are beside it.
EXACT = ("-ctk", "f32", "-ctv", "f32", "-fa", "off", "-b", "16", "-ub", "16")


def lines_of(text: str | bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def start_batch(*args: str, **more: Any) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "llmcli", "batch", *args]
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, **(streams | more))


@with_tiny
def test_each_line_is_answered_on_stdout(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("Name a color.\n\nName a river.\n")
    ran = run("batch", str(tmp_path / "in.txt"), *FAST)
    assert (ran.status, [line["id"] for line in lines_of(ran.stdout)]) == (0, [1, 3])
    assert [line["completion_tokens"] for line in lines_of(ran.stdout)] == [6, 6]
    note = ran.stderr.splitlines()[-1]
    assert note.startswith("2 lines: 2 answered | 12 tokens, ")
    assert note.endswith(" | seed 1")


@with_tiny
def test_a_line_that_fails_gives_status_10(run: Run, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"id": "a", "prompt": "hi"}\n{bad\n{"id": "b", "prompt": "x", "n_ctx": 5}\n')
    ran = run("batch", str(source), "-o", str(output), *FAST)
    assert (ran.status, ran.stdout) == (10, b"")
    assert ["error" in line for line in lines_of(output.read_text())] == [False, True, True]
    assert "3 lines: 1 answered, 2 failed (2 usage)" in ran.stderr
    assert ran.stderr.endswith("warning: 2 lines failed\n  hint: --retry-failed answers them again\n")


@with_tiny
def test_an_input_without_a_valid_line_says_so(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"promt": "hi"}\n{}\n')
    ran = run("batch", str(tmp_path / "in.jsonl"), *FAST)
    assert ran.status == 10
    assert "warning: no line was answered; the first error: prompt or messages is missing\n" in ran.stderr
    empty = run("batch", "-", stdin="\n\n")
    assert empty.status == 2
    assert empty.stderr.endswith("error: stdin has no lines\n  hint: write a prompt on each line\n")
    assert "0 lines" not in empty.stderr


@with_tiny
@pytest.mark.parametrize("parallel", ["1", "4"])
def test_a_batch_gives_the_greedy_answers_of_single_prompts(run: Run, tmp_path: Path, parallel: str) -> None:
    prompts = ["Name a color.", "Name a river in Asia.", "the an he", "Why?", "the an he", "Say hi."]
    (tmp_path / "in.txt").write_text("\n".join(prompts))
    settings = (*EXACT, "-t", "1", "-n", "12", "--temp", "0", "--seed", "1", "--ignore-eos")
    batch = lines_of(run("batch", str(tmp_path / "in.txt"), "--parallel", parallel, *settings).stdout)
    alone = [json.loads(run("generate", prompt, "--json", *settings).stdout) for prompt in dict.fromkeys(prompts)]
    texts = dict(zip(dict.fromkeys(prompts), (one["text"] for one in alone), strict=True))
    assert [line["text"] for line in batch] == [texts[prompt] for prompt in prompts]
    assert len({*texts.values()}) == 5


@with_starter
def test_one_at_a_time_the_starter_gives_the_answers_it_gives_alone(run: Run, tmp_path: Path) -> None:
    prompts = ["Name a color.", "Name a river in Asia.", "What is 2 + 2?"]
    (tmp_path / "in.txt").write_text("\n".join(prompts))
    settings = ("-t", "1", "-n", "16", "--temp", "0", "--seed", "1")
    batch = lines_of(run("batch", str(tmp_path / "in.txt"), "--parallel", "1", *settings).stdout)
    alone = [json.loads(run("generate", prompt, "--json", *settings).stdout)["text"] for prompt in prompts]
    assert [line["text"] for line in batch] == alone


@with_tiny
@pytest.mark.slow
def test_a_slow_producer_gets_each_answer_at_once(tmp_path: Path) -> None:
    process = start_batch("-", *FAST, stdin=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    for number in range(3):
        process.stdin.write(f"prompt {number}\n".encode())
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["id"] == number + 1
    process.stdin.close()
    assert process.stdout.read() == b""
    assert process.wait(60) == 0
    process.stdout.close()
    assert process.stderr
    process.stderr.close()


@with_tiny
@only_posix
@pytest.mark.parametrize("source", ["file", "waiting"])
def test_ctrl_c_keeps_the_finished_lines_and_says_how_to_go_on(run: Run, tmp_path: Path, source: str) -> None:
    """While answers are generated, and while the next line is waited for."""
    text, output = "".join(f"prompt {number}\n" for number in range(400)), tmp_path / "out.jsonl"  # for a minute
    (tmp_path / "in.txt").write_text(text)
    name = str(tmp_path / "in.txt") if source == "file" else "-"
    options = ("-o", str(output), "-t", "1", "--parallel", "2", "--ignore-eos", "-n", "600" if name != "-" else "3")
    process = start_batch(name, *options, stdin=subprocess.PIPE)
    assert process.stdin
    if name == "-":
        process.stdin.write(b"first\nsecond\n")
        process.stdin.flush()
    wait_until(lambda: output.exists() and output.read_bytes().count(b"\n") >= 2)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate() if name != "-" else wait_open(process)
    assert shell_status(process.returncode) == 130
    written = lines_of(output.read_text())
    assert [line["id"] for line in written] == [*range(1, len(written) + 1)]
    assert 2 <= len(written) < 400
    assert all("error" not in line for line in written)
    warning = f"warning: interrupted after {len(written)} lines\n  hint: the same command with --resume goes on\n"
    assert stderr.decode().endswith(warning)


def wait_open(process: "subprocess.Popen[bytes]") -> tuple[bytes, bytes]:
    """The streams of a process that ends although its stdin is open."""
    assert process.stderr
    assert process.stdin
    assert process.stdout
    stderr = process.stderr.read()
    process.wait(60)
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()
    return b"", stderr


def kill_and_resume(args: Sequence[str], output: Path, source: Sequence[str], n_kills: int, seed: int) -> None:
    """Kill a batch at random moments, resume it each time, and compare with the lines of the input at the end."""
    moments = random.Random(seed)
    for number in range(n_kills):
        output.touch()
        n_written = output.read_bytes().count(b"\n")
        process = start_batch(*args, "-o", str(output), "--resume", stderr=subprocess.DEVNULL)
        assert process.stdout
        while number and process.poll() is None and output.read_bytes().count(b"\n") == n_written:
            time.sleep(0.01)  # the first one is killed while the program starts, too
        time.sleep(moments.uniform(0.0, 0.3))
        process.kill()
        process.wait()
        process.stdout.close()
    process = start_batch(*args, "-o", str(output), "--resume", stderr=subprocess.DEVNULL)
    process.communicate()
    assert process.returncode == 0
    written = lines_of(output.read_text())
    assert [line["id"] for line in written] == [f"line {number}" for number in range(len(source))]
    assert [line["messages"][-1]["content"] for line in written] == list(source)


@with_tiny
@only_posix
@pytest.mark.slow
def test_a_killed_batch_is_resumed_with_every_line_once(tmp_path: Path) -> None:
    """`python -m benchmarks.batch kills` does it more often."""
    source = [f"prompt {number}" for number in range(150)]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"id": f"line {n}", "prompt": text}) + "\n" for n, text in enumerate(source)))
    args = (str(path), "-t", "1", "-n", "80", "--ignore-eos", "--seed", "1", "--full", "--parallel", "3")
    kill_and_resume(args, tmp_path / "out.jsonl", source, 4, 1)


@with_tiny
def test_a_replayed_pipe_is_resumed(run: Run, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    text = "".join(f"prompt {number}\n" for number in range(8))
    run("batch", "-", "-o", str(output), *FAST, stdin=text)
    whole = output.read_bytes()
    output.write_bytes(whole[: len(whole) // 2])
    ran = run("batch", "-", "-o", str(output), "--resume", *FAST, stdin=text)
    assert ran.status == 0
    written = lines_of(output.read_text())
    assert [line["id"] for line in written] == [*range(1, 9)]
    kept = whole[: len(whole) // 2].count(b"\n")
    assert output.read_bytes().splitlines()[:kept] == whole.splitlines()[:kept]
    assert "8 lines: 8 answered" in ran.stderr


@with_tiny
@only_posix
@pytest.mark.slow
def test_a_closed_pipe_ends_the_batch_quietly(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("prompt\n" * 5000)  # the answers are more than a pipe takes
    process = start_batch(str(tmp_path / "in.txt"), *FAST, "-q")
    assert process.stdout
    assert process.stderr
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 141
    process.stderr.close()


@with_tiny
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has this device")
def test_a_full_disk_ends_the_batch_with_a_way_on(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("prompt\n" * 5)
    ran = run("batch", str(tmp_path / "in.txt"), "-o", "/dev/full", *FAST, "-q")
    assert ran.status == 6
    assert ran.stderr == (
        "error: cannot write /dev/full: No space left on device\n  hint: free some space, then go on with --resume\n"
    )


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (("--shard", "0/2"), "--shard must be I/N with I between 1 and N, got '0/2'"),
        (("--shard", "3/2"), "--shard must be I/N with I between 1 and N, got '3/2'"),
        (("--parallel", "0"), "--parallel must be auto, or an integer between 1 and 256, got '0'"),
        (("--resume",), "--resume and --retry-failed need --output"),
        (("-o", "in.txt"), "the output and the input are the same file"),
        (("-o", "out.txt"), "out.txt already exists"),
        (("-o", "."), ". is a folder, not a file"),
        (("-o", ""), "the file name of --output is empty"),
        (("-o", "out.txt", "--resume", "--force"), "--force and --resume cannot be used together"),
        (("--regex", "("), "regex is not supported"),
        (("-T", "translate", "--var", "tto=x"), "the task translate has no variable 'tto'"),
        (("-T", "translat", "--var", "to=x"), "unknown task 'translat'"),
        (("-p", "Translate {input}"), "--prompt has {input} in single braces\n  hint: write {{input}}"),
        (("--preset", "creativ"), "unknown preset 'creativ'"),
    ],
)
def test_a_wrong_command_ends_before_the_model_is_loaded(
    inside: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], error: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("a\n")
    (tmp_path / "out.txt").write_text("mine\n")
    ran = inside("batch", "in.txt", *args)
    assert (ran.status, ran.stdout) == (2, b"")
    assert ran.stderr.startswith(f"error: {error}")
    assert (tmp_path / "out.txt").read_text() == "mine\n"


def test_an_existing_output_names_both_ways(inside: Run, tmp_path: Path) -> None:
    for name in ("in.txt", "out.txt"):
        (tmp_path / name).write_text("a\n")
    ran = inside("batch", str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.txt"))
    assert ran.stderr.endswith("hint: continue it with --resume, or replace it with --force\n")


def test_a_missing_input_is_an_error_of_the_disk(inside: Run) -> None:
    ran = inside("batch", "missing.jsonl")
    assert (ran.status, ran.stderr) == (6, "error: file not found: missing.jsonl\n")


def test_stdin_cannot_be_the_input_and_an_option(inside: Run) -> None:
    ran = inside("batch", "-", "--system", "-", stdin="a\n")
    assert (ran.status, ran.stderr.splitlines()[0]) == (
        2,
        "error: stdin can be read only once, and two options read it: INPUT and --system",
    )


@with_tiny
def test_columns_of_csv_fill_the_template(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(b"\xef\xbb\xbfid;word\r\na;cat\r\nb;dog\r\n")
    ran = run("batch", str(tmp_path / "in.csv"), "-p", "Translate: {{word}}", "--full", *FAST)
    assert [(line["id"], line["messages"][-1]["content"]) for line in lines_of(ran.stdout)] == [
        ("a", "Translate: cat"),
        ("b", "Translate: dog"),
    ]
    wrong = run("batch", str(tmp_path / "in.csv"), "-p", "Translate: {{wrod}}", *FAST)
    assert (wrong.status, wrong.stdout) == (2, b"")
    assert "hint: did you mean 'word'?" in wrong.stderr


@with_tiny
@pytest.mark.parametrize(("name", "text"), [("in.csv", "id,word\n1,cat\n"), ("in.txt", "\n\n")])
def test_an_input_of_no_use_leaves_no_output(inside: Run, tmp_path: Path, name: str, text: str) -> None:
    """Else the next try would find that the output exists."""
    source, output = tmp_path / name, tmp_path / "out.jsonl"
    source.write_text(text)
    assert (inside("batch", str(source), "-o", str(output), *FAST).status, output.exists()) == (2, False)
    output.write_text("")
    assert inside("batch", str(source), "-o", str(output), "--resume", *FAST).status == 2
    assert output.exists()


@with_tiny
def test_a_batch_of_decisions_counts_lines(inside: Run, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("one\ntwo\n")
    ran = inside("batch", str(tmp_path / "in.txt"), "--choices", "a,b", *FAST)
    assert re.search(r"^2 lines: 2 answered \| [0-9.]+ lines/s, 0:00:\d\d \| seed 1$", ran.stderr, re.MULTILINE)


@with_tiny
def test_a_full_line_can_be_replayed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("one\ntwo\n")
    ran = run("batch", str(tmp_path / "in.txt"), "--full", "--parallel", "1", *EXACT, *FAST)
    (tmp_path / "second.json").write_bytes(ran.stdout.splitlines()[1])
    replayed = run("replay", str(tmp_path / "second.json"), env={"LLMCLI_N_THREADS": "1"})
    assert replayed.status == 0, replayed.stderr
    assert replayed.text.rstrip("\n") == lines_of(ran.stdout)[1]["text"].rstrip("\n")


@with_tiny
@only_posix
def test_an_open_ended_output_is_a_device_too(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("one\n")
    assert run("batch", str(tmp_path / "in.txt"), "-o", os.devnull, *FAST).status == 0
