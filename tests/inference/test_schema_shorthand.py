"""JSON schemas in the short form: `name: str, age: int`."""

import json

import pytest

from llmcli.errors import UsageError
from llmcli.inference.schema_shorthand import expand_shorthand, is_shorthand


@pytest.mark.parametrize(
    ("text", "properties", "required"),
    [
        ("name: str, age: int", {"name": {"type": "string"}, "age": {"type": "integer"}}, ["name", "age"]),
        ("a?: float,b:bool,", {"a": {"type": "number"}, "b": {"type": "boolean"}}, ["b"]),
        ("tags: [str]", {"tags": {"type": "array", "items": {"type": "string"}}}, ["tags"]),
        ('size: "S"|"M" | 3', {"size": {"enum": ["S", "M", 3]}}, ["size"]),
        ("n: int|null", {"n": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}, ["n"]),
        ('"a b": any', {"a b": {}}, ["a b"]),
        (
            "d: date, e: email",
            {"d": {"type": "string", "format": "date"}, "e": {"type": "string", "format": "email"}},
            ["d", "e"],
        ),
        ("\n  one: str,\n  two: str\n", {"one": {"type": "string"}, "two": {"type": "string"}}, ["one", "two"]),
    ],
)
def test_the_short_form_becomes_a_schema(text: str, properties: object, required: list[str]) -> None:
    assert is_shorthand(text)
    assert json.loads(expand_shorthand(text)) == {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def test_objects_and_lists_nest() -> None:
    schema = json.loads(expand_shorthand("owner: {id: int, roles: [[str]]}, x: null"))
    owner = schema["properties"]["owner"]
    assert owner["required"] == ["id", "roles"]
    assert owner["properties"]["roles"]["items"] == {"type": "array", "items": {"type": "string"}}


@pytest.mark.parametrize("text", ["s.json", "C:\\s.json", "D:/s.json", '{"a": 1}', "", "true", "folder/s.json"])
def test_a_file_or_json_is_not_the_short_form(text: str) -> None:
    assert not is_shorthand(text)


@pytest.mark.parametrize(
    ("text", "telling"),
    [
        ("a: strng", "expected a type: .* at 'strng'"),
        ("a: str b: int", "expected a comma at 'b: int'"),
        ("a: [str", r"expected \] at the end"),
        ("a: {b: str", "expected a comma at the end"),
        ("a:", "expected a type: .* at the end"),
        ("a: str, b", "expected NAME: TYPE at 'b'"),
        ("a: str, a: int", "the field 'a' stands twice"),
        ('a: "\\q"', "is not a JSON value"),
        ("a: " + "[" * 100, "nested too deep"),
        ("a: " + "{b: " * 100, "nested too deep"),
        ("a: str}", "expected a comma at '}'"),
        ("[str", r"expected \] at the end"),
        ("int int", "expected the end at .int."),
    ],
)
def test_a_mistake_in_the_short_form_is_told_with_its_place(text: str, telling: str) -> None:
    with pytest.raises(UsageError, match=telling):
        expand_shorthand(text)


@pytest.mark.parametrize(
    ("text", "schema"),
    [
        ("int", {"type": "integer"}),
        ("date", {"type": "string", "format": "date"}),
        ("int | null", {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        ('"a"|"b"', {"enum": ["a", "b"]}),
        ("1|2.5", {"enum": [1, 2.5]}),
        ("[str]", {"type": "array", "items": {"type": "string"}}),
        (
            "[{ n?: int }]",
            {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"n": {"type": "integer"}},
                    "required": [],
                    "additionalProperties": False,
                },
            },
        ),
    ],
)
def test_the_short_form_can_be_one_type(text: str, schema: object) -> None:
    assert is_shorthand(text)
    assert json.loads(expand_shorthand(text)) == schema


def test_fields_can_stand_in_braces() -> None:
    assert expand_shorthand("{name: str, age: int}") == expand_shorthand("name: str, age: int")


@pytest.mark.parametrize(
    "text", ['{"type": "object"', "{'type': 'object'}", '["a"]', "integers.json", "int.json", "[]"]
)
def test_json_and_names_of_files_are_not_one_type(text: str) -> None:
    assert not is_shorthand(text)
