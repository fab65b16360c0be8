"""Tests of speed evaluate as many tokens as they say, where they say it."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llmcli.engine.benchmark import SpeedContext, SpeedTest, model_facts
from llmcli.engine.events import Cancellation
from llmcli.engine.llama import bindings
from llmcli.engine.llama.context import AbortedError
from llmcli.engine.llama.model import Model
from llmcli.params.settings import Settings
from tests.models.tiny_models import full_attention, recurrent

Batch = tuple[int, int]  # tokens, and the position of the first one


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with closing(Model.load([full_attention(tmp_path_factory.mktemp("speed") / "tiny.gguf")], 0)) as loaded:
        yield loaded


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """What llama.cpp is asked to evaluate."""
    api, seen = bindings.load(), list[Batch]()
    decode: Callable[..., int] = api.llama_decode

    def record(context: object, batch: Any) -> int:
        seen.append((batch.n_tokens, batch.pos[0]))
        return decode(context, batch)

    monkeypatch.setattr(api, "llama_decode", record)
    return seen


def run(model: Model, test: SpeedTest, times: int = 1, **settings: int) -> None:
    chosen = Settings(n_threads=1, **settings)  # type: ignore[arg-type]
    with closing(SpeedContext(model, chosen, test, Cancellation())) as context:
        context.warm_up()
        for _ in range(times):
            context.read_depth()
            assert context.run().ns > 0


def test_a_prompt_is_evaluated_whole_in_the_warm_up_and_in_each_sample(model: Model, batches: list[Batch]) -> None:
    run(model, SpeedTest(n_prompt=20), times=2)
    assert batches == [(20, 0)] * 3


def test_a_prompt_is_cut_into_batches_of_the_settings(model: Model, batches: list[Batch]) -> None:
    run(model, SpeedTest(n_prompt=20), n_batch=8)
    assert batches == [(8, 0), (8, 8), (4, 16)] * 2


def test_an_answer_is_one_token_at_a_time_and_its_warm_up_is_one(model: Model, batches: list[Batch]) -> None:
    run(model, SpeedTest(n_gen=4), times=2)
    assert batches == [(1, 0), *[(1, at) for at in range(4)] * 2]


def test_answers_side_by_side_have_a_row_each(model: Model, batches: list[Batch]) -> None:
    run(model, SpeedTest(n_gen=3, n_parallel=4), times=2)
    assert batches == [(4, 0), *[(4, at) for at in range(3)] * 2]


def test_the_depth_is_read_once_and_the_test_begins_behind_it(model: Model, batches: list[Batch]) -> None:
    run(model, SpeedTest(n_prompt=5, n_depth=30), times=2)
    # The last token of the depth is evaluated again, as the context cannot keep logits.
    assert batches == [(5, 0), (30, 0), (5, 30), (1, 29), (5, 30)]


def test_answers_at_a_depth_share_it(model: Model, batches: list[Batch]) -> None:
    run(model, SpeedTest(n_gen=2, n_depth=30, n_parallel=3), times=2)
    assert batches == [(3, 0), (30, 0), (3, 30), (3, 31), (1, 29), (3, 30), (3, 31)]


def test_a_memory_that_cannot_be_cut_reads_the_depth_again(tmp_path: Path, batches: list[Batch]) -> None:
    with closing(Model.load([recurrent(tmp_path / "mamba.gguf")], 0)) as model:
        run(model, SpeedTest(n_gen=2, n_depth=8), times=2)
    assert batches == [(1, 0), *[(8, 0), (1, 8), (1, 9)] * 2]


def test_the_first_token_comes_after_the_prompt(model: Model) -> None:
    with closing(SpeedContext(model, Settings(n_threads=1), SpeedTest(n_prompt=5), Cancellation())) as context:
        sample = context.run()
        assert sample.first_token_ns > sample.ns
    with closing(SpeedContext(model, Settings(n_threads=1), SpeedTest(n_gen=2), Cancellation())) as context:
        assert context.run().first_token_ns == 0


def test_threads_wait_as_llama_bench_has_it(model: Model) -> None:
    """Whatever other programs compute: what is measured would change with them, and for seconds after their end."""
    with closing(SpeedContext(model, Settings(n_threads=2), SpeedTest(n_gen=2), Cancellation())) as context:
        assert context._context.waits is None


def test_a_cancellation_ends_a_test(model: Model) -> None:
    cancellation = Cancellation()
    with closing(SpeedContext(model, Settings(n_threads=1), SpeedTest(n_gen=4), cancellation)) as context:
        cancellation.set()
        with pytest.raises(AbortedError):
            context.run()


@pytest.mark.parametrize(
    ("test", "name", "n_tokens", "n_ctx"),
    [
        (SpeedTest(n_prompt=512), "pp512", 512, 512),
        (SpeedTest(n_gen=128), "tg128", 128, 128),
        (SpeedTest(n_prompt=512, n_depth=4096), "pp512 @ d4096", 512, 4608),
        (SpeedTest(n_gen=128, n_depth=100, n_parallel=4), "tg128 x4 @ d100", 512, 612),
    ],
)
def test_a_test_has_the_name_of_llama_bench(test: SpeedTest, name: str, n_tokens: int, n_ctx: int) -> None:
    assert (test.name, test.n_tokens, test.n_ctx) == (name, n_tokens, n_ctx)


def test_a_model_says_what_it_is(model: Model) -> None:
    kind, n_bytes, n_params = model_facts(model)
    assert kind.startswith("llama")
    assert n_bytes == 4 * n_params  # all its weights are F32
