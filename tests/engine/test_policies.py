"""Temperature policies on given candidates: what they apply, what is recorded, and their errors."""

import math
import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llmcli.engine.draw_state import DrawState
from llmcli.engine.events import TemperatureShift
from llmcli.engine.reasoning import ReasoningSplitter
from llmcli.engine.sampling.chain import ChainHooks, TokenSampler
from llmcli.engine.sampling.python_samplers import DrawTracer, TemperatureReading
from llmcli.errors import PolicyError
from llmcli.params.param import LARGEST_FLOAT
from llmcli.params.policies.policy import Entropy, Fixed, PolicyCall, parse_policy
from llmcli.params.policies.rules import Policy
from llmcli.params.policies.user_functions import PolicySource
from llmcli.params.sampler_chain import build_chain
from llmcli.params.settings import Settings
from tests.engine.candidates import NEUTRAL, ChainOutput, apply_chain, apply_samplers

INF = math.inf
FEW, MANY = [1.0, 0.5], [(7 * i % 40) / 4 for i in range(40)]
WHOLE = [random.Random(i).gauss(0, 3) for i in range(1500)]  # above 512 numpy reads them
SETS = {
    "two": FEW,
    "forty": MANY,
    "a vocabulary": WHOLE,
    "two of them masked": [1.0, -INF, 0.5, -INF],
    "half of a vocabulary masked": [x if i % 2 else -INF for i, x in enumerate(WHOLE)],
    "all but one masked": [-INF, 2.0, -INF],
}


def policy_of(function: Callable[..., Any]) -> PolicyCall:
    """A function of a user as a policy."""
    return PolicyCall("mine", source=PolicySource("mine", "mine.py", lambda: function))


def apply_with_reading(
    logits: Sequence[float],
    policy: Policy,
    state: DrawState | None = None,
    shift: TemperatureShift | None = None,
    **settings: Any,
) -> tuple[ChainOutput, TemperatureReading]:
    """The output of a chain with a draw, and the reading of its temperature step."""
    steps = build_chain(Settings(**NEUTRAL | {"temperature": policy} | settings), needs_temperature=True)
    only_size: Any = SimpleNamespace(n_tokens=len(logits), pointer=None)
    chain = TokenSampler(only_size, steps, hooks=ChainHooks(state or DrawState(), shift, DrawTracer()))
    try:
        left = apply_chain(chain, logits)
        assert chain.temperature
        assert chain.temperature.reading
        return left, chain.temperature.reading
    finally:
        chain.close()


def entropy_of(logits: Sequence[float]) -> tuple[float, list[float]]:
    """-sum(p ln p) over the live candidates, and their probabilities, the most likely first."""
    largest = max(logits)
    weights = sorted((math.exp(x - largest) for x in logits if x > -INF), reverse=True)
    whole = math.fsum(weights)
    p = [weight / whole for weight in weights]
    return -math.fsum(q * math.log(q) for q in p), p


@pytest.mark.parametrize("logits", SETS.values(), ids=SETS)
@pytest.mark.parametrize("t", [0.0, 0.3, 0.8, 1.0, 2.5])
def test_a_policy_divides_logits_like_llama_cpp(logits: list[float], t: float) -> None:
    applied = apply_samplers(logits, temperature=parse_policy(f"linear:{t}->{t}@1"))
    assert applied.logits == apply_samplers(logits, temperature=Fixed(t)).logits
    assert len(applied.live) == (1 if t == 0 else sum(x > -INF for x in logits))


@pytest.mark.parametrize("logits", SETS.values(), ids=SETS)
def test_a_step_describes_the_live_candidates(logits: list[float]) -> None:
    seen: list[Any] = []

    def mine(step: Any) -> float:
        seen.append((step.candidates, step.entropy, list(step.p)))
        return 1.0

    apply_samplers(logits, temperature=policy_of(mine))
    entropy, p = entropy_of(logits)
    assert seen[0][0] == len(p)
    assert seen[0][1] == pytest.approx(entropy, rel=1e-5, abs=1e-6)
    assert seen[0][2] == pytest.approx(p, rel=1e-4)


@pytest.mark.parametrize("logits", SETS.values(), ids=SETS)
@pytest.mark.parametrize("text", ["edt:0.8,theta=0.5", "sentence:0.3..1.3^0.7,0", "0.3..1.3^0.7", "0.7"])
def test_the_reading_agrees_with_arithmetic(logits: list[float], text: str) -> None:
    left, reading = apply_with_reading(logits, parse_policy(text))
    entropy, p = entropy_of(logits)
    counted = len(logits) if text.startswith("0.3") else len(p)  # llama.cpp counts masked candidates too
    share = (entropy / math.log(counted)) ** 0.7 if counted > 1 else 0.0
    edt = 0.8 * math.exp(math.log(0.8) * 0.5 / entropy) if entropy else 0.0
    expected = {"e": edt, "s": 0.3 + share, "0": 0.3 + share if ".." in text else 0.7}[text[0]]
    assert reading.candidates == len(p)
    assert reading.entropy == pytest.approx(entropy, rel=1e-5, abs=1e-6)
    assert reading.temperature == pytest.approx(expected, rel=1e-4)
    assert reading.policy == text.removeprefix("sentence:").removesuffix(",0")
    if reading.temperature:
        applied = [x / reading.temperature for x in logits]
        assert left.logits == pytest.approx({i: applied[i] for i in left.logits}, rel=1e-4)


@pytest.mark.parametrize("logits", [MANY, WHOLE], ids=["forty", "a vocabulary"])
@pytest.mark.parametrize("t", [0.3, 1.7])
def test_the_entropy_is_that_before_the_temperature(logits: list[float], t: float) -> None:
    _, reading = apply_with_reading(logits, parse_policy(f"linear:{t}->{t}@1"))
    assert reading.entropy == pytest.approx(entropy_of(logits)[0], rel=1e-5)


def test_only_samplers_before_the_temperature_change_the_entropy() -> None:
    order = ("top_k", "temperature", "min_p")
    _, reading = apply_with_reading(MANY, Fixed(1.0), samplers=order, top_k=4, min_p=0.9)
    assert reading.candidates == 4
    assert reading.entropy == pytest.approx(entropy_of(sorted(MANY)[-4:])[0], rel=1e-5)
    _, reading = apply_with_reading(MANY, Fixed(1.0), samplers=tuple(reversed(order)), top_k=4, min_p=0.9)
    assert reading.candidates == sum(math.exp(x - max(MANY)) >= 0.9 for x in MANY)


def test_a_chain_without_temperature_is_only_read() -> None:
    left, reading = apply_with_reading(MANY, parse_policy("linear:0.1->0.1@1"), samplers=("top_k",), top_k=4)
    assert (reading.candidates, reading.temperature) == (4, 1.0)
    assert left.logits == {token: MANY[token] for token in left.ids}


def test_the_position_in_the_answer_selects_the_part() -> None:
    state, policy = DrawState(ReasoningSplitter("<think>")), parse_policy("think=0.3,answer=sentence:2,(linear:1->0@4)")
    readings = [apply_with_reading(MANY, policy, state)[1]]
    for text in ("Let me see. ", "Yes.</think>", "\n\nIt is.", " And"):
        state.step(text)
        readings.append(apply_with_reading(MANY, policy, state)[1])
    assert [reading.temperature for reading in readings] == pytest.approx([0.3, 0.3, 2, 0.75, 0.5])
    assert [reading.policy for reading in readings] == ["0.3", "0.3", "2", "linear:1->0@4", "linear:1->0@4"]


def test_dynatemp_range_is_shown_as_a_range() -> None:
    assert apply_with_reading(MANY, Entropy(0.3, 1.3))[1].policy == "0.3..1.3"
    assert apply_with_reading(MANY, Fixed(0.8), dynatemp_range=0.5, dynatemp_exponent=2.0)[1].policy == "0.3..1.3^2"


# T = 0.8 * 0.8 ^ (theta / H) is 1e-39 here, and logits / 1e-39 are more than a float holds.
@pytest.mark.parametrize("t", ["1e-31", "1e-39", "1e-45", "1e-300"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_temperature_too_small_for_a_float_is_greedy(t: str, sign: int) -> None:
    logits = [sign * 20.0, sign * 19.0, sign * 3.0, -INF]
    left, reading = apply_with_reading(logits, parse_policy(f"exp:{t}->{t}@1"))
    assert reading.temperature == 0
    assert left.drawn == logits.index(max(logits))
    assert left.live == {left.drawn}


def test_edt_never_draws_a_masked_token() -> None:
    for gap in [x / 100 for x in range(0, 3000, 10)]:
        left, reading = apply_with_reading([gap, 0.0, -INF], parse_policy("edt:0.8"))
        assert left.drawn in (0, 1)
        assert reading.temperature == 0 or reading.temperature > 1e-30
        assert sum(left.p.values()) == pytest.approx(1)


def test_candidates_that_are_all_masked_are_no_error() -> None:
    for size in (3, 1000):
        _, reading = apply_with_reading([-INF] * size, parse_policy("edt:0.8"))
        assert (reading.candidates, reading.entropy) == (0, 0.0)


def broken(_step: Any) -> Any:
    raise ValueError("I do not\nlike this token")


def leaving(_step: Any) -> Any:
    raise SystemExit(3)


def closing(_step: Any) -> Any:
    raise GeneratorExit


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def mute(_step: Any) -> Any:
    raise MuteError


def interrupting(_step: Any) -> Any:
    raise KeyboardInterrupt


GIVES = [
    (math.nan, "nan"), (-0.1, "-0.1"), (-3, "-3"), (INF, "inf"), (1e39, "1e+39"), (10**400, "int"), (None, "NoneType"),
    ("0.5", "'0.5'"), ("x" * 10**5, "'xxxxxxxxxxxx...xxxxxxxxxxxxx'"), ([0.5], "list"), (1j, "0+1j"),
    (np.float32(math.nan), "nan"), (len, "builtin_function_or_method"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "shown"), GIVES, ids=[shown for _, shown in GIVES])
def test_an_invalid_temperature_of_a_policy_is_an_error(value: Any, shown: str) -> None:
    policy = policy_of(lambda _step: value)
    with pytest.raises(PolicyError) as caught:
        apply_samplers(MANY, temperature=policy)
    assert str(caught.value) == f"the temperature policy 'mine' returned {shown} for token 0"
    assert caught.value.hint == "return a finite number of at least 0"


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (broken, "ValueError: I do not like this token (line "),
        (leaving, "SystemExit: 3 (line "),
        (closing, "GeneratorExit (line "),
        (mute, "MuteError (line "),
    ],
)
def test_an_exception_in_a_policy_is_an_error_with_the_line(function: Any, says: str) -> None:
    with pytest.raises(PolicyError) as caught:
        apply_samplers(MANY, temperature=policy_of(function))
    line = function.__code__.co_firstlineno + 1
    assert str(caught.value) == f"the temperature policy 'mine' failed at token 0: {says}{line})"


def test_ctrl_c_in_a_policy_is_not_an_error_of_the_policy() -> None:
    with pytest.raises(KeyboardInterrupt):
        apply_samplers(MANY, temperature=policy_of(interrupting))


def test_an_error_in_a_huge_policy_is_short() -> None:
    policy = PolicyCall("sentence", (policy_of(broken), *[Fixed(0.8)] * 1000))
    with pytest.raises(PolicyError) as caught:
        apply_samplers(MANY, temperature=policy)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", [1, True, np.float32(1), np.float64(1), np.int64(1)])
@pytest.mark.parametrize("logits", [MANY, WHOLE], ids=["forty", "a vocabulary"])
def test_a_policy_can_return_any_kind_of_number(value: Any, logits: list[float]) -> None:
    assert apply_samplers(logits, temperature=policy_of(lambda _step: value)).logits == apply_samplers(logits).logits


@pytest.mark.parametrize("logits", [MANY, WHOLE], ids=["forty", "a vocabulary"])
def test_a_policy_can_use_the_probabilities(logits: list[float]) -> None:
    _, reading = apply_with_reading(logits, policy_of(lambda step: 1.5 - step.p[0]))
    assert reading.temperature == pytest.approx(1.5 - entropy_of(logits)[1][0], rel=1e-5)


def test_a_step_cannot_be_used_after_its_draw() -> None:
    kept: list[Any] = []

    def mine(step: Any) -> float:
        kept.append(step)
        return float(kept[0].entropy) if len(kept) > 1 else 1.0

    policy = policy_of(mine)
    apply_samplers(MANY, temperature=policy)
    with pytest.raises(PolicyError, match="RuntimeError: the candidates of an earlier token are not available"):
        apply_samplers(MANY, temperature=policy)


@pytest.mark.parametrize(
    ("shift", "t"), [(0.5, 1.3), (-0.5, 0.3), (-0.8, 0.0), (-3.0, 0.0), (LARGEST_FLOAT, LARGEST_FLOAT)]
)
@pytest.mark.parametrize("text", ["0.8", "linear:0.8->0.8@9"])
def test_the_shift_is_added_to_the_temperature(text: str, shift: float, t: float) -> None:
    left, reading = apply_with_reading([2.0, 1.0, -INF], parse_policy(text), shift=TemperatureShift([(0, shift)]))
    assert reading.temperature == pytest.approx(t)
    assert left.logits == apply_samplers([2.0, 1.0, -INF], temperature=Fixed(reading.temperature)).logits


def test_the_shift_is_added_to_a_range_too() -> None:
    low, high = (
        apply_with_reading(MANY, Entropy(0.3, 1.3))[1],
        apply_with_reading(MANY, Entropy(0.3, 1.3), shift=TemperatureShift([(0, 0.5)]))[1],
    )
    assert high.temperature == pytest.approx(low.temperature + 0.5)
    assert high.policy == "0.3..1.3"


def test_the_shift_has_no_effect_without_a_temperature() -> None:
    shift = TemperatureShift()
    shift.add(0.5)
    left, reading = apply_with_reading(MANY, Fixed(0.8), shift=shift, samplers=("top_k",), top_k=4)
    assert (reading.temperature, shift.moves) == (1.0, [])
    assert left.logits == {token: MANY[token] for token in left.ids}
