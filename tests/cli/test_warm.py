"""`llmcli warm`, `ps` and `stop`, and what commands do with a model that is kept loaded."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from llmcli.files import runtime_dir, write_json
from llmcli.inference import warm
from tests.conftest import Run
from tests.models.tiny_models import encoder
from tests.waiting import wait_until

pytestmark = pytest.mark.slow
ASK = ("generate", "Hello", "--no-stdin", "-n", "8", "-t", "1", "-c", "256", "--seed", "3", "--temperature", "1")


@pytest.fixture(autouse=True)
def ended(home: Path) -> Iterator[None]:
    yield
    for one in warm.all_warm():
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(one.pid, signal.SIGTERM)


@pytest.fixture
def kept(with_tiny: Path, run: Run) -> Path:
    result = run("warm", "--for", "1m")
    assert result.status == 0, result.stderr
    assert result.stderr == "tiny stays loaded for 0:01:00 after its last use\n"
    return with_tiny


def killed() -> warm.WarmModel:
    """The only one, once it answers nobody any more."""
    (one,) = warm.all_warm()
    os.kill(one.pid, signal.SIGKILL)

    def is_gone() -> bool:
        try:
            one.connect().close()
        except TimeoutError:
            return False
        except OSError:
            return True
        return False

    wait_until(is_gone)
    return one


def context_tokens() -> float:
    """Those that the only one keeps, once it has taken back the context of each command that used it."""
    (one,) = warm.all_warm()
    found: dict[str, float] = {}

    def is_unused() -> bool:
        found.update(warm.status(one) or {"sessions": 1})
        return not found["sessions"]

    wait_until(is_unused)
    return found["tokens"]


def test_commands_use_it_with_the_same_result(kept: Path, run: Run) -> None:
    there = run(*ASK, "--json", "--verbose")
    run("stop", "--all")
    here = run(*ASK, "--json", "--verbose")
    assert "loaded already" in there.stderr
    assert "loaded already" not in here.stderr
    a, b = json.loads(there.stdout), json.loads(here.stdout)
    assert [one.pop("timings") and one.pop("created", None) for one in (a, b)]
    for one in (a, b):
        one["replay"].pop("created", None)
    assert a == b


@pytest.mark.parametrize(
    "command",
    [
        ("score", "Hello, world", "--json"),
        ("compare", "Hello", "--answers", "2", "-n", "4", "--seed", "1", "-t", "1"),
        ("generate", "Hello", "--choices", "a,b", "--no-stdin", "-t", "1"),
    ],
    ids=lambda command: command[0],
)
def test_other_commands_use_it_too(command: tuple[str, ...], kept: Path, run: Run) -> None:
    there = run(*command, "--verbose")
    run("stop", "--all")
    here = run(*command)
    assert "loaded already" in there.stderr
    assert (there.stdout, there.status) == (here.stdout, here.status)


def test_a_session_goes_on_in_it_and_leaves_with_its_removal(kept: Path, run: Run) -> None:
    ask = (
        *[
            "generate",
            "--no-stdin",
            "-n",
            "4",
            "-t",
            "1",
            "-c",
            "512",
            "--session",
            "talk",
            "--json",
            "--ignore-eos",
            "--seed",
            "3",
        ],
    )
    first = json.loads(run(*ask, "Tell me something").stdout)
    assert context_tokens() >= first["prompt_tokens"]
    second = json.loads(run(*ask, "And then?").stdout)
    assert second["prompt_tokens"] > first["prompt_tokens"]
    assert second["timings"]["prompt_n"] <= second["prompt_tokens"] - first["prompt_tokens"]
    assert context_tokens() >= second["prompt_tokens"]
    assert json.loads(run("ps", "--json").stdout)[0]["context_tokens"] >= second["prompt_tokens"]
    run("sessions", "rm", "talk", "--yes")
    assert json.loads(run("ps", "--json").stdout)[0]["context_tokens"] == 0


def test_a_chat_that_is_not_saved_leaves_nothing_in_it(kept: Path, run: Run) -> None:
    run("chat", "--no-save", "-n", "4", "-t", "1", stdin="Hello\n")
    assert context_tokens() == 0
    run(*ASK, env={"LLMCLI_KV_CACHE": "off"})
    assert context_tokens() == 0


@pytest.mark.parametrize("command", [("embed", "one", "two words"), ("embed", "--similarity", "one", "two")])
def test_vectors_are_the_same_numbers(command: tuple[str, ...], kept: Path, run: Run) -> None:
    there, wrong = run(*command, "-t", "1", "--verbose"), run(*command, "--pooling", "rank")
    run("stop", "--all")
    here, wrong_here = run(*command, "-t", "1"), run(*command, "--pooling", "rank")
    assert "loaded already" in there.stderr
    assert (there.stdout, there.status) == (here.stdout, here.status)
    assert (wrong.stderr, wrong.status) == (wrong_here.stderr, wrong_here.status)


@pytest.mark.parametrize("n_scores", [0, 1])
def test_a_model_for_vectors_or_scores_can_be_kept(n_scores: int, run: Run, home: Path, tmp_path: Path) -> None:
    path = encoder(tmp_path / "encoder.gguf", 4 if n_scores else 1, n_scores)
    (tmp_path / "documents.txt").write_text("one\ntwo words\n\nthree\n")
    command = ("rerank", "words", str(tmp_path / "documents.txt"), "-m", str(path), "--json")
    assert run("warm", str(path)).status == 0
    there = run(*command, "--verbose")
    refused = run("generate", "Hello", "-m", str(path), "--no-stdin")
    run("stop", "--all")
    here = run(*command)
    assert "loaded already" in there.stderr
    assert (there.stdout, there.status) == (here.stdout, here.status)
    assert (refused.status, "no text" in refused.stderr) == (8, True)


def test_a_chat_uses_it(kept: Path, run: Run) -> None:
    result = run("chat", "--no-save", "-n", "4", "-t", "1", "--verbose", stdin="Hello\nAnd you?\n/stats\n")
    assert result.status == 0
    assert "loaded already" in result.stderr


def test_the_lines_of_a_batch_are_answered_by_it(kept: Path, run: Run, tmp_path: Path) -> None:
    lines = "".join(f"Line {number}\n" for number in range(9))
    there = run("batch", "-", "-n", "4", "-t", "1", "-o", str(tmp_path / "a"), "--verbose", stdin=lines)
    assert "loaded already" in there.stderr
    answers = [json.loads(line) for line in (tmp_path / "a").read_text().splitlines()]
    assert [one["error"] is None if "error" in one else True for one in answers] == [True] * 9


def test_ps_lists_it_and_stop_ends_it(kept: Path, run: Run) -> None:
    (one,) = json.loads(run("ps", "--json").stdout)
    assert (one["model"], one["path"], one["commands"]) == ("tiny", str(kept), 0)
    assert 0 < one["ends_in"] <= 60
    assert b"tiny" in run("ps").stdout
    assert run("stop", "tiny").stderr == "tiny has ended\n"
    assert run("ps").stdout == b""
    assert json.loads(run("ps", "--json").stdout) == []


def test_stop_needs_to_know_what(kept: Path, run: Run) -> None:
    assert run("stop").status == 2
    assert run("stop", "--all", "tiny").status == 2
    result = run("stop", "other")
    assert (result.status, "these are: tiny" in result.stderr) == (1, True)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_ps_does_not_list_one_whose_number_is_that_of_another_process(kept: Path, run: Run) -> None:
    one = killed()
    write_json(warm.info_path(one.key), warm.data_of(replace(one, pid=os.getpid())))
    listed = run("ps", "--json").stdout
    warm.forget(one)
    assert json.loads(listed) == []


def test_one_can_stay_until_it_is_stopped(with_tiny: Path, run: Run) -> None:
    result = run("warm", "--for", "forever")
    assert result.stderr == "tiny stays loaded until `llmcli stop`\n"
    assert run("warm", "--for", "forever").stderr == "tiny is loaded already\n"
    assert [one["ends_in"] for one in json.loads(run("ps", "--json").stdout)] == [None]


def test_a_benchmark_loads_the_model_itself(kept: Path, run: Run) -> None:
    result = run("bench", "-p", "8", "-n", "0", "-r", "1", "-t", "1", "--json")
    assert result.status == 0, result.stderr
    assert [one["n_prompt"] for one in json.loads(result.stdout)["tests"]] == [8]


def test_another_way_to_load_passes_it_over(kept: Path, run: Run) -> None:
    result = run(*ASK, "--load-mode", "none", "--verbose")
    assert result.status == 0
    assert "loaded already" not in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_one_is_passed_over(kept: Path, run: Run) -> None:
    killed()
    result = run(*ASK, "--verbose")
    assert result.status == 0
    assert result.stdout
    assert "loaded already" not in result.stderr


def test_keep_alive_leaves_the_model_of_a_command_behind(with_tiny: Path, run: Run) -> None:
    first = run(*ASK, env={"LLMCLI_KEEP_ALIVE": "1m"})
    assert first.status == 0
    assert [one.seconds for one in warm.all_warm()] == [60.0]
    second = run(*ASK, "--verbose")
    assert "loaded already" in second.stderr
    assert second.stdout == first.stdout


@pytest.mark.parametrize("text", ["soon", "-1", "10 days", "", "0", "off"])
def test_a_time_that_is_none_is_an_error(text: str, with_tiny: Path, run: Run) -> None:
    assert run("warm", "--for", text).status == 2
    assert not runtime_dir().exists()


def test_a_missing_model_cannot_be_kept(run: Run, home: Path) -> None:
    assert run("warm", "nowhere.gguf").status == 3
