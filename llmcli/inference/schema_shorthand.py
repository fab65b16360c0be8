"""A short form of JSON schemas for people: `name: str, age: int, tags: [str]`."""

import json
import re
from typing import NoReturn

from llmcli.errors import UsageError

_NAMES = {"string": "str text", "integer": "int", "number": "float", "boolean": "bool", "null": "", "object": ""}
_FORMATS = ("date", "time", "date-time", "email", "uri", "uuid")
_TYPES: dict[str, dict[str, object]] = {
    **{name: {"type": kind} for kind, others in _NAMES.items() for name in (kind, *others.split())},
    **{name: {"type": "string", "format": name} for name in _FORMATS},
    "any": {},
}
_FIELD = re.compile(r"\s*(?:(?P<name>[\w-]+)|\"(?P<quoted>[^\"]+)\")(?P<optional>\?)?\s*:")
_TOKEN = re.compile(r"\s*(\"(?:[^\"\\]|\\.)*\"|-?\d+(?:\.\d+)?(?![\w-])|[\w-]+|[\[\]{}|,:?])", re.DOTALL)
# A type in place of fields; JSON has a quote after a brace, and a list is not a schema.
_TYPE = re.compile(rf'\s*(?:["\[]|{{\s*[A-Za-z_][\w-]*\??\s*:|-?[\d.]+\s*\||(?:{"|".join(_TYPES)})\s*(?:\||$))')
SHAPE = 'fields such as name: str, age?: int, tags: [str], size: "S"|"M", owner: {id: int}'
_MAX_DEPTH = 32


def is_shorthand(text: str) -> bool:
    """Whether a text is in the short form, and not JSON or the name of a file."""
    if _FIELD.match(text):
        return not re.match(r"\s*[A-Za-z]:[\\/]", text)  # a drive of Windows
    return bool(_TYPE.match(text)) and not is_json(text)


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def expand_shorthand(text: str) -> str:
    """The JSON schema of fields or of one type, as JSON. Raises UsageError when it is not in the short form.

    The error has the place. All fields are required, except those with a question mark, and there are no others.
    """
    return json.dumps(_Parser(text).parse())


class _Parser:
    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    def parse(self) -> dict[str, object]:
        has_fields = bool(_FIELD.match(self._text))
        schema = self._fields("", 0) if has_fields else self._type(0)
        if self._text[self._at :].strip():
            self._fail("a comma" if has_fields else "the end")
        return schema

    def _fields(self, end: str, depth: int) -> dict[str, object]:
        """The fields up to `end`, which follows them."""
        properties: dict[str, object] = {}
        required = []
        while self._peek() != end:
            found = _FIELD.match(self._text, self._at)
            if not found:
                self._fail("NAME: TYPE")
            name = found["name"] or found["quoted"]
            if name in properties:
                raise UsageError(f"json_schema: the field {name!r} stands twice")
            self._at = found.end()
            properties[name] = self._type(depth)
            if not found["optional"]:
                required.append(name)
            if self._peek() == ",":
                self._take()
            elif self._peek() != end:
                self._fail("a comma")
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    def _type(self, depth: int) -> dict[str, object]:
        """One type, or several with `|` between them."""
        if depth > _MAX_DEPTH:
            raise UsageError("json_schema is nested too deep")
        choices = [self._single_type(depth)]
        while self._peek() == "|":
            self._take()
            choices.append(self._single_type(depth))
        if len(choices) == 1:
            return choices[0]
        if all("const" in choice for choice in choices):
            return {"enum": [choice["const"] for choice in choices]}
        return {"anyOf": choices}

    def _single_type(self, depth: int) -> dict[str, object]:
        token = self._take()
        if token == "[":
            items = self._type(depth + 1)
            if self._take() != "]":
                self._fail("]")
            return {"type": "array", "items": items}
        if token == "{":
            fields = self._fields("}", depth + 1)
            if self._take() != "}":
                self._fail("}")
            return fields
        if token[:1] == '"' or token[:1].isdigit() or token[:1] == "-":
            try:
                return {"const": json.loads(token)}
            except ValueError:
                raise UsageError(f"json_schema: {token} is not a JSON value", f"write {SHAPE}") from None
        if token not in _TYPES:
            self._at -= len(token)
            self._fail("a type: " + ", ".join(_TYPES))
        return _TYPES[token]

    def _peek(self) -> str:
        found = _TOKEN.match(self._text, self._at)
        return found[1] if found else ""

    def _take(self) -> str:
        found = _TOKEN.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return found[1] if found else ""

    def _fail(self, expected: str) -> NoReturn:
        place = self._text[self._at :].strip()[:20]
        raise UsageError(
            f"json_schema: expected {expected}{f' at {place!r}' if place else ' at the end'}", f"write {SHAPE}"
        )
