"""The search for the fastest settings: candidates take turns, and what can be noise is no gain."""

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest

from llmcli.engine.benchmark import Sample, SpeedTest
from llmcli.engine.events import Cancellation
from llmcli.engine.llama import hardware
from llmcli.engine.llama.context import AbortedError
from llmcli.engine.llama.model import Model
from llmcli.errors import LlmcliError
from llmcli.inference import tuning
from llmcli.inference.local import LocalEngine
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.inference.tuning import Search, SearchResult, gain, race, thread_counts
from llmcli.models.locations import ModelFile
from llmcli.params.settings import Settings

CORES = 4
Speed = Callable[[Settings, SpeedTest], float]  # milliseconds of a token


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Iterator[LocalEngine]:
    loaded = LocalEngine(ResolvedModel(ModelFile(tiny, (tiny,), "tiny", trusted=True)), Settings(n_threads=1))
    yield loaded
    loaded.close()


@pytest.fixture(autouse=True)
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "usable_cores", lambda: CORES)
    monkeypatch.setattr(tuning, "thread_counts", lambda: [1, 2, 4, 8])


@pytest.mark.parametrize(
    ("candidate", "reference", "expected"),
    [
        ([8.0, 8.0, 8.0], [10.0, 10.0, 10.0], 0.2),
        ([80.0, 8.0, 8.0], [100.0, 10.0, 10.0], 0.2),  # the machine was slow in the first round, for both
        ([9.8, 9.8, 9.8], [10.0, 10.0, 10.0], 0.0),  # too little
        ([5.0, 5.0, 10.1], [10.0, 10.0, 10.0], 0.0),  # not in every round
        ([9.0, 9.0, 5.0], [10.0, 10.0, 10.0], 0.0),  # less than half the range of the rounds
        ([12.0, 12.0, 12.0], [10.0, 10.0, 10.0], 0.0),
    ],
)
def test_a_gain_is_one_in_every_round_and_above_the_noise(
    candidate: list[float], reference: list[float], expected: float
) -> None:
    assert gain(candidate, reference) == pytest.approx(expected)


def test_candidates_take_turns_forth_and_back() -> None:
    order: list[str] = []

    def times(name: str) -> Iterator[float]:
        while True:
            order.append(name)
            yield 1.0

    assert race([times("a"), times("b"), times("c")], rounds=3) == [[1.0] * 3] * 3
    assert "".join(order) == "abccbaabc"


def test_a_hopeless_candidate_is_left_out_after_two_rounds() -> None:
    def times(*values: float) -> Iterator[float]:
        while True:
            yield from values

    found = race([times(1.0), times(2.0), times(2.0, 0.5), times(1.1)], rounds=5)
    assert [len(one) for one in found] == [5, 2, 5, 5]


class FakeContext:
    """Takes as long as `speed` says, on a machine whose speed changes from run to run."""

    speed: Speed
    noise: Callable[[], float]
    n_open = 0

    def __init__(self, _model: Model, settings: Settings, test: SpeedTest, cancellation: Cancellation) -> None:
        self.test, self._settings, self._cancellation = test, settings, cancellation
        FakeContext.n_open += 1

    def warm_up(self) -> None: ...
    def read_depth(self) -> None: ...

    def run(self) -> Sample:
        if self._cancellation.is_set():
            raise AbortedError
        ms = type(self).speed(self._settings, self.test) * type(self).noise() * self.test.n_tokens
        return Sample(round(ms * 1e6))

    def close(self) -> None:
        FakeContext.n_open -= 1


def clock(step: float) -> Callable[[], float]:
    """A clock that advances at each look."""
    return count(0.0, step).__next__


def search(
    engine: LocalEngine,
    monkeypatch: pytest.MonkeyPatch,
    speed: Speed,
    noise: float = 0.0,
    seed: int = 0,
    fixed: Sequence[str] = (),
    settings: Settings | None = None,
    cancellation: Cancellation | None = None,
    report: Callable[[str, float], None] = lambda _text, _left: None,
    share: float = 0.95,
) -> SearchResult | None:
    numbers = random.Random(seed)
    monkeypatch.setattr(FakeContext, "speed", staticmethod(speed), raising=False)
    monkeypatch.setattr(FakeContext, "noise", staticmethod(lambda: numbers.uniform(1, 1 + noise)), raising=False)
    monkeypatch.setattr(tuning, "SpeedContext", FakeContext)
    monkeypatch.setattr(tuning, "perf_counter", clock(1.0))
    monkeypatch.setattr(tuning, "process_time", clock(share * CORES))
    found = Search(engine, settings or Settings(), fixed, cancellation or Cancellation(), report).run()
    assert FakeContext.n_open == 0
    return found


def test_the_fastest_settings_are_found(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def speed(settings: Settings, test: SpeedTest) -> float:
        threads = settings.n_threads or CORES
        if test.n_gen:
            return 4.0 if threads == 2 else 5.0
        batch = settings.n_threads_batch or threads
        return 1 / batch * (0.8 if settings.n_ubatch == 256 else 1.0) * (1.2 if settings.flash_attn == "off" else 1.0)

    found = search(engine, monkeypatch, speed, noise=0.02)
    assert found
    # Prompts keep the threads that are the best for them, although generation has fewer.
    assert found.values == {"n_threads": 2, "n_threads_batch": 8, "n_ubatch": 256}
    assert [one.key for one in found.choices] == ["n_threads", "n_threads_batch", "n_ubatch"]
    assert found.answer_gain == pytest.approx(0.2, abs=0.03)
    assert found.prompt_gain == pytest.approx(0.6, abs=0.03)


def test_the_threads_of_prompts_are_kept_where_only_those_of_answers_change(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def speed(settings: Settings, test: SpeedTest) -> float:
        if test.n_gen:
            return 4.0 if settings.n_threads == 1 else 5.0
        return {1: 8.0, 2: 4.0, 4: 2.0, 8: 3.0}[settings.n_threads_batch or settings.n_threads or CORES]

    found = search(engine, monkeypatch, speed)
    assert found
    assert found.values == {"n_threads": 1, "n_threads_batch": CORES}
    assert found.prompt_gain == 0.0


@pytest.mark.parametrize("seed", range(40))
def test_noise_is_no_gain(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    assert search(engine, monkeypatch, lambda _settings, _test: 1.0, noise=0.3, seed=seed) == SearchResult()


def test_what_the_user_has_set_is_not_searched(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[tuple[int, int]] = set()

    def speed(settings: Settings, _test: SpeedTest) -> float:
        seen.add((settings.n_threads, settings.n_ubatch))
        return 1.0

    search(engine, monkeypatch, speed, fixed=["n_threads", "n_ubatch"], settings=Settings(n_threads=3, n_ubatch=100))
    assert seen == {(3, 100)}


def test_a_quantized_cache_is_not_tried_without_flash_attention(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()

    def speed(settings: Settings, _test: SpeedTest) -> float:
        seen.add(settings.flash_attn)
        return 1.0

    search(engine, monkeypatch, speed, settings=Settings(cache_type_v="q8_0"))
    assert seen == {"auto"}
    search(engine, monkeypatch, speed)
    assert seen == {"auto", "off"}


def test_settings_that_slow_one_part_down_are_not_taken(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flash attention is tried at a depth, where "off" is faster here; without one it is slower."""

    def speed(settings: Settings, test: SpeedTest) -> float:
        is_off = settings.flash_attn == "off"
        return (0.5 if test.n_depth else 2.0) if is_off else 1.0

    assert search(engine, monkeypatch, speed) == SearchResult()


def test_a_busy_machine_is_noticed(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that share their cores with other programs wait for each other: fewer of them look faster."""
    settings = Settings(n_threads=CORES)
    assert search(engine, monkeypatch, lambda _settings, _test: 1.0, settings=settings, share=0.7) == SearchResult(
        is_busy=True
    )


def test_an_interruption_gives_no_result(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    cancellation = Cancellation()

    def report(text: str, _left: float) -> None:
        if text.startswith("n_ubatch: 2 of "):
            cancellation.set()

    found = search(engine, monkeypatch, lambda _settings, _test: 1.0, cancellation=cancellation, report=report)
    assert found is None


def test_contexts_that_do_not_fit_side_by_side_are_refused(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "available_memory", lambda: 1000)
    with pytest.raises(LlmcliError, match=r"the search needs .* for 4 contexts, and 1 kB are free"):
        search(engine, monkeypatch, lambda _settings, _test: 1.0)


def test_the_time_that_is_left_goes_down_to_the_end(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr(tuning, "monotonic", lambda: float(next(clock)))
    lefts: list[float] = []
    search(engine, monkeypatch, lambda _settings, _test: 1.0, report=lambda _text, left: lefts.append(left))
    known = lefts[2:]
    assert known[0] > known[-1] > 0


def test_thread_counts_are_parts_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "usable_cores", lambda: 16)
    counts = thread_counts()
    assert {4, 8, 12, 16} <= {*counts}
    assert max(counts) <= 32
    monkeypatch.setattr(hardware, "usable_cores", lambda: 1)
    assert thread_counts()[0] == 1
