"""JSON data becomes typed values, strictly, and an error names the field."""

import re
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta, Struct

from llmcli.files import convert, decode_json


class Point(Struct):
    x: Annotated[int, Meta(ge=1, le=9)]
    y: float | None = None


class Figure(Struct):
    kind: Literal["line", "circle"]
    points: Annotated[list[Point], Meta(min_length=1, max_length=3)]
    center: tuple[float, float] = (0.0, 0.0)
    digest: Annotated[str, Meta(pattern="^[0-9a-f]+$")] = "0"
    closed: bool = False


GOOD: dict[str, Any] = {"kind": "line", "points": [{"x": 1}, {"x": 2, "y": 3}]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "cube"}, "kind is not valid"),
        ({"kind": 1}, "kind must be a string"),
        ({"points": 7}, "points must be a list"),
        ({"points": []}, "points must be a list of length >= 1"),
        ({"points": [{"x": 1}] * 4}, "points must be a list of length <= 3"),
        ({"points": [{"x": 1}, 7]}, "points[1] must be an object"),
        ({"points": [{"x": 0}]}, "points[0].x must be an integer >= 1"),
        ({"points": [{"x": 10}]}, "points[0].x must be an integer <= 9"),
        ({"points": [{"x": True}]}, "points[0].x must be an integer"),
        ({"points": [{"x": 1.0}]}, "points[0].x must be an integer"),
        ({"points": [{"y": 1}]}, "points[0].x is missing"),
        ({"points": [{"x": 1, "y": "3"}]}, "points[0].y must be a number or null"),
        ({"center": [1]}, "center must be a list of length 2"),
        ({"center": [1, None]}, "center[1] must be a number"),
        ({"digest": "x"}, "digest is not valid"),
        ({"closed": 1}, "closed must be true or false"),
    ],
)
def test_an_error_names_the_field_and_the_rule(changes: dict[str, Any], message: str) -> None:
    for name, prefix in (("", ""), ("figure", "figure.")):
        with pytest.raises(ValueError, match=f"^{re.escape(prefix + message)}$"):
            convert(GOOD | changes, Figure, name)


@pytest.mark.parametrize(
    ("data", "message"), [({}, "kind is missing"), ([], "must be an object"), (None, "must be an object")]
)
def test_an_error_of_the_whole_has_no_field(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        convert(data, Figure)


def test_unknown_keys_and_integers_for_numbers_are_accepted() -> None:
    figure = convert(GOOD | {"weather": "fine"}, Figure)
    assert figure == Figure("line", [Point(1), Point(2, 3.0)])


@pytest.mark.parametrize(
    "text", ["", "{", "[1", "nan", "NaN", '{"a": Infinity}', "1e999", b"\xff", '"\\ud800"', "[" * 100_000, "{} {}"]
)
def test_a_text_that_is_not_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"^not valid JSON$"):
        decode_json(text)
