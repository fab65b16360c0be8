"""One value: parsed from text or from JSON and TOML data, checked, and formatted."""

import json
import math
from collections.abc import Callable
from typing import Any

_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
# The largest int32 and float, the C types behind the settings. ctypes truncates a larger number without an error.
LARGEST_INT, LARGEST_FLOAT = 2**31 - 1, 3.4028234663852886e38
_LONGEST_QUOTE = 60
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}


class InvalidValueError(ValueError):
    """A value that cannot be parsed. Its `rule` completes the sentence "must be ...".

    `fault` says what is wrong with this value, `hint` what to write instead. `at` is the offset of the fault.
    """

    def __init__(self, rule: str, fault: str = "", hint: str = "", at: int | None = None) -> None:
        super().__init__(f"{rule}: {fault}" if fault else rule)
        self.rule = rule
        self.fault = fault
        self.hint = hint
        self.at = at


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
    """A JSON or TOML `value` as an int, float, bool or str; a string is parsed like typed text.

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
            raise ValueError("an integer")
        try:
            return kind(value)
        except OverflowError:
            raise ValueError(f"at most {show(LARGEST_FLOAT)}") from None
    raise ValueError({int: "an integer", float: "a number"}.get(kind, "a string"))


def string_list(value: Any) -> tuple[str, ...]:
    """A JSON or TOML list of strings (or one string) as a tuple."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise ValueError("a list of strings")
    return tuple(items)


def texts(text: str, item: Callable[[str], str]) -> tuple[str, ...]:
    """The items of a list typed as one text: a JSON list, or a single `item`; `none` is the empty list."""
    if text == "none":
        return ()
    if text.startswith("["):
        try:
            return string_list(json.loads(text))
        except ValueError:
            return (item(text),)
    return (item(text),)


def as_utf8(text: str) -> str:
    """`text` decoded as UTF-8. Where the locale is not UTF-8, Python stores the shell's bytes as surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return text


def unescape(text: str) -> str:
    r"""Replace the escapes `\n`, `\t`, `\r`, `\\`, `\"` and `\'` by their characters; keep other backslashes."""
    out, chars = [], iter(text)
    for char in chars:
        if char != "\\":
            out.append(char)
            continue
        after = next(chars, "")
        out.append(_ESCAPES.get(after, "\\" + after))
    return "".join(out)


def in_range(value: float, low: float | None, high: float | None, above: float | None) -> bool:
    """Whether `value` is finite and within every bound that is given."""
    if not abs(value) < math.inf:
        return False
    if low is not None and not value >= low:
        return False
    if above is not None and not value > above:
        return False
    return high is None or value <= high


def too_large(value: float, high: float | None) -> str:
    """The rule broken by a `value` that does not fit its C type, or an empty text. `high` is the declared maximum."""
    largest = LARGEST_INT if isinstance(value, int) else LARGEST_FLOAT
    if high is not None or not abs(value) > largest:
        return ""
    return "finite" if abs(value) == math.inf else f"at most {show(largest)} in absolute value"


def range_text(low: float | None, high: float | None, above: float | None, also: tuple[Any, ...] = ()) -> str:
    """The range in words, for errors, help, completion and the documentation."""
    words = _bounds(low, high, above)
    return words + "".join(f", or {show(item)}" for item in also)


def _bounds(low: float | None, high: float | None, above: float | None) -> str:
    if low is not None and high is not None:
        return f"between {show(low)} and {show(high)}"
    if above is not None:
        return f"above {show(above)}"
    if low is not None:
        return f"at least {show(low)}"
    return "finite"


def show(value: Any) -> str:
    """A value as a user types it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, tuple):
        return json.dumps(list(value), ensure_ascii=False) if value else "none"
    return str(value)


def excerpt(text: str, at: int | None) -> str:
    """`text`, or the part of it around offset `at` where it is too long for a message."""
    if at is None or at < _LONGEST_QUOTE - 10 or not text.strip():
        return text
    start = at - 30
    while len(repr(text[start:at])) > 42:  # escapes are longer than the characters they represent
        start += 1
    return "..." + text[start:]


def quote(value: Any, longest: int = _LONGEST_QUOTE) -> str:
    """A value for an error message, at most `longest` characters: numbers bare, all else in quotes."""
    if isinstance(value, (int, float)):
        text = show(value)
        return text if len(text) <= longest else text[: longest - 3] + "..."
    text = repr(str(value))
    return text if len(text) <= longest else text[: longest - 4] + "..." + text[-1]


def _integer(text: str) -> int:
    try:
        return int(text.strip())
    except ValueError:
        raise ValueError("an integer") from None


def _number(text: str) -> float:
    try:
        return float(text.strip())
    except ValueError:
        raise ValueError("a number") from None
