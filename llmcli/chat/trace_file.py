"""The file of a trace: one JSON object a token, in the order in which they were drawn."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from llmcli.chat.journal import encode, lines_of
from llmcli.engine.trace import Alternative, TokenTrace
from llmcli.errors import DiskError, UsageError

_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
_TOGETHER = 64  # tokens that are written at a time
_LONG = 1000  # characters that do not wait
_MOST_TOKENS = 10**6
_MOST_TEXT = 1 << 20  # characters of one token, as what was held back of an answer may be long
_MOST_TOP = 10_000
_MOST = 1e9  # of any number but a probability
_SLACK = 1e-6  # by which a sum of rounded probabilities misses 0 or 1
_T = TypeVar("_T")
_NOT_OURS = "a trace is written by `llmcli generate --trace FILE`"


class TraceWriter:
    """Writes the tokens of a trace into a file of its own, 0600; what was there before is replaced.

    Raises:
        DiskError: when the file cannot be opened, and from `write` or `close` when the disk takes nothing more.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = os.fdopen(os.open(path, _NEW, 0o600), "wb")
            self._waiting: list[TokenTrace] = []
        except (OSError, ValueError) as error:
            raise self._fault(error) from None

    def write(self, token: TokenTrace) -> None:
        """Add a token. It waits for some others: one by one, between evaluations, lines take thrice the time."""
        self._waiting.append(token)
        if len(self._waiting) >= _TOGETHER or len(token.text) > _LONG:
            self._put()

    def close(self) -> None:
        """Put what waits onto the disk; harmless when done twice."""
        try:
            self._put()
        finally:
            try:
                self._file.close()
            except OSError as error:
                raise self._fault(error) from None

    def _put(self) -> None:
        waiting, self._waiting = self._waiting, []
        try:
            if waiting:
                self._file.write(b"".join([encode(to_data(token)) for token in waiting]))
        except OSError as error:
            raise self._fault(error) from None

    def _fault(self, error: Exception) -> DiskError:
        return DiskError(f"cannot write {self.path}: {getattr(error, 'strerror', None) or error}")


def to_data(token: TokenTrace) -> dict[str, Any]:
    """The JSON object of a token; numbers keep 6 significant digits, the time 3 decimals."""
    data = {
        "i": token.i,
        "id": token.id,
        "text": token.text,
        "p": _rounded(token.p),
        "rank": token.rank,
        "entropy": _rounded(token.entropy),
        "temperature": _rounded(token.temperature),
        "candidates": token.candidates,
        "top": [_alternative_data(one) for one in token.top],
        "policy": token.policy,
        "sentence": token.sentence,
        "time": round(token.time, 3),
    }
    if token.reasoning:
        data["reasoning"] = token.reasoning
    if token.thinking:
        data["thinking"] = True
    return data


def _alternative_data(one: Alternative) -> dict[str, Any]:
    return {"id": one.id, "text": one.text, "before": _rounded(one.before), "p": _rounded(one.p)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def from_data(data: Any) -> TokenTrace:
    """The token of a JSON object; keys that are not known are left out.

    Raises:
        ValueError: when it is none: a key is missing, or its value has another type or is out of bounds.
    """
    if not isinstance(data, dict):
        raise ValueError("it is no object")
    return TokenTrace(
        i=_needed(data, "i", _count),
        id=_or_none(data, "id", _count),
        text=_needed(data, "text", _text),
        p=_or_none(data, "p", _probability),
        rank=_or_none(data, "rank", _count),
        entropy=_or_none(data, "entropy", _number),
        temperature=_or_none(data, "temperature", _number),
        candidates=_or_none(data, "candidates", _count),
        top=_needed(data, "top", _alternatives),
        policy=_needed(data, "policy", _text),
        sentence=_needed(data, "sentence", _count),
        time=_needed(data, "time", _number),
        reasoning=_text(data.get("reasoning", ""), "reasoning"),
        thinking=data.get("thinking") is True,
    )


def read_trace(path: Path, notes: list[str] | None = None) -> list[TokenTrace]:
    """The tokens of a file; a last line that was cut off is left out, which `notes` tells.

    Raises:
        DiskError: when it cannot be read.
        UsageError: when a line of it is no token; file and line are named.
    """
    try:
        with path.open("rb") as file:
            return parse_trace(lines_of(file), path.name, [] if notes is None else notes)
    except (OSError, ValueError) as error:
        raise DiskError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def parse_trace(lines: Iterable[bytes], name: str, notes: list[str]) -> list[TokenTrace]:
    """The tokens of lines from anywhere; `name` is what messages call their source.

    Raises:
        UsageError: as `read_trace` does.
    """
    tokens: list[TokenTrace] = []
    lines = iter(lines)
    for number, line in enumerate(lines, 1):
        try:
            tokens += [_decode(line)] if line.strip() else []
        except ValueError as error:
            if _is_cut(line) and next(lines, None) is None:
                notes.append(f"{name}: line {number} is cut off and was left out")
                break
            raise UsageError(f"{name}, line {number} is no token of a trace: {error}", _NOT_OURS) from None
        if len(tokens) > _MOST_TOKENS:
            raise UsageError(f"{name} has more than {_MOST_TOKENS} tokens", "cut it into parts")
    return tokens


def _is_cut(line: bytes) -> bool:
    return line.startswith(b"{") and not line.endswith(b"\n")


def _decode(line: bytes) -> TokenTrace:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON") from None
    return from_data(data)


def _needed(data: Mapping[str, Any], key: str, check: Callable[[Any, str], _T]) -> _T:
    if key not in data:
        raise ValueError(f"it has no {key}")
    return check(data[key], key)


def _or_none(data: Mapping[str, Any], key: str, check: Callable[[Any, str], _T]) -> _T | None:
    return None if data.get(key, "") is None else _needed(data, key, check)


def _alternatives(value: Any, key: str) -> tuple[Alternative, ...]:
    if not isinstance(value, list) or len(value) > _MOST_TOP or not all(isinstance(one, dict) for one in value):
        raise ValueError(f"its {key} is no list of alternatives")
    return tuple(
        Alternative(
            id=_needed(one, "id", _count),
            text=_needed(one, "text", _text),
            before=_needed(one, "before", _probability),
            p=_needed(one, "p", _probability),
        )
        for one in value
    )


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or len(value) > _MOST_TEXT:
        raise ValueError(f"its {key} is no text, or too long a one")
    return value


def _count(value: Any, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        raise ValueError(f"its {key} is no whole number from 0 to {_MOST:g}")
    return value


def _number(value: Any, key: str, most: float = _MOST) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_SLACK <= value <= most + _SLACK:
        raise ValueError(f"its {key} is no number from 0 to {most:g}")  # NaN is none, nor infinity
    return min(max(float(value), 0.0), most)


def _probability(value: Any, key: str) -> float:
    return _number(value, key, most=1.0)
