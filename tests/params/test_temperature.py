"""The grammar of temperature policies."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.errors import UsageError
from llmcli.params.policies.policy import Entropy, Fixed, parse_policy
from llmcli.params.policies.rules import Policy
from llmcli.params.sampler_chain import NEUTRAL, build_chain, plan_temperature
from llmcli.params.settings import Settings, check_policy, fields

FIELD = fields()["temperature"]


def parse(text: str) -> Policy:
    policy = FIELD.parse_text(text)
    assert isinstance(policy, Policy)
    return policy


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("0", Fixed(0)),
        ("0.8", Fixed(0.8)),
        (" 1e-3 ", Fixed(0.001)),
        ("0.3..1.3", Entropy(0.3, 1.3)),
        ("0.3..1.3^0.7", Entropy(0.3, 1.3, 0.7)),
        ("0.3 .. 1.3 ^ 2", Entropy(0.3, 1.3, 2)),
        ("1..2^1", Entropy(1, 2)),
        ("0..0", Entropy(0, 0)),
        ("1...5", None),
    ],
)
def test_a_policy_is_parsed_from_text(text: str, policy: Policy | None) -> None:
    if policy is None:
        with pytest.raises(ValueError, match="a range with two dots"):
            parse_policy(text)
    else:
        assert parse_policy(text) == policy


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", r"a number \(0\.8\), a range"),
        ("warm", r"a number \(0\.8\), a range"),
        ("..", r"a number \(0\.8\), a range"),
        ("1..", r"a number \(0\.8\), a range"),
        ("..1", r"a number \(0\.8\), a range"),
        ("0.8^2", r"a number \(0\.8\), a range"),
        ("0.3..1.3^", r"a number \(0\.8\), a range"),
        ("0.3..1.3^1^2", r"a number \(0\.8\), a range"),
        ("0.3..1..2", r"a number \(0\.8\), a range"),
        ("-1", "finite and at least 0"),
        ("nan", "finite and at least 0"),
        ("inf", "finite and at least 0"),
        ("1e39", "finite and at least 0"),
        ("-0.1..1", "finite and at least 0"),
        ("0..nan", "finite and at least 0"),
        ("0..1^nan", "finite and at least 0"),
        ("0..1^-1", "finite and at least 0"),
        ("1.3..0.3", "a range from low to high"),
        ("0..1^0", "a range with an exponent above 0"),
    ],
)
def test_an_invalid_policy_is_an_error_with_the_rule(text: str, rule: str) -> None:
    with pytest.raises(UsageError, match=f"^temperature must be {rule}.*, got "):
        check_policy(parse(text), None)


@pytest.mark.parametrize("value", [True, None, [0.8], {}, math.nan, -1, 10**400])
def test_a_policy_rejects_other_data(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^temperature must be"):
        FIELD.parse_data(value)


@pytest.mark.parametrize(("value", "policy"), [(1, Fixed(1)), (0.5, Fixed(0.5)), ("0..1^2", Entropy(0, 1, 2))])
def test_a_policy_is_parsed_from_data(value: Any, policy: Policy) -> None:
    assert FIELD.parse_data(value) == policy


NUMBER = st.floats(0, 1e30)


@given(st.tuples(NUMBER, NUMBER).map(sorted), st.floats(1e-30, 1e30))
def test_any_policy_survives_its_text_form(bounds: list[float], exponent: float) -> None:
    for policy in (Fixed(bounds[0]), Entropy(bounds[0], bounds[1], exponent)):
        assert parse_policy(str(policy)) == policy


@pytest.mark.parametrize(
    ("settings", "terms"),
    [
        (Settings(), (0.8, 0.0, 1.0)),
        (Settings(dynatemp_range=0.5, dynatemp_exponent=0.7), (0.8, 0.5, 0.7)),
        (Settings(temperature=Entropy(0.5, 1.5, 0.7)), (1.0, 0.5, 0.7)),
        (Settings(temperature=Entropy(0.5, 1.5), dynatemp_range=9.0), (1.0, 0.5, 1.0)),
    ],
)
def test_a_policy_converts_to_llama_cpp_arguments(settings: Settings, terms: tuple[float, float, float]) -> None:
    assert plan_temperature(settings).native == terms


@pytest.mark.parametrize("policy", [Fixed(1), Entropy(1, 1)])
def test_a_temperature_of_one_adds_no_step(policy: Policy) -> None:
    assert plan_temperature(Settings(temperature=policy)) == NEUTRAL
    assert "temperature" not in [step.name for step in build_chain(Settings(temperature=policy, seed=1))]
