"""JSON schemas: what is enforced token by token, what at the end, and what is refused before the first token."""

import json
from typing import Any

import pytest

from llmcli.engine.llama.model import Vocab
from llmcli.engine.sampling import guidance
from llmcli.engine.sampling.constraints import make_matcher
from llmcli.errors import UsageError
from llmcli.inference.json_schema import JsonSchema, read_schema
from tests.engine.conftest import model as model
from tests.engine.conftest import vocab as vocab

SHORT = {"type": "string", "minLength": 3, "maxLength": 5}
LINKED = {"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False}


def generates(vocab: Vocab, schema: JsonSchema, text: str) -> bool:
    """Whether the grammar lets a model write exactly this text."""
    matcher = make_matcher(vocab, schema)
    for token in vocab.tokenize(text):
        if not matcher.allows(token):
            return False
        matcher.accept(token)
    return matcher.may_end()


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        (SHORT, ['"abc"', r'"a\nb"', r'"\u00e9\"a"'], ['"a\nbc"', '"ab"', '"abcdef"']),
        ({"enum": ["C:\\dir", 'a"b']}, [r'"C:\\dir"', r'"a\"b"'], [r'"C:\dir"', '"a"b"']),
        ({"type": ["string", "null"], "enum": ["a", None, 3]}, ['"a"', "null"], ["3", '"b"']),
        ({"properties": {"a": {}}, "type": "object", "required": ["b"]}, ['{"a": 1, "b": 2}'], ['{"a": 1}']),
        ({"$ref": "#/$defs/n", "minimum": 3, "$defs": {"n": {"type": "integer"}}}, ["3", "40"], ["2", '"3"']),
        ({"allOf": [{"enum": [1, 2]}, {"enum": [2, 3]}]}, ["2"], ["1", "3"]),
        ({"type": "string", "pattern": "^a+$", "minLength": 2}, ['"aa"'], ['"a"', '"ab"']),
        ({"type": "integer", "minimum": 3, "maximum": 7}, ["3", "7"], ["2", "8", "-1234567889000000"]),
        ({"type": "number", "multipleOf": 0.5, "exclusiveMaximum": 2}, ["1.5"], ["2", "1.2"]),
        (LINKED, ['{"next": {"next": {}}}', "{}"], ['{"other": 1}']),
        ({"$ref": "#a", "$defs": {"x": {"$anchor": "a", "type": "boolean"}}}, ["true"], ["1"]),
        ({"properties": {"a": True, "b": False}, "type": "object"}, ['{"a": [1, {}]}'], ['{"b": 1}']),
        ({"type": "string", "pattern": r"\d\w\.x"}, ['"a1b.xz"', r'"1_.x"'], ['"1b-x"', '"\u0664b.x"']),
        ({"type": "string", "maxLength": 2500}, ['"' + "a" * 2500 + '"'], ['"' + "a" * 2501 + '"']),
        ({"properties": {"a": {"description": "x"}}, "required": ["a"]}, ['{"a": null}', '{"a": {}}'], ['{"b": 1}']),
        ({"enum": list(range(10_000))}, ["9999"], ["10000"]),
        ({}, ["null", '{"a": [1, 2.5, "x"]}', "true"], ["{", "nul", " null", "null\n"]),
    ],
)  # fmt: skip
def test_a_grammar_enforces_the_schema(vocab: Vocab, schema: object, right: list[str], wrong: list[str]) -> None:
    read = read_schema(json.dumps(schema))
    assert not read.unenforced
    for text in right:
        assert generates(vocab, read, text), text
        assert read.problem(text) is None, text
    assert [text for text in wrong if generates(vocab, read, text)] == []


@pytest.mark.parametrize(
    ("schema", "places", "right", "wrong"),
    [
        ({"type": "array", "contains": {"const": 3}}, ["/contains"], "[1, 3]", "[1]"),
        ({"type": "integer", "not": {"const": 3}}, ["/not"], "4", "3"),
        ({"type": "array", "uniqueItems": True}, ["/uniqueItems"], "[1, 2]", "[1, 1]"),
        ({"oneOf": [{"minimum": 1}, {"minimum": 3}], "type": "integer"}, ["/oneOf"], "2", "4"),
        ({"properties": {"a/b": {"not": {}}}}, ["/properties/a~1b/not"], "{}", '{"a/b": 1}'),
        (
            {"type": "object", "patternProperties": {"a": {"type": "integer"}, "b": True, "ab": {}}},
            ["/patternProperties"],
            '{"a": 1}',
            '{"a": "x"}',
        ),
        (
            {"if": {"required": ["a"]}, "then": {"required": ["b"]}, "else": {"required": ["c"]}},
            ["/if", "/then", "/else"],
            '{"a": 1, "b": 1}',
            '{"a": 1}',
        ),
        ({"type": "string", "pattern": "^(?!a)"}, ["/pattern"], '"b"', '"a"'),
        ({"type": "integer", "multipleOf": 1_000_003}, ["/multipleOf"], "2000006", "2000007"),
        (
            {"allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}], "type": "integer"},
            ["/allOf/1/multipleOf"],
            "99400891",
            "9973",
        ),
        ({"type": "number", "maximum": 1e300}, ["/maximum"], "1e299", "1e301"),
        ({"type": "integer", "minimum": 10**400}, ["/minimum"], "1" + "0" * 401, "5"),
        (
            {"patternProperties": {f"^a{number}$": {"type": "null"} for number in range(101)}},
            ["/patternProperties"],
            '{"a1": null}',
            '{"a1": 1}',
        ),
    ],
)  # fmt: skip
def test_the_rest_is_found_in_the_finished_answer(
    vocab: Vocab, schema: object, places: list[str], right: str, wrong: str
) -> None:
    read = read_schema(json.dumps(schema))
    assert list(read.unenforced) == places
    assert generates(vocab, read, right)
    assert read.problem(right) is None
    assert read.problem(wrong)


@pytest.mark.parametrize("kind", ["array", "object"])
def test_a_thousand_references_in_succession_are_read(vocab: Vocab, kind: str) -> None:
    inner: Any = {"type": "array", "items": {}} if kind == "array" else {"type": "object", "properties": {"a": {}}}
    defs: dict[str, Any] = {"d1500": {"type": "null"}}
    for number in range(1500):
        one = defs[f"d{number}"] = json.loads(json.dumps(inner))
        (one if kind == "array" else one["properties"])["items" if kind == "array" else "a"] = {
            "$ref": f"#/$defs/d{number + 1}"
        }
    read = read_schema(json.dumps({"$ref": "#/$defs/d0", "$defs": defs}))
    assert generates(vocab, read, "[[[]]]" if kind == "array" else '{"a": {}}')
    assert not generates(vocab, read, "[1]" if kind == "array" else '{"a": 1}')


@pytest.mark.parametrize(("keyword", "draft"), [("items", "draft-07"), ("exclusiveMinimum", "draft-04")])
def test_a_schema_of_an_older_draft_gets_its_hint(keyword: str, draft: str) -> None:
    schema: dict[str, object] = {keyword: [{"type": "null"}] if keyword == "items" else True, "minimum": 1}
    with pytest.raises(UsageError) as caught:
        read_schema(json.dumps(schema))
    name = f"http://json-schema.org/{draft}/schema#"
    assert caught.value.hint == f'for an older draft add "$schema": "{name}"'
    assert not read_schema(json.dumps({"$schema": name, **schema})).unenforced


@pytest.mark.parametrize(
    ("schema", "answer", "problem"),
    [
        ({}, "[" * 300 + "]" * 300, None),
        ({}, "[" * 200_000 + "]" * 200_000, "it is nested too deep to be validated"),
        ({}, "9" * 5000, "not JSON: an integer of 5000 digits is not a number that fits"),
        ({"type": "number"}, "-1e400", None),
        ({"type": "integer", "minimum": 3}, "9" * 400, None),
    ],
)
def test_an_extreme_answer_is_valid_or_has_a_problem(schema: object, answer: str, problem: str | None) -> None:
    assert read_schema(json.dumps(schema)).problem(answer) == problem


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("", "json_schema is not valid JSON"),
        ("{", "json_schema is not valid JSON"),
        ("[1]", "json_schema must be a JSON object"),
        ("3", "json_schema must be a JSON object"),
        ("false", "nothing can match false"),
        ('{"type": "nonsense"}', 'json_schema is not valid at /type: "nonsense" is not valid'),
        ('{"$ref": "#/missing"}', "json_schema is not valid: Pointer '/missing' does not exist"),
        ('{"$ref": "http://127.0.0.1:9/s.json"}', "cannot fetch http://127.0.0.1:9/s.json"),
        ('{"$ref": "file:///etc/passwd"}', "cannot fetch file:///etc/passwd"),
        ('{"pattern": "^(", "type": "string"}', "json_schema is not valid at /pattern"),
        ('{"properties": {"a": {"minimum": "x"}}}', "json_schema is not valid at /properties/a/minimum"),
        (
            '{"type": "array", "minItems": 3, "maxItems": 1}',
            "nothing can match it at /maxItems: minItems (3) is greater",
        ),
        ('{"enum": []}', "nothing can match it at /enum"),
        ('{"type": "string", "pattern": "^a{3}$", "maxLength": 2}', "nothing can match it at /maxLength"),
        ('{"type": "object", "properties": {"a": false}, "required": ["a"]}', "nothing can match it at /required"),
        ('{"minimum": ' + "9" * 5000 + "}", "an integer of 5000 digits is not a number that fits"),
        ('{"items": [{"type": "null"}]}', "json_schema is not valid at /items"),
        ('{"minimum": NaN}', "NaN is not a number that fits"),
        ('{"minimum": 1e400}', "1e400 is not a number that fits"),
        (r'{"enum": ["\ud800"]}', "half of a surrogate pair is not a character"),
        ('{"$ref": "#"}', "json_schema: nothing can match it"),
        ('{"$ref": "#", "pattern": "^(?!a)"}', "json_schema: nothing can match it"),
        ('{"type": "string", "type": "integer"}', "the key 'type' stands twice in one object"),
        ('{"items": ' * 5000 + "{}" + "}" * 5000, "json_schema is nested too deep"),
        ('{"items": ' * 500 + "{}" + "}" * 500, "json_schema is nested too deep"),
        ('{"items": ' * 150 + "{}" + "}" * 150, "json_schema is nested too deep"),
        ('{"const": ' + "[" * 400 + "]" * 400 + "}", "json_schema is nested too deep"),
    ],
)
def test_an_invalid_schema_is_an_error_in_one_line(schema: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_schema(schema)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_formats_that_a_validator_knows_are_checked() -> None:
    assert read_schema('{"type": "string", "format": "path"}').unenforced == ()
    known = read_schema('{"type": "string", "format": "json-pointer"}')
    assert known.problem('"/a/b"') is None
    assert known.problem('"a"')


def test_a_large_schema_is_read(vocab: Vocab) -> None:
    properties: dict[str, Any] = {
        f"field{number}": {"type": "string", "description": "x" * 900} for number in range(1000)
    }
    read = read_schema(json.dumps({"type": "object", "properties": properties, "additionalProperties": False}))
    assert len(read.text) > 900_000
    assert generates(vocab, read, '{"field0": "a", "field999": "b"}')


@pytest.mark.parametrize("answer", ["", "{", "NaN", '{"a": 1, "a": 2}', "null null"])
def test_an_answer_that_is_no_json_has_a_problem(answer: str) -> None:
    problem = read_schema("{}").problem(answer)
    assert problem
    assert problem.startswith("not JSON: ")


def test_a_problem_names_its_place_in_the_answer() -> None:
    read = read_schema('{"properties": {"a": {"items": {"type": "integer"}}}}')
    assert read.problem('{"a": [1, "x"]}') == '/a/1: "x" is not of type "integer"'


def test_check_and_answers_compile_a_schema_once(vocab: Vocab) -> None:
    guidance._compiled.cache_clear()
    read = read_schema('{"enum": ["a", "b"]}')
    assert generates(vocab, read, '"a"')
    assert generates(vocab, read, '"b"')
    assert guidance._compiled.cache_info().misses == 1
