"""Settings with a list of values, and the grammar of logit biases."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.errors import UsageError
from llmcli.params.generation import Bias
from llmcli.params.settings import fields, to_datum

INF = math.inf
BIAS = fields()["logit_bias"]
STOP = fields()["stop"]


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (["none"], ()),
        (["none", "b"], ("none", "b")),
        ([r"\n", r"a\tb"], ("\n", "a\tb")),
        ([r"\\n"], (r"\n",)),
        ([r"C:\dir", "end\\"], (r"C:\dir", "end\\")),
        ([r"\"x\'"], ("\"x'",)),
        (['["a"]'], ('["a"]',)),
    ],
)
def test_a_repeated_flag_is_a_list(given: list[str], value: tuple[str, ...]) -> None:
    assert STOP.parse_texts(given) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("none", ()),
        ("one", ("one",)),
        (r"\n", ("\n",)),
        ('["a", "b\\n"]', ("a", "b\n")),
        ("[x", ("[x",)),
        ("[1]", ("[1]",)),
    ],
)
def test_a_list_can_be_one_text(text: str, value: tuple[str, ...]) -> None:
    assert STOP.parse_text(text) == value


@pytest.mark.parametrize("key", ["stop", "banned_strings"])
def test_a_list_of_phrases_rejects_an_empty_text(key: str) -> None:
    with pytest.raises(UsageError, match=f"^{key} must be a non-empty text"):
        fields()[key].parse_texts(["a", ""])
    with pytest.raises(UsageError, match=f"^{key} must be a non-empty text"):
        fields()[key].parse_data(["a", ""])


@pytest.mark.parametrize("value", [[1], {"a": 1}, 5, [["a"]], [None]])
def test_a_list_of_texts_rejects_other_data(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^stop must be a list of strings"):
        STOP.parse_data(value)


def test_a_backslash_in_a_file_name_is_not_an_escape() -> None:
    names = [r"C:\new\table.txt", r"a\nb"]
    assert fields()["file"].parse_texts(names) == tuple(names)
    assert fields()["file"].parse_text(names[0]) == (names[0],)


@given(st.lists(st.text(min_size=1)).map(tuple))
def test_any_list_of_texts_survives_its_text_form(value: tuple[str, ...]) -> None:
    assert STOP.parse_text(STOP.format(value)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1234=+1.5", (1234, 1.5)),
        ("1234=-1.5", (1234, -1.5)),
        ("1234 = 2", (1234, 2.0)),
        ("1234=-inf", (1234, -INF)),
        ("1234+1.5", (1234, 1.5)),
        ("1234-1.5", (1234, -1.5)),
        ("1234-inf", (1234, -INF)),
        ('"text"=-inf', ("text", -INF)),
        ('" a"=-2', (" a", -2.0)),
        ('"12"=1', ("12", 1.0)),
        (r'"\n"=1', ("\n", 1.0)),
        (r'"\d"=1', (r"\d", 1.0)),
        ('"a=b"=1', ("a=b", 1.0)),
        ("word=1", ("word", 1.0)),
        ("a=b=1", ("a=b", 1.0)),
        ('"=1', ('"', 1.0)),
        ("-5=1", ("-5", 1.0)),
    ],
)
def test_a_bias_is_parsed_from_each_form(text: str, value: Bias) -> None:
    assert BIAS.parse_text(text) == (value,)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ([[5, 1], ["a", -2.5]], ((5, 1.0), ("a", -2.5))),
        ([[5, False], [6, "-inf"]], ((5, -INF), (6, -INF))),
        ({"5": 1, "a": False}, ((5, 1.0), ("a", -INF))),
        (["5=1", '"a"=-inf'], ((5, 1.0), ("a", -INF))),
        ("5=1", ((5, 1.0),)),
        ([], ()),
    ],
)
def test_biases_are_parsed_from_data_and_json_text(data: Any, value: tuple[Bias, ...]) -> None:
    assert BIAS.parse_data(data) == value
    if not isinstance(data, str):
        assert BIAS.parse_text(json.dumps(data)) == value


@pytest.mark.parametrize(
    "text",
    [
        "5",
        "=1",
        "5=",
        "5=x",
        "5=nan",
        "5=inf",
        "5=+inf",
        "5+nan",
        "5=1e39",
        "[5",
        '[["a", true]]',
        "[[true, 1]]",
        "[[5]]",
        '[["", 1]]',
        "[[5, null]]",
        "[[1.5, 1]]",
        "[5]",
        "{",
        f"[[5, {10**400}]]",
        "",
    ],
)
def test_an_invalid_bias_is_an_error(text: str) -> None:
    with pytest.raises(UsageError, match=r"^logit_bias must be (TOKEN=BIAS|a token|a list)"):
        BIAS.parse_text(text)


def test_repeated_bias_flags_add_up_and_none_clears() -> None:
    assert BIAS.parse_texts(["5=1", '"a"=-1']) == ((5, 1.0), ("a", -1.0))
    assert BIAS.parse_texts(["none"]) == ()


TOKENS = st.integers(0, 2**31 - 1) | st.text(min_size=1)
AMOUNTS = st.floats(allow_nan=False, width=32).filter(lambda value: value < INF)


@given(st.lists(st.tuples(TOKENS, AMOUNTS), max_size=3).map(tuple))
def test_any_list_of_biases_survives_text_and_json(value: tuple[Bias, ...]) -> None:
    assert BIAS.parse_text(BIAS.format(value)) == value
    assert BIAS.parse_data(json.loads(json.dumps(to_datum(BIAS, value), allow_nan=False))) == value


TEMPLATE_ARG = fields()["template_arg"]


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (["a=1"], ("a=1",)),
        (["a = [1, 2]", 'b="x=y"'], ("a=[1, 2]", 'b="x=y"')),
        (['{"a": {"b": null}, "c": true}'], ('a={"b": null}', "c=true")),
        (['a="ü"', "none", "a=2"], ('a="ü"', "a=2")),
    ],
)
def test_a_variable_of_a_template_is_a_name_and_json(given: list[str], value: tuple[str, ...]) -> None:
    assert TEMPLATE_ARG.parse_texts(given) == value
    assert TEMPLATE_ARG.parse_data(list(value)) == value


@pytest.mark.parametrize(
    ("given", "telling", "hint"),
    [
        ("a", "must be KEY=JSON", ""),
        ("a=", "must be KEY=JSON", ""),
        ("=1", "must be KEY=JSON", ""),
        ("a b=1", "must be KEY=JSON", ""),
        ("a={", "must be KEY=JSON", ""),
        ("a=NaN", "NaN is not JSON", ""),
        ("a=" + "9" * 5000, "must be KEY=JSON", ""),
        ("a=" + "[" * 100_000, "must be KEY=JSON", ""),
        ("effort=high", "must be KEY=JSON", """a text has quotes: effort="high"; in a shell 'effort="high"'"""),
        ("messages=[]", "the template gets messages from llmcli", ""),
        ('{"bos_token": "x"}', "the template gets bos_token from llmcli", ""),
        ("self=1", "the template gets self from llmcli", ""),
        ("for=1", "must be KEY=JSON", ""),
        ("[1]", "must be KEY=JSON", ""),
    ],
)
def test_what_is_not_a_variable_of_a_template_is_refused(given: str, telling: str, hint: str) -> None:
    with pytest.raises(UsageError, match=r"^template_arg must be") as caught:
        TEMPLATE_ARG.parse_texts([given])
    assert telling in str(caught.value)
    assert caught.value.hint == hint
