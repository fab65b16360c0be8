"""Chat, comparison, batch and scores at an endpoint."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from llmcli.inference import endpoint
from tests.cli.chat_terminal import CTRL_C, CTRL_D, Talk
from tests.conftest import Run
from tests.endpoints.server import Handler, serving
from tests.waiting import wait_until

ANSWER = "Blue light scatters."
ALONE: dict[str, Any] = {"models": ("only-model",)}
NO_SAVE = ("chat", "--no-save", "--endpoint")
_terminal = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")


@_terminal
def test_a_chat_in_a_terminal_shows_answer_reasoning_and_model() -> None:
    with serving(kind="vllm", reasoning=("Hm.",), **ALONE) as (url, dialect):
        with Talk("--no-save", "--endpoint", url) as chat:
            chat.ready()
            chat.ask("why?")
            chat.ask("and?")
            assert "Blue light scatters." in chat.text()
            assert chat.status().startswith("only-model · context ")
            chat.keys(CTRL_D)
            assert chat.wait_end() == 0
        assert [one["role"] for one in dialect.body["messages"]] == ["user", "assistant", "user"]
        assert dialect.body["messages"][1]["content"] == ANSWER


@_terminal
def test_ctrl_c_closes_the_connection_and_keeps_the_text() -> None:
    words = ("word ",) * 100_000  # so many that it does not end by itself
    with serving(words=words, delay=0.05) as (url, dialect), Talk("--no-save", "--endpoint", url) as chat:
        chat.ready()
        chat.send("why?")
        chat.wait_for("word word")
        chat.keys(CTRL_C)
        chat.wait_for("stopped; /continue resumes")
        wait_until(lambda: not dialect.n_running)
        assert dialect.n_closed == 1
        assert "word word" in chat.text()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.slow
def test_ctrl_c_ends_generate_while_nothing_comes(tmp_path: Path) -> None:
    with serving(delay=600) as (url, dialect):
        command = [sys.executable, "-m", "llmcli", "generate", "why?", "--endpoint", url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ) as child:
            try:
                wait_until(lambda: dialect.asked)
                child.send_signal(signal.SIGINT)
                child.communicate(timeout=60)
            finally:
                child.kill()
    assert child.returncode == -signal.SIGINT


def test_a_chat_in_a_pipe_answers_each_line(run: Run) -> None:
    with serving(**ALONE) as (url, dialect):
        ran = run(*NO_SAVE, url, stdin="why?\n/context\n/stats\nand?\n")
    assert ran.status == 0
    assert ran.text == f"{ANSWER}\n{ANSWER}\n"
    assert "tokens: an estimate" in ran.stderr
    assert "4 tokens" in ran.stderr
    assert len(dialect.asked) == 2


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("/why", "only-model does not support /why"),
        ("/alternatives", "only-model does not support /why"),
        ("/tokens", "only-model does not support /tokens"),
        ("/trace on", "only-model does not support /trace"),
        ("/samplers", "the server does not tell its samplers"),
        ("/set endpoint http://localhost:1", "endpoint cannot be set in a running chat"),
        ("/xtc_probability 0.5\nagain", "only-model does not support xtc_probability"),
        ("/continue", "only-model does not support prefill"),
    ],
)
def test_what_an_endpoint_cannot_do_in_a_chat_is_named(command: str, said: str, inside: Run) -> None:
    with serving(**ALONE) as (url, _):
        ran = inside(*NO_SAVE, url, stdin=f"why?\n{command}\n")
    assert said in ran.stderr


def test_a_chat_without_its_endpoint_names_it(run: Run) -> None:
    ran = run(*NO_SAVE, "http://127.0.0.1:9", stdin="why?\n/model\n")
    assert ran.status == 5
    assert "model: http://127.0.0.1:9 (not loaded)\n" in ran.stderr


@pytest.mark.parametrize(("kind", "shown"), [("vllm", "server"), ("llama-server", "default")])
def test_defaults_that_only_the_server_knows_are_not_shown(kind: str, shown: str, run: Run) -> None:
    with serving(kind=kind, **ALONE) as (url, _):
        ran = run(*NO_SAVE, url, "--min-p", "0.3", stdin="why?\n/params\n")
    rows = {line.split()[0]: line.split()[1:] for line in ran.stderr.splitlines() if line.strip()}
    assert rows["min_p"] == ["0.3", "flag"]
    assert rows["top_p"] == (["-", "server"] if shown == "server" else ["0.95", "default"])
    assert rows["temperature"] == (["-", "server"] if shown == "server" else ["0.5", "server"])


def test_what_a_chat_leaves_out_is_said_once(inside: Run) -> None:
    with serving(**ALONE) as (url, _):
        ran = inside(*NO_SAVE, url, "--drop-unsupported", "--min-p", "0.3", stdin="why?\nand?\n")
    assert ran.text == f"{ANSWER}\n{ANSWER}\n"
    assert ran.stderr.count("min_p is left out: only-model does not support it\n") == 1


def test_compaction_works_where_reasoning_cannot_be_turned_off(inside: Run) -> None:
    with serving(**ALONE) as (url, dialect):
        ran = inside(*NO_SAVE, url, stdin="a?\nb?\nc?\nd?\n/compact\ne?\n")
    assert ran.status == 0, ran.stderr
    assert "the summary replaces 4 messages" in ran.stderr
    assert dialect.body["messages"][0]["content"].endswith(ANSWER)


@pytest.mark.parametrize("kind", ["vllm", "llama-server"])
def test_a_conversation_that_does_not_fit_is_refused_here(
    kind: str, inside: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "_COUNT_SECONDS", 60.0)
    with serving(kind=kind, n_ctx=300, **ALONE) as (url, dialect):
        ran = inside(*NO_SAVE, url, "--overflow", "error", stdin="word " * 140 + "\n")
        fits = inside(*NO_SAVE, url, "--overflow", "error", stdin="word " * 20 + "\n")
    assert (ran.status, fits.status) == (7, 0)
    assert re.search(r"has? 7\d\d tokens, the context has 300", ran.stderr)  # a letter is a token there
    assert len([path for path, _ in dialect.asked if path.endswith("completions")]) == 1


def test_the_server_counts_what_an_estimate_would_refuse(inside: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_COUNT_SECONDS", 60.0)
    with serving(kind="vllm", n_ctx=300, letters=8, **ALONE) as (url, _):
        assert inside(*NO_SAVE, url, "--overflow", "error", stdin="word " * 300 + "\n").text == f"{ANSWER}\n"


def test_model_changes_the_model_at_the_endpoint(inside: Run) -> None:
    with serving() as (url, dialect):
        ran = inside(*NO_SAVE, url, stdin="why?\n/model second-model\nand?\n/model third\nso?\n")
    assert [body["model"] for path, body in dialect.asked] == ["first-model", "second-model", "second-model"]
    assert "does not have the model third" in ran.stderr


SECRET = "sk-very-secret"


def test_a_session_has_neither_the_endpoint_nor_the_key(inside: Run, home: Path) -> None:
    with serving(key=SECRET, **ALONE) as (url, _):
        env = {"LLMCLI_API_KEY": SECRET}
        inside("chat", "--session", "talk", "--endpoint", url, "-m", "only-model", stdin="why?\n", env=env)
        ran = inside("generate", "and?", "--session", "talk", "--endpoint", url, env=env)
    assert ran.text == f"{ANSWER}\n"
    texts = [path.read_text(errors="replace") for path in home.rglob("*") if path.is_file()]
    assert any(ANSWER in text for text in texts)
    assert not [text for text in texts if SECRET in text or url in text]


def test_a_session_file_cannot_name_an_endpoint(inside: Run, home: Path) -> None:
    with serving(**ALONE) as (url, _):
        inside("chat", "--session", "talk", "--endpoint", url, stdin="why?\n")
        (path,) = home.rglob("talk.jsonl")
        with path.open("a") as file:
            file.write('{"type":"set","key":"endpoint","value":"http://127.0.0.1:1"}\n')
        ran = inside("chat", "--session", "talk", "--endpoint", url, stdin="and?\n")
    assert ran.text.endswith(f"{ANSWER}\n")
    assert "a session file cannot set endpoint" in ran.stderr


def test_a_comparison_asks_for_each_variant(inside: Run) -> None:
    with serving(kind="vllm", **ALONE) as (url, dialect):
        ran = inside(
            "compare", "why?", "--endpoint", url, "--vary", "temp=0.2,1.4", "--answers", "2", "--seed", "1", "--json"
        )
    data = json.loads(ran.text)
    assert [one["text"] for one in data["variants"]] == [ANSWER] * 4
    assert [one["stats"]["tokens"] for one in data["variants"]] == [4] * 4
    asked = sorted((body["temperature"], body["seed"]) for _, body in dialect.asked)
    assert asked == [(0.2, 1), (0.2, 2), (1.4, 1), (1.4, 2)]


def test_one_answer_of_a_comparison_may_fail(inside: Run) -> None:
    def reply(handler, body):  # type: ignore[no-untyped-def]
        if body.get("temperature") == 1.4:
            handler.json({"error": {"message": "too warm"}}, 400)
            return True
        return False

    with serving(reply=reply, **ALONE) as (url, _):
        ran = inside("compare", "why?", "--endpoint", url, "--vary", "temp=0.2,1.4")
    assert ANSWER in ran.text
    assert "refused the request: too warm" in ran.stderr


@pytest.mark.parametrize(("flags", "most"), [((), 4), (("--parallel", "2"), 2), (("--parallel", "6"), 6)])
def test_a_batch_asks_for_several_answers_at_a_time(
    flags: tuple[str, ...], most: int, inside: Run, tmp_path: Path
) -> None:
    (tmp_path / "in.txt").write_text("".join(f"question {number}\n" for number in range(12)))
    full = threading.Event()

    def reply(handler: Handler, _body: object) -> bool:
        """Hold the first answers until all that are asked for at a time are there; one more would come meanwhile."""
        if handler.dialect.n_running == most:
            full.set()
        return handler.command == "POST" and not full.wait(60)

    with serving(reply=reply, delay=0.02, **ALONE) as (url, dialect):
        ran = inside("batch", str(tmp_path / "in.txt"), "--endpoint", url, *flags)
    rows = [json.loads(line) for line in ran.text.splitlines()]
    assert [row["text"] for row in rows] == [ANSWER] * 12
    assert [row["id"] for row in rows] == [*range(1, 13)] or len({row["id"] for row in rows}) == 12
    assert dialect.most_running == most
    assert sorted(body["messages"][0]["content"] for _, body in dialect.asked) == sorted(
        f"question {number}" for number in range(12)
    )


def test_a_line_that_the_server_refuses_ends_alone(inside: Run, tmp_path: Path) -> None:
    def reply(handler, body):  # type: ignore[no-untyped-def]
        if body and body["messages"][0]["content"] == "bad":
            handler.json({"error": {"message": "no"}}, 400)
            return True
        return False

    (tmp_path / "in.txt").write_text("good\nbad\ngood\n")
    with serving(reply=reply, **ALONE) as (url, _):
        ran = inside("batch", str(tmp_path / "in.txt"), "--endpoint", url)
    rows = [json.loads(line) for line in ran.text.splitlines()]
    assert ran.status == 10
    assert ["error" in row for row in rows] == [False, True, False]
    assert rows[1]["error"]["message"].endswith("refused the request: no")


def test_a_line_cannot_name_an_endpoint(inside: Run, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(
        '{"prompt": "a", "endpoint": "http://127.0.0.1:1"}\n{"prompt": "a", "min_p": 0.3}\n'
    )
    with serving(**ALONE) as (url, dialect):
        ran = inside("batch", str(tmp_path / "in.jsonl"), "--endpoint", url)
        assert not dialect.asked
        again = inside("batch", str(tmp_path / "in.jsonl"), "--endpoint", url, "--drop-unsupported")
    first, second = (json.loads(line)["error"]["message"] for line in ran.text.splitlines())
    assert "endpoint" in first
    assert second == "only-model does not support min_p"
    assert "some lines: min_p is left out: only-model does not support it" in again.stderr


def test_a_score_is_the_sum_of_what_the_server_echoes(inside: Run) -> None:
    with serving(kind="vllm", **ALONE) as (url, dialect):
        ran = inside("score", "abcd", "--endpoint", url, "--json", "--tokens")
        after = inside("score", "b", "--prefix", "xa", "--endpoint", url, "--json")
    data = json.loads(ran.text)
    assert data["logprob"] == pytest.approx(-(1 / 2 + 1 / 3 + 1 / 4))
    assert [one["token"] for one in data["tokens"]] == ["a", "b", "c", "d"]
    assert data["tokens"][0]["logprob"] is None
    assert json.loads(after.text)["logprob"] == pytest.approx(-1 / 2)
    path, body = dialect.asked[-1]
    assert path == "/v1/completions"
    assert (body["prompt"], body["echo"]) == ([[*map(ord, "xab")]], True)


def test_a_decision_is_by_the_scores_of_the_server(inside: Run) -> None:
    with serving(kind="vllm", **ALONE) as (url, _):
        ran = inside("generate", "which?", "--choices", "b,j", "--endpoint", url, "--json")
    data = json.loads(ran.text)
    assert data["text"] == "j"
    assert data["details"]["b"]["logprob"] == pytest.approx(-1 / 2)
    assert data["details"]["j"]["logprob"] == pytest.approx(-1 / 10)


@pytest.mark.parametrize("kind", ["llama-server", "openai", "other"])
@pytest.mark.parametrize("flags", [("score", "a text"), ("generate", "which?", "--choices", "a,b")])
def test_a_server_without_scores_is_named(kind: str, flags: tuple[str, ...], inside: Run) -> None:
    with serving(kind=kind, **ALONE) as (url, _):
        ran = inside(*flags, "--endpoint", url)
    assert ran.status == 2
    assert "only-model does not support " in ran.stderr


def test_a_task_works_at_an_endpoint(inside: Run) -> None:
    with serving(kind="vllm", **ALONE) as (url, dialect):
        ran = inside("generate", "-T", "summarize", "A long text about rivers.", "--endpoint", url)
    assert ran.text == f"{ANSWER}\n"
    assert "rivers" in str(dialect.body["messages"])


def test_samples_are_voted_on_at_an_endpoint(inside: Run) -> None:
    with serving(kind="vllm", **ALONE) as (url, dialect):
        ran = inside("generate", "why?", "--samples", "3", "--best", "vote", "--endpoint", url)
    assert ran.text == f"{ANSWER}\n"
    assert len(dialect.asked) == 3
