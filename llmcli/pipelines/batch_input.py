"""The input of a batch: JSON Lines, OpenAI Batch lines, CSV or plain text, line by line, without a wait."""

import codecs
import csv
import hashlib
import io
import queue
import re
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import PurePath
from typing import BinaryIO, Literal, cast

from llmcli.engine.events import Cancellation
from llmcli.errors import DiskError, LlmcliError, UsageError, error_text
from llmcli.files import byte_order_mark, json_fault
from llmcli.params.param import is_int

Format = Literal["jsonl", "openai", "csv", "text"]
LineId = str | int
TEXT_COLUMNS = ("input", "text", "prompt")  # the first of them that a CSV file has is the text of a line
_JSON_SUFFIXES, _CSV_SUFFIXES = (".jsonl", ".ndjson", ".json"), (".csv", ".tsv")
_MAX_LINE = 16 << 20  # bytes
_DELIMITERS = ",;\t|"
_AHEAD = 64  # lines that are read ahead from a pipe
_MAX_NUMBER = 2**32 - 1  # of a line in a table of ids
_POLL = 0.1  # seconds between two looks at the cancellation while the next line is waited for
_ESCAPED = re.compile("[\ud800-\udfff]")  # stands for a byte that is not valid
_NOT_VALID = "llmcli.not_valid"  # how bytes are decoded that are not valid: as what UTF-8 does not have
codecs.register_error(_NOT_VALID, lambda error: ("\udc80", getattr(error, "end", 0)))
_OBJECT_HINT = 'write one object on each line, as {"prompt": "..."}'
_CELL_HINT = 'put quotes around a cell with a delimiter in it, as in "a, b"'
_ENCODING_HINT = "set its encoding, such as --encoding latin-1"


@dataclass(frozen=True)
class BatchLine:
    """One line that asks something."""

    number: int  # of the line of the input at which it begins, from 1
    values: Mapping[str, object] = field(default_factory=dict)  # the keys of a JSON object, or variables
    error: LlmcliError | None = None  # why it cannot be answered
    own_id: LineId | None = None

    @property
    def id(self) -> LineId:
        """What names it in the output: its own id, else its number."""
        return self.number if self.own_id is None else self.own_id


class BatchReader:
    """Iterates over the lines of an input; blank ones are skipped, but counted. From the first one on, `format` is set.

    `check_columns` is called with the header of a CSV file. An iteration raises UsageError for an input that has
    another format, and DiskError for one that cannot be read.
    """

    def __init__(
        self,
        file: BinaryIO,
        name: str,
        encoding: str = "utf-8",
        form: Format | None = None,
        check_columns: Callable[[Sequence[str]], None] = lambda _columns: None,
    ) -> None:
        self.format: Format | None = form
        self._file, self.name, self._encoding, self._check_columns = file, name, encoding, check_columns
        self._has_nul = False

    def __iter__(self) -> Iterator[BatchLine]:
        try:
            lines = self._numbered_lines()
            first = next(((number, line) for number, line in lines if line.strip()), None)
            if first is None:
                return
            if self.format is None:
                self.format = _guess_format(self.name, first[1])
            if self.format == "text" and self._has_nul:  # in other formats, it spoils its line only
                raise self._not_a_text()
            all_lines = chain([first], lines)
            if self.format == "csv":
                yield from self._csv_rows(all_lines)
                return
            if self.format != "text" and first[1].lstrip()[:1] == b"[":
                hint = f"put one object on each line, such as with: jq -c '.[]' {self.name}"
                raise UsageError(f"{self.name} is one JSON array, not JSON Lines", hint)
            parse = self._text_line if self.format == "text" else self._json_line
            for number, line in all_lines:
                if line.strip():
                    yield parse(number, line)
        except OSError as error:
            raise DiskError(f"cannot read {self.name}: {error_text(error)}") from None

    def _numbered_lines(self) -> Iterator[tuple[int, bytes]]:
        """The lines as UTF-8, with their numbers."""
        file = self._file if hasattr(self._file, "peek") else io.BufferedReader(cast(io.RawIOBase, self._file))
        start = cast(io.BufferedReader, file).peek(4)
        mark, self._encoding = byte_order_mark(start, self._encoding)
        self._has_nul = self._encoding == "utf-8" and b"\0" in start[:8192]
        if self._has_nul and b"\0" in start[:4]:  # UTF-16 without a mark, or no text at all
            raise self._not_a_text()
        file.read(len(mark))
        if self._encoding == "utf-8":
            return enumerate(_whole_lines(file.readline), 1)
        text = io.TextIOWrapper(file, self._encoding, errors=_NOT_VALID, newline="\n")
        return enumerate(_whole_lines(lambda size: text.readline(size).encode("utf-8", "surrogatepass")), 1)

    def _not_a_text(self) -> DiskError:
        return DiskError(f"{self.name} is not a text file", "give a text file, or set its --encoding")

    def _text(self, line: bytes) -> str:
        """The text of a line. Raises UsageError if its bytes are not valid."""
        if _is_cut(line):
            raise UsageError(f"the line is longer than {_MAX_LINE >> 20} MiB", "split it")
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            name = self._encoding.upper()
            raise UsageError(f"the line is not {name} (at byte {error.start + 1})", _ENCODING_HINT) from None

    def _text_line(self, number: int, line: bytes) -> BatchLine:
        try:
            return BatchLine(number, {"input": self._text(line).rstrip("\r\n")})
        except UsageError as error:
            return BatchLine(number, error=error)

    def _json_line(self, number: int, line: bytes) -> BatchLine:
        try:
            values = _json_object(self._text(line))
        except UsageError as error:
            return BatchLine(number, error=error)
        key = "custom_id" if self.format == "openai" else "id"
        own_id = line_id_of(values.get(key))
        is_valid = own_id is not None or key not in values
        fault = None if is_valid else UsageError(f"{key} must be an integer, or a string that is not empty")
        return BatchLine(number, values, fault, own_id)

    def _csv_rows(self, lines: Iterator[tuple[int, bytes]]) -> Iterator[BatchLine]:
        first, header = next(lines)
        text = header.decode("utf-8", "surrogateescape")
        delimiter = max(_DELIMITERS, key=re.sub('"[^"]*"', "", text).count)
        rows = csv.reader(chain([text], self._csv_text(lines)), delimiter=delimiter, strict=True)
        try:
            columns = [name.strip() for name in next(rows)]
        except csv.Error as error:
            raise UsageError(f"the header of {self.name} is not valid CSV: {_csv_reason(error)}") from None
        if twice := [name for at, name in enumerate(columns) if name and name in columns[:at]]:
            raise UsageError(f"{self.name} has two columns with the name {twice[0]!r}", "rename one of them")
        self._check_columns([name for name in columns if name])
        while True:
            number = first + rows.line_num
            try:
                with _large_cells():
                    cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield BatchLine(number, error=UsageError(f"the row is not valid CSV: {_csv_reason(error)}"))
                continue
            if any(cell.strip() for cell in cells):
                yield self._row(number, columns, cells)

    def _csv_text(self, lines: Iterator[tuple[int, bytes]]) -> Iterator[str]:
        for number, line in lines:
            if _is_cut(line):
                raise UsageError(f"line {number} of {self.name} is longer than {_MAX_LINE >> 20} MiB", "split it")
            yield line.decode("utf-8", "surrogateescape")

    def _row(self, number: int, columns: Sequence[str], cells: Sequence[str]) -> BatchLine:
        if any(map(_ESCAPED.search, cells)):
            return BatchLine(number, error=UsageError(f"the row is not {self._encoding.upper()}", _ENCODING_HINT))
        values = {name: cell for name, cell in zip(columns, cells, strict=False) if name}
        own_id = line_id_of(values.get("id"))
        if len(cells) != len(columns):
            fault = UsageError(f"the row has {len(cells)} cells, and the header has {len(columns)}", _CELL_HINT)
            return BatchLine(number, values, fault, own_id)
        return BatchLine(number, values, None, own_id)


def _csv_reason(error: csv.Error) -> str:
    return str(error).partition(" - ")[0]  # then Python asks how the program opens the file


@contextmanager
def _large_cells() -> Iterator[None]:
    """Let a cell be as long as a line; the limit is one of the whole process."""
    limit = csv.field_size_limit(_MAX_LINE)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def line_id_of(value: object) -> LineId | None:
    """A JSON value as an id; None if it cannot be one."""
    if isinstance(value, str):
        return value or None
    return value if is_int(value) else None


def _is_cut(line: bytes) -> bool:
    return len(line) > _MAX_LINE and not line.endswith(b"\n")


def _whole_lines(readline: Callable[[int], bytes]) -> Iterator[bytes]:
    """The lines; the rest of one that is too long is dropped, so that the memory holds it."""
    while line := readline(_MAX_LINE + 1):
        if _is_cut(line):
            while (rest := readline(_MAX_LINE)) and not rest.endswith(b"\n"):
                pass
        yield line


def _guess_format(name: str, first: bytes) -> Format:
    """The format, by the suffix of the name, else by the first line."""
    suffix = PurePath(name).suffix.lower()
    if suffix in _CSV_SUFFIXES:
        return "csv"
    if suffix not in _JSON_SUFFIXES and not re.match(rb'\s*\{\s*"', first):
        return "text"
    try:
        values = _json_object(first.decode())
    except (UsageError, ValueError):
        return "jsonl"
    return "openai" if "custom_id" in values and values.keys() & {"body", "url"} else "jsonl"


def _json_object(text: str) -> dict[str, object]:
    import msgspec

    try:
        values = msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the line is not valid JSON: {json_fault(error)}", _OBJECT_HINT) from None
    if not isinstance(values, dict):
        raise UsageError("the line is not a JSON object", _OBJECT_HINT)
    return values


def count_lines(path: str, most: int = 64 << 20) -> int | None:
    """The number of lines that are not blank, for a progress line; None for a large file, or a pipe."""
    try:
        with open(path, "rb") as file:
            if not file.seekable() or file.seek(0, io.SEEK_END) > most:
                return None
            file.seek(0)
            if PurePath(path).suffix.lower() not in _CSV_SUFFIXES:
                return sum(1 for line in file if line.strip())
            return max(sum(1 for line in BatchReader(file, path, form="csv")), 1)
    except (OSError, LlmcliError):
        return None


class LineSource:
    """The lines of an input, of which `take` gives the next one. A slow input is read by a thread of its own."""

    def __init__(self, lines: Iterable[BatchLine], is_slow: bool, cancellation: Cancellation) -> None:
        self._lines, self._cancellation = iter(lines), cancellation
        self._queue: queue.Queue[BatchLine | Exception | None] | None = queue.Queue(_AHEAD) if is_slow else None
        self._is_ended = False
        if self._queue:
            threading.Thread(target=self._read, args=[self._queue], daemon=True).start()

    def _read(self, ahead: "queue.Queue[BatchLine | Exception | None]") -> None:
        try:
            for line in self._lines:
                ahead.put(line)
            ahead.put(None)
        except Exception as error:  # `take` raises it in the thread of the batch
            ahead.put(error)

    def take(self, may_wait: bool) -> BatchLine | None:
        """The next line; None at the end, after a cancellation, or without `may_wait` where there is none yet.

        Raises what the reader raises.
        """
        if self._is_ended or self._cancellation.is_set():
            return None
        if not self._queue:
            return next(self._lines, None)
        while True:
            try:
                found = self._queue.get(timeout=_POLL) if may_wait else self._queue.get_nowait()
            except queue.Empty:
                if may_wait and not self._cancellation.is_set():
                    continue
                return None
            break
        self._is_ended = not isinstance(found, BatchLine)
        if isinstance(found, Exception):
            raise found
        return found


class IdTable:
    """The lines that had an id, in 16 to 32 bytes each: only a hash of 64 bits is kept of an id, whatever it is."""

    def __init__(self) -> None:
        self._hashes, self._numbers = array("Q", bytes(8 << 10)), array("I", bytes(4 << 10))  # 0 = free
        self._n_used = 0

    def add(self, line_id: LineId, number: int) -> int | None:
        """Note the number of the line with this id; if an earlier one has it, that number is the result."""
        if 4 * self._n_used >= 3 * len(self._hashes):
            self._grow()
        text = f"{type(line_id).__name__}{line_id}"
        key = int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big") or 1
        place = self._place(key)
        if self._hashes[place]:
            return self._numbers[place]
        self._hashes[place], self._numbers[place] = key, min(number, _MAX_NUMBER)
        self._n_used += 1
        return None

    def _place(self, key: int) -> int:
        """The place of a hash, or the free one where it belongs."""
        place = key % len(self._hashes)
        while self._hashes[place] not in (0, key):
            place = (place + 1) % len(self._hashes)
        return place

    def _grow(self) -> None:
        hashes, numbers = self._hashes, self._numbers
        self._hashes, self._numbers = array("Q", bytes(16 * len(hashes))), array("I", bytes(8 * len(hashes)))
        for key, number in zip(hashes, numbers, strict=True):
            if key:
                place = self._place(key)
                self._hashes[place], self._numbers[place] = key, number
