"""The output of a batch: a file whose lines survive a kill, and which a later run continues or writes again."""

import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Protocol

from llmcli.errors import DiskError, OutputClosedError, UsageError, error_text
from llmcli.files import BINARY
from llmcli.pipelines.batch_input import LineId, line_id_of

_REQUEST_ID = re.compile(r"batch_req_(\d+)")  # of an OpenAI Batch line without a custom_id
_BLOCK = 1 << 16  # bytes that are read at a time, from the end, to find the last line


@dataclass(frozen=True)
class WrittenLine:
    """A line of an earlier run."""

    id: LineId
    is_failed: bool
    data: bytes


class BatchOutput(Protocol):
    """Where the lines of a batch go, and those that earlier runs wrote."""

    is_rewritten: bool  # every line is written again, the earlier ones among them

    def earlier(self) -> Iterator[WrittenLine]:
        """The lines of earlier runs, in their order."""

    def write(self, line: bytes) -> None:
        """Write a line at once. Raises DiskError or OutputClosedError."""

    def finish(self) -> None:
        """End the output. Raises DiskError."""


class OutputFile:
    """A file of lines, each of which is one write; no other run can have it open.

    Raises UsageError for a file that exists (unless it is resumed or replaced) or is in use, DiskError for one that
    cannot be opened.
    """

    def __init__(self, path: Path, is_resumed: bool = False, is_rewritten: bool = False, is_forced: bool = False):
        """Open the file; with `is_rewritten`, the lines go to a new one, which replaces it at the end."""
        self.path = path = Path(os.path.realpath(path))
        self.is_rewritten = is_rewritten and path.exists()
        self._name = str(path)
        self._temporary = path.with_name(f".{path.name}.retry")
        self._earlier_size = 0  # bytes
        self._n_written = 0
        self._descriptors: list[int] = []
        try:
            self._open(path, is_resumed, is_forced)
        except OSError as error:
            self.close()
            raise DiskError(f"cannot write {path}: {error_text(error)}") from None
        except UsageError:
            self.close()
            raise

    def _open(self, path: Path, is_resumed: bool, is_forced: bool) -> None:
        if path.exists() and not path.is_file():  # a device, or a pipe with a name
            self._descriptors.append(os.open(path, os.O_WRONLY | BINARY))
            return
        is_new = not (is_resumed or is_forced)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | BINARY | (os.O_EXCL if is_new else 0)
        self._descriptors.append(os.open(path, flags, 0o666))
        _lock(self._descriptors[0], path)
        if not is_resumed:
            os.ftruncate(self._descriptors[0], 0)
            return
        self._earlier_size = _end_of_lines(path)
        os.ftruncate(self._descriptors[0], self._earlier_size)
        if self.is_rewritten:
            self._temporary.unlink(missing_ok=True)  # of a run that was killed
            mode = stat.S_IMODE(os.fstat(self._descriptors[0]).st_mode)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | BINARY
            self._descriptors.append(os.open(self._temporary, flags, mode))

    def earlier(self) -> Iterator[WrittenLine]:
        """The lines of earlier runs. Raises UsageError for a line that no batch wrote."""
        if not self._earlier_size:
            return
        with self.path.open("rb") as file:
            yield from self._earlier_lines(file)

    def _earlier_lines(self, file: BinaryIO) -> Iterator[WrittenLine]:
        import msgspec

        number = 0
        while file.tell() < self._earlier_size:
            line, number = file.readline(), number + 1
            try:
                values = msgspec.json.decode(line, type=dict[str, object])
            except ValueError:
                values = {}
            line_id = line_id_of(values.get("custom_id", values.get("id")))
            if line_id is None and (found := _REQUEST_ID.fullmatch(str(values.get("id")))):
                line_id = int(found[1])
            if line_id is None:
                hint = "choose another file, or replace it with --force"
                raise UsageError(f"line {number} of {self._name} is not the output of a batch", hint)
            yield WrittenLine(line_id, values.get("error") is not None, line)

    def write(self, line: bytes) -> None:
        """Append a line. What a full disk leaves of it is removed. Raises DiskError or OutputClosedError."""
        descriptor, rest = self._descriptors[-1], line
        try:
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        except BrokenPipeError:
            raise OutputClosedError(f"the reader of {self._name} has closed it") from None
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(descriptor, os.fstat(descriptor).st_size - len(line) + len(rest))
            hint = "free some space, then go on with --resume"
            raise DiskError(f"cannot write {self._name}: {error_text(error)}", hint) from None
        self._n_written += 1

    def finish(self) -> None:
        """Close the file. A new one gets the lines of the old one that follow, and replaces it. Raises DiskError."""
        is_new = self.is_rewritten and bool(self._descriptors)
        try:
            if is_new:
                for line in islice(self.earlier(), self._n_written, None):
                    self.write(line.data)
            self.close()
            if is_new:
                os.replace(self._temporary, self.path)
        except OSError as error:
            raise DiskError(f"cannot replace {self._name}: {error_text(error)}") from None
        finally:
            self.close()
            if is_new:
                self._temporary.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        descriptors, self._descriptors = self._descriptors, []
        for descriptor in descriptors:
            os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    """Let no other run write to the file. Raises UsageError if one does."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"another run of llmcli writes {path}", "wait for its end, or choose another file") from None
    except OSError:  # a file system without locks
        return


def _end_of_lines(path: Path) -> int:
    """The bytes up to the end of the last whole line; a kill can leave a part of one after it."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(end - _BLOCK, 0)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0
