"""Continuous batches: each answer is the one it is alone, an ended one makes room at once, and the context grows."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from llmcli.engine.events import Cancellation, Prompt, Request, TokenEvent
from llmcli.engine.generation import Generation
from llmcli.engine.llama.context import Context
from llmcli.engine.llama.model import Model
from llmcli.engine.scheduler import Scheduler, generate
from llmcli.errors import ContextOverflowError, PolicyError, UsageError
from llmcli.inference import continuous_batching, sizing
from llmcli.inference.continuous_batching import ContinuousBatch, Width
from llmcli.models.gguf.parser import read_headers
from llmcli.params.policies.policy import Fixed, PolicyCall
from llmcli.params.policies.user_functions import PolicySource
from llmcli.params.settings import Settings
from tests.models import tiny_models

# f32 and small batches: on these models a row has the same result whatever rows are beside it.
EXACT: dict[str, Any] = {
    "n_threads": 1,
    "n_batch": 16,
    "n_ubatch": 16,
    "flash_attn": "off",
    "cache_type_k": "f32",
    "cache_type_v": "f32",
    "ignore_eos": True,
    "seed": 1,
    "temperature": Fixed(1.0),
}
COMMON = [7] * 30


@pytest.fixture(scope="module", params=["full_attention", "sliding_window", "recurrent", "hybrid"])
def every_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf"
    loaded = Model.load([getattr(tiny_models, request.param)(path)], n_gpu_layers=0)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def model(tiny: Any) -> Iterator[Model]:
    loaded = Model.load([tiny], n_gpu_layers=0)
    yield loaded
    loaded.close()


def request(tokens: Sequence[int], **settings: Any) -> Request:
    return Request(Prompt.of_tokens("", tokens), Settings(**{**EXACT, "max_tokens": 6, **settings}))


class Source:
    """Gives requests; notes how many answers had ended when each was taken."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.left = list(requests)
        self.n_ended = 0
        self.taken_after: list[int] = []

    def __call__(self, _is_idle: bool) -> Request | None:
        if not self.left:
            return None
        self.taken_after.append(self.n_ended)
        return self.left.pop(0)


def batch_of(model: Model, source: Any, n_parallel: int = 3) -> ContinuousBatch:
    shape = sizing.shape_of(read_headers([model.path]))
    return ContinuousBatch(model, shape, lambda one, index: Generation(model.vocab, one, index), source, n_parallel)


def answers(model: Model, requests: Sequence[Request], n_parallel: int = 3) -> dict[int, TokenEvent]:
    """The last event of each answer."""
    source = Source(requests)
    events = batch_of(model, source, n_parallel).events()
    return {event.index: event for event in events if event.finish_reason}


def alone(model: Model, one: Request) -> list[int]:
    settings = Settings(**{**EXACT, "n_ctx": 1024})
    context = Context(model, settings, 1, 10**6)
    generation = Generation(model.vocab, one)
    for _ in generate(context, [generation]):
        pass
    context.close()
    return generation.tokens


@pytest.fixture
def contexts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the contexts that are made, in tokens of a sequence."""
    sizes: list[int] = []

    def make(*given: Any) -> Context:
        made = Context(*given)
        sizes.append(made.n_ctx)
        return made

    monkeypatch.setattr(continuous_batching, "Context", make)
    return sizes


def test_each_answer_is_the_one_it_is_alone(every_model: Model) -> None:
    requests = [
        request([*COMMON, 10 + number], seed=number, max_tokens=3 + number % 4, temperature=Fixed(number % 2))
        for number in range(9)
    ]
    ended = answers(every_model, requests)
    assert [ended[number].record.tokens for number in range(9)] == [alone(every_model, one) for one in requests]


def test_a_request_joins_as_soon_as_one_ends(model: Model) -> None:
    """Two long answers run all the time beside short ones."""
    source = Source([request([5, number], max_tokens=40 if number < 2 else 1) for number in range(8)])
    order = []
    for event in batch_of(model, source).events():
        if event.finish_reason:
            source.n_ended += 1
            order.append(event.index)
    assert order[-2:] == [0, 1]
    assert source.taken_after == [0, 0, 0, 1, 2, 3, 4, 5]


def test_each_event_says_whether_its_step_has_another_one(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, step = list[int](), Scheduler.step

    def note(scheduler: Scheduler) -> list[TokenEvent]:
        events = step(scheduler)
        sizes.append(len(events))
        return events

    monkeypatch.setattr(Scheduler, "step", note)
    source = Source([request([5, number], max_tokens=4) for number in range(3)])
    is_followed = [event.is_followed for event in batch_of(model, source).events()]
    assert is_followed == [at < size - 1 for size in sizes for at in range(size)]
    assert max(sizes) == 3


def test_at_most_n_parallel_answers_run(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    most, step = 0, Scheduler.step

    def count(scheduler: Scheduler) -> list[TokenEvent]:
        nonlocal most
        most = max(most, len(scheduler.generations))
        return step(scheduler)

    monkeypatch.setattr(Scheduler, "step", count)
    answers(model, [request([5, number]) for number in range(7)], 2)
    assert most == 2


def test_a_common_beginning_is_evaluated_once(model: Model) -> None:
    ended = answers(model, [request([*COMMON, 10 + number]) for number in range(5)])
    assert [ended[number].record.timings.prompt_n for number in range(5)] == [31, 1, 1, 1, 1]


@pytest.mark.parametrize("at", [0, 3])
def test_a_request_that_does_not_fit_fails_alone(model: Model, at: int) -> None:
    """Where it is the first one, and where a context exists already."""
    requests = [request([5, number]) for number in range(6)]
    requests.insert(at, request([5] * 2000))
    ended = answers(model, requests)
    failures = {index: event.record.failure for index, event in ended.items() if event.record.failure}
    assert [*failures] == [at]
    assert isinstance(failures[at], ContextOverflowError)
    assert "the prompt has 2000 tokens" in str(failures[at])
    assert len(ended) == 7


def test_a_request_that_is_not_valid_fails_alone(model: Model) -> None:
    source = PolicySource("failing", "a test", lambda: lambda _step: 1 / 0)
    policy = PolicyCall("failing", source=source)
    ended = answers(model, [request([5]), request([]), request([6], temperature=policy), request([7])])
    assert [type(ended[number].record.failure) for number in range(4)] == [
        *(type(None), UsageError),
        *(PolicyError, type(None)),
    ]


def test_the_context_grows_for_a_longer_prompt(model: Model, contexts: list[int]) -> None:
    """It has room for a still longer one, so that a batch of ever longer prompts does not make one for each."""
    lengths = [10, 300, 320, 12, 560, 580, 590]
    requests = [request([5] * length) for length in lengths]
    ended = answers(model, requests, 1)
    assert [ended[number].record.failure for number in range(7)] == [None] * 7
    assert contexts == [256, 512, 768]
    assert [ended[number].record.tokens for number in (1, 3, 5)] == [alone(model, requests[n]) for n in (1, 3, 5)]


def test_an_answer_of_any_length_gets_the_context_it_has_alone(model: Model, contexts: list[int]) -> None:
    """After those with a limit, whose context is small; the tiny model was trained on 1024 tokens."""
    ended = answers(model, [request([5, 1]), request([5, 2], max_tokens=-1), request([5, 3])], 1)
    assert contexts == [256, 1024]
    assert ended[1].finish_reason == "length"
    assert len(ended[1].record.tokens) == 1025
    assert len(ended[2].record.tokens) == 8


def test_a_new_context_takes_a_request_whatever_memory_is_free(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program may free memory in the meantime: a context that is never large enough would have no end."""
    monkeypatch.setattr(ContinuousBatch, "_outgrows", lambda *_given: True)
    ended = answers(model, [request([5, number]) for number in range(3)])
    assert sorted(ended) == [0, 1, 2]


def test_a_given_context_size_is_kept(model: Model, contexts: list[int]) -> None:
    ended = answers(model, [request([5], n_ctx=300), request([5] * 400, n_ctx=300)])
    assert contexts == [300]
    assert isinstance(ended[1].record.failure, ContextOverflowError)


def test_a_batch_that_is_left_frees_its_samplers(model: Model) -> None:
    source = Source([request([5, number], max_tokens=50) for number in range(3)])
    events = batch_of(model, source).events()
    records = [next(events).record for _ in range(6)]
    events.close()
    assert len({id(one) for one in records}) == 3
    for one in records:
        assert isinstance(one, Generation)
        assert one._sampler.pointer is None


def test_a_cancelled_answer_makes_room_for_the_next(model: Model) -> None:
    flag = Cancellation()
    requests = [request([5], max_tokens=900), request([6]), request([7])]
    requests[0].cancellation = flag
    ended: dict[int, TokenEvent] = {}
    for event in batch_of(model, Source(requests), 1).events():
        if event.index == 0 and len(event.record.tokens) == 9:
            flag.set("timeout")
        if event.finish_reason:
            ended[event.index] = event
    assert [ended[number].finish_reason for number in range(3)] == ["timeout", "length", "length"]


# The width


def steps(width: Width, rates: dict[int, float], count: int = 400) -> list[int]:
    """The widths that are tried, when steps at each width give so many tokens per second."""
    tried = [width.now]
    for _ in range(count):
        now = width.now
        width.observe(now, now / rates[now])
        if width.now != tried[-1]:
            tried.append(width.now)
    return tried


@pytest.mark.parametrize(
    ("rates", "tried"),
    [
        ({8: 100.0, 16: 150.0, 32: 200.0}, [8, 16, 32]),
        ({8: 100.0, 16: 150.0, 32: 120.0}, [8, 16, 32, 16]),
        ({8: 100.0, 16: 90.0, 32: 300.0}, [8, 16, 8]),
        ({8: 100.0, 16: 104.0, 32: 300.0}, [8, 16, 8]),  # not worth the memory
    ],
)
def test_the_width_settles_on_the_fastest(rates: dict[int, float], tried: list[int]) -> None:
    assert steps(Width(), rates) == tried


def test_a_given_width_is_not_measured() -> None:
    assert steps(Width(5), {5: 1.0}) == [5]
    assert Width(5).most == 5


def test_the_width_stays_within_what_memory_allows() -> None:
    width = Width()
    width.limit(20)
    assert steps(width, {8: 100.0, 16: 150.0}) == [8, 16]
    width.limit(3)
    assert (width.now, width.most) == (3, 3)


def test_a_trial_takes_half_a_second_and_eight_steps() -> None:
    slow, fast = Width(), Width()
    for _ in range(7):
        slow.observe(8, 1.0)
    assert slow.now == 8
    slow.observe(8, 1.0)
    assert slow.now == 16
    for _ in range(49):
        fast.observe(8, 0.01)
    assert fast.now == 8
