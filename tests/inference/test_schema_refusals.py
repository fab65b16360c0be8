"""What llguidance refuses in a JSON schema is removed from the grammar, and stays for the finished answer."""

import json
from typing import Any

import pytest

from llmcli.engine.llama.model import Vocab
from llmcli.errors import UsageError
from llmcli.inference.json_schema import read_schema
from llmcli.inference.schema_refusals import keywords, pointer, without_refused
from tests.engine.conftest import model as model
from tests.engine.conftest import vocab as vocab
from tests.inference.test_json_schema import generates

NOT_A = {"type": "string", "pattern": "^(?!a)"}


@pytest.mark.parametrize(
    ("schema", "places", "right", "wrong"),
    [
        ({"a": NOT_A, "b": {"type": "null"}}, ["/properties/a/pattern"], '{"a": "x", "b": null}', '{"a": "x", "b": 1}'),
        (
            {"a": NOT_A, "b": {"type": "null"}, "c": NOT_A, "d": {"type": "string", "pattern": "(?=b)."}},
            ["/properties/a/pattern", "/properties/c/pattern", "/properties/d/pattern"],
            '{"a": "x", "b": null, "d": "b"}',
            '{"a": "x", "d": 1}',
        ),
        (
            {"a": {"anyOf": [{"$ref": "#/$defs/x"}, {"type": "null"}]}},
            ["/$defs/x/items/pattern"],
            '{"a": ["b"]}',
            '{"a": [1]}',
        ),
    ],
)
def test_the_grammar_keeps_all_but_what_is_refused(
    vocab: Vocab, schema: object, places: list[str], right: str, wrong: str
) -> None:
    defs = {"x": {"type": "array", "items": NOT_A}} if "$defs" in places[0] else {}
    whole = {"type": "object", "properties": schema, "additionalProperties": False, "$defs": defs}
    read = read_schema(json.dumps(whole))
    assert list(read.unenforced) == places
    assert generates(vocab, read, right)
    assert not generates(vocab, read, wrong)
    assert read.problem('{"a": "a"}')


def test_names_are_free_where_their_patterns_are_refused(vocab: Vocab) -> None:
    names = {"type": "object", "patternProperties": {"^(?!x)": {"type": "null"}}, "additionalProperties": False}
    read = read_schema(json.dumps(names))
    assert read.unenforced == ("/patternProperties",)
    assert generates(vocab, read, '{"a": null}')
    assert read.problem('{"x": null}')


def test_a_schema_that_takes_too_long_is_refused() -> None:
    names = {f"n{number}": {"type": "null"} for number in range(4001)}
    with pytest.raises(UsageError, match="/properties/a/properties has 4001 properties; at most 4000"):
        read_schema(json.dumps({"properties": {"a": {"properties": names}}}))
    defs: dict[str, Any] = {f"d{number}": {"$ref": f"#/$defs/d{number + 1}"} for number in range(2000)}
    defs["d2000"] = json.loads('{"items": ' * 30 + "{}" + "}" * 30)
    with pytest.raises(UsageError, match=r"too many \$ref"):
        read_schema(json.dumps({"$ref": "#/$defs/d0", "$defs": defs}))


def test_a_refused_keyword_is_removed_with_its_place() -> None:
    schema: dict[str, object] = {"type": "array", "items": NOT_A, "minItems": 2}
    assert without_refused(schema) == (
        {"type": "array", "items": {"type": "string"}, "minItems": 2},
        [("items", "pattern")],
    )


def test_the_keywords_of_a_schema_are_not_its_names_or_data() -> None:
    schema = {"enum": [{"minimum": 1}], "properties": {"a/b": {"not": {"$ref": "#", "type": "null"}}}}
    places = [pointer((*place, keyword)) for place, keyword, _ in keywords(schema)]
    assert places == ["/enum", "/properties", *(f"/properties/a~1b/not{rest}" for rest in ("", "/$ref", "/type"))]
