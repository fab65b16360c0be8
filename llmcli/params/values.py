"""How one value is read from text or from JSON and TOML, checked, and written back."""

import json
import math
from collections.abc import Callable
from typing import Any

_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
# What the C types behind the settings hold: int32 and float. ctypes would cut a larger number down without a word.
LARGEST_INT, LARGEST_FLOAT = 2**31 - 1, 3.4028234663852886e38
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}


def from_text(kind: type, text: str) -> Any:
    """`text` as an int, float, bool or str.

    Raises:
        ValueError: whose text completes the sentence "must be ...".
    """
    if kind is bool:
        if text.strip().lower() not in _WORDS:
            raise ValueError("true or false")
        return _WORDS[text.strip().lower()]
    if kind is int:
        return _integer(text)
    if kind is float:
        return _number(text)
    return text


def from_data(kind: type, value: Any) -> Any:
    """A JSON or TOML `value` as an int, float, bool or str; a text is read as if typed.

    Raises:
        ValueError: whose text completes the sentence "must be ...".
    """
    if isinstance(value, str):
        return from_text(kind, value)
    if kind is bool:
        if not isinstance(value, bool):
            raise ValueError("true or false")
        return value
    if kind in (int, float) and isinstance(value, (int, float)) and not isinstance(value, bool):
        if kind is int and value != value // 1:
            raise ValueError("a whole number")
        try:
            return kind(value)
        except OverflowError:
            raise ValueError(f"{show(LARGEST_FLOAT)} at most") from None
    raise ValueError({int: "a whole number", float: "a number"}.get(kind, "a text"))


def string_list(value: Any) -> tuple[str, ...]:
    """A JSON or TOML list of strings (or one string) as a tuple."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise ValueError("a list of texts")
    return tuple(items)


def texts(text: str, item: Callable[[str], str]) -> tuple[str, ...]:
    """A list typed as one text: a JSON list, or a single `item`; `none` is the empty list."""
    if text == "none":
        return ()
    if text.startswith("["):
        try:
            return string_list(json.loads(text))
        except ValueError:
            return (item(text),)
    return (item(text),)


def as_utf8(text: str) -> str:
    """A typed text read as UTF-8, also where the locale is not: the shell's bytes stand as surrogates then."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return text


def unescape(text: str) -> str:
    r"""Turn `\n`, `\t`, `\r`, `\\` and quoted quotes into the characters meant; others stay as typed."""
    out, chars = [], iter(text)
    for char in chars:
        if char != "\\":
            out.append(char)
            continue
        after = next(chars, "")
        out.append(_ESCAPES.get(after, "\\" + after))
    return "".join(out)


def in_range(value: float, low: float | None, high: float | None, above: float | None) -> bool:
    """Whether `value` keeps every bound that is given; NaN and infinity keep none."""
    if not abs(value) < math.inf:
        return False
    if low is not None and not value >= low:
        return False
    if above is not None and not value > above:
        return False
    return high is None or value <= high


def too_large(value: float, high: float | None) -> str:
    """The rule that a `value` without a declared bound `high` breaks by its size, or an empty text."""
    largest = LARGEST_INT if isinstance(value, int) else LARGEST_FLOAT
    if high is not None or not abs(value) > largest:
        return ""
    return "finite" if abs(value) == math.inf else f"{show(largest)} at most in size"


def range_text(low: float | None, high: float | None, above: float | None, also: tuple[Any, ...] = ()) -> str:
    """The range in words, as errors and help say it."""
    words = _bounds(low, high, above)
    return words + "".join(f", or {show(item)}" for item in also)


def _bounds(low: float | None, high: float | None, above: float | None) -> str:
    if low is not None and high is not None:
        return f"between {show(low)} and {show(high)}"
    if above is not None:
        return f"a number above {show(above)}"
    if low is not None:
        return f"{show(low)} or more"
    return "a finite number"


def show(value: Any) -> str:
    """A value as a person types it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, tuple):
        return json.dumps(list(value), ensure_ascii=False) if value else "none"
    return str(value)


def marked(value: Any, at: int | None) -> Any:
    """A refused text with a mark at the place that is wrong, cut so that the mark is seen; other values as they are."""
    if at is None or not isinstance(value, str) or not value.strip():
        return value
    start = max(0, at - 30)
    while len(quote(value[start:at])) > 42:  # escapes are longer than what they stand for
        start += 1
    return ("..." if start else "") + f"{value[start:at]}[here]{value[at:]}"


def quote(value: Any) -> str:
    """A refused value, short enough for one line."""
    text = show(value) if isinstance(value, (int, float, bool)) else json.dumps(str(value), ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _integer(text: str) -> int:
    try:
        return int(text.strip())
    except ValueError:
        raise ValueError("a whole number") from None


def _number(text: str) -> float:
    try:
        return float(text.strip())
    except ValueError:
        raise ValueError("a number") from None
