"""What varies in a comparison, and the figures of its answers."""

from types import SimpleNamespace
from typing import Any

import pytest

from llmcli.errors import UsageError
from llmcli.inference.comparison import MAX_VARIANTS, Variant, distinct_n, split_values, statistics_of, variants_of
from llmcli.params.policies.policy import Fixed

# What varies


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.2,0.8", ["0.2", "0.8"]),
        ("0.2, 0.8 ", ["0.2", "0.8"]),
        ("0.2", ["0.2"]),
        ("sentence:1.1,0.7;0.8", ["sentence:1.1,0.7", "0.8"]),
        ("clamp(0.2,1,exp:1.2->0.5@9),0.8", ["clamp(0.2,1,exp:1.2->0.5@9)", "0.8"]),
        ("[[1,2],[3,4]],[]", ["[[1,2],[3,4]]", "[]"]),
        ("a),b", ["a)", "b"]),
        ("Be brief.;", ["Be brief.", ""]),
        ("", [""]),
    ],
)
def test_values_are_split_at_semicolons_or_outer_commas(text: str, values: list[str]) -> None:
    assert split_values(text) == values


def test_the_values_of_several_settings_are_combined() -> None:
    found = variants_of(["temp=0.2,0.3..1.3", "top-p=0.9,1"], seed=5)
    assert [one.label for one in found] == [
        "temp=0.2 top-p=0.9",
        "temp=0.2 top-p=1",
        "temp=0.3..1.3 top-p=0.9",
        "temp=0.3..1.3 top-p=1",
    ]
    assert found[1].values == {"temperature": Fixed(0.2), "top_p": 1.0}
    assert "seed" not in found[0].values


def test_seeds_count_on_from_the_first() -> None:
    found = variants_of(["temp=0.2,0.8"], seed=7, n_seeds=2)
    assert [one.label for one in found] == ["temp=0.2 #1", "temp=0.2 #2", "temp=0.8 #1", "temp=0.8 #2"]
    assert [one.values["seed"] for one in found] == [7, 8, 7, 8]
    assert [one.label for one in variants_of([], seed=7, n_seeds=2)] == ["seed=7", "seed=8"]
    assert [one.values["seed"] for one in variants_of([], seed=2**32 - 2, n_seeds=2)] == [2**32 - 2, 0]


def test_a_long_value_is_shortened_only_in_the_label() -> None:
    text = "You are a very patient teacher of mathematics."
    (_, one) = variants_of([f"system=;{text}"], seed=1)
    assert one.values == {"system": text}
    assert one.label == "system=You are a very patient teac…"
    assert variants_of([f"system=;{text}"], seed=1)[0] == Variant("system=none", {"system": None})


@pytest.mark.parametrize(
    ("specs", "n_seeds", "says"),
    [
        ([], 1, "no setting to compare"),
        (["temp"], 1, "must have the form KEY=V1,V2, got 'temp'"),
        (["=1,2"], 1, "must have the form KEY=V1,V2"),
        (["tmp=1,2"], 1, "unknown setting 'tmp'"),
        (["n_ctx=512,1024"], 1, "n_ctx needs a model reload and cannot be compared"),
        (["model=a,b"], 1, "model needs a model reload"),
        (["timeout=1,2"], 1, "timeout cannot be compared"),
        (["theme=dark,light"], 1, "theme cannot be compared"),
        (["temp=1,2", "temperature=3,4"], 1, "temperature is given twice"),
        (["seed=1,2"], 2, "several seeds are given twice"),
        (["top_p=0.9,7"], 1, "top_p must be between 0 and 1, got 7"),
        (["top_k=" + ",".join(map(str, range(22)))], 3, "66 combinations, and the limit is 64"),
    ],
)
def test_a_setting_that_cannot_be_compared_is_refused(specs: list[str], n_seeds: int, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        variants_of(specs, 1, n_seeds)


def test_a_value_with_a_comma_needs_semicolons() -> None:
    with pytest.raises(UsageError) as torn:
        variants_of(["temp=0.5,edt:0.8,theta=0.1"], 1)
    assert torn.value.hint == "separate values that contain a comma with ;, as in temp=V1;V2"
    assert len(variants_of(["temp=0.5;edt:0.8,theta=0.1"], 1)) == 2


def test_as_many_variants_as_the_limit_are_allowed() -> None:
    assert len(variants_of(["top_k=" + ",".join(map(str, range(MAX_VARIANTS)))], 1)) == MAX_VARIANTS


# The figures


@pytest.mark.parametrize(
    ("tokens", "n", "share"),
    [([1, 2, 1, 2], 1, 0.5), ([1, 2, 1, 2], 2, 2 / 3), ([1, 2, 1, 2], 4, 1.0), ([1, 2, 1], 4, None), ([], 1, None)],
)
def test_distinct_runs_are_counted_over_all_runs(tokens: list[int], n: int, share: float | None) -> None:
    assert distinct_n(tokens, n) == (None if share is None else pytest.approx(share))


def test_figures_are_those_of_the_answer_alone() -> None:
    traces = [SimpleNamespace(p=p) for p in (0.5, None, 1.0, 0.25)]
    made: Any = SimpleNamespace(
        tokens=[1, 2, 3, 4, 1, 2, 3, 4],
        n_tokens=8,
        traces=traces,
        text="one two\nthree ",
    )
    found = statistics_of(made)
    assert (found.tokens, found.words) == (8, 3)
    assert (found.distinct_1, found.distinct_2, found.distinct_3) == (4 / 8, 4 / 7, 4 / 6)
    assert found.mean_p == pytest.approx(1.75 / 3)
    assert found.repetition == pytest.approx(1 / 5)
