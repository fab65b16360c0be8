"""What tasks compute beside the model: code without fences, offsets, copied passages, ranks, columns of a table."""

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.errors import UsageError
from llmcli.pipelines.long_input import Window, windows
from llmcli.pipelines.task_helpers import HELPERS, table_columns


def finish(helper: str, answer: str, **values: str) -> str:
    return HELPERS[helper].finish(values, [(Window(0, values.get("input", "")), answer)])


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("x = 1\n", "x = 1"),
        ("Sure!\n```python\nx = 1\n\ny = 2\n```\nDone. ```z```", "x = 1\n\ny = 2"),
        ("~~~\na ``` b\n~~~", "a ``` b"),
        ("````md\n```\ninner\n```\n````", "```\ninner\n```"),
        ("`ls -l`", "ls -l"),
        ("echo `a` `b`", "echo `a` `b`"),
        ("```python\ncut o", "cut o"),
    ],
)
def test_code_is_printed_without_its_fences(answer: str, code: str) -> None:
    assert finish("code", answer) == code


def test_annotations_get_their_places() -> None:
    text = "Ann met Bob. Bob left."
    answer = [
        {"text": "Bob", "label": "person"},
        {"text": "Bob", "label": "person"},
        {"text": "Ann", "label": "person"},
    ]
    found = json.loads(finish("annotations", json.dumps(answer), input=text))
    assert [(one["start"], one["end"]) for one in found] == [(8, 11), (13, 16), (0, 3)]


def test_annotations_that_are_not_in_the_text_are_omitted() -> None:
    answer = '[{"text": "Carl", "label": "person"}, {"text": "", "label": "person"}, 3, {"label": "x"}]'
    assert finish("annotations", answer, input="Ann met Bob.") == "[]"
    assert finish("annotations", '[{"text": "Ann", "lab', input="Ann met Bob.") == "[]"


def test_annotations_of_windows_count_from_the_start_of_the_input() -> None:
    text = "Ann sat.\n\nBob stood.\n\nAnn left."
    parts = windows(text, 14, 0, len)
    answers = [f'[{{"text": "{part.text[:3]}", "label": "person"}}]' for part in parts]
    found = json.loads(HELPERS["annotations"].finish({"input": text}, list(zip(parts, answers, strict=True))))
    assert [(one["text"], text[one["start"] : one["end"]]) for one in found] == [
        ("Ann", "Ann"),
        ("Bob", "Bob"),
        ("Ann", "Ann"),
    ]
    assert [one["start"] for one in found] == [0, 10, 22]


def test_the_schema_of_annotations_has_their_labels() -> None:
    schema = json.loads(HELPERS["annotations"].prepare({"labels": "a; b, c", "input": ""})["schema"])
    jsonschema.validate([{"text": "x", "label": "b, c"}], schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate([{"text": "x", "label": "c"}], schema)


# Comparison


def compared(text: str, other: str, answer: str = "different") -> dict[str, Any]:
    data: dict[str, Any] = json.loads(finish("compare", answer, input=text, other=other))
    return data


def test_copied_passages_are_found_in_any_order() -> None:
    text = "We walked along the old river at night. Nobody saw the two men behind the trees."
    other = "NOBODY saw the two men; behind the trees we slept. They said: we walked along the old river."
    data = compared(text, other)
    assert [span["text"] for span in data["spans"]] == [
        "We walked along the old river",
        "Nobody saw the two men behind the trees",
    ]
    for span in data["spans"]:
        assert text[span["start"] :].startswith(span["text"])
        first = span["text"].split()[0].lower()
        assert other[span["other_start"] :].lower().startswith(first)
    assert data["copied"] == pytest.approx(14 / 16, abs=1e-3)
    assert data["verdict"] == "copied"


def test_texts_without_a_common_passage_are_judged_by_the_model() -> None:
    assert compared("The train leaves at ten.", "At ten the train departs.", "same meaning") == {
        "verdict": "same meaning",
        "copied": 0.0,
        "spans": [],
    }


@pytest.mark.parametrize(("text", "other"), [("", ""), ("...", "!"), ("", "a b c"), ("a", "")])
def test_texts_without_words_are_not_copied(text: str, other: str) -> None:
    assert compared(text, other)["copied"] == 0


def test_a_short_text_that_is_equal_is_copied() -> None:
    assert compared("Hello there", "hello, there!")["verdict"] == "copied"


@given(st.text("ab ", max_size=80), st.text("ab ", max_size=80))
def test_a_copied_passage_is_in_both_texts(text: str, other: str) -> None:
    data = compared(text, other)
    for span in data["spans"]:
        words = span["text"].split()
        assert other[span["other_start"] :].split()[: len(words)] == words or text == other
    assert 0 <= data["copied"] <= 1


def test_repeated_words_are_compared_in_reasonable_time() -> None:
    assert compared("a b " * 4000, "a b " * 4000)["copied"] == 1


# Ranking


@pytest.mark.parametrize(
    ("text", "items"),
    [("- Emma\n* Dune\n\n3. It", ["Emma", "Dune", "It"]), ("Emma, Dune", ["Emma", "Dune"]), ("a, b; c", ["a, b", "c"])],
)
def test_items_are_numbered(text: str, items: list[str]) -> None:
    values = HELPERS["rank"].prepare({"input": text})
    assert values["items"].split("\n") == [f"{number}. {item}" for number, item in enumerate(items, 1)]
    jsonschema.validate(list(range(1, len(items) + 1)), json.loads(values["schema"]))


@pytest.mark.parametrize(
    ("answer", "order"),
    [("[3, 1, 2]", "c a b"), ("[2, 2, 2]", "b a c"), ("[9, 3]", "c a b"), ("nonsense", "a b c"), ("[2, 1", "a b c")],
)
def test_each_item_is_ranked_once(answer: str, order: str) -> None:
    assert finish("rank", answer, input="a\nb\nc").split() == order.split()


def test_too_few_or_too_many_items_are_refused() -> None:
    with pytest.raises(UsageError, match="there are no items to rank"):
        HELPERS["rank"].prepare({"input": " , ,\n"})
    with pytest.raises(UsageError, match="there are 101 items to rank"):
        HELPERS["rank"].prepare({"input": "\n".join(map(str, range(101)))})


# Tables

TABLE = "id;name;born;height;ok;zip\n1;Ada;1815-12-10;1.65;true;01234\n2;Alan;1912-06-23;1.78;false;99999\n3;;;;;\n"


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_columns_have_the_types_of_their_values(mark: str) -> None:
    columns = table_columns(mark + TABLE)
    assert {name: one["type"] for name, one in columns.items()} == {
        "id": "integer",
        "name": ["string", "null"],
        "born": ["string", "null"],
        "height": ["number", "null"],
        "ok": ["boolean", "null"],
        "zip": ["string", "null"],  # a number would lose its zero
    }
    assert columns["born"]["format"] == "date"
    assert columns["height"]["examples"] == [1.65, 1.78]


def test_quotes_tabs_and_equal_names_are_read() -> None:
    columns = table_columns('name\tname\t\n"a\tb"\t1\tx\n"c ""d"""\t2\ty\n')
    assert list(columns) == ["name", "name_2", "column_3"]
    assert list(table_columns("a,a_3,a\n1,2,3\n")) == ["a", "a_3", "a_3_3"]
    assert columns["name"]["examples"] == ["a\tb", 'c "d"']


def test_few_different_values_are_listed() -> None:
    assert table_columns("n,color\n" + "1,red\n2,blue\n3,red\n" * 3)["color"]["enum"] == ["blue", "red"]


def test_the_schema_of_a_table_is_valid_and_described() -> None:
    values = {"input": TABLE, **HELPERS["table"].prepare({"input": TABLE})}
    answer = {"description": "People.", "columns": dict.fromkeys(table_columns(TABLE), "A fact.")}
    jsonschema.validate(answer, json.loads(values["schema"]))
    schema = json.loads(finish("table", json.dumps(answer), **values))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["description"] == "People."
    assert schema["items"]["required"] == ["id"]
    assert schema["items"]["properties"]["id"] == {"type": "integer", "examples": [1, 2, 3], "description": "A fact."}
    row = {"id": 1, "name": "Ada", "born": "1815-12-10", "height": 1.65, "ok": True, "zip": "01234"}
    jsonschema.validate([row, {**dict.fromkeys(row), "id": 3}], schema)


@pytest.mark.parametrize("text", ["", "a,b", "a,b\n\n\n", "x" * 300_000 + "\n1\n"])
def test_what_is_not_a_table_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="the input is not a CSV table"):
        table_columns(text)


@given(st.text(max_size=60))
def test_any_text_is_a_table_or_refused(text: str) -> None:
    try:
        columns = table_columns("a,b\n" + text)
    except UsageError:
        return
    assert next(iter(columns))
