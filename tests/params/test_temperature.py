"""The grammar of temperature policies."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.errors import UsageError
from llmcli.params.policy.grammar import parse_policy
from llmcli.params.policy.tree import Entropy, Fixed, Policy
from llmcli.params.settings import Settings, fields
from llmcli.params.temperature import base_delta_exponent, temperature

FIELD = fields()["temperature"]


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
def test_a_policy_is_read_from_its_text(text: str, policy: Policy | None) -> None:
    if policy is None:  # 1.. and then .5: from high to low
        with pytest.raises(ValueError, match="a range from low to high"):
            parse_policy(text)
    else:
        assert parse_policy(text) == policy


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "a number such as"),
        ("warm", "a number such as"),
        ("..", "a number such as"),
        ("1..", "a number such as"),
        ("..1", "a number such as"),
        ("0.8^2", "a number such as"),
        ("0.3..1.3^", "a number such as"),
        ("0.3..1.3^1^2", "a number such as"),
        ("0.3..1..2", "a number such as"),
        ("-1", "0 or more and finite"),
        ("nan", "0 or more and finite"),
        ("inf", "0 or more and finite"),
        ("1e39", "0 or more and finite"),
        ("-0.1..1", "0 or more and finite"),
        ("0..nan", "0 or more and finite"),
        ("0..1^nan", "0 or more and finite"),
        ("0..1^-1", "0 or more and finite"),
        ("1.3..0.3", r"a range from low to high: 0\.3\.\.1\.3"),
        ("0..1^0", "a range with an exponent above 0"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_with_the_rule(text: str, rule: str) -> None:
    with pytest.raises(UsageError, match=f"^temperature: must be {rule}.*, got "):
        FIELD.parse_text(text)


@pytest.mark.parametrize("value", [True, None, [0.8], {}, math.nan, -1, 10**400])
def test_a_policy_takes_no_other_data(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^temperature: must be"):
        FIELD.parse_data(value)


@pytest.mark.parametrize(("value", "policy"), [(1, Fixed(1)), (0.5, Fixed(0.5)), ("0..1^2", Entropy(0, 1, 2))])
def test_a_policy_is_read_from_data(value: Any, policy: Policy) -> None:
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
def test_a_policy_is_put_in_llama_cpp_s_terms(settings: Settings, terms: tuple[float, float, float]) -> None:
    assert base_delta_exponent(settings) == terms
    assert temperature(settings) == terms


@pytest.mark.parametrize("policy", [Fixed(1), Entropy(1, 1)])
def test_a_temperature_of_one_is_no_step(policy: Policy) -> None:
    assert temperature(Settings(temperature=policy)) is None
