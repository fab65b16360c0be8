"""Requests that join and leave: each gets the text that it gets alone, however the others come, go and fail."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.engine.events import Cancellation, TokenEvent
from llmcli.engine.generation import Generation
from llmcli.engine.llama.context import Context
from llmcli.engine.llama.model import Model
from llmcli.engine.scheduler import Scheduler
from llmcli.errors import ConstraintError, ContextOverflowError, LlmcliError, PolicyError
from llmcli.params.model import ModelParams
from llmcli.params.policies.policy import Fixed, PolicyCall
from llmcli.params.policies.user_functions import PolicySource
from tests.engine.drive import start
from tests.models import tiny_models

PARAMS = ModelParams(
    n_ctx=2048,
    n_threads=1,
    n_batch=16,
    n_ubatch=16,
    cache_type_k="f32",
    cache_type_v="f32",
    flash_attn="off",
)
N_SEQ = 3
PROMPT = list(range(10, 50))
# Five requests: two with one prompt, one that shares its beginning, two others; one has a ban, one a grammar.
REQUESTS: Sequence[tuple[list[int], str | None, dict[str, Any]]] = (
    (PROMPT, None, {"temperature": Fixed(0.3), "max_tokens": 8}),
    (PROMPT, None, {"temperature": Fixed(1.0), "max_tokens": 5, "seed": 2}),
    ([*PROMPT[:30], 7, 8], None, {"temperature": Fixed(1.0), "banned_strings": ("a", "e"), "max_tokens": 7}),
    ([5], "root ::= [a-z]{6}", {"temperature": Fixed(0.9), "max_tokens": 9}),
    ([9] * 90, None, {"temperature": Fixed(0.8), "top_k": 3, "max_tokens": 6}),
)


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    make = getattr(tiny_models, getattr(request, "param", "full_attention"))
    loaded = Model.load([make(tmp_path_factory.mktemp("tiny") / "tiny.gguf")], n_gpu_layers=0)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def context(model: Model) -> Iterator[Context]:
    made = Context(model, PARAMS, N_SEQ, 10**6)
    yield made
    made.close()


@pytest.fixture(scope="module")
def alone(model: Model) -> list[str]:
    """The text of each request in a context of its own."""
    return [text for text, _ in map(partial(answer_alone, model), range(len(REQUESTS)))]


@pytest.fixture(scope="module")
def tokens_alone(model: Model) -> list[list[int]]:
    return [tokens for _, tokens in map(partial(answer_alone, model), range(len(REQUESTS)))]


def request(context: Context, number: int, **more: Any) -> Generation:
    prompt, grammar, values = REQUESTS[number]
    return start(context, prompt, grammar, index=number, ignore_eos=grammar is None, **values, **more)


def answer_alone(model: Model, number: int) -> tuple[str, list[int]]:
    context = Context(model, PARAMS, 1, 10**6)
    scheduler, texts, generation = Scheduler(context), {number: ""}, request(context, number)
    scheduler.add(generation)
    run(scheduler, texts)
    context.close()
    return texts[number], generation.tokens


def run(scheduler: Scheduler, texts: dict[int, str]) -> None:
    while scheduler.generations:
        collect(scheduler.step(), texts)


def collect(events: Sequence[TokenEvent], texts: dict[int, str]) -> None:
    for event in events:
        texts[event.index] = texts.get(event.index, "") + event.text


class Trigger:
    """Cancels a request in the middle of an evaluation, after a number of its operations."""

    def __init__(self, context: Context) -> None:
        self.left, self.target = 0, Cancellation()
        self._context = context
        tick = context._api.ggml_abort_callback(self._count)
        context._api.llama_set_abort_callback(context.handle, tick, None)
        context._abort_callback = tick  # llama.cpp keeps only the pointer

    def _count(self, _data: Any) -> bool:
        self.left -= 1
        if self.left == 0:
            self.target.set("timeout")
        return self._context._abort_flag[0] != b"\0"


# What happens next: a request joins, some steps, one is cancelled by another thread (between two steps, or after some
# operations of the next ones), or leaves at once.
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.integers(0, 4)),
        st.tuples(st.just("step"), st.integers(1, 4)),
        st.tuples(st.just("cancel"), st.integers(0, 4)),
        st.tuples(st.just("abort"), st.integers(0, 400)),
        st.tuples(st.just("leave"), st.integers(0, 4)),
    ),
    min_size=8,
    max_size=40,
)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["full_attention", "sliding_window", "recurrent", "hybrid"], indirect=True)
@settings(max_examples=200, derandomize=True)
@given(ACTIONS)
def test_any_interleaving_gives_each_the_text_it_gives_alone(
    context: Context, alone: list[str], tokens_alone: list[list[int]], actions: list[tuple[str, int]]
) -> None:
    scheduler, texts, trigger = Scheduler(context), dict[int, str](), Trigger(context)
    joined: dict[int, Generation] = {}
    stopped: set[int] = set()
    for action, number in actions:
        running = number in joined and not joined[number].finish_reason
        if action == "join" and number not in joined:
            joined[number] = request(context, number)
            scheduler.add(joined[number])
        elif action == "step":
            for _ in range(number):
                collect(scheduler.step(), texts)
        elif action == "cancel" and running:
            joined[number].request.cancellation.set("timeout")
            stopped.add(number)
        elif action == "abort" and number % 5 in joined:
            trigger.left, trigger.target = number, joined[number % 5].request.cancellation
        elif action == "leave" and running:
            collect([scheduler.cancel(joined[number])], texts)
            stopped.add(number)
    run(scheduler, texts)
    stopped |= {number for number, one in joined.items() if one.finish_reason == "timeout"}
    for number, generation in joined.items():
        if number in stopped:
            assert alone[number].startswith(texts.get(number, ""))
            assert generation.finish_reason in ("interrupt", "timeout")
        else:
            assert (texts[number], generation.tokens) == (alone[number], tokens_alone[number])
            assert generation.finish_reason in ("stop", "length")
        assert generation._sampler.pointer is None


def test_more_requests_than_sequences_wait_for_their_turn(context: Context, alone: list[str]) -> None:
    scheduler, texts = Scheduler(context), dict[int, str]()
    for number in range(5):
        scheduler.add(request(context, number))
    run(scheduler, texts)
    assert [texts[number] for number in range(5)] == alone


def test_a_request_without_a_free_sequence_waits_for_one(context: Context, alone: list[str]) -> None:
    """Also if its prompt is that of one that gets the last sequence."""
    scheduler, texts = Scheduler(context), dict[int, str]()
    for number in (2, 3, 0, 1):
        scheduler.add(request(context, number))
    run(scheduler, texts)
    assert [texts[number] for number in range(4)] == alone[:4]


def test_a_request_that_joins_shares_the_prefix_of_another(context: Context, alone: list[str]) -> None:
    scheduler, texts = Scheduler(context), dict[int, str]()
    context.cut(0)
    first, later = request(context, 0), request(context, 2)
    scheduler.add(first)
    for _ in range(3):
        collect(scheduler.step(), texts)
    scheduler.add(later)
    run(scheduler, texts)
    assert (first.timings.prompt_n, later.timings.prompt_n) == (len(PROMPT), 2)
    assert (texts[0], texts[2]) == (alone[0], alone[2])
    assert (first.beside, later.beside) == (2, 2)  # as many as the context has room for


def test_a_request_reuses_the_tokens_of_one_that_left(context: Context) -> None:
    scheduler = Scheduler(context)
    first, other, again = request(context, 4), request(context, 3), request(context, 4)
    for one in (first, other, again):
        scheduler.add(one)
        run(scheduler, {})
    assert again.timings.prompt_n == 1
    assert again.tokens == first.tokens


def test_a_step_gives_a_request_no_token_or_several_events(context: Context) -> None:
    """None while its prompt is evaluated; the event of a removed token and of the one in its place in one step."""
    free = start(context, PROMPT, max_tokens=20, ignore_eos=True)
    scheduler = Scheduler(context)
    scheduler.add(free)
    run(scheduler, {})
    pieces = [context.model.vocab.piece(token).decode("utf-8", "replace") for token in free.tokens[len(PROMPT) + 3 :]]
    phrase = next(piece for piece in pieces if piece.isalpha())
    first = start(context, PROMPT, max_tokens=20, ignore_eos=True, banned_strings=(phrase,))
    context.cut(0)
    scheduler.add(first)
    assert [scheduler.step() for _ in range(2)] == [[], []]
    scheduler.step()
    scheduler.add(request(context, 3))
    assert {event.index for event in scheduler.step()} == {0, 3}
    counts = []
    while scheduler.generations:
        counts.append([event.index for event in scheduler.step()].count(0))
    assert max(counts) == 2


def test_a_request_cancelled_in_a_prompt_of_another_ends_alone(context: Context, alone: list[str]) -> None:
    scheduler, texts = Scheduler(context), dict[int, str]()
    running, waiting = request(context, 0), request(context, 4)
    reading = request(context, 3)
    reading.request.progress = lambda _done, _total: waiting.request.cancellation.set("interrupt")
    scheduler.add(running)
    collect(scheduler.step(), texts)
    for one in (reading, waiting):
        scheduler.add(one)
    run(scheduler, texts)
    assert (waiting.finish_reason, texts[4]) == ("interrupt", "")
    assert (texts[0], texts[3]) == (alone[0], alone[3])


def test_one_of_two_with_a_prompt_is_cancelled_while_it_is_read(context: Context, alone: list[str]) -> None:
    for seq_id in range(N_SEQ):
        context.cut(seq_id)
    scheduler, texts = Scheduler(context), dict[int, str]()
    pair = [request(context, 4), request(context, 4)]
    pair[0].request.progress = lambda done, total: (
        pair[0].request.cancellation.set("timeout") if 0 < done < total else None
    )
    for one in pair:
        scheduler.add(one)
    pair[0].index = 0
    run(scheduler, texts)
    assert [one.finish_reason for one in pair] == ["timeout", "length"]
    assert (texts[0], texts[4]) == ("", alone[4])
    assert pair[1].timings.prompt_n < len(pair[1].request.prompt.tokens)  # the rest of what the other one began


def test_others_advance_between_the_batches_of_a_prompt(context: Context, alone: list[str]) -> None:
    """A step reads one batch of 16 tokens, and each running request gets one token."""
    for seq_id in range(N_SEQ):
        context.cut(seq_id)
    scheduler, texts = Scheduler(context), dict[int, str]()
    running, joining = request(context, 3), request(context, 4)
    scheduler.add(running)
    collect(scheduler.step(), texts)
    scheduler.add(joining)
    for done in (16, 32, 48, 64, 80):
        events = scheduler.step()
        assert [event.index for event in events] == [3]
        collect(events, texts)
        assert context.evaluated(seq_id=joining.seq_id) == done
    events = scheduler.step()
    assert {event.index for event in events} == {3, 4}
    collect(events, texts)
    run(scheduler, texts)
    assert (texts[3], texts[4]) == (alone[3], alone[4])
    assert joining.layout == [(16, 16, 5), (10, 10, 1)]
    assert joining.timings.prompt_n == 90
    assert joining.timings.prompt_ms < joining.timings.ttft_ms


@pytest.mark.parametrize("model", ["full_attention", "sliding_window", "recurrent", "hybrid"], indirect=True)
def test_a_request_cancelled_in_a_batch_of_another_ends_alone(model: Model) -> None:
    """The batch is aborted and read again: the rest of the prompt has the batches that it has alone."""
    text, tokens = answer_alone(model, 4)
    context = Context(model, PARAMS, N_SEQ, 10**6)
    scheduler, texts, trigger = Scheduler(context), dict[int, str](), Trigger(context)
    running, joining = request(context, 0), request(context, 4)
    scheduler.add(running)
    for _ in range(4):
        collect(scheduler.step(), texts)
    scheduler.add(joining)
    collect(scheduler.step(), texts)
    trigger.left, trigger.target = 30, running.request.cancellation
    events = scheduler.step()
    assert [(event.index, event.finish_reason) for event in events] == [(0, "timeout")]
    run(scheduler, texts)
    assert (texts[4], joining.tokens, joining.layout) == (text, tokens, [(16, 16, 5), (10, 10, 1)])
    context.close()


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_a_cancellation_in_a_prompt_takes_effect_at_once(model: Model, which: int) -> None:
    """That of the request with the prompt, and that of another."""
    context = Context(model, replace(PARAMS, n_ctx=8192, n_batch=4096, n_ubatch=512), N_SEQ, 10**6)
    scheduler, trigger = Scheduler(context), Trigger(context)
    both = [start(context, [5], max_tokens=60, ignore_eos=True), start(context, [7] * 4000, max_tokens=1, index=1)]
    scheduler.add(both[0])
    scheduler.step()
    scheduler.add(both[1])
    trigger.left, trigger.target = 30, both[which].request.cancellation
    events = scheduler.step()
    n_afterwards = -trigger.left  # operations
    assert [(event.index, event.finish_reason) for event in events] == [(which, "timeout")]
    again = start(context, [7] * 4000, max_tokens=1, index=1)
    if which == 1:
        scheduler.add(again)
    trigger.left = 0
    scheduler.step()
    assert [again, both[1]][which == 0].timings.prompt_n == 4000
    assert 0 <= n_afterwards < -trigger.left // 10
    run(scheduler, {})
    assert both[1 - which].finish_reason == "length"
    context.close()


def test_a_shared_cancellation_ends_all_that_have_it(context: Context) -> None:
    scheduler, flag = Scheduler(context), Cancellation()
    both = [request(context, number, cancellation=flag) for number in (0, 1)]
    for one in both:
        scheduler.add(one)
    scheduler.step()
    flag.set("timeout")
    assert [event.finish_reason for event in scheduler.step()] == ["timeout"] * 2
    assert not scheduler.generations


def test_a_request_that_fails_ends_alone(context: Context, alone: list[str]) -> None:
    """A policy that raises in the third of five requests, and a constraint that no token meets in another."""
    source = PolicySource("failing", "a test", lambda: lambda step: 1 / (2 - step.index))
    nothing = tuple((token, -float("inf")) for token in range(context.model.vocab.n_tokens))
    failing = start(
        context, PROMPT, index=2, max_tokens=9, ignore_eos=True, temperature=PolicyCall("failing", source=source)
    )
    dead = start(context, [5], "root ::= [a-z]+", index=3, logit_bias=nothing)
    scheduler, texts = Scheduler(context), dict[int, str]()
    for one in (request(context, 0), request(context, 1), failing, dead, request(context, 4)):
        scheduler.add(one)
    run(scheduler, texts)
    assert [texts[number] for number in (0, 1, 4)] == [alone[number] for number in (0, 1, 4)]
    assert isinstance(failing.failure, PolicyError)
    assert isinstance(dead.failure, ConstraintError)
    assert (failing.finish_reason, dead.finish_reason) == ("error", "error")
    assert len(failing.tokens) == len(PROMPT) + 2


@pytest.mark.parametrize("at", ["prompt", "step", "removed token"])
def test_a_request_that_cannot_be_evaluated_ends_alone(
    context: Context, alone: list[str], monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    failing, decode = start(context, [11, 12], index=9, max_tokens=9, ignore_eos=True), context._decode

    def refuse(n: int, seq_ids: list[int]) -> None:
        is_its_turn = at == "prompt" or failing in scheduler._running
        if is_its_turn and failing.seq_id in seq_ids and (at != "prompt" or context._batch.tokens[0] in (11, 12)):
            raise LlmcliError("llama.cpp cannot evaluate the tokens")
        decode(n, seq_ids)

    scheduler, texts = Scheduler(context), dict[int, str]()
    for one in (request(context, 0), failing):
        scheduler.add(one)
    if at != "prompt":
        for _ in range(3):
            collect(scheduler.step(), texts)
    failing.needs_evaluation = at == "removed token"
    if at == "removed token":  # as after a banned string
        failing.tokens.pop()
    monkeypatch.setattr(context, "_decode", refuse)
    run(scheduler, texts)
    assert (texts[0], str(failing.failure)) == (alone[0], "llama.cpp cannot evaluate the tokens")
    monkeypatch.undo()


def test_a_prompt_without_room_is_refused_and_others_go_on(context: Context, alone: list[str]) -> None:
    scheduler, texts = Scheduler(context), dict[int, str]()
    scheduler.add(request(context, 0))
    scheduler.step()
    too_long = start(context, [5] * context.n_ctx)
    with pytest.raises(ContextOverflowError, match=f"the context has {context.n_ctx}"):
        scheduler.add(too_long)
    too_long.close()
    run(scheduler, texts)
    assert alone[0].endswith(texts[0])


def test_tokens_kept_for_later_make_room_for_a_running_request(model: Model) -> None:
    context = Context(model, replace(PARAMS, n_ctx=256), 2, 10**6)
    scheduler = Scheduler(context)
    for prompt, count in (([5] * 100, 40), ([7] * 100, 120)):
        last = start(context, prompt, max_tokens=count, ignore_eos=True)
        scheduler.add(last)
        run(scheduler, {})
    assert len(last.tokens) == 220
    assert context.evaluated(seq_id=0) == 0
    context.close()
