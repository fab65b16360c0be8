"""Syntax errors of temperature policies: each names the right form, the fault and its position."""

import pytest

from llmcli.errors import UsageError
from llmcli.params.policies.policy import SHAPE
from llmcli.params.policies.rules import Policy
from llmcli.params.settings import check_policy, fields

FIELD = fields()["temperature"]


def parse(text: str) -> Policy:
    policy = FIELD.parse_text(text)
    assert isinstance(policy, Policy)
    return policy


LINE = "like linear:1.2->0.5@200"
EXP = "like exp:1.2->0.5@200"
PARTS = "like sentence:1.1,0.7,0.4"
SIDES = "like think=1.0,answer=0.6"
CURVE = "like edt:0.8,theta=0.1"
FINITE = "finite and at least 0"
RANGE = "a range from low to high"
EXPONENT = "a range with an exponent above 0"
QUOTE = "quote the policy: an unquoted > redirects the output of the shell"
COUNT = "add the number of tokens, as in @200"
NAMES = "use a number or one of edt, linear, cosine, exp, sentence, line, paragraph, think"


def parse_error(text: str) -> UsageError:
    """The error for a text that is not a policy; its message is one short line."""
    with pytest.raises(UsageError) as caught:
        check_policy(parse(text), None)
    message = str(caught.value)
    assert message.startswith("temperature must be ")
    assert len(message.splitlines()) == 1
    assert len(message) < 280
    return caught.value


@pytest.mark.parametrize(
    ("text", "rule", "fault", "hint"),
    [
        ("80[here]%", SHAPE, "", "write 0.8"),
        (" 12.5 [here]% ", SHAPE, "", "write 0.125"),
        ("80[here]%%", SHAPE, "", ""),
        ("0.3..[here]", SHAPE, "missing number", ""),
        ("[here]..1.3", SHAPE, "missing number", ""),
        ("0.3..1.3^[here]", SHAPE, "missing number", ""),
        ("0.8[here]^2", SHAPE, "", ""),
        ("0.8[here]x", SHAPE, "", ""),
        ("1[here],5", SHAPE, "", "write 1.5"),
        ("0.3..1.3[here]..2", SHAPE, "", ""),
        ("0.3[here]...1.3", "a range with two dots", "", "write 0.3..1.3"),
        ("wave:0.9[here],0.3", "like wave", "", "give the second number by the name of its parameter, as in NAME=0.3"),
        ("[here]--1", SHAPE, "missing number", ""),
        ("0.8[here])", SHAPE, "", ""),
        ("([here])", SHAPE, "missing number", ""),
        ("(0.8[here]", SHAPE, "missing ')'", ""),
        ("0.8[here],clamp=0..1", SHAPE, "", ""),
        ("[here]1.3..0.3", RANGE, "reversed range", "write 0.3..1.3"),
        ("sentence:1,[here]2..1", RANGE, "reversed range", "write 1..2"),
        ("0.3..1.3^[here]0", EXPONENT, "the exponent is 0", ""),
        ("0.3..1.3^ [here]0.0", EXPONENT, "the exponent is 0", ""),
        ("0.3..1.3^[here]1e-999", EXPONENT, "the exponent is 0", ""),
        ("[here]-1", FINITE, "number out of range", ""),
        ("0..[here]nan", FINITE, "number out of range", ""),
        ("0..1^[here]inf", FINITE, "number out of range", ""),
        ("[here]Infinity", FINITE, "number out of range", ""),
        ("[here]1e39", FINITE, "number out of range", ""),
        ("linear:1->[here]-0.5@3", FINITE, "number out of range", ""),
        ("edt:0.8,theta=[here]-1", FINITE, "number out of range", ""),
        ("edt:[here]nan", FINITE, "number out of range", ""),
        ("linear:1->2@3,clamp=0..[here]inf", FINITE, "number out of range", ""),
        ("[here]warm", SHAPE, "unknown policy 'warm'", NAMES),
        ("[here]liner:1->2@3", SHAPE, "unknown policy 'liner'", "did you mean 'linear'?"),
        ("[here]Sentence:1,2", SHAPE, "unknown policy 'Sentence'", "did you mean 'sentence'?"),
        ("sentence:1,([here]sentense:2)", SHAPE, "unknown policy 'sentense'", "did you mean 'sentence'?"),
        ("[here]clamp:1", SHAPE, "unknown policy 'clamp'", NAMES),
        ("[here]think:1", SHAPE, "unknown policy 'think'", "write think=1.0,answer=0.6"),
        ("sentence:[here]think=1,answer=2", SHAPE, "unknown policy 'think'", "write think=1.0,answer=0.6"),
        ("linear[here]", LINE, "missing ':'", ""),
        ("linear:[here]", LINE, "missing number", ""),
        ("linear:[here]->2@3", LINE, "missing number", ""),
        ("linear:1[here]", LINE, "missing '->'", QUOTE),
        ("linear:1[here]@200", LINE, "missing '->'", QUOTE),
        ("linear:1->[here]@200", LINE, "missing number", ""),
        ("linear:1->2[here]", LINE, "missing '@'", COUNT),
        ("linear:1->2@[here]", LINE, "missing number", ""),
        ("linear:1->2@[here]0", LINE, "the number is not above 0", ""),
        ("linear:1->2@ [here]1.5", LINE, "the number of tokens is not an integer", ""),
        ("linear:1->2@3,[here]theta=1", LINE, "unknown option 'theta' of linear", ""),
        ("linear:1->2@3[here]x", LINE, "", ""),
        ("exp:[here]0->1@3", EXP, "the number is not above 0", ""),
        ("exp:1->[here]0@3", EXP, "the number is not above 0", ""),
        ("linear:1->2@3,clamp=[here]", LINE, "missing number", ""),
        ("linear:1->2@3,clamp=[here]..1", LINE, "missing number", ""),
        ("linear:1->2@3,clamp=1[here]", LINE, "missing '..'", ""),
        ("linear:1->2@3,clamp=1..[here]", LINE, "missing number", ""),
        ("linear:1->2@3,clamp=[here]1.2..0.2", RANGE, "reversed range", "write 0.2..1.2"),
        ("linear:1->2@3,clamp=0..1[here],clamp=0..1", LINE, "", ""),
        ("edt[here]", CURVE, "missing ':' and a number", ""),
        ("edt:[here]", CURVE, "missing number", ""),
        ("edt:[here]theta=0.1", CURVE, "missing number", ""),
        ("edt:0.8[here],theta", CURVE, "", ""),
        ("edt:0.8,theta=[here]", CURVE, "missing number", ""),
        ("edt:0.8,theta=1,[here]theta=2", CURVE, "duplicate option 'theta'", ""),
        ("edt:0.8,[here]tau=1", CURVE, "unknown option 'tau' of edt", ""),
        ("edt:0.8 [here]theta=1", CURVE, "", ""),
        ("sentence[here]", PARTS, "missing ':'", ""),
        ("sentence:[here]", PARTS, "missing number", ""),
        ("sentence:1,[here]", PARTS, "missing number", ""),
        ("sentence:1,[here],2", PARTS, "missing number", ""),
        ("sentence:1 [here]2", PARTS, "", ""),
        ("sentence:1,[here]theta=3", PARTS, "unknown option 'theta' of sentence", ""),
        ("sentence:(line:1,2[here]", PARTS, "missing ')'", ""),
        ("think=[here]", SIDES, "missing number", ""),
        ("think=1[here]", SIDES, "missing 'answer='", ""),
        ("think=1,[here]", SIDES, "missing 'answer='", ""),
        ("answer=1[here]", SIDES, "missing 'think='", ""),
        ("think=1,[here]think=2", SIDES, "duplicate 'think='", ""),
        ("think=1,answer=2[here],", SIDES, "", ""),
        ("think=1,answer=2[here],clamp=0..1", SIDES, "", ""),
        ("think=1,answer=[here]", SIDES, "missing number", ""),
        ("[here]\u201c0.8\u201d", SHAPE, "missing number", ""),
        ("0.3[here]\u20261.3", SHAPE, "", ""),  # an ellipsis is no two points
        ("linear:1[here]\u21922@3", LINE, "missing '->'", QUOTE),
        ("0.8[here]\u200b", SHAPE, "", ""),
        ("[here]\ufeff0.8", SHAPE, "missing number", ""),
        ("[here]тёплый:1", SHAPE, "unknown policy 'тёплый'", NAMES),
        ("0.8[here]\x00", SHAPE, "", ""),
        ("[here]\ud83d", SHAPE, "missing number", ""),
    ],
)  # fmt: skip
def test_a_syntax_error_names_the_fault_and_its_position(text: str, rule: str, fault: str, hint: str) -> None:
    before, _, rest = text.partition("[here]")
    error = parse_error(before + rest)
    where = f"position {len(before) + 1}" if rest.strip() else "the end"
    fault = fault or f"unexpected {rest.strip()!r}"
    assert str(error) == f"temperature must be {rule}, got {before + rest!r}: {fault} at {where}"
    assert error.hint == hint


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_an_empty_policy_is_an_error(text: str) -> None:
    assert str(parse_error(text)) == f"temperature must be {SHAPE}, got {text!r}: missing number at the end"


def test_an_error_in_a_long_text_shows_the_text_around_it() -> None:
    text = "sentence:" + "0.5," * 30 + "(x),0.7"
    fault = ": unknown policy 'x' at position 131"
    assert str(parse_error(text)).endswith(", got '...,0.5,0.5,0.5,0.5,0.5,0.5,0.5,(x),0.7'" + fault)
    assert str(parse_error(text + ",0.8" * 30)).endswith("0.5,0.5,(x),0.7,0.8,0.8,0.8,0.8...'" + fault)


@pytest.mark.parametrize("before", ["\n" * 50, "\\" * 50, '"' * 50, "\x1b" * 50])
def test_the_fault_is_shown_after_escaped_characters(before: str) -> None:
    shown, _, fault = (
        str(parse_error("0.8" + "\n" * 50 + before + "x")).partition(", got ")[2].partition(": unexpected ")
    )
    first = repr((before.strip("\n") or "x")[0])[1:-1]
    assert shown.replace(r"\n", "").startswith("'..." + first)
    assert fault[1:].startswith(first)


@pytest.mark.parametrize(
    "text",
    [
        "1" * 100_000,
        "0." + "0" * 100_000 + "x",
        "x" * 100_000,
        "(" * 100_000,
        "sentence:" * 20_000 + "1",
        "sentence:(" * 20_000,
        "think=(" * 20_000,
        "think=" * 20_000,
        "edt:0.8," + "y" * 100_000 + "=1",
        "edt:0.8" + ",theta=1" * 20_000,
        "sentence:" + "0.8," * 20_000,
        "linear:1->2@3" + ",clamp=0..1" * 10_000,
        "0.8" + " " * 100_000 + "x",
        "0.8" + "^" * 100_000,
        "0." + "." * 100_000,
        "\U0001f321" * 50_000,
    ],
)
def test_a_huge_text_is_an_error_in_one_short_line(text: str) -> None:
    assert ", got '" in str(parse_error(text))
