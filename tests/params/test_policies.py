"""Each temperature policy as a function of the token's step, against numbers worked out by hand."""

import math
from collections.abc import Sequence
from typing import Any

import pytest

from llmcli.params.policies import rules
from llmcli.params.policies.policy import Entropy, Fixed, names_in, parse_policy
from llmcli.params.policies.rules import BUILTIN, TokenStep

HALF = (0.5, 0.25, 0.25)  # its entropy is 1.5 ln 2, of ln 3 at most
EVEN = (0.25,) * 4
SURE = (1.0,)


def step(p: Sequence[float] = HALF, **position: Any) -> TokenStep:
    """A token with these candidates, somewhere in an answer."""
    return TokenStep(lambda: (p, sum(-q * math.log(q) for q in p)), **position)


def unread(**position: Any) -> TokenStep:
    """A token whose candidates must not be looked at."""

    def looked() -> tuple[Sequence[float], float]:
        raise AssertionError("the candidates were looked at")

    return TokenStep(looked, **position)


def at(text: str, token: TokenStep) -> float:
    return parse_policy(text)(token)


def over(text: str, indexes: Sequence[int]) -> list[float]:
    """The temperatures of some tokens under a schedule."""
    return [at(text, unread(index=index)) for index in indexes]


def test_a_step_has_the_number_and_entropy_of_candidates() -> None:
    assert [step().candidates, step().p] == [3, HALF]
    assert step().entropy == pytest.approx(1.0397207708399179)
    assert [step(SURE).candidates, step(SURE).entropy] == [1, 0.0]


def test_an_ended_step_keeps_only_computed_values() -> None:
    asked, unasked = step(), step()
    assert asked.entropy > 1
    asked.end()
    unasked.end()
    assert asked.p == HALF
    with pytest.raises(RuntimeError, match="an earlier token are not available"):
        _ = unasked.entropy


@pytest.mark.parametrize("text", ["0", "0.8", "1e3"])
def test_a_fixed_temperature_is_the_same_for_each_token(text: str) -> None:
    assert {at(text, unread(index=index, sentence=index, thinking=index > 1)) for index in range(4)} == {float(text)}


@pytest.mark.parametrize(
    ("text", "p", "temperature"),
    [
        ("0.3..1.3", EVEN, 1.3),
        ("0.3..1.3", SURE, 0.3),
        ("0.3..1.3", HALF, 0.3 + 0.9463946303571862),  # 1.5 log3(2)
        ("0.3..1.3^2", HALF, 0.3 + 0.8956627963810),
        ("0..2^0.5", HALF, 2 * 0.9728281607438),
        ("0.5..0.5", HALF, 0.5),
        ("0.3..1.3", (0.9, 0.1), 0.3 + 0.4689955935892812),  # in bits, for ln 2 is the most
        ("0.3..1.3^3", (0.9, 0.1), 0.3 + 0.1031588013),
    ],
)
def test_a_range_follows_the_entropy(text: str, p: Sequence[float], temperature: float) -> None:
    assert at(text, step(p)) == pytest.approx(temperature, abs=1e-9)


@pytest.mark.parametrize(
    ("text", "p", "temperature"),
    [
        ("edt:0.7,theta=1.3862943611198906", EVEN, 0.7 * 0.8),  # theta = H = ln 4
        ("edt:0.7,theta=2.772588722239781", EVEN, 0.7 * 0.64),
        ("edt:0.7,theta=0", EVEN, 0.7),
        ("edt:0.8", EVEN, 0.8 * 0.984032450085),  # 0.8 ^ (0.1 / 1.3863) = e ^ -0.016096
        ("edt:0.8,theta=0.1", EVEN, 0.8 * 0.984032450085),
        ("edt:0.8", SURE, 0.0),
        ("edt:0.8", (1 - 1e-9, 1e-9), 0.0),  # 0.8 ^ 4.6e6
    ],
)
def test_edt_lowers_the_temperature_with_the_entropy(text: str, p: Sequence[float], temperature: float) -> None:
    assert at(text, step(p)) == pytest.approx(temperature, abs=1e-9)


def test_a_linear_schedule_has_equal_steps_to_its_end() -> None:
    assert over("linear:1.2->0.5@7", range(10)) == pytest.approx([1.2, 1.1, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.5, 0.5])
    assert over("linear:0->2@4", [0, 1, 2, 3, 4, 10**9]) == [0, 0.5, 1, 1.5, 2, 2]
    assert set(over("linear:0.8->0.8@10", range(20))) == {0.8}


def test_a_cosine_schedule_is_slow_at_both_ends() -> None:
    assert over("cosine:1.2->0.4@3", range(5)) == pytest.approx([1.2, 1.0, 0.6, 0.4, 0.4])
    root = math.sqrt(0.5)
    assert over("cosine:1->0@4", range(5)) == pytest.approx([1, (1 + root) / 2, 0.5, (1 - root) / 2, 0])


def test_an_exponential_schedule_changes_by_the_same_factor() -> None:
    assert over("exp:1.6->0.1@4", range(7)) == pytest.approx([1.6, 0.8, 0.4, 0.2, 0.1, 0.1, 0.1])
    assert over("exp:0.5->1@2", range(4)) == pytest.approx([0.5, 0.5 * math.sqrt(2), 1, 1])


@pytest.mark.parametrize("name", ["linear", "cosine", "exp"])
@pytest.mark.parametrize(("start", "end"), [(1e-300, 3e38), (3e38, 1e-300), (1.2, 0.5)])
def test_a_schedule_stays_between_its_ends(name: str, start: float, end: float) -> None:
    low, high = sorted((start, end))
    for value in over(f"{name}:{start}->{end}@10", [0, 1, 5, 9, 10, 11]):
        assert low <= value * (1 + 1e-9) + 1e-290
        assert value <= high * (1 + 1e-9)


@pytest.mark.parametrize("unit", ["sentence", "line", "paragraph"])
def test_later_parts_have_the_last_temperature(unit: str) -> None:
    values = [at(f"{unit}:1.1,0.7,0.4", unread(**{unit: number})) for number in (0, 1, 2, 3, 99)]
    assert values == [1.1, 0.7, 0.4, 0.4, 0.4]
    others = {"sentence": 1, "line": 1, "paragraph": 1} | {unit: 0}
    assert at(f"{unit}:1.1,0.7", unread(**others)) == 1.1


def test_a_single_part_applies_to_all() -> None:
    assert [at("line:0.7", unread(line=line)) for line in range(3)] == [0.7] * 3


@pytest.mark.parametrize("text", ["think=1.0,answer=0.6", "answer=0.6,think=1.0"])
def test_reasoning_and_answer_have_their_own_temperature(text: str) -> None:
    assert at(text, unread(thinking=True)) == 1.0
    assert at(text, unread()) == 0.6


def test_a_clamp_limits_a_policy_to_a_range() -> None:
    assert over("linear:1.5->0@15,clamp=0.2..1.2", [0, 3, 5, 13, 14, 99]) == pytest.approx(
        [1.2, 1.2, 1.0, 0.2, 0.2, 0.2]
    )
    assert at("edt:0.8,theta=9,clamp=0.5..0.5", step()) == 0.5


@pytest.mark.parametrize(
    ("text", "token", "temperature"),
    [
        ("sentence:0.3..1.3,0.5", step(EVEN), 1.3),
        ("sentence:0.3..1.3,0.5", step(SURE), 0.3),
        ("sentence:0.3..1.3,0.5", unread(sentence=1), 0.5),
        ("sentence:(line:1,2),(line:3,4)", unread(sentence=1, line=1), 4),
        ("sentence:(line:1,2),(line:3,4)", unread(sentence=0, line=5), 2),
        ("think=sentence:1,2,answer=linear:4->0@4", unread(sentence=7, thinking=True), 2),
        ("think=sentence:1,2,answer=linear:4->0@4", unread(sentence=7, index=1), 3),
        ("paragraph:(think=1,answer=2),3", unread(thinking=True), 1),
        ("sentence:0.2..2,clamp=0.5..1.5", step(EVEN), 1.5),
        ("sentence:(0.2..2),(linear:2->0@2,clamp=1..9)", unread(sentence=1, index=2), 1),
    ],
)
def test_policies_can_be_nested(text: str, token: TokenStep, temperature: float) -> None:
    assert at(text, token) == pytest.approx(temperature)


@pytest.mark.parametrize(
    ("text", "token", "part"),
    [
        ("0.8", unread(), "0.8"),
        ("0.3..1.3^0.7", unread(), "0.3..1.3^0.7"),
        ("edt:0.8,theta=0.2", unread(), "edt:0.8,theta=0.2"),
        ("linear:1.2->0.5@200", unread(index=9), "linear:1.2->0.5@200"),
        ("linear:1.2->0.5@200,clamp=1..2", unread(), "linear:1.2->0.5@200,clamp=1..2"),
        ("sentence:1.1,0.3..1.3,0.4", unread(), "1.1"),
        ("sentence:1.1,0.3..1.3,0.4", unread(sentence=1), "0.3..1.3"),
        ("sentence:1.1,0.3..1.3,0.4", unread(sentence=5), "0.4"),
        ("think=edt:1,answer=0.6", unread(thinking=True), "edt:1"),
        ("think=edt:1,answer=0.6", unread(), "0.6"),
        ("think=0,answer=paragraph:1,(sentence:2,3)", unread(paragraph=1, sentence=4), "3"),
    ],
)
def test_the_used_part_is_named_without_the_candidates(text: str, token: TokenStep, part: str) -> None:
    assert parse_policy(text).explain(token) == part


def test_a_policy_is_a_pure_function() -> None:
    texts = ["0.8", "0.3..1.3^0.7", *(kind.example for kind in BUILTIN.values())]
    positions = [
        {"index": i, "sentence": i // 2, "line": i // 3, "paragraph": i // 4, "thinking": i < 3} for i in range(9)
    ]
    for text in texts:
        policy = parse_policy(text)
        forth = [policy(step(p, **position)) for position in positions for p in (HALF, EVEN, SURE)]
        back = [policy(step(p, **position)) for position in reversed(positions) for p in (SURE, EVEN, HALF)]
        again = [parse_policy(text)(step(p, **position)) for position in positions for p in (HALF, EVEN, SURE)]
        assert forth == back[::-1] == again, text


def test_the_example_of_a_policy_parses_to_it() -> None:
    for name, kind in BUILTIN.items():
        policy = parse_policy(kind.example)
        assert names_in(policy)[0] == name
        assert parse_policy(str(policy)) == policy


@pytest.mark.parametrize(
    ("function", "sources"),
    [
        (Entropy, ("llama.cpp", "KoboldCpp")),
        (rules.edt, ("Zhang et al. 2024", "arXiv:2403.14541")),
        (rules.cosine, ("Loshchilov and Hutter 2017", "arXiv:1608.03983")),
    ],
)
def test_a_published_policy_names_its_source(function: Any, sources: tuple[str, ...]) -> None:
    for source in sources:
        assert source in function.__doc__.partition("Source:")[2]


def test_every_policy_has_a_docstring() -> None:
    for function in (Fixed, Entropy, *(kind.function for kind in BUILTIN.values())):
        assert function.__doc__, function
