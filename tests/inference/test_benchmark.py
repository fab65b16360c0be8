"""The plan of a benchmark, its figures, and what is left of it after an interruption."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmcli.engine.benchmark import Sample, SpeedTest
from llmcli.engine.events import Cancellation
from llmcli.engine.llama import hardware
from llmcli.errors import LlmcliError, UsageError
from llmcli.inference.benchmark import Benchmark, Case, Result, cases_of, check_tests, mean_and_deviation, plan_tests
from llmcli.inference.local import LocalEngine
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.inference.sizing import ModelShape
from llmcli.models.locations import ModelFile
from llmcli.params.settings import Settings

SETTINGS = Settings(n_threads=1)
SHAPE = ModelShape(
    weights=1 << 20, n_layers=2, n_ctx_train=4096, n_embd=0, n_vocab=1024, kv_width_k=1024, kv_width_v=1024
)


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Iterator[LocalEngine]:
    loaded = LocalEngine(ResolvedModel(ModelFile(tiny, (tiny,), "tiny", trusted=True)), SETTINGS)
    yield loaded
    loaded.close()


def test_the_deviation_is_that_of_a_sample() -> None:
    assert mean_and_deviation([1.0, 3.0]) == pytest.approx((2.0, 2**0.5))
    assert mean_and_deviation([5.0]) == (5.0, 0.0)


def test_a_speed_is_the_mean_of_the_speeds_not_of_the_times() -> None:
    result = Result(Case("", SETTINGS), SpeedTest(n_gen=10, n_parallel=2))
    result.samples = [Sample(10**9), Sample(2 * 10**9)]
    assert result.speeds == [20.0, 10.0]
    assert result.speed[0] == 15.0
    assert result.first_token_ms is None


def test_the_time_to_the_first_token_is_that_of_the_samples() -> None:
    result = Result(Case("", SETTINGS), SpeedTest(n_prompt=10))
    result.samples = [Sample(10**6, 2 * 10**6), Sample(10**6, 4 * 10**6)]
    assert result.first_token_ms == pytest.approx((3.0, 2**0.5))


def test_tests_are_in_the_order_of_llama_bench() -> None:
    names = [one.name for one in plan_tests([64, 0], [8], [0, 16], [1, 2])]
    assert names == ["pp64", "tg8", "tg8 x2", "pp64 @ d16", "tg8 @ d16", "tg8 x2 @ d16"]


def test_every_combination_of_values_is_a_case() -> None:
    cases = cases_of(SETTINGS, ["threads=1,2", "ubatch-size=64,128"])
    found = [(one.settings.n_threads, one.settings.n_ubatch) for one in cases]
    assert found == [(1, 64), (1, 128), (2, 64), (2, 128)]
    assert cases[1].label == "threads=1 ubatch-size=128"
    assert [one.settings for one in cases_of(SETTINGS, [])] == [SETTINGS]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("temp=0.2,0.8", "temperature cannot be compared"),
        ("n_gpu_layers=0,1", "n_gpu_layers needs a model reload and cannot be compared"),
        ("threads=1,x", "n_threads must be an integer, got 'x'"),
        ("threads", "the values to compare must have the form KEY=V1,V2, got 'threads'"),
    ],
)
def test_other_values_cannot_be_measured(spec: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        cases_of(SETTINGS, [spec])
    assert str(caught.value) == message


def test_a_depth_beyond_the_trained_context_is_refused() -> None:
    test = SpeedTest(n_gen=96, n_depth=4001)
    with pytest.raises(UsageError) as caught:
        check_tests(SHAPE, [Case("", SETTINGS)], [test])
    message = "tg96 @ d4001 needs a context of 4097 tokens, and the model was trained on 4096"
    assert (str(caught.value), caught.value.hint) == (message, "use a smaller --n-depth, --n-prompt or --n-gen")
    check_tests(SHAPE, [Case("", Settings(rope_scale=2.0))], [test])
    check_tests(SHAPE, [Case("", SETTINGS)], [SpeedTest(n_gen=95, n_depth=4001, n_parallel=8)])  # each is short enough


def test_what_does_not_fit_in_memory_is_refused_before_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "available_memory", lambda: 16 << 20)  # 4 KiB of cache for each token
    check_tests(SHAPE, [Case("", SETTINGS)], [SpeedTest(n_gen=2000)])
    with pytest.raises(LlmcliError) as caught:
        check_tests(SHAPE, [Case("", SETTINGS)], [SpeedTest(n_gen=200, n_depth=2000, n_parallel=20)])
    assert str(caught.value).startswith("tg200 x20 @ d2000: a context of 6000 tokens needs ")
    assert "--n-depth" in caught.value.hint


def test_each_test_has_its_samples_and_facts(engine: LocalEngine) -> None:
    reports: list[str] = []
    tests = [SpeedTest(n_prompt=8), SpeedTest(n_gen=2, n_depth=4)]
    benchmark = Benchmark(engine, [Case("", SETTINGS)], tests, 3, lambda text, _left: reports.append(text))
    benchmark.run(Cancellation())
    assert [len(one.samples) for one in benchmark.results] == [3, 3]
    first, second = map(benchmark.record, benchmark.results)
    assert [first[key] for key in ("n_prompt", "n_gen", "n_depth", "n_threads", "flash_attn")] == [8, 0, 0, 1, -1]
    assert [second[key] for key in ("n_prompt", "n_gen", "n_depth", "test")] == [0, 2, 4, "tg2 @ d4"]
    assert first["avg_ts"] == pytest.approx(benchmark.results[0].speed[0])
    assert reports[:2] == ["pp8: warming up", "pp8: 1 of 3"]


def test_a_prompt_is_measured_with_its_own_number_of_threads(engine: LocalEngine) -> None:
    settings = Settings(n_threads=1, n_threads_batch=2)
    tests = [SpeedTest(n_prompt=4), SpeedTest(n_gen=1)]
    benchmark = Benchmark(engine, [Case("", settings)], tests, 1, lambda _text, _left: None)
    benchmark.run(Cancellation())
    assert [benchmark.record(one)["n_threads"] for one in benchmark.results] == [2, 1]


def test_an_interruption_keeps_what_is_measured(engine: LocalEngine) -> None:
    cancellation = Cancellation()

    def report(text: str, _left: float) -> None:
        if text == "tg2: 3 of 5":
            cancellation.set()

    tests = [SpeedTest(n_prompt=8), SpeedTest(n_gen=2), SpeedTest(n_gen=3)]
    benchmark = Benchmark(engine, [Case("", SETTINGS)], tests, 5, report)
    benchmark.run(cancellation)
    assert [(one.test.name, len(one.samples)) for one in benchmark.results] == [("pp8", 5), ("tg2", 2)]


def test_the_time_that_is_left_counts_all_that_is_planned(engine: LocalEngine) -> None:
    lefts: list[float] = []
    tests = [SpeedTest(n_prompt=8), SpeedTest(n_gen=4)]
    benchmark = Benchmark(engine, [Case("", SETTINGS)], tests, 2, lambda _text, left: lefts.append(left))
    benchmark.run(Cancellation())
    assert lefts[:2] == [0.0, 0.0]  # nothing is known before the first sample
    benchmark._prompt_seconds, benchmark._step_seconds = 1.0, 10.0
    assert benchmark._left(0, 0) == 8 * 3 + 4 * 2 * 10
    assert benchmark._left(0, 1) == 8 + 4 * 2 * 10
    assert benchmark._left(1, 1) == 4 * 10
