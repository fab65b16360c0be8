"""The grammar of temperature policies: what is read, and the way back to text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.params.param import LARGEST_FLOAT, InvalidValueError
from llmcli.params.policies.policy import Entropy, Fixed, PolicyCall, parse_policy
from llmcli.params.policies.rules import Policy
from llmcli.params.settings import fields

FIELD = fields()["temperature"]
LINEAR = PolicyCall("linear", (1.2, 0.5, 200.0))
EDT = PolicyCall("edt", (0.8,), (("theta", 0.1),))


def named(name: str, *parts: Policy) -> PolicyCall:
    return PolicyCall(name, parts)


def clamped(policy: Policy, low: float, high: float) -> PolicyCall:
    return PolicyCall("clamp", (policy, low, high))


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("edt:0.8", PolicyCall("edt", (0.8,))),
        ("edt:0.8,theta=0.1", EDT),
        (" edt : 0.8 , theta = 0.1 ", EDT),
        ("edt:0,theta=0", PolicyCall("edt", (0.0,), (("theta", 0.0),))),
        ("linear:1.2->0.5@200", LINEAR),
        ("\tlinear :\n1.2 -> .5 @ 2e2 ", LINEAR),
        ("cosine:0->1@1", PolicyCall("cosine", (0.0, 1.0, 1.0))),
        ("exp:2->0.25@10", PolicyCall("exp", (2.0, 0.25, 10.0))),
        ("sentence:0.7", named("sentence", Fixed(0.7))),
        ("sentence:1.1,0.7,0.4", named("sentence", Fixed(1.1), Fixed(0.7), Fixed(0.4))),
        ("line:0.3..1.3,0.2..0.9^2", named("line", Entropy(0.3, 1.3), Entropy(0.2, 0.9, 2.0))),
        ("paragraph:1,(0.5)", named("paragraph", Fixed(1), Fixed(0.5))),
        ("think=1.0,answer=0.6", named("think", Fixed(1), Fixed(0.6))),
        ("answer=0.6,think=1.0", named("think", Fixed(1), Fixed(0.6))),
        (" think = 1 ,\n answer = 0.6 ", named("think", Fixed(1), Fixed(0.6))),
        ("(0.8)", Fixed(0.8)),
        ("((think=1,answer=0))", named("think", Fixed(1), Fixed(0))),
        ("(edt:0.8,theta=0.1)", EDT),
        ("linear:1.2->0.5@200,clamp=0.2..1.2", clamped(LINEAR, 0.2, 1.2)),
        ("edt:0.8,theta=0.1,clamp=0..1", clamped(EDT, 0.0, 1.0)),
        ("edt:0.8 , clamp = 0.5 .. 0.5", clamped(PolicyCall("edt", (0.8,)), 0.5, 0.5)),
        # An option and a clamp belong to the nearest name before them.
        ("sentence:edt:0.8,theta=0.1,0.4", named("sentence", EDT, Fixed(0.4))),
        ("sentence:1,edt:0.8,clamp=0..1", named("sentence", Fixed(1), clamped(PolicyCall("edt", (0.8,)), 0, 1))),
        ("sentence:1,(edt:0.8),clamp=0..1", clamped(named("sentence", Fixed(1), PolicyCall("edt", (0.8,))), 0, 1)),
        ("sentence:1,2,clamp=0..1", clamped(named("sentence", Fixed(1), Fixed(2)), 0, 1)),
        (
            "sentence:linear:1.2->0.5@200,clamp=0..1,0.4,clamp=0.1..3",
            clamped(named("sentence", clamped(LINEAR, 0, 1), Fixed(0.4)), 0.1, 3),
        ),
        # A list of parts goes as far as it can; parentheses end it.
        ("sentence:line:1,2,3", named("sentence", named("line", Fixed(1), Fixed(2), Fixed(3)))),
        ("sentence:(line:1,2),3", named("sentence", named("line", Fixed(1), Fixed(2)), Fixed(3))),
        ("think=sentence:1,2,answer=edt:0.8,theta=0.1", named("think", named("sentence", Fixed(1), Fixed(2)), EDT)),
        ("answer=edt:0.8,think=1", named("think", Fixed(1), PolicyCall("edt", (0.8,)))),
        ("answer=sentence:1,clamp=0..1,think=0", named("think", Fixed(0), clamped(named("sentence", Fixed(1)), 0, 1))),
        ("sentence:(think=1,answer=2),3", named("sentence", named("think", Fixed(1), Fixed(2)), Fixed(3))),
        ("think=(think=1,answer=2),answer=3", named("think", named("think", Fixed(1), Fixed(2)), Fixed(3))),
        ("+.5", Fixed(0.5)),
        ("5.", Fixed(5)),
        ("1E1..2e+1", Entropy(10, 20)),
        ("٠.٨", Fixed(0.8)),  # digits are digits in every script
    ],
)  # fmt: skip
def test_a_policy_is_parsed_from_text(text: str, policy: Policy) -> None:
    assert parse_policy(text) == policy
    assert parse_policy(str(policy)) == policy


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (Fixed(0.8), "0.8"),
        (Entropy(0.3, 1.3, 0.7), "0.3..1.3^0.7"),
        (EDT, "edt:0.8,theta=0.1"),
        (LINEAR, "linear:1.2->0.5@200"),
        (clamped(LINEAR, 0.2, 1.2), "linear:1.2->0.5@200,clamp=0.2..1.2"),
        (named("sentence", Entropy(0.3, 1.3), Fixed(0)), "sentence:0.3..1.3,0"),
        (named("sentence", EDT, Fixed(0.4)), "sentence:(edt:0.8,theta=0.1),0.4"),
        (named("think", Fixed(1), named("line", Fixed(1))), "think=1,answer=(line:1)"),
    ],
)
def test_a_policy_is_written_in_its_short_form(policy: Policy, text: str) -> None:
    assert str(policy) == text


NUMBERS = st.floats(0, LARGEST_FLOAT)
ABOVE = st.floats(0, LARGEST_FLOAT, exclude_min=True)
COUNTS = st.integers(1, 10**12).map(float)
RANGES = st.tuples(NUMBERS, NUMBERS).map(sorted)
THETA = st.just(()) | st.tuples(st.tuples(st.just("theta"), NUMBERS))
PLAIN = st.builds(Fixed, NUMBERS) | st.builds(lambda ends, power: Entropy(ends[0], ends[1], power), RANGES, ABOVE)
NUMBERED: st.SearchStrategy[Policy] = (
    st.builds(lambda base, options: PolicyCall("edt", (base,), options), NUMBERS, THETA)
    | st.builds(
        lambda name, *args: PolicyCall(name, args), st.sampled_from(["linear", "cosine"]), NUMBERS, NUMBERS, COUNTS
    )
    | st.builds(lambda *args: PolicyCall("exp", args), ABOVE, ABOVE, COUNTS)
)


def trees(depth: int) -> st.SearchStrategy[Policy]:
    """Any policy that text can spell, at most so deep."""
    if depth == 0:
        return PLAIN | NUMBERED
    inner = trees(depth - 1)
    units = st.sampled_from(["sentence", "line", "paragraph"])
    parts = st.builds(PolicyCall, units, st.lists(inner, min_size=1, max_size=3).map(tuple))
    clamps = st.builds(lambda policy, ends: clamped(policy, *ends), NUMBERED | parts, RANGES)
    return PLAIN | NUMBERED | parts | clamps | st.builds(lambda *sides: PolicyCall("think", sides), inner, inner)


@given(trees(3))
def test_any_policy_survives_its_text(policy: Policy) -> None:
    assert parse_policy(str(policy)) == policy
    assert FIELD.parse_data(FIELD.format(policy)) == policy


def nested(depth: int) -> Policy:
    """Policies in each other, of every kind that holds some."""
    if depth == 0:
        return Fixed(0.5)
    inner = nested(depth - 1)
    made = [named("line", Fixed(1), inner), named("think", inner, Fixed(0)), clamped(named("sentence", inner), 0, 1)]
    return made[depth % 3]


def test_policies_nest_at_most_eight_levels_deep() -> None:
    assert parse_policy(str(nested(8))) == nested(8)
    assert parse_policy("sentence:line:" * 4 + "0.5") == parse_policy(str(parse_policy("sentence:line:" * 4 + "0.5")))
    assert parse_policy("(" * 8 + "0.5" + ")" * 8) == Fixed(0.5)
    for text in (str(nested(9)), "sentence:line:" * 4 + "line:0.5", "(" * 9 + "0.5" + ")" * 9):
        with pytest.raises(ValueError, match="more than eight levels deep"):
            parse_policy(text)


def test_a_long_list_of_parts_is_parsed() -> None:
    policy = parse_policy("sentence:" + ",".join(["0.8"] * 5_000))
    assert isinstance(policy, PolicyCall)
    assert len(policy.args) == 5_000


@given(st.text(alphabet="0123456789.^:,=->@()+ -eainfthklsw", max_size=30) | st.text(max_size=12))
def test_any_text_is_parsed_or_a_syntax_error(text: str) -> None:
    try:
        policy = parse_policy(text)
    except InvalidValueError as error:
        at = error.at
    else:
        assert parse_policy(str(policy)) == policy
        at = 0
    assert at is not None
    assert 0 <= at <= len(text)
