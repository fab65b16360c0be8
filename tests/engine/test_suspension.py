"""Where the memory of a context is full, some answers wait: each still gets the text that it gets alone."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from llmcli.engine.events import TokenEvent
from llmcli.engine.generation import Generation
from llmcli.engine.llama.context import Context
from llmcli.engine.llama.model import Model
from llmcli.engine.scheduler import Scheduler
from llmcli.params.policies.policy import Fixed
from tests.engine.drive import start
from tests.engine.test_scheduler import PARAMS, collect, run
from tests.models import tiny_models

SMALL = replace(PARAMS, n_ctx=256)  # cells, which the sequences share
# Together they need 500 of them.
REQUESTS: Sequence[tuple[Sequence[int], dict[str, Any]]] = (
    (range(10, 50), {"temperature": Fixed(0.3), "max_tokens": 120}),
    (range(11, 51), {"temperature": Fixed(1.0), "max_tokens": 90, "repeat_penalty": 1.3}),
    (range(12, 52), {"temperature": Fixed(1.0), "max_tokens": 130, "stop": ("the end",)}),
)


@pytest.fixture(scope="module", params=["full_attention", "sliding_window", "hybrid"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf"
    loaded = Model.load([getattr(tiny_models, request.param)(path)], n_gpu_layers=0)
    yield loaded
    loaded.close()


@pytest.fixture
def context(model: Model) -> Iterator[Context]:
    made = Context(model, SMALL, 3, 256)
    yield made
    made.close()


@pytest.fixture
def suspended(monkeypatch: pytest.MonkeyPatch) -> list[Generation]:
    """Those that had to wait, each time."""
    found, suspend = list[Generation](), Scheduler._suspend

    def note(scheduler: Scheduler, generations: Sequence[Generation]) -> None:
        found.extend(generations)
        suspend(scheduler, generations)

    monkeypatch.setattr(Scheduler, "_suspend", note)
    return found


def generation(context: Context, number: int, **more: Any) -> Generation:
    prompt, values = REQUESTS[number]
    return start(context, list(prompt), index=number, ignore_eos=True, seed=number, **{**values, **more})


def alone(model: Model, number: int, **more: Any) -> tuple[str, list[int]]:
    context = Context(model, SMALL, 1, 256)
    scheduler, texts, one = Scheduler(context), {number: ""}, generation(context, number, **more)
    scheduler.add(one)
    run(scheduler, texts)
    context.close()
    return texts[number], one.tokens


def test_a_full_memory_cuts_nobody(model: Model, context: Context, suspended: list[Generation]) -> None:
    scheduler, texts = Scheduler(context), dict[int, str]()
    together = [generation(context, number) for number in range(3)]
    for one in together:
        scheduler.add(one)
    run(scheduler, texts)
    for number, one in enumerate(together):
        assert (texts[number], one.tokens) == alone(model, number)
        assert one.finish_reason == "length"
        assert len(one.tokens) == 40 + REQUESTS[number][1]["max_tokens"]
    assert suspended
    assert together[0] not in suspended  # the last to join waits first


def test_banned_strings_hold_after_a_suspension(model: Model, context: Context, suspended: list[Generation]) -> None:
    """The one that removes tokens finds no room for them, or is one of those that wait."""
    bans = {"banned_strings": ("a", "e")}
    scheduler, texts = Scheduler(context), dict[int, str]()
    together = [generation(context, number, **bans) for number in range(3)]
    for one in together:
        scheduler.add(one)
    run(scheduler, texts)
    assert suspended
    for number, one in enumerate(together):
        assert (texts[number], one.tokens) == alone(model, number, **bans)


def test_an_answer_cancelled_while_it_waits_keeps_its_text(model: Model, context: Context) -> None:
    scheduler, texts = Scheduler(context), dict[int, str]()
    together = [generation(context, number) for number in range(3)]
    for one in together:
        scheduler.add(one)
    while not scheduler._is_full:
        collect(scheduler.step(), texts)
    (waiting,) = scheduler._waiting
    waiting.request.cancellation.set("timeout")
    events: list[TokenEvent] = scheduler.step()
    assert [(event.index, event.finish_reason) for event in events] == [(waiting.index, "timeout")]
    collect(events, texts)
    run(scheduler, texts)
    for number in range(3):
        text, tokens = alone(model, number)
        if number == waiting.index:
            assert len(tokens) > len(waiting.tokens) > 40
            assert text.startswith(texts[number])
        else:
            assert (texts[number], together[number].tokens) == (text, tokens)


def test_a_prompt_that_finds_no_room_waits_for_it(model: Model, context: Context, suspended: list[Generation]) -> None:
    """The others run on, and are not read again for it."""
    scheduler, texts = Scheduler(context), dict[int, str]()
    running = generation(context, 0)
    scheduler.add(running)
    for _ in range(80):
        collect(scheduler.step(), texts)
    long = start(context, [9] * 150, index=7, max_tokens=20, ignore_eos=True)
    scheduler.add(long)
    run(scheduler, texts)
    assert suspended == [long]
    assert (texts[0], running.tokens) == alone(model, 0)
    assert long.finish_reason == "length"
    assert len(long.tokens) == 170
    other = Context(model, SMALL, 1, 256)
    again = start(other, [9] * 150, index=7, max_tokens=20, ignore_eos=True)
    fresh, expected = Scheduler(other), {7: ""}
    fresh.add(again)
    run(fresh, expected)
    other.close()
    assert (texts[7], long.tokens) == (expected[7], again.tokens)


def test_one_that_waited_has_the_batches_of_its_prompt(model: Model, context: Context) -> None:
    """A replay evaluates the prompt in the batches that it had at first, not with the answer so far."""
    scheduler = Scheduler(context)
    together = [generation(context, number) for number in range(3)]
    for one in together:
        scheduler.add(one)
    run(scheduler, {})
    assert [one.layout for one in together] == [[(16, 16, 2), (8, 8, 1)]] * 3
