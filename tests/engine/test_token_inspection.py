"""The inspection of a token agrees with the trace of its draw."""

from dataclasses import replace
from typing import Any

import pytest

from llmcli.engine.events import Cancellation, Constraint, Prompt, Request, TemperatureShift, TokenInspection
from llmcli.engine.generation import Generation
from llmcli.engine.llama.context import Context
from llmcli.engine.scheduler import generate
from llmcli.engine.token_inspection import TokenInspector
from llmcli.params.policies.policy import Entropy, Fixed, parse_policy
from llmcli.params.sampler_chain import DEFAULT_ORDER
from llmcli.params.settings import Settings
from tests.engine.conftest import MakeContext
from tests.engine.drive import UNSTOPPED

PROMPT = "In it he found a map, a coin, a map, a coin, and"
COUNT = 12
INF = float("inf")
LIST = 'root ::= " " [a-z ]{12,40} "."'
STRAIGHT: dict[str, dict[str, Any]] = {
    "defaults": {},
    "greedy": {"temperature": Fixed(0.0)},
    "no temperature": {"samplers": ("top_k", "min_p")},
    "temperature 1": {"temperature": Fixed(1.0)},
    "entropy": {"temperature": Entropy(0.3, 1.3, 0.7)},
    "edt": {"temperature": parse_policy("edt:0.8,theta=0.1")},
    "by position": {"temperature": parse_policy("linear:1.5->0.2@8")},
    "by sentence": {"temperature": parse_policy("sentence:1.1,0.2")},
    "penalties": {"repeat_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.3},
    "dry": {"dry_multiplier": 0.8, "dry_allowed_length": 1, "dry_sequence_breakers": (".",)},
    "top_n_sigma": {"top_n_sigma": 1.0},
    "typical": {"typical_p": 0.6},
    "tfs_z": {"tfs_z": 0.9},
    "top_a and smoothing": {"top_a": 0.3, "smoothing_factor": 0.3, "smoothing_curve": 1.5},
    "another order": {"samplers": ("temperature", "min_p", "top_k"), "top_k": 12},
    "infill": {"samplers": ("top_k", "infill", "temperature"), "top_k": 12},
    "biases": {"logit_bias": ((260, -INF), (28, -INF), (3575, 4.0)), "ignore_eos": True},
}
AGAIN: dict[str, dict[str, Any]] = {
    "xtc": {"xtc_probability": 0.5, "xtc_threshold": 0.05},
    "mirostat 1": {"mirostat": 1, "mirostat_tau": 4.0},
    "mirostat 2": {"mirostat": 2},
    "adaptive_p": {"samplers": ("adaptive_p", *DEFAULT_ORDER), "adaptive_target": 0.3},
    "grammar": {"grammar": LIST, "logit_bias": ((3575, 4.0),)},
    "banned strings": {"banned_strings": ("coin", " map"), "temperature": Fixed(0.3)},
    "banned strings and grammar": {"banned_strings": ("coin", "e"), "grammar": LIST},
}


@pytest.fixture
def fresh(short_fresh: MakeContext) -> MakeContext:
    return short_fresh


def make_target(context: Context, generation: Generation) -> TokenInspector:
    """The target for an inspection of a finished generation."""
    drawn = [trace.id for trace in generation.traces if trace.id is not None]
    return TokenInspector(context, generation.request, drawn)


def inspected(target: TokenInspector, at: int, count: int) -> TokenInspection:
    found = target.inspect(at, count, *UNSTOPPED)
    assert found
    return found


def generate_answer(
    context: Context, text: str = PROMPT, shift: TemperatureShift | None = None, **values: Any
) -> Generation:
    """An answer with its traces and 5 alternatives for each token."""
    grammar = values.pop("grammar", None)
    settings = Settings(**{"seed": 7, "max_tokens": COUNT, **values})
    prompt = context.model.vocab.tokenize(text)
    constraint = Constraint("grammar", grammar) if grammar else None
    request = Request(Prompt.of_tokens("", prompt), settings, constraint, live_shift=shift, trace=5)
    generation = Generation(context.model.vocab, request)
    for _ in generate(context, [generation]):
        pass
    return generation


def assert_matches_trace(found: TokenInspection, generation: Generation) -> None:
    """Compare an inspection with the trace of the draw."""
    then, steps = generation.traces[found.at], found.stepwise
    by_id = {one.id: one for one in steps.candidates}
    assert found.drawn == then.id
    assert steps.after(by_id[found.drawn]) == pytest.approx(then.p, abs=1e-5)
    for one in then.top:
        assert by_id[one.id].before == pytest.approx(one.before, abs=1e-5)
        assert steps.after(by_id[one.id]) == pytest.approx(one.p, abs=1e-5)
        assert bool(steps.removed_by(by_id[one.id])) == (one.p == 0)
    assert [one.id for one in steps.candidates if one.rank <= 5] == [one.id for one in then.top]
    seen = found.trace
    assert (seen.temperature, seen.policy, seen.candidates) == (then.temperature, then.policy, then.candidates)
    assert seen.entropy == pytest.approx(then.entropy, abs=1e-5)
    left = [steps.after(one) for one in steps.candidates]
    if not steps.steps or steps.steps[-1].live <= 40:
        assert sum(left) == pytest.approx(1)


@pytest.mark.parametrize("name", STRAIGHT)
def test_an_inspection_agrees_with_the_trace(short_context: Context, name: str) -> None:
    generation = generate_answer(short_context, **STRAIGHT[name])
    target = make_target(short_context, generation)
    assert target.stateful_steps == []
    for at in (len(target.tokens) - 1, 2, 0):  # backwards: what was read is still as it was
        found = inspected(target, at, 40)
        assert found.exact
        assert_matches_trace(found, generation)


@pytest.mark.parametrize("name", AGAIN)
def test_a_stateful_step_generates_the_answer_again(context: Context, name: str) -> None:
    generation = generate_answer(context, **AGAIN[name])
    target = make_target(context, generation)
    assert target.stateful_steps
    for at in (len(target.tokens) - 1, 4, 0):
        found = inspected(target, at, 40)
        assert found.exact
        assert_matches_trace(found, generation)


def test_an_inspection_shows_only_steps_of_the_chain(context: Context) -> None:
    def names(**values: Any) -> list[str]:
        found = inspected(make_target(context, generate_answer(context, **values, max_tokens=2)), 1, 5)
        return [step.name for step in found.stepwise.steps]

    assert names() == ["top_k", "top_p", "min_p", "temperature"]
    assert names(temperature=Fixed(1.0)) == ["top_k", "top_p", "min_p"]
    assert names(samplers=("min_p",)) == ["min_p"]
    assert names(mirostat=2, temperature=Fixed(1.0)) == ["mirostat_v2"]
    assert names(ignore_eos=True, samplers=("temperature",)) == ["logit_bias", "temperature"]


def test_an_inspection_applies_the_shift_of_its_token(context: Context) -> None:
    moves = [(3, 0.5), (8, -0.3)]
    generation = generate_answer(context, shift=TemperatureShift(moves))
    target = make_target(context, generation)
    at_temperature = [inspected(target, at, 5).trace.temperature for at in (2, 3, 7, 8)]
    assert at_temperature == pytest.approx([0.8, 1.3, 1.3, 0.5])
    assert_matches_trace(inspected(target, 6, 40), generation)


def test_a_shifted_temperature_of_one_is_shown(context: Context) -> None:
    moves = [(0, 0.5)]
    generation = generate_answer(context, shift=TemperatureShift(moves), temperature=Fixed(1.0), max_tokens=2)
    found = inspected(make_target(context, generation), 1, 40)
    assert found.stepwise.steps[-1].name == "temperature"
    assert_matches_trace(found, generation)


def test_a_token_that_the_grammar_rejected_is_named(context: Context) -> None:
    generation = generate_answer(context, grammar='root ::= [x-z]+ "."', max_tokens=3)
    found = inspected(make_target(context, generation), 1, 5)
    assert found.stepwise.steps[0].name == "constraint"
    assert found.refused
    by_id = {one.id: one for one in found.stepwise.candidates}
    assert found.stepwise.removed_by(by_id[max(by_id, key=lambda token: by_id[token].before)]) == "constraint"


def test_an_accepted_token_shows_no_grammar_step(context: Context) -> None:
    generation = generate_answer(context, grammar="root ::= .*", max_tokens=3)
    found = inspected(make_target(context, generation), 1, 5)
    assert "constraint" not in [step.name for step in found.stepwise.steps]
    assert found.refused is None


def test_a_different_answer_resets_the_stateful_steps(context: Context) -> None:
    generation = generate_answer(context, **AGAIN["xtc"])
    target = make_target(context, generation)
    other = replace(target, tokens=[5, *target.tokens[1:]])  # which the seed does not give
    found = inspected(other, 3, 5)
    assert not found.exact
    assert found.drawn == target.tokens[3]
    assert found.trace.candidates


def test_the_progress_of_a_regeneration_is_counted(context: Context) -> None:
    generation = generate_answer(context, **AGAIN["mirostat 2"])
    reported: list[tuple[int, int]] = []
    make_target(context, generation).inspect(6, 5, Cancellation(), lambda *counts: reported.append(counts))
    assert reported == [(done, 6) for done in range(1, 7)]


@pytest.mark.parametrize("values", [{}, AGAIN["xtc"]], ids=["straight", "again"])
def test_an_abort_stops_an_inspection(fresh: MakeContext, values: dict[str, Any]) -> None:
    abort, context = Cancellation(), fresh()
    target = make_target(context, generate_answer(context, **values))
    abort.set()
    assert target.inspect(5, 5, abort, UNSTOPPED[1]) is None
    assert inspected(target, 5, 5).exact


LONG = "In it he found a map, a coin, a map, a coin, and " * 9  # another batch of so many tokens rounds otherwise


def logits(context: Context) -> list[float]:
    """The logits of the last token."""
    found: list[float] = context._api.llama_get_logits_ith(context.handle, -1)[: context.model.vocab.n_tokens]
    return found


def test_a_rewound_context_gives_identical_logits(fresh: MakeContext) -> None:
    context = fresh()
    prompt = context.model.vocab.tokenize(LONG)
    context.prefill(0, prompt)
    first = logits(context)
    context.step([(0, 253)])
    context.rewind(0, prompt)
    context.prefill(0, prompt)
    assert logits(context) == first
    context.prefill(0, prompt)  # the last token alone
    assert logits(context) != first


@pytest.mark.parametrize("values", [{}, AGAIN["xtc"]], ids=["straight", "again"])
def test_an_inspection_does_not_change_the_next_answer(fresh: MakeContext, values: dict[str, Any]) -> None:
    plain, looked_at = fresh(n_ctx=512), fresh(n_ctx=512)
    after = []
    for context in (plain, looked_at):
        generation = generate_answer(context, LONG, **values)
        if context is looked_at:
            for at in (4, 9, 0):
                assert_matches_trace(inspected(make_target(context, generation), at, 40), generation)
        context.prefill(0, [*generation.tokens, 28, 253])
        after.append((context.layout(), logits(context)))
    assert after[0] == after[1]
