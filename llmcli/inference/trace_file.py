"""Trace files: one JSON object for each token, in the order in which they were sampled."""

import os
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import astuple

from llmcli.engine.events import Alternative, TokenTrace
from llmcli.errors import DiskError, UsageError, error_text
from llmcli.files import BINARY, convert, decode_json, encode, lines_of

_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | BINARY
_TOGETHER = 64  # tokens that are written together
_LONG = 1000  # characters; a longer token is written at once
_MAX_TOKENS = 10**6
_SLACK = 1e-6  # tolerance for sums of rounded probabilities
_NOT_A_TRACE = "create a trace with `llmcli generate --trace FILE`"

_Count = Annotated[int, Meta(ge=0, le=10**9)]
_Number = Annotated[float, Meta(ge=0, le=1e9)]
_Entropy = Annotated[float, Meta(ge=-_SLACK, le=1e9)]
_Probability = Annotated[float, Meta(ge=-_SLACK, le=1 + _SLACK)]
_Text = Annotated[str, Meta(max_length=1 << 20)]  # of one token: text that was held back may be long


class _Alternative(Struct):
    id: _Count
    text: _Text
    before: _Probability
    p: _Probability


class _Token(Struct):
    """A line that anybody may have written; the fields of `TokenTrace`, in its order."""

    i: _Count
    id: _Count | None
    text: _Text
    p: _Probability | None
    rank: _Count | None
    entropy: _Entropy | None
    temperature: _Number | None
    candidates: _Count | None
    top: Annotated[list[_Alternative], Meta(max_length=10_000)]
    policy: _Text
    sentence: _Count
    time: _Number
    reasoning: _Text = ""
    thinking: bool = False
    drafted: bool = False


class TraceWriter:
    """Writes the tokens of a trace into a file with mode 0600, over an existing one; each step may raise DiskError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: list[TokenTrace] = []
        with self._write_errors():
            self._file = os.fdopen(os.open(path, _NEW, 0o600), "wb")

    def write(self, token: TokenTrace) -> None:
        """Add a token. Some are written together: one by one, between evaluations, they take three times as long."""
        self._waiting.append(token)
        if len(self._waiting) >= _TOGETHER or len(token.text) > _LONG:
            with self._write_errors():
                self._flush()

    def close(self) -> None:
        """Write the tokens that wait. A second call does nothing."""
        with self._write_errors(), closing(self._file):
            self._flush()

    def _flush(self) -> None:
        tokens, self._waiting = self._waiting, []
        if tokens:
            self._file.write(b"".join([encode(to_data(token)) for token in tokens]))

    @contextmanager
    def _write_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            raise DiskError(f"cannot write {self.path}: {error_text(error)}") from None


def to_data(token: TokenTrace) -> dict[str, object]:
    """The JSON object of a token; numbers keep 6 significant digits, the time 3 decimals."""
    top = [_rounded(one._asdict()) for one in token.top]
    data = _rounded(token._asdict()) | {"top": top, "time": round(token.time, 3)}
    return {key: value for key, value in data.items() if value or key not in ("reasoning", "thinking", "drafted")}


def _rounded(data: dict[str, object]) -> dict[str, object]:
    return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in data.items()}


def from_data(data: object) -> TokenTrace:
    """The token of a JSON object; unknown keys are ignored. Raises ValueError, naming a key that is not valid."""
    row = convert(data, _Token)
    top = tuple(Alternative(one.id, one.text, _clamp(one.before), _clamp(one.p)) for one in row.top)
    p = None if row.p is None else _clamp(row.p)
    entropy = None if row.entropy is None else max(row.entropy, 0.0)
    return TokenTrace(*astuple(row))._replace(top=top, p=p, entropy=entropy)


def _clamp(probability: float) -> float:
    return min(max(probability, 0.0), 1.0)


def read_trace(path: Path, notes: list[str] | None = None) -> list[TokenTrace]:
    """The tokens of a file; an incomplete last line is skipped, with a note in `notes`.

    Raises DiskError when it cannot be read, UsageError with file and line when a line is not a token.
    """
    try:
        with path.open("rb") as file:
            return parse_trace(lines_of(file), path.name, [] if notes is None else notes)
    except FileNotFoundError:
        raise DiskError(f"file not found: {path}", _NOT_A_TRACE) from None
    except (OSError, ValueError) as error:
        raise DiskError(f"cannot read {path}: {error_text(error)}") from None


def parse_trace(lines: Iterable[bytes], name: str, notes: list[str]) -> list[TokenTrace]:
    """The tokens of lines from any source; `name` is its name in messages. Raises UsageError as `read_trace` does."""
    tokens: list[TokenTrace] = []
    lines = iter(lines)
    for number, line in enumerate(lines, 1):
        try:
            tokens += [from_data(decode_json(line))] if line.strip() else []
        except ValueError as error:
            if line.startswith(b"{") and not line.endswith(b"\n") and next(lines, None) is None:
                notes.append(f"{name}, line {number}: skipped, the line is incomplete")
                break
            raise UsageError(f"{name}, line {number} is not a token of a trace: {error}", _NOT_A_TRACE) from None
        if len(tokens) > _MAX_TOKENS:
            raise UsageError(f"{name} has more than {_MAX_TOKENS} tokens", "split the file")
    return tokens
