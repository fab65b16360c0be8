"""Trace files: one JSON object for each token, in the order in which they were sampled."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from llmcli.engine.events import Alternative, TokenTrace
from llmcli.errors import DiskError, UsageError, error_text
from llmcli.files import BINARY, check_integer, check_number, check_text, encode, lines_of

_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | BINARY
_TOGETHER = 64  # tokens that are written together
_LONG = 1000  # characters; a longer token is written at once
_MAX_TOKENS = 10**6
_MAX_TEXT = 1 << 20  # characters of one token: text that was held back may be long
_MAX_TOP = 10_000
_MAX = 10**9  # of any number but a probability
_SLACK = 1e-6  # tolerance for sums of rounded probabilities
_T = TypeVar("_T")
_NOT_A_TRACE = "create a trace with `llmcli generate --trace FILE`"


class TraceWriter:
    """Writes the tokens of a trace into a file with mode 0600; an existing file is overwritten.

    Raises:
        DiskError: when the file cannot be opened, and from `write` or `close` when it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = os.fdopen(os.open(path, _NEW, 0o600), "wb")
            self._waiting: list[TokenTrace] = []
        except (OSError, ValueError) as error:
            raise self._fault(error) from None

    def write(self, token: TokenTrace) -> None:
        """Add a token. Some are written together: one by one, between evaluations, they take three times as long."""
        self._waiting.append(token)
        if len(self._waiting) >= _TOGETHER or len(token.text) > _LONG:
            self._flush()

    def close(self) -> None:
        """Write the tokens that wait. A second call does nothing."""
        try:
            self._flush()
        finally:
            try:
                self._file.close()
            except OSError as error:
                raise self._fault(error) from None

    def _flush(self) -> None:
        tokens, self._waiting = self._waiting, []
        try:
            if tokens:
                self._file.write(b"".join([encode(to_data(token)) for token in tokens]))
        except OSError as error:
            raise self._fault(error) from None

    def _fault(self, error: Exception) -> DiskError:
        return DiskError(f"cannot write {self.path}: {error_text(error)}")


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
    """The token of a JSON object; unknown keys are ignored.

    Raises:
        ValueError: when a key is missing, or its value has the wrong type or is out of range.
    """
    if not isinstance(data, dict):
        raise ValueError("must be an object")
    return TokenTrace(
        i=_required(data, "i", _count),
        id=_optional(data, "id", _count),
        text=_required(data, "text", _text),
        p=_optional(data, "p", _probability),
        rank=_optional(data, "rank", _count),
        entropy=_optional(data, "entropy", _number),
        temperature=_optional(data, "temperature", _number),
        candidates=_optional(data, "candidates", _count),
        top=_required(data, "top", _alternatives),
        policy=_required(data, "policy", _text),
        sentence=_required(data, "sentence", _count),
        time=_required(data, "time", _number),
        reasoning=_text(data.get("reasoning", ""), "reasoning"),
        thinking=data.get("thinking") is True,
    )


def read_trace(path: Path, notes: list[str] | None = None) -> list[TokenTrace]:
    """The tokens of a file; an incomplete last line is skipped, with a note in `notes`.

    Raises:
        DiskError: when it cannot be read.
        UsageError: when a line is not a token, naming file and line.
    """
    try:
        with path.open("rb") as file:
            return parse_trace(lines_of(file), path.name, [] if notes is None else notes)
    except FileNotFoundError:
        raise DiskError(f"file not found: {path}", _NOT_A_TRACE) from None
    except (OSError, ValueError) as error:
        raise DiskError(f"cannot read {path}: {error_text(error)}") from None


def parse_trace(lines: Iterable[bytes], name: str, notes: list[str]) -> list[TokenTrace]:
    """The tokens of lines from any source; `name` is its name in messages.

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
                notes.append(f"{name}, line {number}: skipped, the line is incomplete")
                break
            raise UsageError(f"{name}, line {number} is not a token of a trace: {error}", _NOT_A_TRACE) from None
        if len(tokens) > _MAX_TOKENS:
            raise UsageError(f"{name} has more than {_MAX_TOKENS} tokens", "split the file")
    return tokens


def _is_cut(line: bytes) -> bool:
    return line.startswith(b"{") and not line.endswith(b"\n")


def _decode(line: bytes) -> TokenTrace:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("not valid JSON") from None
    return from_data(data)


def _required(data: Mapping[str, Any], key: str, check: Callable[[Any, str], _T]) -> _T:
    if key not in data:
        raise ValueError(f"{key} is missing")
    return check(data[key], key)


def _optional(data: Mapping[str, Any], key: str, check: Callable[[Any, str], _T]) -> _T | None:
    return None if data.get(key, "") is None else _required(data, key, check)


def _alternatives(value: Any, key: str) -> tuple[Alternative, ...]:
    if not isinstance(value, list) or len(value) > _MAX_TOP or not all(isinstance(one, dict) for one in value):
        raise ValueError(f"{key} must be a list of alternatives")
    return tuple(
        Alternative(
            id=_required(one, "id", _count),
            text=_required(one, "text", _text),
            before=_required(one, "before", _probability),
            p=_required(one, "p", _probability),
        )
        for one in value
    )


def _text(value: Any, key: str) -> str:
    return check_text(value, key, _MAX_TEXT)


def _count(value: Any, key: str) -> int:
    return check_integer(value, key, 0, _MAX)


def _number(value: Any, key: str) -> float:
    return check_number(value, key, 0, _MAX, _SLACK)


def _probability(value: Any, key: str) -> float:
    return check_number(value, key, 0, 1, _SLACK)
