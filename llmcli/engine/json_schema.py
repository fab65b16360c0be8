"""Conversion of JSON schemas to GBNF grammars."""

import json
from collections.abc import Iterator
from typing import Any

from llmcli.engine.llama import bindings
from llmcli.errors import UsageError

# Keywords that constrain a value and that the converter ignores.
_NOT_ENFORCED = frozenset((
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "uniqueItems", "contains"),
    *("minContains", "maxContains", "minProperties", "maxProperties", "patternProperties", "propertyNames"),
    *("dependentRequired", "dependentSchemas", "if", "then", "else", "not"),
))  # fmt: skip
_NAMES = ("properties", "$defs", "definitions")  # objects whose keys are names, not keywords
_VALUES = ("const", "enum", "default", "examples")  # keywords whose content is data, not a schema


def schema_to_gbnf(schema: str) -> str:
    """The GBNF grammar of a JSON schema (llama-cpp-python's port of llama.cpp's converter).

    Raises:
        UsageError: when the schema is not valid JSON or not supported by the converter.
    """
    try:
        parsed = json.loads(schema)
    except ValueError as error:
        raise UsageError(f"json_schema is not valid JSON: {error}") from None
    except RecursionError:
        raise UsageError("json_schema is nested too deep") from None
    if not isinstance(parsed, (dict, bool)):
        raise UsageError("json_schema must be a JSON object")
    try:
        return str(bindings.submodule("llama_grammar").json_schema_to_gbnf(json.dumps(parsed)))
    except Exception as error:  # the converter does not wrap the errors of its dictionaries
        text = str(error) or type(error).__name__
        raise UsageError(f"json_schema is not supported: {text.splitlines()[0][:120]}") from None


def not_enforced(schema: str) -> list[str]:
    """The keywords of a schema that the grammar does not enforce, sorted."""
    return sorted(set(_keywords(json.loads(schema))))


def _keywords(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from _keywords(item)
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if key in _NOT_ENFORCED:
            yield key
        if key in _NAMES and isinstance(value, dict):
            yield from _keywords(list(value.values()))
        elif key not in _VALUES:
            yield from _keywords(value)
