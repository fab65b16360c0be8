"""Commands that show how tokens were sampled, and the trace files."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmcli.errors import UsageError
from llmcli.inference.local import LocalEngine
from llmcli.inference.trace_file import read_trace
from llmcli.params.policies.policy import parse_policy
from llmcli.params.settings import Settings
from llmcli.ui.chat.app import ChatApp
from llmcli.ui.commands.registry import dispatch
from llmcli.ui.terminal.output import warn_slow
from tests.chat.controllers import controller_with, open_local
from tests.conftest import Run
from tests.models.tiny_models import full_attention


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    full_attention(path)
    model = open_local(path, Settings(n_ctx=512, n_threads=1))
    yield model
    model.close()


@pytest.fixture
def chat(home: Path, engine: LocalEngine) -> ChatApp:
    policy = parse_policy("linear:1.5->0.1@10")
    return ChatApp(controller_with(engine, n_ctx=512, max_tokens=12, seed=3, ignore_eos=True, temperature=policy))


def output_of(chat: ChatApp, capfd: pytest.CaptureFixture[str], name: str, argument: str = "") -> str:
    capfd.readouterr()
    dispatch(chat, name, argument)
    out, said = capfd.readouterr()
    assert out == ""  # stdout is the answers
    return said


def test_tokens_colors_the_last_answer_by_each_measure(chat: ChatApp, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="no answer in this branch since the chat was opened"):
        dispatch(chat, "tokens", "")
    chat.send("hi")
    assert "temperature: min 0.10, mean " in output_of(chat, capfd, "tokens")
    assert output_of(chat, capfd, "heat", "temp") == output_of(chat, capfd, "tokens", "temperature")
    assert "probability: min " in output_of(chat, capfd, "tokens", "p")
    assert "entropy in nats: min " in output_of(chat, capfd, "tokens", "entropy")
    dispatch(chat, "undo", "")
    with pytest.raises(UsageError, match="no answer in this branch"):
        dispatch(chat, "tokens", "")
    dispatch(chat, "redo", "")
    assert "temperature: min 0.10, mean " in output_of(chat, capfd, "tokens")
    with pytest.raises(UsageError, match="must be temperature, p, entropy or drafted, got 'warmth'"):
        dispatch(chat, "tokens", "warmth")


def test_temp_alone_shows_the_policy_and_the_last_answer(chat: ChatApp, capfd: pytest.CaptureFixture[str]) -> None:
    assert "last answer" not in output_of(chat, capfd, "temp")
    chat.send("hi")
    lines = output_of(chat, capfd, "temp").splitlines()
    assert "linear:1.5->0.1@10" in lines[0]
    assert (lines[1][0], lines[1][-1], len(lines[1])) == ("█", "▁", 12)
    assert lines[2].startswith("last answer: 0.10..1.50, mean ")


def test_trace_on_writes_a_file_for_each_answer(
    chat: ChatApp, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "traces"
    assert "traces are off" in output_of(chat, capfd, "trace")
    assert str(folder) in output_of(chat, capfd, "trace", f"on {folder}")
    chat.send("hi")
    chat.send("again")
    assert "traces are off" in output_of(chat, capfd, "trace", "off")
    chat.send("and again")
    files = sorted(folder.iterdir())
    answers = [one.content for one in chat.path() if one.role == "assistant"]
    assert ["".join(token.text for token in read_trace(file)) for file in files] == answers[:2]
    assert len(read_trace(files[0])[0].top) == 5  # trace_top


def test_trace_writes_the_last_answer_to_a_new_file(chat: ChatApp, tmp_path: Path) -> None:
    chat.send("hi")
    dispatch(chat, "trace", str(tmp_path / "last.jsonl"))
    assert "".join(token.text for token in read_trace(tmp_path / "last.jsonl")) == chat.path()[-1].content
    for name, fault in (("last.jsonl", "already exists"), ("last.txt", "must be on, off or FILE.jsonl")):
        with pytest.raises(UsageError, match=fault):
            dispatch(chat, "trace", str(tmp_path / name))


def test_generate_writes_a_trace_and_shows_a_heat_map(run: Run, with_tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    words = ("hi", "-n", "12", "-t", "1", "-c", "256", "--seed", "2", "--ignore-eos", "--temp", "0.3..1.3")
    plain = run("generate", *words)
    ran = run("generate", *words, "--trace", str(file), "--trace-top", "3", "--heat", "entropy")
    assert ran.stdout == plain.stdout
    tokens = read_trace(file)
    assert "".join(token.text for token in tokens).rstrip("\n") == ran.text.rstrip("\n")
    assert {len(token.top) for token in tokens} == {3}
    assert "entropy in nats: min " in ran.stderr
    assert "\x1b" not in ran.stderr


def test_a_slow_policy_gets_a_warning(capfd: pytest.CaptureFixture[str]) -> None:
    def answer(policy_ms: float) -> Any:
        record = SimpleNamespace(policy_ms=policy_ms)
        return SimpleNamespace(started=True, record=record, tokens=[0] * 10, timings=lambda: {"predicted_ms": 100.0})

    warn_slow(answer(5.0))
    assert capfd.readouterr().err == ""
    warn_slow(answer(40.0))
    assert capfd.readouterr().err == "warning: the temperature policy is slow: 4.0 ms per token, 40% of the time\n"


def test_generate_refuses_a_trace_without_a_name(inside: Run, with_tiny: Path) -> None:
    ran = inside("generate", "hi", "-n", "1", "--trace", "")
    assert (ran.status, ran.stdout) == (2, b"")
    assert ran.stderr.startswith("error: the file name of --trace is empty\n  hint: ")
