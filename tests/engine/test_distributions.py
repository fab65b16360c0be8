"""Samplers that change logits, against values calculated by hand."""

import math
from typing import Any

import pytest

from llmcli.engine.llama.model import Model
from llmcli.params.policies.policy import Entropy, Fixed
from tests.engine.candidates import apply_chain, apply_samplers, log_probabilities, make_chain, make_steps

INF = math.inf
LOGITS = [2.0, 1.0, 0.0, -1.0]


def assert_logits(left: dict[int, float], expected: list[float]) -> None:
    assert left == pytest.approx(dict(enumerate(expected)), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("t", [0.5, 0.8, 2.0])
def test_a_fixed_temperature_divides_the_logits(t: float) -> None:
    assert_logits(apply_samplers(LOGITS, temperature=Fixed(t)).logits, [logit / t for logit in LOGITS])


@pytest.mark.parametrize("logits", [[1.0, 3.0, 2.0], [3.0, 3.0, 1.0], [-5.0, -7.0, -6.0]])
def test_temperature_zero_keeps_one_best_token(logits: list[float]) -> None:
    left = apply_samplers(logits, temperature=Fixed(0.0))
    assert [left.logits[token] for token in left.live] == [max(logits)]


def entropy_temperature(logits: list[float], low: float, high: float, exponent: float) -> float:
    """The formula of llama.cpp's temp_ext, in plain Python."""
    weights = [math.exp(logit) for logit in logits]
    p = [weight / sum(weights) for weight in weights]
    h = -sum(q * math.log(q) for q in p if q)
    return low + (high - low) * math.pow(h / math.log(len(logits)), exponent)


@pytest.mark.parametrize("logits", [LOGITS, [1.0, 1.0, 1.0], [9.0, 0.0, 0.0, 0.0], [0.5, 0.4]])
@pytest.mark.parametrize(("low", "high", "exponent"), [(0.3, 1.3, 1.0), (0.3, 1.3, 0.7), (0.5, 2.0, 3.0)])
def test_an_entropy_temperature_follows_the_entropy(
    logits: list[float], low: float, high: float, exponent: float
) -> None:
    t = entropy_temperature(logits, low, high, exponent)
    assert_logits(
        apply_samplers(logits, temperature=Entropy(low, high, exponent)).logits, [logit / t for logit in logits]
    )


def test_dynatemp_range_equals_an_entropy_policy() -> None:
    one = apply_samplers(LOGITS, temperature=Fixed(0.8), dynatemp_range=0.5, dynatemp_exponent=0.7)
    assert one.logits == apply_samplers(LOGITS, temperature=Entropy(0.3, 1.3, 0.7)).logits


@pytest.mark.parametrize(("logits", "at"), [([1.0, 1.0, 1.0, 1.0], 1.3), ([60.0, 0.0, 0.0, 0.0], 0.3)])
def test_an_entropy_temperature_reaches_its_bounds(logits: list[float], at: float) -> None:
    assert_logits(apply_samplers(logits, temperature=Entropy(0.3, 1.3)).logits, [logit / at for logit in logits])


@pytest.mark.parametrize("factor", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("curve", [1.0, 1.5, 3.0, 5.0])
def test_smoothing_transforms_logits_by_its_formula(factor: float, curve: float) -> None:
    k, c, best = (3 - curve) / 2, (curve - 1) / 2, max(LOGITS)
    expected = [-k * factor * (x - best) ** 2 + c * factor * (x - best) ** 3 + best for x in LOGITS]
    assert_logits(apply_samplers(LOGITS, smoothing_factor=factor, smoothing_curve=curve).logits, expected)


def test_smoothing_keeps_masked_tokens_masked() -> None:
    left = apply_samplers([1.0, -INF, 0.0], smoothing_factor=0.5)
    assert left.logits == {0: 1.0, 1: -INF, 2: 0.5}


def test_smoothing_with_a_huge_factor_keeps_the_best_token() -> None:
    left = apply_samplers([50.0, -50.0, 49.0], smoothing_factor=3e38, smoothing_curve=2.0)
    assert left.logits == {0: 50.0, 1: -INF, 2: pytest.approx(-3e38)}


def test_a_curve_that_reverses_the_order_keeps_the_best_token() -> None:
    # Above a curve of 3 a second-best token can overtake: l' = h + 0.5 d^2 (2 d + 1), d = -0.25.
    left = apply_samplers([1.0, 0.75], samplers=("top_k", "smoothing", "min_p"), top_k=2, smoothing_factor=0.5)
    assert left.logits[0] > left.logits[1]
    turned = apply_samplers(
        [1.0, 0.75],
        samplers=("top_k", "smoothing", "min_p"),
        top_k=2,
        min_p=1.0,
        smoothing_factor=0.5,
        smoothing_curve=5.0,
    )
    assert turned.ids == [1]


def test_repeat_penalty_divides_or_multiplies_by_the_sign() -> None:
    left = apply_samplers(LOGITS, accepted=[0, 3, 0], repeat_penalty=2.0)
    assert_logits(left.logits, [1.0, 1.0, 0.0, -2.0])


def test_frequency_penalty_counts_and_presence_penalty_does_not() -> None:
    assert_logits(apply_samplers(LOGITS, accepted=[0, 0, 1], frequency_penalty=0.5).logits, [1.0, 0.5, 0.0, -1.0])
    assert_logits(apply_samplers(LOGITS, accepted=[0, 0, 1], presence_penalty=0.5).logits, [1.5, 0.5, 0.0, -1.0])


def test_the_three_penalties_apply_in_llama_cpp_order() -> None:
    left = apply_samplers(LOGITS, accepted=[0, 0], repeat_penalty=2.0, frequency_penalty=0.25, presence_penalty=0.1)
    assert_logits(left.logits, [2.0 / 2 - 2 * 0.25 - 0.1, 1.0, 0.0, -1.0])


@pytest.mark.parametrize(("window", "penalized"), [(1, {3}), (2, {2, 3}), (64, {0, 1, 2, 3})])
def test_penalties_consider_only_the_last_n_tokens(window: int, penalized: set[int]) -> None:
    left = apply_samplers(LOGITS, accepted=[0, 1, 2, 3], presence_penalty=9.0, repeat_last_n=window)
    assert {token for token, logit in left.logits.items() if logit != LOGITS[token]} == penalized


def test_a_logit_bias_is_added_and_minus_infinity_bans() -> None:
    assert apply_samplers(LOGITS, biases=[(1, 1.5), (2, -INF), (3, -0.5)]).logits == {0: 2.0, 1: 2.5, 2: -INF, 3: -1.5}


DRY: dict[str, Any] = {"dry_multiplier": 0.5, "dry_base": 2.0, "dry_allowed_length": 2, "dry_sequence_breakers": ()}


# After 5 6 7 8 | 5 6 7 the next 8 would make the repeat longer than 3: 0.5 * 2^(3 - 2).
@pytest.mark.parametrize(
    ("accepted", "values", "penalty"),
    [
        ([5, 6, 7, 8, 5, 6, 7], {}, {8: 1.0}),
        ([5, 6, 7, 8, 5, 6, 7], {"dry_base": 3.0}, {8: 1.5}),
        ([5, 6, 7, 8, 5, 6, 7], {"dry_allowed_length": 3}, {8: 0.5}),
        ([5, 6, 7, 8, 5, 6, 7], {"dry_allowed_length": 4}, {}),
        ([5, 6, 7, 8, 5, 6, 7], {"dry_penalty_last_n": 5}, {}),
        ([7, 8, 1, 7], {}, {}),
        ([4, 6, 7, 8, 5, 6, 7], {}, {8: 0.5}),
    ],
)
def test_dry_penalizes_the_extension_of_a_repetition(
    model: Model, accepted: list[int], values: dict[str, Any], penalty: dict[int, float]
) -> None:
    chain = make_chain(make_steps(**DRY | values), 10, vocab=model.vocab)
    chain.accept(accepted)
    left = apply_chain(chain, [3.0] * 10)
    chain.close()
    assert {token: 3.0 - logit for token, logit in left.logits.items() if logit != 3.0} == pytest.approx(penalty)


def test_dry_stops_at_a_sequence_breaker(model: Model) -> None:
    words = [model.vocab.tokenize(text)[0] for text in ("a", "b", ":", "c")]
    a, b, colon, c = words
    history = [a, b, colon, c, a, b, colon]
    size = max(words) + 1

    def penalized(breakers: tuple[str, ...]) -> set[int]:
        chain = make_chain(make_steps(**DRY | {"dry_sequence_breakers": breakers}), size, vocab=model.vocab)
        chain.accept(history)
        left = apply_chain(chain, [3.0] * size)
        chain.close()
        return {token for token, logit in left.logits.items() if logit != 3.0}

    assert penalized(()) == {c}
    assert penalized((":",)) == set()


def test_adaptive_p_favors_probabilities_near_its_target() -> None:
    p = [0.5, 0.3, 0.15, 0.05]
    left = apply_samplers(log_probabilities(p), samplers=("adaptive_p",), adaptive_target=0.3)
    d = [abs(q - 0.3) / 0.3 for q in p]
    assert_logits(left.logits, [5 - 10 * x * x / (1 + x) for x in d])
    assert max(left.p, key=left.p.__getitem__) == 1
