"""Temperature policies in answers of the starter: the same tokens as llama.cpp, in every chain.

Ways to draw that must agree share the logits of one sequence, so that each answer is evaluated only once, and several
answers share a context.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest

from llmcli.engine.events import Constraint, FinishReason, Prompt, Request, TemperatureShift
from llmcli.engine.generation import Generation
from llmcli.engine.llama import bindings
from llmcli.engine.llama.context import Context
from llmcli.engine.llama.model import Model
from llmcli.engine.scheduler import generate
from llmcli.errors import PolicyError
from llmcli.params.policies.policy import PolicyCall, parse_policy
from llmcli.params.policies.rules import Policy
from llmcli.params.policies.user_functions import PolicySource
from llmcli.params.sampler_chain import DEFAULT_ORDER
from llmcli.params.settings import Settings
from tests.engine.conftest import MakeContext
from tests.engine.drive import run

PROMPT = "A map, a coin, a map, a"
STORY = "Once upon a time there was a"
LIST = 'root ::= " " [a-z ]{12,60} "."'
OTHERS = tuple(name for name in DEFAULT_ORDER if name != "temperature")


@pytest.fixture
def fresh(short_fresh: MakeContext) -> MakeContext:
    return short_fresh


class Draws(Protocol):
    """An object that draws tokens from logits: a generation, or a chain built by hand."""

    tokens: list[int]
    finish_reason: FinishReason | None

    def advance(self, ctx: Any, row: int, n_ctx: int) -> Any: ...

    def close(self) -> None: ...


@dataclass
class LlamaChain:
    """A chain of llama.cpp's samplers, each ("name", *arguments of llama_sampler_init_name)."""

    model: Model
    prompt: list[int]
    calls: Sequence[tuple[Any, ...]]
    tokens: list[int] = field(init=False)
    finish_reason: FinishReason | None = None

    def __post_init__(self) -> None:
        api = self._api = bindings.load()
        self.tokens = list(self.prompt)
        self._chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        for name, *args in self.calls:
            api.llama_sampler_chain_add(self._chain, getattr(api, "llama_sampler_init_" + name)(*args))
        for token in self.prompt:
            api.llama_sampler_accept(self._chain, token)

    def advance(self, ctx: Any, row: int, _n_ctx: int) -> None:
        token = self._api.llama_sampler_sample(self._chain, ctx, row)
        if self.model.vocab.ends(token):
            self.finish_reason = "stop"
        else:
            self.tokens.append(token)

    def close(self) -> None:
        self._api.llama_sampler_free(self._chain)


def draw_in_parallel(context: Context, answers: Sequence[Sequence[Draws]], count: int) -> list[list[int]]:
    """Draw up to `count` tokens of each answer in all its ways and check that they agree; returns the tokens."""
    active = list(enumerate(answers))
    start = [len(ways[0].tokens) for ways in answers]
    for seq_id, ways in active:
        context.prefill(seq_id, ways[0].tokens)
        _advance(context, ways, -1)
    for _ in range(count - 1):
        active = [(seq_id, ways) for seq_id, ways in active if not ways[0].finish_reason]
        context.step([(seq_id, ways[0].tokens[-1]) for seq_id, ways in active])
        for row, (_, ways) in enumerate(active):
            _advance(context, ways, row)
    for ways in answers:
        for way in ways:
            way.close()
    return [ways[0].tokens[begin:] for ways, begin in zip(answers, start, strict=True)]


def _advance(context: Context, ways: Sequence[Draws], row: int) -> None:
    for way in ways:
        way.advance(context.handle, row, context.n_ctx)
    for way in ways[1:]:
        assert (way.tokens, way.finish_reason) == (ways[0].tokens, ways[0].finish_reason), way


def make_generation(context: Context, temperature: str | Policy, trace: int | None = None, **values: Any) -> Generation:
    """A generation with this temperature."""
    vocab = context.model.vocab
    values = {"seed": 3, "max_tokens": 60} | values
    grammar, shift = values.pop("grammar", None), values.pop("shift", None)
    tokens = vocab.tokenize(values.pop("prompt", PROMPT))
    policy = parse_policy(temperature) if isinstance(temperature, str) else temperature
    settings = Settings(**values, temperature=policy)
    constraint = Constraint("grammar", grammar) if grammar else None
    request = Request(Prompt.of_tokens("", tokens), settings, constraint, live_shift=shift, trace=trace)
    return Generation(vocab, request)


def draws_of_a_range(context: Context, seed: int) -> list[Draws]:
    """All ways to draw with 0.3..1.3; the last one is llama.cpp alone."""
    values: dict[str, Any] = {"seed": seed, "prompt": "It was"}
    cut = [("top_k", 40), ("top_p", 0.95, 0), ("min_p", 0.05, 0)]
    model = context.model
    return [
        make_generation(context, "0.3..1.3", **values),
        make_generation(context, "0.3..1.3", **values, trace=0),  # through the step that reads
        make_generation(context, "0.3..1.3", **values, shift=TemperatureShift()),  # and through that which may be moved
        make_generation(context, "0.8", **values, dynatemp_range=0.5),
        make_generation(context, "0.8", **values, dynatemp_range=0.5, trace=0),
        LlamaChain(model, model.vocab.tokenize("It was"), [*cut, ("temp_ext", 0.8, 0.5, 1.0), ("dist", seed)]),
    ]


def test_a_range_gives_the_tokens_of_temp_ext(fresh: MakeContext) -> None:
    seeds, count = range(20), 24
    context = fresh(n_ctx=20 * 64, n_seq_max=20)
    ways = [draws_of_a_range(context, seed) for seed in seeds]
    drawn = draw_in_parallel(context, ways, count)
    assert sum(map(len, drawn)) > 0.8 * count * len(seeds)
    assert len({tuple(tokens) for tokens in drawn}) >= 18
    for way in ways:
        traced = way[1]
        assert isinstance(traced, Generation)
        for trace in traced.traces:
            share = trace.entropy / math.log(trace.candidates) if trace.candidates > 1 else 0  # type: ignore[operator, arg-type]
            assert trace.temperature == pytest.approx(0.3 + share)


# The same temperature as a number (which llama.cpp applies) and as a policy (which we do).
ALIKE: dict[str, dict[str, Any]] = {
    "defaults": {},
    "temperature first": {"samplers": ("temperature", *OTHERS)},
    "temperature last": {"samplers": (*OTHERS, "temperature")},
    "temperature in the middle": {"samplers": ("top_k", "min_p", "temperature", "top_p"), "top_p": 0.8},
    "temperature alone": {"samplers": ("temperature",)},
    "no temperature": {"samplers": ("top_k", "top_p")},
    "min_keep": {"min_keep": 8, "top_p": 0.2, "min_p": 0.5, "samplers": ("temperature", "top_p", "min_p")},
    "grammar": {"grammar": LIST},
    "grammar with xtc": {"grammar": LIST, "xtc_probability": 0.5},
    "adaptive_p": {"samplers": (*DEFAULT_ORDER, "adaptive_p"), "adaptive_target": 0.3},
    "everything": {"repeat_penalty": 1.2, "dry_multiplier": 0.8, "top_n_sigma": 2.0, "typical_p": 0.9, "top_a": 0.1}
    | {"smoothing_factor": 0.2, "xtc_probability": 0.2, "logit_bias": ((260, -math.inf), (3575, 2.0))},
    "greedy": {},
}


def test_a_constant_policy_gives_the_tokens_of_a_number(fresh: MakeContext) -> None:
    context = fresh(n_ctx=len(ALIKE) * 64, n_seq_max=len(ALIKE))
    ways = []
    for name, values in ALIKE.items():
        t = "0" if name == "greedy" else "0.8"
        policies = [f"linear:{t}->{t}@10", f"sentence:{t},{t}", f"sentence:({t}..{t}),{t}"]
        one = [make_generation(context, t, **values), make_generation(context, t, trace=0, **values)]
        ways.append([*one, *(make_generation(context, text, **values) for text in policies)])
        ways[-1].append(make_generation(context, policies[0], trace=2, shift=TemperatureShift(), **values))
    drawn = draw_in_parallel(context, ways, 16)
    assert sum(map(len, drawn)) > 0.8 * 16 * len(drawn)
    assert len({tuple(tokens) for tokens in drawn}) > 0.6 * len(drawn)


def test_a_trace_does_not_change_mirostat(fresh: MakeContext) -> None:
    context = fresh(n_ctx=4 * 64, n_seq_max=4)
    cases = [(mirostat, t) for mirostat in (1, 2) for t in ("0.8", "1")]
    ways = [
        [
            make_generation(context, t, mirostat=mirostat, **seen)
            for seen in ({}, {"trace": 0}, {"shift": TemperatureShift()})
        ]
        for mirostat, t in cases
    ]
    draw_in_parallel(context, ways, 12)
    for (_, t), way in zip(cases, ways, strict=True):
        assert {trace.temperature for trace in way[1].traces} == {float(t)}


def test_schedules_and_sentences_change_the_temperature(context: Context) -> None:
    generation = make_generation(context, "linear:1->0@8", trace=0, max_tokens=12)
    list(generate(context, [generation]))
    assert [trace.temperature for trace in generation.traces] == pytest.approx(
        [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0, 0, 0, 0]
    )
    assert {trace.p for trace in generation.traces[8:]} == {1.0}
    generation = make_generation(context, "sentence:0,0.3..1.3,0.5", trace=0, prompt=STORY, max_tokens=60)
    list(generate(context, [generation]))
    parts = {(min(trace.sentence, 2), trace.policy) for trace in generation.traces}
    assert parts == {(0, "0"), (1, "0.3..1.3"), (2, "0.5")}


def test_the_second_draw_of_a_grammar_has_the_same_temperature(context: Context) -> None:
    generation = make_generation(context, "linear:2->1@20", trace=0, grammar=LIST, max_tokens=10)
    list(generate(context, [generation]))
    assert len(generation.traces) > 4
    assert [trace.temperature for trace in generation.traces] == pytest.approx(
        [2 - i / 20 for i in range(len(generation.traces))]
    )


def test_a_banned_string_resets_the_policy(context: Context) -> None:
    """Only the forbidden tokens are kept after a removal: a number and a policy draw the same tokens."""
    values: dict[str, Any] = {"prompt": STORY, "max_tokens": 40, "banned_strings": (" girl", ". ", "named", "\n")}
    ways = [make_generation(context, text, **values) for text in ("0.8", "sentence:0.8,0.8")]
    traced = make_generation(context, "linear:0.8->0.4@40,clamp=0.8..1", trace=0, **values)
    for generation in (*ways, traced):
        list(generate(context, [generation]))
    assert ways[0].tokens == ways[1].tokens == traced.tokens
    assert [trace.id for trace in traced.traces] == traced.tokens[len(traced.request.prompt.tokens) :]
    assert traced.state
    assert traced.state.index == traced.state.total == len(traced.traces)


def policy_of(function: Callable[..., Any]) -> PolicyCall:
    """A function of a user as a policy."""
    return PolicyCall("mine", source=PolicySource("mine", "mine.py", lambda: function))


@pytest.mark.parametrize(
    "values", [{}, {"grammar": LIST}, {"banned_strings": ("zebra",)}], ids=["plain", "grammar", "ban"]
)
@pytest.mark.parametrize("bad", [math.nan, None])
def test_a_failing_policy_ends_only_its_answer(short_context: Context, values: dict[str, Any], bad: Any) -> None:
    def mine(step: Any) -> Any:
        return 0.8 if step.index < 3 else bad if bad else 1 / 0

    before = run(short_context, PROMPT, values.get("grammar"), max_tokens=8)
    generation = make_generation(short_context, policy_of(mine), **values)
    list(generate(short_context, [generation]))
    assert isinstance(generation.failure, PolicyError)
    assert re.match(r"the temperature policy 'mine' (returned nan for|failed at) token 3", str(generation.failure))
    assert "division by zero" in str(generation.failure) or bad
    assert len(generation.tokens) == len(generation.request.prompt.tokens) + 3
    after = run(short_context, PROMPT, values.get("grammar"), max_tokens=8)
    assert (after.ids, after.text) == (before.ids, before.text)


def test_the_failure_of_one_of_two_answers_ends_one(fresh: MakeContext) -> None:
    context = fresh(n_ctx=256, n_seq_max=2)
    generations = [make_generation(context, "0.8"), make_generation(context, policy_of(lambda step: -step.index))]
    list(generate(context, generations))
    assert [one.finish_reason for one in generations] == ["length", "error"]
    assert "returned -1 for token 1" in str(generations[1].failure)
    assert run(context, PROMPT, max_tokens=3).reason == "length"


@pytest.mark.parametrize("temperature", ["0.8", "0.3..1.3", "linear:1.2->0.5@20"])
@pytest.mark.parametrize("banned", [(), (" coin", ". ", "the")], ids=["", "with bans"])
def test_replayed_shifts_give_the_same_tokens(context: Context, temperature: str, banned: tuple[str, ...]) -> None:
    turns = {3: 0.7, 7: -1.0, 8: 0.2, 12: 0.4}
    values: dict[str, Any] = {"banned_strings": banned, "max_tokens": 16}
    shift = TemperatureShift()
    played = make_generation(context, temperature, shift=shift, trace=0, **values)
    for count, _ in enumerate(generate(context, [played]), 1):
        if count in turns:
            shift.add(turns[count])
    if not banned:
        assert shift.moves == [(3, 0.7), (7, -0.3), (8, -0.1), (12, 0.3)]
    again = make_generation(context, temperature, shift=TemperatureShift(shift.moves), trace=0, **values)
    list(generate(context, [again]))
    assert again.tokens == played.tokens
    assert again.request.live_shift
    assert again.request.live_shift.moves == shift.moves
    assert [trace.temperature for trace in again.traces] == [trace.temperature for trace in played.traces]


def test_only_a_shift_that_is_not_zero_changes_the_answer(context: Context) -> None:
    cold = TemperatureShift([(0, -0.8)])
    still, moved = (make_generation(context, "0.8", shift=shift, max_tokens=10) for shift in (TemperatureShift(), cold))
    for generation in (still, moved):
        list(generate(context, [generation]))
    assert still.tokens[-10:] == run(context, PROMPT, seed=3, max_tokens=10).ids
    assert moved.tokens[-10:] == run(context, PROMPT, seed=3, max_tokens=10, temperature=parse_policy("0")).ids
