"""What some tasks compute beside the model's answer: copied passages, columns of a table, offsets, ranks."""

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from typing import Any

from llmcli.errors import UsageError
from llmcli.files import convert, decode_json
from llmcli.pipelines.long_input import Window

_FENCED = re.compile(r"^(`{3,}|~{3,})[^\n]*\n(.*?)(?:^\1|\Z)", re.MULTILINE | re.DOTALL)
_BULLET = re.compile(r"\s*(?:[-*+•]|\d{1,3}[.)])\s+")
_COPY_WORDS = 5  # a copied passage has so many words at least
_COPIED = 0.8  # share of the words in copied passages from which on a text is a copy
_MOST_PLACES = 32  # places of one passage in the other text that are compared
_MOST_ITEMS = 100
_MOST_ANNOTATIONS = 100  # of one part of the input
_MOST_VALUES = 8  # different values of a column that are listed
_EMPTY = ("", "na", "n/a", "null", "none", "nan")


@dataclass(frozen=True)
class Helper:
    """`prepare` makes more values for the places of a task, those in `places`; `finish` the text of its result.

    `finish` gets the values, and the parts of the input with their answers: one part, unless the input is long.
    """

    finish: Callable[[Mapping[str, str], Sequence[tuple[Window, str]]], str]
    prepare: Callable[[Mapping[str, str]], dict[str, str]] = lambda _values: {}
    places: Sequence[str] = ()


def split_list(text: str, what: str) -> list[str]:
    """The items of a list with semicolons, or else with commas, or of a JSON list of texts.

    Raises UsageError for less than two, or equal ones.
    """
    try:
        items = convert(decode_json(text), list[str])
    except ValueError:
        items = text.split(";" if ";" in text else ",")
    items = [item for item in map(str.strip, items) if item]
    if len(items) < 2:
        raise UsageError(f"{what} must be at least two, got {text[:60]!r}", "separate them by commas or semicolons")
    if twice := [item for index, item in enumerate(items) if item in items[:index]]:
        raise UsageError(f"{what}: {twice[0][:60]!r} stands twice")
    return items


def code_only(_values: Mapping[str, str], answers: Sequence[tuple[Window, str]]) -> str:
    """The first code block of the answer without its fences, also one that was cut off; without one, the answer."""
    text = answers[0][1]
    if found := _FENCED.search(text):
        return found[2].rstrip("\n")
    text = text.strip("\n")
    is_span = len(text) > 2 and text[0] == text[-1] == "`" and text.count("`") == 2
    return text[1:-1] if is_span else text


def annotation_schema(values: Mapping[str, str]) -> dict[str, str]:
    """The schema of the annotations with these labels."""
    text = {"type": "string", "minLength": 1, "maxLength": 120}
    one: dict[str, object] = {"type": "object"}
    one |= {"properties": {"text": text, "label": {"enum": split_list(values["labels"], "labels")}}}
    one |= {"required": ["text", "label"], "additionalProperties": False}
    n_most = min(2 + len(values["input"].split()) // 3, _MOST_ANNOTATIONS)  # so that a weak model comes to an end
    return {"schema": json.dumps({"type": "array", "items": one, "maxItems": n_most})}


def annotations(_values: Mapping[str, str], answers: Sequence[tuple[Window, str]]) -> str:
    """The annotated passages with their places in the input, in characters; those that are not in it are omitted."""
    found: dict[tuple[int, int], dict[str, object]] = {}  # by place, each once
    for part, answer in answers:
        at = 0
        for one in _json_list(answer):
            passage, label = (str(one.get(key, "")) for key in ("text", "label")) if isinstance(one, dict) else ("", "")
            place = part.text.find(passage, at)
            place = part.text.find(passage) if place < 0 else place
            if passage and place >= 0:
                at = place + len(passage)
                start, end = part.start + place, part.start + at
                found.setdefault((start, end), {"text": passage, "label": label, "start": start, "end": end})
    lines = (json.dumps(one, ensure_ascii=False) for one in found.values())
    return "[\n  " + ",\n  ".join(lines) + "\n]" if found else "[]"


def _json_list(text: str) -> list[Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return data if isinstance(data, list) else []


# Comparison of two texts


def compared(values: Mapping[str, str], answers: Sequence[tuple[Window, str]]) -> str:
    """The verdict, the share of the input that is copied, and the copied passages with their places in both texts."""
    share, spans = _copied(values["input"], values.get("other", ""))
    verdict = "copied" if share >= _COPIED else answers[0][1].strip()
    shown = [{"text": values["input"][a:end], "start": a, "other_start": b} for a, end, b in spans]
    return json.dumps({"verdict": verdict, "copied": round(share, 3), "spans": shown}, ensure_ascii=False, indent=2)


@lru_cache(maxsize=2)
def _copied(text: str, other: str) -> tuple[float, list[tuple[int, int, int]]]:
    """The share of the words of `text` in passages that `other` has too, and their (start, end, start in `other`).

    Passages of at least five words in any order, the longest at each place; case and punctuation do not count.
    """
    ours, theirs = ([(m[0].casefold(), m.start(), m.end()) for m in re.finditer(r"\w+", one)] for one in (text, other))
    a, b = [word for word, *_ in ours], [word for word, *_ in theirs]
    shortest = max(1, min(_COPY_WORDS, len(a), len(b)))
    places: dict[tuple[str, ...], list[int]] = {}
    for j in range(len(b) - shortest + 1):
        places.setdefault(tuple(b[j : j + shortest]), []).append(j)
    spans, n_copied, i = [], 0, 0
    while i <= len(a) - shortest:
        found = [(_common(a, b, i, j), -j) for j in places.get(tuple(a[i : i + shortest]), [])[:_MOST_PLACES]]
        length, place = max(found, default=(0, 0))
        if length:
            spans.append((ours[i][1], ours[i + length - 1][2], theirs[-place][1]))
        n_copied += length
        i += max(length, 1)
    return (n_copied / len(a) if a else 0.0), spans


def _common(a: Sequence[str], b: Sequence[str], i: int, j: int) -> int:
    """How many words are equal from these places on."""
    length = 0
    while i + length < len(a) and j + length < len(b) and a[i + length] == b[j + length]:
        length += 1
    return length


# Ranking


def number_items(values: Mapping[str, str]) -> dict[str, str]:
    """The items of the input under numbers, and the schema of an answer that ranks all of them."""
    items = _items(values["input"])
    n = len(items)
    schema = {"type": "array", "items": {"enum": list(range(1, n + 1))}, "minItems": n, "maxItems": n}
    return {"items": "\n".join(f"{i}. {item}" for i, item in enumerate(items, 1)), "schema": json.dumps(schema)}


def ranked_items(values: Mapping[str, str], answers: Sequence[tuple[Window, str]]) -> str:
    """The items in the order of the answer, each once; those that it omits come last, as they were."""
    items = _items(values["input"])
    order = [one - 1 for one in _json_list(answers[0][1]) if isinstance(one, int) and 0 < one <= len(items)]
    return "\n".join(items[index] for index in dict.fromkeys([*order, *range(len(items))]))


def _items(text: str) -> list[str]:
    """The items of a list: one a line, or in one line with semicolons or commas between them."""
    lines = text.strip().split("\n")
    if len(lines) == 1:
        lines = lines[0].split(";" if ";" in lines[0] else ",")
    items = [_BULLET.sub("", f" {line}", count=1).strip() for line in lines]
    items = [item for item in items if item]
    if not items:
        raise UsageError("there are no items to rank", "write one on each line")
    if len(items) > _MOST_ITEMS:
        raise UsageError(
            f"there are {len(items)} items to rank, at most {_MOST_ITEMS} are possible", "give fewer items"
        )
    return items


# Tables


def describe_columns(values: Mapping[str, str]) -> dict[str, str]:
    """The columns of a table as text for the model, and the schema of an answer that describes them."""
    columns = table_columns(values["input"])
    lines = (f"- {name}: {_in_words(one)}" for name, one in columns.items())
    text = {"type": "string", "maxLength": 200}
    described = {"type": "object", "properties": dict.fromkeys(columns, text), "required": list(columns)}
    schema = {
        "type": "object",
        "properties": {"description": text, "columns": {**described, "additionalProperties": False}},
        "required": ["description", "columns"],
        "additionalProperties": False,
    }
    return {"columns": "\n".join(lines), "schema": json.dumps(schema)}


def table_schema(values: Mapping[str, str], answers: Sequence[tuple[Window, str]]) -> str:
    """A JSON schema of the rows of a table: types from its values, descriptions from the answer."""
    try:
        told = json.loads(answers[0][1])
    except (ValueError, RecursionError):
        told = {}
    columns, texts = table_columns(values["input"]), told.get("columns", {})
    properties = {name: {**one, "description": texts.get(name, "")} for name, one in columns.items()}
    required = [name for name, one in columns.items() if "null" not in one["type"]]
    items = {"type": "object", "properties": properties, "required": required}
    whole = {"type": "array", "description": told.get("description", ""), "items": items}
    return json.dumps(whole, ensure_ascii=False, indent=2)


@lru_cache(maxsize=2)
def table_columns(text: str) -> Mapping[str, Mapping[str, Any]]:
    """The columns of a CSV text with their types, as JSON schemas. Raises UsageError if it is not a table."""
    text = text.removeprefix("\ufeff")
    try:
        dialect: Any = csv.Sniffer().sniff("\n".join(text.split("\n")[:20]), delimiters=",;\t|")
    except csv.Error:  # one column, or an unusual table
        dialect = csv.excel
    try:
        rows = [row for row in csv.reader(text.splitlines(keepends=True), dialect) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UsageError(f"the input is not a CSV table: {error}", "give a table with a row of names") from None
    if len(rows) < 2:
        raise UsageError("the input is not a CSV table: it has no rows below the names", "give a table with its rows")
    names = _column_names(rows[0])
    return {name: _column([row[at] for row in rows[1:] if at < len(row)]) for at, name in enumerate(names)}


def _column_names(row: Sequence[str]) -> list[str]:
    names: list[str] = []
    for number, cell in enumerate(row, 1):
        name = cell.strip() or f"column_{number}"
        while name in names:
            name += f"_{number}"
        names.append(name)
    return names


def _column(cells: Sequence[str]) -> dict[str, Any]:
    """The type of the cells of a column; an empty one makes it nullable."""
    values = [cell.strip() for cell in cells if cell.strip().lower() not in _EMPTY]
    kind: dict[str, Any] = next(
        (one for check, one in _KINDS if values and all(map(check, values))), {"type": "string"}
    )
    kind, shown = dict(kind), kind["type"]
    different = sorted(set(values))
    if kind == {"type": "string"} and 0 < len(different) <= _MOST_VALUES and len(values) >= 3 * len(different):
        kind["enum"] = [*different, *([None] if len(values) < len(cells) else [])]
    if len(values) < len(cells):
        kind["type"] = [kind["type"], "null"]
    typed: Callable[[str], object] = _TYPES.get(shown, str)
    return {**kind, "examples": [typed(value) for value in dict.fromkeys(values[:100])][:3]}


def _in_words(column: Mapping[str, Any]) -> str:
    kinds = column["type"] if isinstance(column["type"], list) else [column["type"]]
    text = f"{column.get('format', kinds[0])}{', may be empty' if 'null' in kinds else ''}"
    return (
        f"{text}; for example {', '.join(str(one)[:40] for one in column['examples'])}" if column["examples"] else text
    )


def _parses(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return check


_KINDS: Sequence[tuple[Callable[[str], bool], dict[str, str]]] = (
    (lambda text: text.lower() in ("true", "false"), {"type": "boolean"}),
    (lambda text: re.fullmatch(r"[+-]?(0|[1-9]\d*)", text) is not None, {"type": "integer"}),
    (
        lambda text: re.fullmatch(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?", text) is not None,
        {"type": "number"},
    ),
    (_parses(date.fromisoformat), {"type": "string", "format": "date"}),
    (_parses(datetime.fromisoformat), {"type": "string", "format": "date-time"}),
)

_TYPES: Mapping[str, Callable[[str], object]]
_TYPES = {"integer": int, "number": float, "boolean": lambda text: text.lower() == "true"}

HELPERS: Mapping[str, Helper] = {
    "annotations": Helper(annotations, annotation_schema, ("schema",)),
    "code": Helper(code_only),
    "compare": Helper(compared),
    "rank": Helper(ranked_items, number_items, ("items", "schema")),
    "table": Helper(table_schema, describe_columns, ("columns", "schema")),
}
