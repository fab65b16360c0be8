"""The effect of each step of a chain, against shorter chains and against arithmetic."""

import math
import struct
from types import SimpleNamespace
from typing import Any

import pytest

from llmcli.engine.events import Candidate, ChainTrace
from llmcli.engine.llama.model import Vocab
from llmcli.engine.token_inspection import CandidateCapture, CandidateSnapshot, trace_chain
from llmcli.params.policies.policy import Entropy, Fixed
from llmcli.params.sampler_chain import SamplerStep
from tests.engine.candidates import apply_chain, capture_steps, log_probabilities, make_chain, make_steps

INF = math.inf
P = [0.4, 0.25, 0.15, 0.1, 0.06, 0.04]
BREAKERS: dict[str, Any] = {"dry_sequence_breakers": ()}
CHAINS: dict[str, dict[str, Any]] = {
    "truncation": {"top_k": 5, "top_p": 0.85, "min_p": 0.3, "temperature": Fixed(0.8)},
    "typical": {"typical_p": 0.7, "temperature": Entropy(0.3, 1.3)},
    "top_n_sigma masks": {"top_n_sigma": 1.0, "typical_p": 0.9, "temperature": Fixed(1.5)},
    "top_a and smoothing": {"top_a": 0.5, "smoothing_factor": 0.4, "smoothing_curve": 1.5},
    "penalties": {"repeat_penalty": 1.4, "presence_penalty": 0.3, "frequency_penalty": 0.2, "top_k": 4},
    "xtc": {"xtc_probability": 1.0, "xtc_threshold": 0.12, "top_k": 5},
    "min_keep": {"min_keep": 3, "top_p": 0.1, "min_p": 0.9},
    "greedy": {"top_p": 0.7, "temperature": Fixed(0.0)},
    "temperature first": {"samplers": ("temperature", "top_p", "top_k"), "temperature": Fixed(2.0), "top_p": 0.8},
    "mirostat 1": {"mirostat": 1, "mirostat_tau": 1.0, "temperature": Fixed(0.7)},
    "mirostat 2": {"mirostat": 2, "mirostat_tau": 1.0, "temperature": Fixed(0.7)},
    "adaptive_p": {"samplers": ("top_k", "adaptive_p"), "top_k": 4, "adaptive_target": 0.2},
    "dry": {"dry_multiplier": 0.8, "dry_allowed_length": 1, **BREAKERS, "top_p": 0.9},
}
HISTORY = [0, 1, 2, 0, 1]


def trace_snapshots(capture: CandidateCapture, count: int = 9, besides: int | None = None) -> ChainTrace:
    return trace_chain(capture.snapshots, str, count, besides)


def expected_steps(
    made: tuple[SamplerStep, ...], logits: list[float], biases: list[tuple[int, float]], vocab: Any
) -> dict[int, float]:
    """The probabilities after a chain of these steps."""
    if not made and not biases:
        live = dict(enumerate(logits))
    else:
        only_size: Any = SimpleNamespace(n_tokens=len(logits), pointer=vocab.pointer)
        chain = make_chain(made, len(logits), biases, only_size)
        chain.accept(HISTORY)
        left = apply_chain(chain, logits)
        chain.close()
        live = {token: left.logits[token] for token in left.live}
    total = sum(math.exp(logit) for logit in live.values())
    return {token: math.exp(logit) / total for token, logit in live.items()}


@pytest.mark.parametrize("biases", [[], [(1, 0.7), (3, -INF)]], ids=["free", "biased"])
@pytest.mark.parametrize("name", CHAINS)
def test_each_step_equals_a_chain_that_ends_there(name: str, biases: list[tuple[int, float]], vocab: Vocab) -> None:
    made, logits = make_steps(draw=True, **CHAINS[name]), log_probabilities(P)
    found = trace_snapshots(capture_steps(made, logits, biases, HISTORY, vocab))
    names = ["logit_bias"] * bool(biases) + [step.name for step in made]
    assert [step.name for step in found.steps] == names
    before, model = expected_steps((), logits, [], vocab), expected_steps((), logits, [], vocab)
    for at, step in enumerate(found.steps):
        now = expected_steps(made[: at + 1 - bool(biases)], logits, biases, vocab)
        column = {one.id: one.p[at] for one in found.candidates if len(one.p) > at}
        assert column == pytest.approx(now, abs=1e-6)
        gone = [model[token] for token in before.keys() - now.keys()]
        both = before.keys() | now.keys()
        moved = sum(abs(now.get(token, 0) - before.get(token, 0)) for token in both) / 2
        assert (step.live, step.removed, step.moved) == pytest.approx((len(now), sum(gone), moved), abs=1e-6)
        before = now


def test_the_steps_of_a_usual_chain_agree_with_arithmetic() -> None:
    made = make_steps(draw=True, top_k=4, top_p=0.85, temperature=Fixed(0.5))
    found = trace_snapshots(capture_steps(made, log_probabilities(P)))
    squares = 0.4**2 + 0.25**2 + 0.15**2
    courses = {
        0: (0.4 / 0.9, 0.5, 0.4**2 / squares, 0.4**2 / squares),
        1: (0.25 / 0.9, 0.25 / 0.8, 0.25**2 / squares, 0.25**2 / squares),
        2: (0.15 / 0.9, 0.15 / 0.8, 0.15**2 / squares, 0.15**2 / squares),
        3: (0.1 / 0.9,),
        4: (),
        5: (),
    }
    assert {one.id: one.p for one in found.candidates} == {
        token: pytest.approx(course, abs=1e-6) for token, course in courses.items()
    }
    assert [one.before for one in found.candidates] == pytest.approx(P)
    assert [found.removed_by(one) for one in found.candidates] == ["", "", "", "top_p", "top_k", "top_k"]
    assert found.after(found.candidates[0]) == pytest.approx(0.16 / squares)
    assert found.after(found.candidates[3]) == 0
    assert [step.removed for step in found.steps] == pytest.approx([0.1, 0.1, 0, 0])


def test_ranks_are_those_before_the_chain() -> None:
    found = trace_snapshots(
        capture_steps(make_steps(samplers=("xtc",), xtc_probability=1.0), log_probabilities([0.1, 0.6, 0.3]))
    )
    assert [(one.id, one.rank) for one in found.candidates] == [(1, 1), (2, 2), (0, 3)]


def test_the_most_likely_and_the_requested_tokens_are_listed() -> None:
    capture = capture_steps(
        make_steps(xtc_probability=1.0, xtc_threshold=0.08), log_probabilities(P)
    )  # which leaves 3, 4 and 5
    assert [one.id for one in trace_snapshots(capture, 1).candidates] == [0, 3]
    assert [one.id for one in trace_snapshots(capture, 2, besides=5).candidates] == [0, 1, 3, 4, 5]


def test_the_most_likely_removed_token_of_each_step_is_listed() -> None:
    found = trace_snapshots(capture_steps(make_steps(top_k=4, top_p=0.85), log_probabilities(P)), 1)
    assert [(one.id, found.removed_by(one)) for one in found.candidates] == [(0, ""), (3, "top_p"), (4, "top_k")]


def test_a_chain_without_steps_has_only_the_model() -> None:
    found = trace_snapshots(capture_steps((), log_probabilities(P)))
    assert found.steps == ()
    assert found.candidates[0] == Candidate(0, "0", 1, pytest.approx(0.4), ())  # type: ignore[arg-type]
    assert found.removed_by(found.candidates[0]) == ""
    assert found.after(found.candidates[0]) == pytest.approx(0.4)


def test_a_removed_token_that_a_step_adds_is_not_removed() -> None:
    """infill replaces the candidates by the end token if no other one is left."""
    steps = {"": {0: 0.0, 1: 0.0, 2: 0.0}, "top_k": {0: 0.0, 1: 0.0}, "infill": {2: 1.0}}
    rows = [b"".join(struct.pack("<iff", token, logit, 0) for token, logit in left.items()) for left in steps.values()]
    trace = trace_chain([*map(CandidateSnapshot, steps, rows)], str, 3)
    end = next(candidate for candidate in trace.candidates if candidate.id == 2)
    assert (end.p, trace.after(end), trace.removed_by(end)) == ((0.0, 1.0), 1.0, "")
    assert [trace.removed_by(candidate) for candidate in trace.candidates] == ["infill", "infill", ""]
