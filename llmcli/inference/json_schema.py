"""JSON schemas that answers must match: read and checked before the first token, validated after the last one."""

import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from llmcli.engine.events import Constraint
from llmcli.errors import UsageError
from llmcli.inference.schema_shorthand import SHAPE

if TYPE_CHECKING:
    import jsonschema_rs

Place = tuple[str | int, ...]  # the keys and indexes that lead to a schema or a keyword
Keyword = tuple[Place, str, object]  # (place of its schema, name, value)

_MAX_PROPERTIES = 4000  # llguidance takes 6 s for so many, and four times as long for twice as many
_MAX_PATTERNS = 100  # in one `patternProperties`: 0.2 s, and 3 s for twice as many
_MAX_DEPTH = 50_000  # of all `$ref` that follow each other: llguidance's recursion
_LARGEST_MULTIPLE = 20_000  # in significant digits; llguidance makes as many states, in 0.2 s
_MAX_DIGITS = 4300  # of an integer: Python's limit, because longer ones take long
_MAX_KEYWORDS = 2000  # of a schema in which the refused keyword is looked for; in larger ones it takes too long
_MAX_SINGLE = 8  # keywords that are removed one by one; afterwards with all of the same name
_NAMES = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")  # their keys are names
_DATA = ("const", "enum", "default", "examples", "required", "dependentRequired")  # data, not schemas
# Keywords that say what a value is for, or where a schema is: none of them is refused.
_SILENT = frozenset((
    *("title", "description", "default", "examples", "$id", "id", "$schema", "$comment", "$anchor", "$defs"),
    *("definitions", "readOnly", "writeOnly", "deprecated", "type"),
))  # fmt: skip
_OLD_DRAFTS = {"items": "draft-07", "exclusiveMinimum": "draft-04", "exclusiveMaximum": "draft-04"}
# What would forbid more without the keyword: names that only the removed patterns allow, for example.
_DEPENDENT = {
    "properties": ("additionalProperties",),
    "patternProperties": ("additionalProperties",),
    "prefixItems": ("items",),
}


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
        except RecursionError:
            return "it is nested too deep to be validated"
        try:
            found = next(iter(self._validator.iter_errors(value)), None)
        except ValueError as error:
            return f"it cannot be validated: {error}"
        if found is None:
            return None
        return f"{_pointer(found.instance_path)}: {found.message[:200]}" if found.instance_path else found.message[:200]


def read_schema(text: str) -> JsonSchema:
    """A schema from its JSON.

    Raises UsageError when it is not valid, nothing can match it, or it asks for what cannot be enforced; with the
    keyword and its JSON pointer.
    """
    from llmcli.engine.sampling.guidance import ignored_parts  # it loads llguidance

    schema = _schema_object(text)
    _make_validator(schema)
    supported, removed = _without_refused(schema)
    enforced = json.dumps(supported)
    ignored = _unenforced(supported, ignored_parts("json_schema", enforced))
    return JsonSchema("json_schema", enforced, (*map(_pointer, removed), *ignored), json.dumps(schema))


def _too_deep() -> UsageError:
    return UsageError("json_schema is nested too deep", "move inner schemas to $defs")


def _schema_object(text: str) -> dict[str, object]:
    try:
        schema = _parse(text)
    except ValueError as error:
        raise UsageError(f"json_schema is not valid JSON: {error}", f"write JSON, or {SHAPE}") from None
    except RecursionError:
        raise _too_deep() from None
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
        number = float(digits)
        if not math.isinf(number):
            return number
        return math.copysign(sys.float_info.max, number) if any_number else refuse(digits)

    def whole(digits: str) -> int:
        return int(digits) if len(digits) <= _MAX_DIGITS else refuse(f"an integer of {len(digits)} digits")

    value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse, parse_float=finite, parse_int=whole)
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
        message, keyword = error.message, error.instance_path[-1] if error.instance_path else ""
        hint = "resolve what it refers to into one schema: nothing is fetched" if "://" in message else ""
        if "$schema" not in schema and keyword in _OLD_DRAFTS:
            hint = f'for an older draft add "$schema": "http://json-schema.org/{_OLD_DRAFTS[keyword]}/schema#"'
        place = f" at {_pointer(error.instance_path)}" if error.instance_path else ""
        raise UsageError(f"json_schema is not valid{place}: {message[:200]}", hint) from None
    except ValueError:  # its own limit, for the schema as data
        raise _too_deep() from None


def _without_refused(whole: dict[str, object]) -> tuple[dict[str, object], Sequence[Place]]:
    """A schema without the keywords that llguidance refuses, or would take too long for; and their places."""
    from llmcli.engine.sampling.guidance import NOTHING

    found = list(_keywords(whole))
    for place, keyword, value in found:
        if keyword == "properties" and isinstance(value, dict) and len(value) > _MAX_PROPERTIES:
            at = _pointer((*place, keyword))
            raise UsageError(f"json_schema: {at} has {len(value)} properties; at most {_MAX_PROPERTIES} are supported")
    depth = max((len(place) for place, _, _ in found), default=0) + 1
    if len({value for _, keyword, value in found if keyword == "$ref"}) * depth > _MAX_DEPTH:
        raise UsageError("json_schema: too many $ref to different places", "simplify the schema")
    removed = _too_large(found)
    schema = _without(whole, removed)
    while reason := _refusal(schema):
        if reason.startswith("recursion limit"):
            raise _too_deep()
        culprit = _culprit(schema, reason)
        at = f" at {_pointer(culprit)}" if culprit else ""
        if reason.startswith((NOTHING, "Unsatisfiable schema")):
            why = re.sub(r"Regex is empty: .*", "no text has this form", reason.partition(": ")[2])
            raise UsageError(f"json_schema: nothing can match it{at}" + (f": {why}" if why else ""))
        if culprit is None:
            named = re.search(r"#(/\S+)", reason)  # of the schema that a $ref names
            where = f" ($ref to {named[1]})" if named else ""
            raise UsageError(f"json_schema is not supported{where}: {reason}", "simplify the schema")
        # What is refused once is refused wherever it is.
        is_many = len(removed) >= _MAX_SINGLE
        values = {(*place, keyword): value for place, keyword, value in found}
        same = [one for one in values if one[-1] == culprit[-1] and (is_many or values[one] == values[culprit])]
        removed = [place for place in values if place in {*removed, *same}]
        schema = _without(whole, removed)
    return schema, removed


def _too_large(found: Sequence[Keyword]) -> list[Place]:
    """The places of what llguidance would need minutes for."""
    product, places = 1, []
    for place, keyword, value in found:
        is_large = keyword == "patternProperties" and isinstance(value, dict) and len(value) > _MAX_PATTERNS
        if keyword == "multipleOf" and isinstance(value, (int, float)):  # those in one schema come to their product
            digits = int("".join(map(str, Decimal(str(value)).normalize().as_tuple().digits)))
            is_large = math.lcm(product, digits) > _LARGEST_MULTIPLE
            product = product if is_large else math.lcm(product, digits)
        if is_large:
            places.append((*place, keyword))
    return places


def _refusal(schema: Mapping[str, object]) -> str:
    from llmcli.engine.sampling.guidance import refusal, start_error

    text = json.dumps(schema)
    return refusal("json_schema", text) or start_error("json_schema", text)


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


def _culprit(schema: Mapping[str, object], reason: str) -> Place | None:
    """The keyword for which llguidance refuses a schema: that with which the keywords before it are refused."""
    places = [(*place, keyword) for place, keyword, _ in _keywords(schema) if keyword not in _SILENT]
    if len(places) > _MAX_KEYWORDS:
        places = [place for place in places if len(place) == 1]
    if _refusal(_without(schema, places)) == reason:
        return None
    accepted, refused = 0, len(places)  # numbers of keywords
    while refused - accepted > 1:
        middle = (accepted + refused) // 2
        if _refusal(_without(schema, places[middle:])) == reason:
            refused = middle
        else:
            accepted = middle
    return places[refused - 1]


def _without(schema: Mapping[str, object], places: Sequence[Place]) -> dict[str, object]:
    """A copy of a schema without the keywords at some places, which come in the order of `_keywords`."""
    result: dict[str, object] = json.loads(json.dumps(schema))
    for *path, keyword in reversed(places):
        node: Any = result
        with suppress(KeyError):  # inside of what went with another keyword
            for step in path:
                node = node[step]
            for key in (keyword, *_DEPENDENT.get(str(keyword), ())):
                node.pop(key, None)
    return result


def _keywords(node: object, place: Place = ()) -> Iterator[Keyword]:
    """The keywords of a schema and of those in it, `$ref` before others: llguidance refuses some of them beside it."""
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from _keywords(item, (*place, index))
    if not isinstance(node, dict):
        return
    for keyword, value in sorted(node.items(), key=lambda item: item[0] != "$ref"):
        yield place, keyword, value
        if keyword in _NAMES and isinstance(value, dict):
            for name, item in value.items():
                yield from _keywords(item, (*place, keyword, name))
        elif keyword not in _DATA:
            yield from _keywords(value, (*place, keyword))


def _pointer(place: Sequence[str | int]) -> str:
    """A place as a JSON pointer (RFC 6901)."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in place)
