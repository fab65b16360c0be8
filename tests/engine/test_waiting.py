"""Threads that wait look for one another, and sleep soon while other programs need the processors."""

import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace

import pytest

from llmcli.engine.llama import bindings, waiting
from llmcli.engine.llama.context import Context
from llmcli.engine.llama.model import Model
from llmcli.engine.llama.waiting import ThreadWaits, thread_waits
from llmcli.params.model import ModelParams
from tests.waiting import wait_until

TOKENS = [1, 5, 9, 12]
_forget: Callable[[], None] = thread_waits.cache_clear


class Machine:
    """A clock, and how much of its time the threads of this process get a processor."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.processor = 0.0
        self.share = 1.0
        self.teams: list[tuple[int, Event]] = []
        self.waits = ThreadWaits(lambda n_threads, end: self.teams.append((n_threads, end)))
        for name in ("monotonic", "perf_counter"):
            monkeypatch.setattr(waiting, name, lambda: self.now)
        monkeypatch.setattr(waiting, "process_time", lambda: self.processor)
        monkeypatch.setattr(waiting, "sleep", self.compute)

    def compute(self, seconds: float, n_threads: int = 2) -> int:
        self.now += seconds
        self.processor += seconds * n_threads * self.share
        return 7

    def steps(self, n: int, seconds: float = 0.01, n_threads: int = 2) -> None:
        for _ in range(n):
            assert self.waits.compute(n_threads, self.compute, seconds, n_threads) == 7
            wait_until(lambda: not self.waits._in_trial.locked())

    @property
    def held(self) -> list[int]:
        """The threads of the computations for which a team is held."""
        wait_until(lambda: bool(self.waits._team_end) == any(not end.is_set() for _, end in self.teams))
        return [n_threads for n_threads, end in self.teams if not end.is_set()]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.mark.parametrize("share", [1.0, 0.8, 0.62])
def test_threads_that_get_the_processors_look_for_one_another(machine: Machine, share: float) -> None:
    machine.share = share
    machine.steps(1000)
    assert machine.teams == []


@pytest.mark.parametrize(("n_threads", "seconds"), [(2, 0.01), (4, 0.05), (2, 3.0)])
def test_threads_that_do_not_get_them_sleep_soon(machine: Machine, n_threads: int, seconds: float) -> None:
    machine.share = 0.5
    machine.steps(25, seconds, n_threads)
    assert machine.held == [n_threads]


def test_one_slow_step_is_no_reason(machine: Machine) -> None:
    machine.steps(15)
    machine.share = 0.1
    machine.steps(1)
    machine.share = 1.0
    machine.steps(100)
    assert machine.teams == []


def test_they_look_again_when_the_others_have_ended(machine: Machine) -> None:
    machine.share = 0.5
    machine.steps(25)
    machine.share = 0.9
    machine.steps(90)
    assert machine.held == [2], "within the first second nothing is tried"
    machine.steps(60)
    assert machine.held == []
    machine.steps(1000)
    assert len(machine.teams) == 1
    machine.share = 0.5
    machine.steps(50)
    assert machine.held == [2]


def test_trials_become_seldom_while_the_others_compute(machine: Machine) -> None:
    machine.share = 0.5
    moments: list[float] = []
    while machine.now < 60:
        machine.steps(1)
        if len(machine.teams) > len(moments):
            moments.append(machine.now)
    pauses = [round(b - a) for a, b in pairwise(moments)]
    assert pauses == [1, 2, 4, 8, 8, 8, 8, 8, 8]


def test_while_nothing_is_computed_nothing_is_tried(machine: Machine) -> None:
    machine.share = 0.5
    machine.steps(25)
    machine.now += 3600
    assert machine.held == [2]
    assert len(machine.teams) == 1


def test_models_that_ask_at_once_get_one_team() -> None:
    """A second one would be known to nobody, and would never end."""
    teams: list[Event] = []
    waits = ThreadWaits(lambda _, end: teams.append(end))
    threads = [Thread(target=waits._sleep, args=[2]) for _ in range(20)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    wait_until(lambda: teams)
    assert teams == [waits._team_end]


@pytest.mark.parametrize("n_before", [0, 25])
def test_where_no_thread_can_be_started_it_computes_on(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, n_before: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    machine.share = 0.5
    machine.steps(n_before)
    monkeypatch.setattr(waiting, "Thread", refuse)
    machine.steps(1000)
    assert len(machine.teams) == (n_before > 0)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The functions of an OpenMP library."""
    found = SimpleNamespace(GOMP_parallel=SimpleNamespace(), omp_get_num_procs=lambda: 2)
    monkeypatch.setattr(bindings, "ggml", lambda: found)
    for name in waiting._VARIABLES:
        monkeypatch.delenv(name, raising=False)
    _forget()
    yield found
    _forget()


def test_only_the_library_of_gnu_has_this_rule(library: SimpleNamespace) -> None:
    assert thread_waits()
    library.__kmpc_fork_call = None  # that of LLVM
    _forget()
    assert thread_waits() is None
    vars(library).clear()  # threads of ggml
    _forget()
    assert thread_waits() is None


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_who_sets_a_variable_of_openmp_decides(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "passive")
    assert thread_waits() is None


def real_waits() -> ThreadWaits:
    _forget()
    if not (waits := thread_waits()):
        pytest.skip("the threads of this build are not those of libgomp")
    return waits


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_a_team_has_threads_that_do_nothing_and_ends() -> None:
    def threads() -> set[str]:
        return {path.name for path in Path("/proc/self/task").iterdir()}

    waits, before = real_waits(), threads()  # one of an earlier test may end meanwhile
    waits._sleep(bindings.ggml().omp_get_num_procs())
    wait_until(lambda: len(threads() - before) == 2)
    team = threads() - before
    assert waits._team_end
    waits._team_end.set()
    wait_until(lambda: not team & threads())


def test_the_results_are_the_same(tiny: Path) -> None:
    """Also while a trial begins and ends in the middle of them."""
    waits = real_waits()
    model = Model.load([tiny])

    def logits() -> list[bytes]:
        context = Context(model, ModelParams(n_ctx=128, n_threads=2))
        assert context.waits is waits
        found = []
        for _ in range(40):
            context.prefill(0, TOKENS)
            context.cut(0)
            found.append(context.logits_as_bytes(-1))
        context.close()
        return found

    looking = logits()
    waits._sleep(2)
    waits._trial_at = 0.0
    assert logits() == looking
    wait_until(lambda: not waits._in_trial.locked())
    if waits._team_end:
        waits._team_end.set()
    model.close()
