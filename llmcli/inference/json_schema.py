"""JSON schemas that answers must match: read and checked before the first token, validated after the last one."""

import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

from llmcli.engine.events import Constraint
from llmcli.errors import UsageError
from llmcli.inference.schema_refusals import keywords, pointer, too_deep, without_refused
from llmcli.inference.schema_shorthand import SHAPE

if TYPE_CHECKING:
    import jsonschema_rs

_MAX_DIGITS = 4300  # of an integer: Python's limit, because longer ones take long
_OLD_DRAFTS = {"items": "draft-07", "exclusiveMinimum": "draft-04", "exclusiveMaximum": "draft-04"}


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
        return f"{pointer(found.instance_path)}: {found.message[:200]}" if found.instance_path else found.message[:200]


def read_schema(text: str) -> JsonSchema:
    """A schema from its JSON.

    Raises UsageError when it is not valid, nothing can match it, or it asks for what cannot be enforced; with the
    keyword and its JSON pointer.
    """
    from llmcli.engine.sampling.guidance import ignored_parts  # it loads llguidance

    schema = _schema_object(text)
    _make_validator(schema)
    supported, removed = without_refused(schema)
    enforced = json.dumps(supported)
    ignored = _unenforced(supported, ignored_parts("json_schema", enforced))
    return JsonSchema("json_schema", enforced, (*map(pointer, removed), *ignored), json.dumps(schema))


def _schema_object(text: str) -> dict[str, object]:
    try:
        schema = _parse(text)
    except ValueError as error:
        raise UsageError(f"json_schema is not valid JSON: {error}", f"write JSON, or {SHAPE}") from None
    except RecursionError:
        raise too_deep() from None
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
        place = f" at {pointer(error.instance_path)}" if error.instance_path else ""
        raise UsageError(f"json_schema is not valid{place}: {message[:200]}", hint) from None
    except ValueError:  # its own limit, for the schema as data
        raise too_deep() from None


def _unenforced(schema: Mapping[str, object], warnings: list[str]) -> tuple[str, ...]:
    """What the grammar of a schema does not enforce: keywords with their pointers."""
    keys = {key for text in warnings if text.startswith("Unimplemented keys") for key in re.findall(r'"(.*?)"', text)}
    formats = {text.partition(": ")[2] for text in warnings if text.startswith("Unknown format")}
    formats = {name for name in formats if _validates_format(name)}  # the standard has no check for others
    places = []
    for place, keyword, value in keywords(schema):
        if (
            keyword in keys
            or keyword == "oneOf"
            or (keyword == "format" and isinstance(value, str) and value in formats)
        ):
            places.append(pointer((*place, keyword)))
    return tuple(places) or tuple(text[:100] for text in warnings if not text.startswith("Unknown format"))


def _validates_format(name: str) -> bool:
    import jsonschema_rs

    try:
        jsonschema_rs.validator_for({"format": name}, validate_formats=True, ignore_unknown_formats=False, offline=True)
    except jsonschema_rs.ValidationError:
        return False
    return True
