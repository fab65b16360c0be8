"""JSON schemas that answers must match: read and checked before the first token, validated after the last one."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

from llmcli.engine.events import Constraint
from llmcli.errors import UsageError
from llmcli.params.param import LARGEST_FLOAT

if TYPE_CHECKING:
    import jsonschema_rs

_MAX_TRIALS = 200  # compilations of a schema, about 1 ms each, to find the keyword that llguidance refuses
_NAMES = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")  # their keys are names
_DATA = ("const", "enum", "default", "examples", "required", "dependentRequired")  # data, not schemas
# Keywords that say what a value is for, or where a schema is: none of them is refused.
_SILENT = frozenset((
    *("title", "description", "default", "examples", "$id", "id", "$schema", "$comment", "$anchor", "$defs"),
    *("definitions", "readOnly", "writeOnly", "deprecated", "type"),
))  # fmt: skip


@dataclass(frozen=True)
class JsonSchema(Constraint):
    """A schema that can be enforced: by its `text` alone, or by that and a validation of the finished answer.

    `text` is without what llguidance does not have, so that more may match; `unenforced` has the JSON pointers of that.
    """

    schema: str = ""  # the whole schema, as JSON

    @cached_property
    def _validator(self) -> "jsonschema_rs.Validator":
        return _make_validator(json.loads(self.schema))

    def problem(self, answer: str) -> str | None:
        """Why an answer does not match: the place in it and the reason; None if it does."""
        try:
            value = _parse(answer, any_number=True)
        except ValueError as error:
            return f"not JSON: {error}"
        found = next(iter(self._validator.iter_errors(value)), None)
        if found is None:
            return None
        return f"{_pointer(found.instance_path)}: {found.message[:200]}" if found.instance_path else found.message[:200]


def read_schema(text: str) -> JsonSchema:
    """A schema from its JSON.

    Raises UsageError when it is not valid, nothing can match it, or it asks for what cannot be enforced; with the
    keyword and its JSON pointer.
    """
    from llmcli.engine.sampling.guidance import ignored_parts, start_error  # it loads llguidance

    schema = _schema_object(text)
    _make_validator(schema)
    supported, refused = _without_refused(schema)
    enforced = json.dumps(supported)
    if reason := start_error("json_schema", enforced):
        raise UsageError(f"json_schema: {reason}", "simplify the schema")
    ignored = _unenforced(supported, ignored_parts("json_schema", enforced))
    return JsonSchema("json_schema", enforced, (*refused, *ignored), json.dumps(schema))


def _schema_object(text: str) -> dict[str, object]:
    try:
        schema = _parse(text)
    except ValueError as error:
        raise UsageError(f"json_schema is not valid JSON: {error}") from None
    except RecursionError:
        raise UsageError("json_schema is nested too deep") from None
    if schema is False:
        raise UsageError("json_schema: nothing can match false", "use {} for any JSON")
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise UsageError("json_schema must be a JSON object", "use {} for any JSON")
    return schema


def _parse(text: str, any_number: bool = False) -> object:
    """JSON without what the standard does not have: NaN and infinity, and without keys that stand twice."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise ValueError(f"the key {twice!r} stands twice in one object")
        return found

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is not a number that fits")

    def finite(digits: str) -> float:
        return float(digits) if any_number or abs(float(digits)) <= LARGEST_FLOAT else refuse(digits)

    value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse, parse_float=finite)
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair is not a character") from None
    return value


def _make_validator(schema: dict[str, object]) -> "jsonschema_rs.Validator":
    """Raises UsageError when the schema is not valid, with the place."""
    import jsonschema_rs

    try:
        return jsonschema_rs.validator_for(schema, validate_formats=True, offline=True)
    except jsonschema_rs.ValidationError as error:
        message = error.message
        hint = "resolve what it refers to into one schema: nothing is fetched" if "://" in message else ""
        place = f" at {_pointer(error.instance_path)}" if error.instance_path else ""
        raise UsageError(f"json_schema is not valid{place}: {message[:200]}", hint) from None


def _without_refused(schema: dict[str, object]) -> tuple[dict[str, object], list[str]]:
    """A schema without the keywords that llguidance refuses, and their JSON pointers."""
    removed: list[str] = []
    while reason := _refusal(schema):
        if not removed and reason.startswith("Unsatisfiable schema"):
            raise UsageError(f"json_schema: nothing can match it: {reason.partition(': ')[2] or reason}")
        place = _refused(schema, reason)
        if place is None:
            named = re.search(r"#(/\S+)", reason)  # of the schema that a $ref names
            where = f" ($ref to {named[1]})" if named else ""
            raise UsageError(f"json_schema is not supported{where}: {reason}", "simplify the schema")
        removed.append(_pointer(place))
        schema = _without(schema, place)
    return schema, removed


def _refusal(schema: Mapping[str, object]) -> str:
    from llmcli.engine.sampling.guidance import refusal

    return refusal("json_schema", json.dumps(schema))


def _unenforced(schema: Mapping[str, object], warnings: list[str]) -> tuple[str, ...]:
    """What the grammar of a schema does not enforce: keywords with their pointers."""
    keys = {key for text in warnings if text.startswith("Unimplemented keys") for key in re.findall(r'"(.*?)"', text)}
    formats = {text.partition(": ")[2] for text in warnings if text.startswith("Unknown format")}
    formats = {name for name in formats if _validates_format(name)}  # the standard has no check for others
    places = []
    for place, keyword, value in _keywords(schema):
        if (
            keyword in keys
            or keyword == "oneOf"
            or (keyword == "format" and isinstance(value, str) and value in formats)
        ):
            places.append(_pointer((*place, keyword)))
    return tuple(places) or tuple(text[:100] for text in warnings if not text.startswith("Unknown format"))


def _validates_format(name: str) -> bool:
    import jsonschema_rs

    try:
        jsonschema_rs.validator_for({"format": name}, validate_formats=True, ignore_unknown_formats=False, offline=True)
    except jsonschema_rs.ValidationError:
        return False
    return True


def _refused(schema: Mapping[str, object], reason: str) -> tuple[str | int, ...] | None:
    """The place of the keyword without which llguidance takes the schema, or refuses it for another reason."""
    found = [(*place, keyword) for place, keyword, _ in _keywords(schema) if keyword not in _SILENT]
    if "references" in reason:  # those with others beside them are refused
        references = {place[:-1] for place in found if place[-1] == "$ref"}
        found.sort(key=lambda place: place[:-1] not in references or place[-1] == "$ref")
    for place in found[:_MAX_TRIALS]:
        if _refusal(_without(schema, place)) != reason:
            return place
    return None


def _without(schema: Mapping[str, object], place: tuple[str | int, ...]) -> dict[str, object]:
    """A copy of a schema without the keyword at a place."""
    result: dict[str, object] = json.loads(json.dumps(schema))
    node: object = result
    for step in place[:-1]:
        node = node[step]  # type: ignore[index]
    del node[place[-1]]  # type: ignore[attr-defined]
    # Names that only the removed patterns allow must not become forbidden.
    if place[-1] == "patternProperties" and isinstance(node, dict):
        node.pop("additionalProperties", None)
    return result


def _keywords(node: object, place: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str, object]]:
    """The keywords of a schema and of those in it: the place of the schema, the keyword, its value."""
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from _keywords(item, (*place, index))
    if not isinstance(node, dict):
        return
    for keyword, value in node.items():
        yield place, keyword, value
        if keyword in _NAMES and isinstance(value, dict):
            for name, item in value.items():
                yield from _keywords(item, (*place, keyword, name))
        elif keyword not in _DATA:
            yield from _keywords(value, (*place, keyword))


def _pointer(place: "tuple[str | int, ...] | list[str | int]") -> str:
    """A place as a JSON pointer (RFC 6901)."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in place)
