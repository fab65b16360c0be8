"""The short ends of prompts in one batch with each other and with the answers that run."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from llmcli.engine.generation import Generation
from llmcli.engine.llama.context import Context
from llmcli.engine.llama.model import Model
from llmcli.engine.scheduler import Scheduler
from llmcli.errors import LlmcliError
from tests.engine.drive import start
from tests.engine.test_scheduler import PARAMS, collect, run
from tests.models import tiny_models

COMMON = list(range(10, 40))


@pytest.fixture(scope="module", params=["full_attention", "sliding_window", "recurrent", "hybrid"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf"
    loaded = Model.load([getattr(tiny_models, request.param)(path)], n_gpu_layers=0)
    yield loaded
    loaded.close()


def keeps_parts(model: Model) -> bool:
    """Whether a part of a sequence can be shared."""
    return model.path.stem in ("full_attention", "sliding_window")


@pytest.fixture
def context(model: Model) -> Iterator[Context]:
    made = Context(model, replace(PARAMS, n_batch=64), 6, 10**6)
    yield made
    made.close()


@pytest.fixture
def batches(context: Context, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The rows and the number of sequences of each batch that is evaluated."""
    seen: list[tuple[int, int]] = []
    decode = context._decode

    def note(n: int, seq_ids: list[int]) -> None:
        seen.append((n, len(seq_ids)))
        decode(n, seq_ids)

    monkeypatch.setattr(context, "_decode", note)
    return seen


def ask(context: Context, tail: Sequence[int], index: int, **values: Any) -> Generation:
    return start(context, [*COMMON, *tail], index=index, ignore_eos=True, **({"max_tokens": 6} | values))


def alone(model: Model, tail: Sequence[int], **values: Any) -> list[int]:
    context = Context(model, replace(PARAMS, n_batch=64), 1, 10**6)
    scheduler, one = Scheduler(context), ask(context, tail, 0, **values)
    scheduler.add(one)
    run(scheduler, {})
    context.close()
    return one.tokens


def test_ends_of_prompts_are_evaluated_in_one_batch(
    model: Model, context: Context, batches: list[tuple[int, int]]
) -> None:
    scheduler = Scheduler(context, is_mixed=True)
    tails = [[5, 6], [7], [8, 9, 10], [11], [12, 13]]
    asked = [ask(context, tail, index) for index, tail in enumerate(tails)]
    scheduler.add(asked[0])
    scheduler.step()
    for one in asked[1:]:
        scheduler.add(one)
    events = scheduler.step()
    if keeps_parts(model):
        assert batches == [(32, 1), (1 + 3 + 1 + 2 + 1, 5)]
        assert [event.index for event in events] == [1, 2, 3, 4, 0]
        assert [one.timings.prompt_n for one in asked] == [32, 1, 3, 1, 2]
        assert asked[2].layout == [(32, 30, 1), (8, 3, 1)]  # 30 shared tokens, and 3 rows of 8
    run(scheduler, {})
    assert [one.tokens for one in asked] == [alone(model, tail) for tail in tails]


@pytest.mark.parametrize("end", [50, 140])
def test_the_common_beginning_is_evaluated_once(context: Context, model: Model, end: int) -> None:
    """All join at once: the first prompt is read before the others, which share it."""
    scheduler = Scheduler(context, is_mixed=True)
    tails = [[*range(40, end), number] for number in range(4)]
    asked = [ask(context, tail, index) for index, tail in enumerate(tails)]
    for one in asked:
        scheduler.add(one)
    run(scheduler, {})
    assert [one.tokens for one in asked] == [alone(model, tail) for tail in tails]
    if keeps_parts(model):
        assert [one.timings.prompt_n for one in asked] == [end - 9, 1, 1, 1]


def test_a_long_end_is_read_on_its_own(context: Context, batches: list[tuple[int, int]]) -> None:
    scheduler = Scheduler(context, is_mixed=True)
    scheduler.add(ask(context, [5], 0))
    scheduler.step()
    scheduler.add(ask(context, [6] * 70, 1))
    scheduler.step()
    assert all(n_sequences == 1 for _, n_sequences in batches)
    run(scheduler, {})


def test_equal_prompts_are_still_evaluated_once(context: Context, model: Model) -> None:
    scheduler, texts = Scheduler(context, is_mixed=True), dict[int, str]()
    asked = [ask(context, tail, index) for index, tail in enumerate([[5], [6], [6], [7]])]
    for one in asked:
        scheduler.add(one)
    run(scheduler, texts)
    assert asked[1].tokens == asked[2].tokens == alone(model, [6])
    assert asked[3].tokens == alone(model, [7])


def test_one_that_cannot_be_evaluated_ends_alone(
    context: Context, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler, texts = Scheduler(context, is_mixed=True), dict[int, str]()
    asked = [ask(context, [5 + index], index) for index in range(4)]
    scheduler.add(asked[0])
    collect(scheduler.step(), texts)
    decode = context._decode

    def refuse(n: int, seq_ids: list[int]) -> None:
        if 7 in list(context._tokens[:n]):  # the end of the third prompt
            raise LlmcliError("llama.cpp cannot evaluate the tokens")
        decode(n, seq_ids)

    monkeypatch.setattr(context, "_decode", refuse)
    for one in asked[1:]:
        scheduler.add(one)
    run(scheduler, texts)
    assert [str(one.failure) for one in asked] == [
        *("None", "None", "llama.cpp cannot evaluate the tokens", "None"),
    ]
    assert [asked[number].tokens for number in (0, 1, 3)] == [alone(model, [5 + number]) for number in (0, 1, 3)]


def test_prompts_without_room_wait_for_it(model: Model) -> None:
    if model.path.stem == "recurrent":
        pytest.skip("its memory does not grow")
    context = Context(model, replace(PARAMS, n_ctx=256), 6, 256)
    scheduler, long = Scheduler(context, is_mixed=True), {"max_tokens": 100}
    asked = [ask(context, [5 + index], index, **long) for index in range(5)]
    for one in asked:
        scheduler.add(one)
    run(scheduler, {})
    assert [one.finish_reason for one in asked] == ["length"] * 5
    assert [one.tokens for one in asked] == [alone(model, [5 + index], **long) for index in range(5)]
    context.close()
