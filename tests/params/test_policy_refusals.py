"""What is no temperature policy is refused with the place marked and the right form shown."""

import json

import pytest

from llmcli.errors import UsageError
from llmcli.params.policy.grammar import SHAPE
from llmcli.params.settings import fields

FIELD = fields()["temperature"]


def refusal(text: str) -> str:
    """What is said about a text that is no policy, in one short line."""
    with pytest.raises(UsageError) as caught:
        FIELD.parse_text(text)
    message = str(caught.value)
    assert message.startswith("temperature: must be ")
    assert len(message.splitlines()) == 1
    assert len(message) < 260
    return message.removeprefix("temperature: must be ")


LINE = "like linear:1.2->0.5@200; "
PARTS = "like sentence:1.1,0.7,0.4"
SIDES = "like think=1.0,answer=0.6"
CURVE = "like edt:0.8,theta=0.1"
FINITE = "0 or more and finite"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("0.3..[here]", SHAPE + "; a number is missing"),
        ("[here]..1.3", SHAPE + "; a number is missing"),
        ("0.3..1.3^[here]", SHAPE + "; a number is missing"),
        ("0.8[here]^2", SHAPE),
        ("0.8[here]x", SHAPE),
        ("1[here],5", SHAPE),
        ("0.3..1.3[here]..2", SHAPE),
        ("[here]--1", SHAPE + "; a number is missing"),
        ("0.8[here])", SHAPE),
        ("([here])", SHAPE + "; a number is missing"),
        ("(0.8[here]", SHAPE + "; a ) is missing"),
        ("0.8[here],clamp=0..1", SHAPE),
        ("[here]1.3..0.3", "a range from low to high: 0.3..1.3"),
        ("sentence:1,[here]2..1", "a range from low to high: 1..2"),
        ("0.3..1.3^[here]0", "a range with an exponent above 0"),
        ("0.3..1.3^ [here]0.0", "a range with an exponent above 0"),
        ("0.3..1.3^[here]1e-999", "a range with an exponent above 0"),
        ("[here]-1", FINITE),
        ("0..[here]nan", FINITE),
        ("0..1^[here]inf", FINITE),
        ("[here]Infinity", FINITE),
        ("[here]1e39", FINITE),
        ("linear:1->[here]-0.5@3", FINITE),
        ("edt:0.8,theta=[here]-1", FINITE),
        ("edt:[here]nan", FINITE),
        ("linear:1->2@3,clamp=0..[here]inf", FINITE),
        ("[here]warm", SHAPE + "; there is no policy warm"),
        ("[here]liner:1->2@3", SHAPE + '; there is no policy liner (did you mean "linear"?)'),
        ("[here]Sentence:1,2", SHAPE + '; there is no policy Sentence (did you mean "sentence"?)'),
        ("sentence:1,[here]sentense:2", SHAPE + '; there is no policy sentense (did you mean "sentence"?)'),
        ("[here]clamp:1", SHAPE + "; there is no policy clamp"),
        ("[here]think:1", SHAPE + "; there is no policy think (write think=1.0,answer=0.6)"),
        ("sentence:[here]think=1,answer=2", SHAPE + "; there is no policy think (write think=1.0,answer=0.6)"),
        ("linear[here]", LINE + ": is missing"),
        ("linear:[here]", LINE + "a number is missing"),
        ("linear:[here]->2@3", LINE + "a number is missing"),
        ("linear:1[here]", LINE + "a target is missing: quote the policy, for > has a meaning in the shell"),
        ("linear:1[here]@200", LINE + "a target is missing: quote the policy, for > has a meaning in the shell"),
        ("linear:1->[here]@200", LINE + "a number is missing"),
        ("linear:1->2[here]", LINE + "over how many tokens is missing"),
        ("linear:1->2@[here]", LINE + "a number is missing"),
        ("linear:1->2@[here]0", LINE + "a number above 0 is wanted"),
        ("linear:1->2@ [here]1.5", LINE + "a whole number of tokens is wanted"),
        ("linear:1->2@3,[here]theta=1", LINE + "linear has no theta"),
        ("linear:1->2@3[here]x", LINE.removesuffix("; ")),
        ("exp:[here]0->1@3", "like exp:1.2->0.5@200; a number above 0 is wanted"),
        ("exp:1->[here]0@3", "like exp:1.2->0.5@200; a number above 0 is wanted"),
        ("linear:1->2@3,clamp=[here]", LINE + "a number is missing"),
        ("linear:1->2@3,clamp=[here]..1", LINE + "a number is missing"),
        ("linear:1->2@3,clamp=1[here]", LINE + ".. is missing"),
        ("linear:1->2@3,clamp=1..[here]", LINE + "a number is missing"),
        ("linear:1->2@3,clamp=[here]1.2..0.2", "clamped from low to high: clamp=0.2..1.2"),
        ("linear:1->2@3,clamp=0..1[here],clamp=0..1", LINE.removesuffix("; ")),
        ("edt[here]", CURVE + "; a : and a number are missing"),
        ("edt:[here]", CURVE + "; a number is missing"),
        ("edt:[here]theta=0.1", CURVE + "; a number is missing"),
        ("edt:0.8[here],theta", CURVE),
        ("edt:0.8,theta=[here]", CURVE + "; a number is missing"),
        ("edt:0.8,theta=1,[here]theta=2", CURVE + "; theta is there twice"),
        ("edt:0.8,[here]tau=1", CURVE + "; edt has no tau"),
        ("edt:0.8 [here]theta=1", CURVE),
        ("sentence[here]", PARTS + "; : is missing"),
        ("sentence:[here]", PARTS + "; a number is missing"),
        ("sentence:1,[here]", PARTS + "; a number is missing"),
        ("sentence:1,[here],2", PARTS + "; a number is missing"),
        ("sentence:1 [here]2", PARTS),
        ("sentence:1,[here]theta=3", PARTS + "; sentence has no theta"),
        ("sentence:(line:1,2[here]", PARTS + "; a ) is missing"),
        ("think=[here]", SIDES + "; a number is missing"),
        ("think=1[here]", SIDES + "; answer= is missing"),
        ("think=1,[here]", SIDES + "; answer= is missing"),
        ("answer=1[here]", SIDES + "; think= is missing"),
        ("think=1,[here]think=2", SIDES + "; think= is there twice"),
        ("think=1,answer=2[here],", SIDES),
        ("think=1,answer=2[here],clamp=0..1", SIDES),
        ("think=1,answer=[here]", SIDES + "; a number is missing"),
        ("[here]\u201c0.8\u201d", SHAPE + "; a number is missing"),
        ("0.3[here]\u20261.3", SHAPE),  # an ellipsis is no two points
        ("linear:1[here]\u21922@3", LINE + "a target is missing: quote the policy, for > has a meaning in the shell"),
        ("0.8[here]\u200b", SHAPE),
        ("[here]\ufeff0.8", SHAPE + "; a number is missing"),
        ("[here]тёплый:1", SHAPE + "; there is no policy тёплый"),
        ("0.8[here]\x00", SHAPE),
        ("[here]\ud83d", SHAPE + "; a number is missing"),
    ],
)  # fmt: skip
def test_a_malformed_policy_is_refused_with_the_place_and_the_right_form(text: str, rule: str) -> None:
    got = refusal(text.replace("[here]", ""))
    assert got == f"{rule}, got {json.dumps(text, ensure_ascii=False)}"


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_an_empty_policy_is_refused_with_the_right_form(text: str) -> None:
    assert refusal(text) == f"{SHAPE}; a number is missing, got {json.dumps(text)}"


def test_a_place_far_from_the_beginning_is_shown_with_what_stands_around_it() -> None:
    text = "sentence:" + "0.5," * 30 + "x,0.7"
    assert refusal(text).endswith(', got "...5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,[here]x,0.7"')
    assert refusal(text + ",0.8" * 30).endswith("0.5,0.5,[here]x,0.7,0.8,0.8,0.8...")


@pytest.mark.parametrize("before", ["\n" * 50, "\\" * 50, '"' * 50, "\x1b" * 50])
def test_the_place_is_shown_also_behind_what_has_to_be_escaped(before: str) -> None:
    assert "[here]" in refusal("0.8" + "\n" * 50 + before + "x")


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
def test_a_huge_text_is_refused_in_one_short_line(text: str) -> None:
    assert "[here]" in refusal(text)
