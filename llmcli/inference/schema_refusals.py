"""What llguidance refuses in a JSON schema, or takes too long for: found keyword by keyword, and removed."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any

from llmcli.errors import UsageError

Place = tuple[str | int, ...]  # the keys and indexes that lead to a schema or a keyword
Keyword = tuple[Place, str, object]  # (place of its schema, name, value)

_MAX_PROPERTIES = 4000  # llguidance takes 6 s for so many, and four times as long for twice as many
_MAX_PATTERNS = 100  # in one `patternProperties`: 0.2 s, and 3 s for twice as many
_MAX_DEPTH = 50_000  # of all `$ref` that follow each other: llguidance's recursion
_LARGEST_MULTIPLE = 20_000  # in significant digits; llguidance makes as many states, in 0.2 s
_MAX_KEYWORDS = 2000  # of a schema in which the refused keyword is looked for; in larger ones it takes too long
_MAX_SINGLE = 8  # keywords that are removed one by one; afterwards with all of the same name
_NAMES = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")  # their keys are names
_DATA = ("const", "enum", "default", "examples", "required", "dependentRequired")  # data, not schemas
# Keywords that say what a value is for, or where a schema is: none of them is refused.
_SILENT = frozenset((
    *("title", "description", "default", "examples", "$id", "id", "$schema", "$comment", "$anchor", "$defs"),
    *("definitions", "readOnly", "writeOnly", "deprecated", "type"),
))  # fmt: skip
# What would forbid more without the keyword: names that only the removed patterns allow, for example.
_DEPENDENT = {
    "properties": ("additionalProperties",),
    "patternProperties": ("additionalProperties",),
    "prefixItems": ("items",),
}


def without_refused(whole: dict[str, object]) -> tuple[dict[str, object], Sequence[Place]]:
    """A schema without the keywords that llguidance refuses, or would take too long for; and their places."""
    from llmcli.engine.sampling.guidance import NOTHING

    found = list(keywords(whole))
    for place, keyword, value in found:
        if keyword == "properties" and isinstance(value, dict) and len(value) > _MAX_PROPERTIES:
            at = pointer((*place, keyword))
            raise UsageError(f"json_schema: {at} has {len(value)} properties; at most {_MAX_PROPERTIES} are supported")
    depth = max((len(place) for place, _, _ in found), default=0) + 1
    if len({value for _, keyword, value in found if keyword == "$ref"}) * depth > _MAX_DEPTH:
        raise UsageError("json_schema: too many $ref to different places", "simplify the schema")
    removed = _too_large(found)
    schema = _without(whole, removed)
    while reason := _refusal(schema):
        if reason.startswith("recursion limit"):
            raise too_deep()
        culprit = _culprit(schema, reason)
        at = f" at {pointer(culprit)}" if culprit else ""
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


def keywords(node: object, place: Place = ()) -> Iterator[Keyword]:
    """The keywords of a schema and of those in it, `$ref` before others: llguidance refuses some of them beside it."""
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from keywords(item, (*place, index))
    if not isinstance(node, dict):
        return
    for keyword, value in sorted(node.items(), key=lambda item: item[0] != "$ref"):
        yield place, keyword, value
        if keyword in _NAMES and isinstance(value, dict):
            for name, item in value.items():
                yield from keywords(item, (*place, keyword, name))
        elif keyword not in _DATA:
            yield from keywords(value, (*place, keyword))


def pointer(place: Sequence[str | int]) -> str:
    """A place as a JSON pointer (RFC 6901)."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in place)


def too_deep() -> UsageError:
    return UsageError("json_schema is nested too deep", "move inner schemas to $defs")


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


def _culprit(schema: Mapping[str, object], reason: str) -> Place | None:
    """The keyword for which llguidance refuses a schema: that with which the keywords before it are refused."""
    places = [(*place, keyword) for place, keyword, _ in keywords(schema) if keyword not in _SILENT]
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
    """A copy of a schema without the keywords at some places, which come in the order of `keywords`."""
    result: dict[str, object] = json.loads(json.dumps(schema))
    for *path, keyword in reversed(places):
        node: Any = result
        with suppress(KeyError):  # inside of what went with another keyword
            for step in path:
                node = node[step]
            for key in (keyword, *_DEPENDENT.get(str(keyword), ())):
                node.pop(key, None)
    return result
