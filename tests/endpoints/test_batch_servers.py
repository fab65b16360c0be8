"""`llmcli batch` with several servers: whatever one of them does, each line is answered once, in its place."""

import io
import json
import pickle
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from llmcli.engine.events import Cancellation
from llmcli.errors import NetworkError
from llmcli.files import config_path
from llmcli.inference import endpoint_exchange
from llmcli.models.download import http
from llmcli.params.settings import Layer, resolve
from llmcli.pipelines import server_pool
from llmcli.pipelines.batch import Batch
from llmcli.pipelines.batch_input import BatchLine, BatchReader, LineSource
from llmcli.pipelines.line_worker import BatchOptions, LineWorker
from llmcli.pipelines.ray_actor import ActorPlan, BatchActor, Block, open_engine
from llmcli.pipelines.server_connections import connect_servers
from llmcli.pipelines.server_pool import PoolServer, ServerPool
from tests.cli_result import CliResult
from tests.conftest import Run
from tests.endpoints.server import Dialect, Handler, serving
from tests.pipelines.batches import Lines
from tests.server.program import Program
from tests.waiting import wait_until

ANSWER = "Blue light scatters."
ALONE: dict[str, Any] = {"models": ("only-model",)}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FIRST_PAUSE", 0.01)


@contextmanager
def servers(*details: dict[str, Any], together: bool = False) -> Iterator[tuple[str, list[Dialect]]]:
    """The value of --endpoint for so many servers, and what they are asked.

    If they answer `together`, none of them answers a line before all of them have one.
    """
    dialects: list[Dialect] = []

    def hold(handler: Handler, _body: Any) -> bool:
        if handler.command == "POST":
            wait_until(lambda: all(one.asked for one in dialects))
        return False

    with ExitStack() as stack:
        held: dict[str, Any] = {"reply": hold} if together else {}
        found = [stack.enter_context(serving(**{**ALONE, **held, **one})) for one in details]
        dialects += [dialect for _, dialect in found]
        yield ",".join(url for url, _ in found), dialects


def source(folder: Path, n_lines: int = 20) -> str:
    path = folder / "in.txt"
    path.write_text("".join(f"question {number}\n" for number in range(n_lines)))
    return str(path)


def rows_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def is_complete(rows: Sequence[dict[str, Any]], n_lines: int = 20) -> bool:
    return [(row["id"], row.get("text")) for row in rows] == [(n + 1, ANSWER) for n in range(n_lines)]


def answer_500(handler: Handler, _body: Any) -> bool:
    if handler.command == "POST":
        handler.json({"error": {"message": "out of order"}}, 500)
    return handler.command == "POST"


def die_in_the_middle(handler: Handler, _body: Any) -> bool:
    if handler.command == "POST":
        handler.begin_stream()
        handler.event({"choices": [{"index": 0, "delta": {"content": "half an"}}]})
        handler.close_connection = True
    return handler.command == "POST"


def answer_nothing(handler: Handler, _body: Any) -> bool:
    if handler.command == "POST":
        handler.begin_stream()
        handler.event({"choices": []})
        handler.event("[DONE]")
        handler.end_stream()
    return handler.command == "POST"


def answer_another_choice(handler: Handler, _body: Any) -> bool:
    if handler.command == "POST":
        handler.begin_stream()
        handler.event({"choices": [{"index": 7, "delta": {"content": "a text"}, "finish_reason": "stop"}]})
        handler.event("[DONE]")
        handler.end_stream()
    return handler.command == "POST"


def never_stop(handler: Handler, _body: Any) -> bool:
    if handler.command == "POST":
        handler.begin_stream()
        while True:
            handler.event({"choices": [{"index": 0, "delta": {"content": "word " * 100}}]})
    return False


def refuse(handler: Handler, _body: Any) -> bool:
    if handler.command == "POST":
        handler.json({"error": {"message": "unknown field"}}, 400)
    return handler.command == "POST"


FAULTS = [answer_500, refuse, die_in_the_middle, answer_nothing, answer_another_choice, never_stop]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_server_costs_no_line(
    fault: Any, inside: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_exchange, "_MAX_TEXT", 2000)
    with servers({}, {"reply": fault}, together=True) as (urls, (good, bad)):
        ran = inside("batch", source(tmp_path), "--endpoint", urls)
    assert (ran.status, is_complete(rows_of(ran.text))) == (0, True)
    assert bad.asked
    assert len(good.asked) == 20
    assert "20 lines, 80 tokens" in ran.stderr  # of the good one
    assert ": 0 lines, " in ran.stderr


def test_a_line_that_all_servers_refuse_has_the_error(inside: Run, tmp_path: Path) -> None:
    with servers({"reply": refuse}, {"reply": refuse}) as (urls, asked):
        ran = inside("batch", source(tmp_path, 3), "--endpoint", urls)
    assert [row["error"]["type"] for row in rows_of(ran.text)] == ["usage"] * 3
    assert [len(one.asked) for one in asked] == [3, 3]


def test_an_empty_answer_is_an_answer(inside: Run, tmp_path: Path) -> None:
    with servers({"words": ()}, {"words": ()}) as (urls, _):
        ran = inside("batch", source(tmp_path, 3), "--endpoint", urls)
    assert [(row["text"], row["finish_reason"]) for row in rows_of(ran.text)] == [("", "stop")] * 3


def test_a_server_that_hangs_costs_no_line() -> None:
    is_over = threading.Event()

    def hang(handler: Handler, _body: Any) -> bool:
        return handler.command == "POST" and is_over.wait(60)

    output, cancellation, inner = Lines(), Cancellation(), Cancellation()
    with servers({}, {"reply": hang}, together=True) as (urls, (_, hung)):
        layers = [Layer("flag", {"endpoint": urls, "seed": 1})]
        found = connect_servers(resolve(layers).settings, layers, False, inner)
        worker = partial(LineWorker, layers=layers, options=BatchOptions(), cancellation=inner)
        members = [PoolServer(one.name, one.connect, worker) for one in found]
        pool = ServerPool(members, 2, cancellation, copy_seconds=0.1)
        reader = BatchReader(io.BytesIO(b"why?\n" * 20), "in.txt")
        Batch(pool, LineSource(reader, False, cancellation), reader, output, BatchOptions(), cancellation).run()
        is_over.set()
        assert hung.asked
        assert all(one.engine and one.engine.tokenizer._pieces == {} for one in found)  # no text of an answer is kept
    assert is_complete([json.loads(line) for line in output.written])


def test_the_time_limit_of_a_decision_ends_its_line_only(inside: Run, tmp_path: Path) -> None:
    is_over = threading.Event()

    def wait(_handler: Handler, body: Any) -> bool:
        if body.get("echo") and "late" in "".join(map(chr, body["prompt"][0])):
            is_over.wait(60)
        return False

    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n{"prompt": "late", "timeout": 0.2}\n{"prompt": "b"}\n')
    with servers({"kind": "vllm", "reply": wait}) as (url, _):
        ran = inside("batch", str(tmp_path / "in.jsonl"), "--endpoint", url, "--choices", "b,j")
        is_over.set()
    assert [row.get("error", {}).get("type") for row in rows_of(ran.text)] == [None, "timeout", None]


def test_a_time_limit_that_no_server_keeps_is_named(
    inside: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_pool.ServerPool.__init__, "__defaults__", (0.2, 600.0))
    is_over = threading.Event()

    def hang(handler: Handler, _body: Any) -> bool:
        return handler.command == "POST" and is_over.wait(60)

    with servers({"reply": hang}, {"reply": hang}) as (urls, _):
        ran = inside("batch", source(tmp_path), "--endpoint", urls, "--timeout", "0.05")
        is_over.set()
    assert ran.status == 5
    assert "stopped by timeout after 0.05 s\n  hint: raise --timeout\n" in ran.stderr


def test_an_actor_of_ray_can_ask_an_endpoint() -> None:
    with servers({}) as (url, _):
        plan = ActorPlan([Layer("flag", {"endpoint": url, "seed": 1})], BatchOptions(), open_engine)
        actor = BatchActor(pickle.dumps(plan))
        block = pickle.dumps(Block([BatchLine(1, {"input": "why?"})], "text"))
        (answer,) = pickle.loads(actor({"block": block})["answers"]).answers
    assert json.loads(answer.data)["text"] == ANSWER


def test_the_option_can_be_repeated_and_names_profiles(inside: Run, tmp_path: Path) -> None:
    with servers({}, {}, together=True) as (urls, asked):
        first, second = urls.split(",")
        config_path().parent.mkdir(parents=True, exist_ok=True)
        config_path().write_text(f'[endpoints.work]\nurl = "{second}"\n')
        ran = inside("batch", source(tmp_path), "--endpoint", first, "--endpoint", "work")
    assert is_complete(rows_of(ran.text))
    assert all(one.asked for one in asked)


@pytest.mark.parametrize("form", ["{0},{0}", "{0},", ", {0} ,{0}/", "{0},{0}/v1"])
def test_a_list_that_names_one_server_is_that_server(form: str, inside: Run, tmp_path: Path) -> None:
    with servers({}) as (url, (one,)):
        ran = inside("batch", source(tmp_path), "--endpoint", form.format(url))
    assert is_complete(rows_of(ran.text))
    assert one.most_running <= 4
    assert "20 lines, " not in ran.stderr  # no totals of each server


def test_a_list_without_a_server_is_an_error(inside: Run, tmp_path: Path) -> None:
    ran = inside("batch", source(tmp_path), "--endpoint", " , ")
    assert ran.status == 2
    assert "error: endpoint names no server" in ran.stderr


def test_all_servers_get_the_same_random_seed(inside: Run, tmp_path: Path) -> None:
    with servers({}, {}, together=True) as (urls, _):
        ran = inside("batch", source(tmp_path), "--endpoint", urls)
    rows = rows_of(ran.text)
    assert [row["seed"] - rows[0]["seed"] for row in rows] == [*range(20)]
    assert ran.stderr.splitlines()[-3].endswith(f"seed {rows[0]['seed']}")


def test_different_models_are_refused_unless_they_are_allowed(inside: Run, tmp_path: Path) -> None:
    with servers({"models": ("a", "b")}, {"models": ("b",)}) as (urls, (first, _)):
        refused = inside("batch", source(tmp_path), "--endpoint", urls)
        assert not first.asked
        allowed = inside("batch", source(tmp_path), "--endpoint", urls, "--any-model")
        chosen = inside("batch", source(tmp_path), "--endpoint", urls, "-m", "b")
        missing = inside("batch", source(tmp_path), "--endpoint", urls, "-m", "a")
    assert refused.status == 2
    assert "the servers have different models: 127.0.0.1:" in refused.stderr
    assert "--any-model" in refused.stderr
    assert is_complete(rows_of(allowed.text))
    assert {row["model"] for row in rows_of(chosen.text)} == {"b"}
    assert missing.status == 3


def test_a_server_that_comes_back_with_another_model_gets_no_line() -> None:
    with servers({}, {}) as (urls, (first, _)):
        layers = [Layer("flag", {"endpoint": urls})]
        one, other = connect_servers(resolve(layers).settings, layers, False, Cancellation())
        first.models = ("another-model",)
        with pytest.raises(NetworkError, match="has another model now: another-model") as caught:
            one.connect()
        assert caught.value.hint == "start it with only-model, or allow all models with --any-model"
        assert other.connect() is other.engine


def test_a_setting_that_one_server_does_not_have_is_named_with_it(inside: Run, tmp_path: Path) -> None:
    with servers({"kind": "vllm"}, {}) as (urls, _):
        flags = ("batch", source(tmp_path), "--endpoint", urls, "--top-k", "3")
        refused, dropped = inside(*flags), inside(*flags, "--drop-unsupported")
    plain = urls.split(",")[1].removeprefix("http://")
    assert refused.status == 2
    assert f"{plain} does not support top_k\n" in refused.stderr
    assert dropped.stderr.count("top_k is left out") == 1
    assert f"top_k is left out: {plain} does not support it" in dropped.stderr


def test_a_server_that_is_not_there_yet_is_no_hindrance(inside: Run, tmp_path: Path) -> None:
    with servers({}) as (url, _):
        ran = inside("batch", source(tmp_path), "--endpoint", f"{url},http://127.0.0.1:1")
        none = inside("batch", source(tmp_path), "--endpoint", "http://127.0.0.1:1,http://127.0.0.1:2")
    assert (ran.status, is_complete(rows_of(ran.text))) == (0, True)
    assert "127.0.0.1:1" in ran.stderr
    assert "the other servers get its lines" in ran.stderr
    assert "\n127.0.0.1:1: 0 lines, " in ran.stderr
    assert (none.status, none.text) == (5, "")


def test_other_commands_take_one_server(inside: Run) -> None:
    ran = inside("generate", "hi", "--endpoint", "http://127.0.0.1:1,http://127.0.0.1:2")
    assert ran.status == 2
    assert "error: endpoint names several servers\n  hint: give one: only `llmcli batch`" in ran.stderr


PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
EXAMPLES = [one for one in re.findall(r"^\$ llmcli (batch .*)$", PAGE, re.MULTILINE) if "--ray" not in one]


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_documented_example_answers_its_lines(
    example: str, inside: Run, with_tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("one\ntwo\nthree\n")
    Path("prompts.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n{"prompt": "three"}\n')
    with servers({}, {}) as (urls, _):
        first, second = urls.split(",")
        words = example.replace("http://localhost:8081", first).replace("http://localhost:8082", second).split()
        ran = inside(*words, "-n", "4")
    assert ran.status == 0, ran.stderr
    rows = rows_of(Path(words[words.index("-o") + 1]).read_text())
    assert [row["id"] for row in rows] == ([1, 2, 3] if "--endpoint" in words else [int(words[3][0])])


# Real servers


def _run(source: str, output: Path, *more: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "llmcli", "batch", source, "-o", str(output), "--seed", "1", "-n", "8"]
    return subprocess.Popen([*command, "--ignore-eos", *more], stdin=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)


def _wait_for_lines(output: Path, n_lines: int) -> None:
    wait_until(lambda: output.exists() and output.read_bytes().count(b"\n") >= n_lines)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_servers_that_are_killed_lose_no_line(tiny: Path, tmp_path: Path) -> None:
    """One of two in the middle: the other one answers all. Then that one too: the output can be resumed elsewhere."""
    output, n_lines, n_first = tmp_path / "out.jsonl", 400, 120
    text = source(tmp_path, n_lines)
    lines = Path(text).read_bytes().splitlines(keepends=True)
    programs = [Program(tiny) for _ in range(3)]
    urls = [f"http://127.0.0.1:{one.port}" for one in programs]
    try:
        batch = _run("-", output, "--endpoint", ",".join(urls[:2]))
        assert batch.stdin
        batch.stdin.write(b"".join(lines[:n_first]))  # the others come later, or all might be answered before the kill
        _wait_for_lines(output, 20)
        programs[0].process.send_signal(signal.SIGKILL)
        _wait_for_lines(output, 80)
        programs[1].process.send_signal(signal.SIGKILL)
        _, said = batch.communicate(b"".join(lines[n_first:]), timeout=120)
        n_before = output.read_bytes().count(b"\n")
        again = _run(text, output, "--resume", "--endpoint", urls[2], "-q")
        assert again.communicate(timeout=120)[1] == b""
    finally:
        for one in programs:
            one.close()
    ended = CliResult(b"", said.decode(), batch.returncode)
    assert ended.status == 5
    assert "the other servers get its lines" in ended.stderr
    assert "error: no server answers any more: " in ended.stderr
    assert "--resume goes on" in ended.stderr
    rows = rows_of(output.read_text())
    assert again.returncode == 0
    assert 80 <= n_before <= n_first
    assert [row["id"] for row in rows] == [*range(1, n_lines + 1)]
    assert not [row for row in rows if "error" in row or row["completion_tokens"] != 8]
