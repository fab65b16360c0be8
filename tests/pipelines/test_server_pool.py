"""Several servers share a batch: the fast one gets more lines, and whatever one does, each line is there once."""

import io
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

from llmcli.engine.events import Cancellation, Request
from llmcli.errors import NetworkError
from llmcli.files import decode_json, encode
from llmcli.inference.engine import Capabilities, Engine
from llmcli.params.settings import Layer
from llmcli.pipelines import server_pool
from llmcli.pipelines.batch import Batch
from llmcli.pipelines.batch_input import BatchReader, LineSource
from llmcli.pipelines.batch_output import OutputFile
from llmcli.pipelines.line_worker import BatchOptions, LineWorker
from llmcli.pipelines.server_pool import PoolServer, ServerPool
from tests.inference.fake_engine import FakeEngine
from tests.pipelines.batches import Lines, echo, errors, question_of
from tests.waiting import wait_until

MOST_OPEN = 2 * server_pool._WINDOW  # lines of two servers, however far the first of them is behind


class Machine:
    """A server: an engine that can go and come back, and the lines that it answered."""

    def __init__(self, name: str, reply: Callable[[Request], Iterable[Any]] = echo, **details: Any) -> None:
        self.name, self.is_up, self.asked, self.n_looks = name, True, list[str](), 0
        self.engine = FakeEngine(reply=self._reply, **details)
        self._own_reply = reply

    def _reply(self, request: Request) -> Iterable[Any]:
        self.asked.append(question_of(request))
        return self._own_reply(request) if self.is_up else [NetworkError(f"{self.name} ended the connection")]

    def connect(self) -> FakeEngine:
        self.n_looks += 1
        if not self.is_up:
            raise NetworkError(f"{self.name} refused the connection")
        return self.engine


class Run:
    """A batch on some machines."""

    def __init__(self, machines: Sequence[Machine], text: str, n_parallel: int = 2, **more: Any) -> None:
        self.output, self.news, self.cancellation = Lines(), list[str](), Cancellation()
        values, inner, options = more.pop("values", {}), Cancellation(), more.pop("options", BatchOptions())
        output = more.pop("output", self.output)
        layers = [Layer("flag", {"seed": 7, **values})]

        def worker(engine: Engine) -> LineWorker:
            return LineWorker(engine, layers, options, inner)

        servers = [PoolServer(one.name, one.connect, worker) for one in machines]
        more.setdefault("copy_seconds", 600.0)  # a busy machine makes no copies
        self.pool = ServerPool(servers, n_parallel, self.cancellation, **more)
        reader = BatchReader(io.BytesIO(text.encode()), "in.jsonl" if text[:1] == "{" else "in.txt")
        source = LineSource(reader, False, self.cancellation)
        self.batch = Batch(self.pool, source, reader, output, options, self.cancellation, notify=self.news.append)

    def lines(self) -> list[dict[str, Any]]:
        self.batch.run()
        return [decode_json(line) for line in self.output.written]


def prompts(n_lines: int) -> str:
    return "".join(f"p{number}\n" for number in range(n_lines))


def is_complete(lines: Sequence[dict[str, Any]], n_lines: int) -> bool:
    return [(line["id"], line.get("text")) for line in lines] == [(n + 1, f"p{n}") for n in range(n_lines)]


def pieces_until(condition: Callable[[], object]) -> Iterator[str]:
    """The pieces of an answer that goes on until the condition is true, and its server with other ones beside it."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)
        yield "more "


def test_a_fast_server_gets_more_lines_and_the_order_stays() -> None:
    def reply(request: Request) -> Sequence[str]:
        wait_until(lambda: slow.asked)
        return echo(request)

    def reply_late(request: Request) -> Sequence[str]:
        """The other one has so many answers meanwhile."""
        wait_until(lambda: len(fast.asked) >= 40)
        return echo(request)

    slow, fast = Machine("slow", reply_late), Machine("fast", reply)
    assert is_complete(Run([slow, fast], prompts(60)).lines(), 60)
    assert len(slow.asked) + len(fast.asked) == 60


class SlowDeque(deque[Any]):
    """Lets other threads run while one looks through it."""

    def __iter__(self) -> Iterator[Any]:
        for one in super().__iter__():
            time.sleep(0.0005)
            yield one


def test_a_server_may_take_a_line_while_the_lines_that_wait_are_counted() -> None:
    run = Run([Machine("a"), Machine("b")], prompts(30))
    run.pool._ready = SlowDeque()
    assert is_complete(run.lines(), 30)


def test_no_server_has_more_lines_at_a_time_than_is_allowed() -> None:
    def reply(request: Request) -> Iterator[str]:
        yield from pieces_until(lambda: min(one.engine.n_running for one in machines) >= 3)
        yield from echo(request)

    machines = [Machine("a", reply), Machine("b", reply)]
    Run(machines, prompts(40), n_parallel=3).lines()
    assert [one.engine.n_running for one in machines] == [3, 3]


def test_the_lines_of_a_server_that_goes_are_answered_by_the_others() -> None:
    def reply(request: Request) -> Sequence[str]:
        if len(a.asked) == 20:
            wait_until(lambda: run.news)
        return echo(request)

    a, b = Machine("a", reply), Machine("b")

    def die(request: Request) -> Sequence[Any]:
        if len(b.asked) == 5:
            b.is_up = False
            return ["half an ", NetworkError("b ended the connection in the middle")]
        return echo(request)

    b._own_reply = die
    run = Run([a, b], prompts(50))
    assert is_complete(run.lines(), 50)
    assert run.news == ["b refused the connection; the other servers get its lines"]
    assert not run.batch.counts.failed
    assert [one.n_lines for one in run.pool.servers] == [46, 4]


def test_a_server_that_comes_back_gets_lines_again() -> None:
    def reply(request: Request) -> Sequence[str]:
        if len(a.asked) == 3:
            wait_until(lambda: run.news)
            b.is_up = True
        if len(a.asked) == 6:
            wait_until(lambda: len(b.asked) > 20)
        return echo(request)

    a, b = Machine("a", reply), Machine("b")
    b.is_up = False
    run = Run([a, b], prompts(200))
    assert is_complete(run.lines(), 200)
    assert run.news == ["b refused the connection; the other servers get its lines", "b answers again"]


def test_a_server_that_answers_each_line_with_an_error_costs_no_line() -> None:
    def reply(request: Request) -> Sequence[str]:
        if len(good.asked) == 3:
            wait_until(lambda: bad.n_looks >= 2)
        return echo(request)

    good, bad = Machine("good", reply), Machine("bad", lambda _request: [NetworkError("bad answers 500")])
    begin = time.monotonic()
    assert is_complete(Run([good, bad], prompts(200)).lines(), 200)
    seconds = time.monotonic() - begin
    assert 2 ** (bad.n_looks - 2) - 1 <= seconds  # after the second look it has a pause of 1 s, then of 2 s, and so on
    assert len(bad.asked) < 30 * bad.n_looks


def test_the_first_line_that_failed_is_the_first_that_another_server_gets() -> None:
    def reply(request: Request) -> Sequence[str]:
        wait_until(lambda: run.pool.servers[0].error)
        return echo(request)

    def fail(_request: Request) -> Sequence[Any]:
        if len(bad.asked) == 2:
            wait_until(lambda: len(good.asked) >= 2)
        return [NetworkError("bad answers 500")]

    good, bad = Machine("good", reply), Machine("bad", fail)
    run = Run([bad, good], prompts(40), n_parallel=1)
    assert is_complete(run.lines(), 40)
    assert bad.asked[0] in good.asked[:2]  # else newer ones would come before it, and all wait to be written


def test_it_is_told_once_why_a_server_that_is_there_answers_no_line() -> None:
    def wait_for_news(request: Request) -> Sequence[Any]:
        wait_until(lambda: run.news)
        return echo(request)

    machines = [Machine("good", wait_for_news), Machine("bad", lambda _request: [NetworkError("bad answers 500")])]
    run = Run(machines, prompts(600))
    assert is_complete(run.lines(), 600)
    assert run.news == ["bad answers 500; the other servers get its lines"]


def test_a_line_that_no_server_can_answer_has_its_error() -> None:
    def reply(request: Request) -> Sequence[Any]:
        return ["half", NetworkError("500")] if question_of(request) in ("p3", "p19") else echo(request)

    machines = [Machine("a", reply), Machine("b", reply)]
    run = Run(machines, prompts(20))
    lines = run.lines()
    assert errors(lines) == [("network", "500")] * 2
    assert [(line["id"], line["text"]) for line in lines if "error" in line] == [(4, "half"), (20, "half")]
    assert run.batch.counts.answered == 18
    asked = machines[0].asked + machines[1].asked
    assert (asked.count("p3"), asked.count("p19")) == (4, 4)  # twice at each


def test_the_last_line_is_not_tried_again_before_it_is_known_which_servers_are_there() -> None:
    n_asked: list[int] = []

    def reply(request: Request) -> Iterator[Any]:
        if question_of(request) == "p9":
            yield from pieces_until(lambda: len(run.output.written) == 9)
            yield NetworkError("500")
        yield from echo(request)

    class Late(Machine):
        def connect(self) -> FakeEngine:
            if self.asked.count("p9") == 1:
                wait_until(lambda: b.n_looks == 2)
                time.sleep(0.05)  # in which the other one, which is there, would try it again
                n_asked.append(b.asked.count("p9"))
            return super().connect()

    a, b = Late("a", reply), Machine("b", reply)
    run = Run([a, b], prompts(10))
    assert errors(run.lines()) == [("network", "500")]
    assert n_asked == [1]
    assert [one.asked.count("p9") for one in (a, b)] == [2, 2]


def test_a_line_that_fails_by_chance_everywhere_is_tried_again() -> None:
    failed: list[str] = []

    def reply(request: Request) -> Sequence[Any]:
        if question_of(request) == "p3" and len(failed) < 2:
            failed.append("p3")
            return [NetworkError("reset")]
        return echo(request)

    assert is_complete(Run([Machine("a", reply), Machine("b", reply)], prompts(20)).lines(), 20)


def test_an_own_fault_of_a_line_is_no_fault_of_a_server() -> None:
    machines = [Machine("a"), Machine("b")]
    lines = Run(machines, '{"prompt": "a", "top_k": "x"}\n{"prompt": "b"}\n{"nothing": 1}\n').lines()
    assert [kind for kind, _ in errors(lines)] == ["usage", "usage"]
    assert sum(len(one.asked) for one in machines) == 1


def test_when_all_servers_are_gone_the_batch_ends_with_their_errors() -> None:
    def die(request: Request) -> Sequence[Any]:
        if len(run.output.written) > 5:
            machines[0].is_up = machines[1].is_up = False
        return echo(request)

    machines, n_lines = [Machine("a", die), Machine("b", die)], 2 * MOST_OPEN
    run = Run(machines, prompts(n_lines), patience=0.2)
    with pytest.raises(NetworkError, match=r"no server answers any more: a .*; b "):
        run.lines()
    found = [decode_json(line) for line in run.output.written]
    assert 0 < len(found) < n_lines
    assert sorted(news.split("; ")[1] for news in run.news) == [
        "no other server answers",
        "the other servers get its lines",
    ]
    assert is_complete(found, len(found))  # no line with an error: --resume goes on here


def test_servers_that_fail_at_every_line_end_the_batch_without_a_line() -> None:
    machines = [Machine(name, lambda _request: [NetworkError("500")]) for name in "ab"]
    run = Run(machines, prompts(10), patience=0.2)
    with pytest.raises(NetworkError, match="no server answers any more: 500; 500"):
        run.lines()
    assert run.output.written == []


def test_servers_that_are_there_and_fail_from_some_line_on_give_no_line_an_error() -> None:
    def reply(request: Request) -> Iterator[Any]:
        if int(question_of(request)[1:]) < 10:
            yield from echo(request)
            return
        yield from pieces_until(lambda: len(run.output.written) == 10)
        yield NetworkError("503")

    run = Run([Machine("a", reply), Machine("b", reply)], prompts(300), patience=3.0)
    with pytest.raises(NetworkError, match="no server answers any more: 503; 503"):
        run.lines()
    assert len(run.output.written) == 10
    assert errors([decode_json(line) for line in run.output.written]) == []  # --resume answers them


def test_many_lines_that_no_server_can_answer_do_not_end_the_batch() -> None:
    def reply(request: Request) -> Sequence[Any]:
        return [NetworkError("500")] if 10 <= int(question_of(request)[1:]) < 22 else echo(request)

    run = Run([Machine("a", reply), Machine("b", reply)], prompts(40), patience=120.0)
    lines = run.lines()
    assert [line["id"] - 1 for line in lines if "error" in line] == [*range(10, 22)]  # more than are taken ahead


def test_a_line_at_a_server_that_hangs_is_answered_by_another() -> None:
    def reply(request: Request) -> Sequence[str]:
        wait_until(lambda: hung.asked)
        return echo(request)

    def hang(_request: Request) -> Sequence[Any]:
        wait_until(lambda: len(run.output.written) == 30)
        return ["late"]

    hung = Machine("hung", hang)
    run = Run([Machine("a", reply), hung], prompts(30), n_parallel=1, copy_seconds=0.1)
    assert is_complete(run.lines(), 30)
    assert len(hung.asked) == 1


def test_an_answer_that_never_ends_does_not_keep_its_server_from_further_lines() -> None:
    begun: list[Request] = []

    def reply(request: Request) -> Sequence[str]:
        wait_until(lambda: begun)
        if begun[0].cancellation.is_set():
            wait_until(lambda: len(b.asked) > 300)
        return echo(request)

    def reply_without_end(request: Request) -> Iterable[Any]:
        begun.append(request)
        return repeat("more ") if len(begun) == 1 else echo(request)

    b = Machine("b", reply_without_end)
    run = Run([Machine("a", reply), b], prompts(1200), copy_seconds=0.05)
    assert is_complete(run.lines(), 1200)
    assert begun[0].cancellation.is_set()
    assert len(b.asked) > 300  # it had room for 256 beside the first one


def test_what_one_server_does_not_support_another_one_does() -> None:
    def reply(request: Request) -> Sequence[str]:
        wait_until(lambda: run.pool._refused)
        return echo(request)

    plain = Machine("plain", capabilities=Capabilities(ignored_settings=frozenset({"top_k"})))
    run = Run([plain, Machine("full", reply)], '{"prompt": "a", "top_k": 3}\n' * 8 + '{"prompt": "b"}\n')
    assert errors(run.lines()) == []
    assert set(plain.asked) <= {"b"}
    (note,) = run.pool.notes()
    assert note == "plain: some lines went to other servers: fake does not support top_k"


def test_ctrl_c_ends_all_servers() -> None:
    def reply(request: Request) -> Sequence[Any]:
        if len(run.output.written) > 5:
            run.cancellation.set()
        return echo(request)

    n_lines = 2 * MOST_OPEN
    run = Run([Machine(name, reply) for name in "ab"], prompts(n_lines))
    found = run.lines()
    assert 0 < len(found) < n_lines
    assert is_complete(found, len(found))


def test_lines_that_failed_are_answered_again_in_their_places(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    rows = [{"id": n, "text": f"p{n - 1}"} | ({"error": {"type": "x"}} if n in (1, 4, 5) else {}) for n in range(1, 8)]
    path.write_bytes(b"".join(encode(row) for row in rows))
    output, machines = OutputFile(path, is_resumed=True, is_rewritten=True), [Machine("a"), Machine("b")]
    Run(machines, prompts(10), options=BatchOptions(retries_failed=True), output=output).lines()
    output.finish()
    assert is_complete([decode_json(line) for line in path.read_bytes().splitlines()], 10)
    assert sorted(machines[0].asked + machines[1].asked) == ["p0", "p3", "p4", "p7", "p8", "p9"]
