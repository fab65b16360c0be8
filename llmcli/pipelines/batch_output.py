"""The output of a batch: a file whose lines survive a kill, and which a later run continues or writes again."""

import os
import re
import stat
import sys
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Protocol

from llmcli.errors import DiskError, OutputClosedError, UsageError, error_text
from llmcli.files import BINARY
from llmcli.pipelines.batch_input import LineId, line_id_of

_REQUEST_ID = re.compile(r"batch_req_(\d+)")  # of an OpenAI Batch line without a custom_id
_BEGIN = b'{"id":'  # of each line
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

    def earlier(self) -> Generator[WrittenLine, None, None]:
        """The lines of earlier runs, in their order."""

    def write(self, line: bytes) -> None:
        """Write a line at once. Raises DiskError or OutputClosedError."""

    def finish(self) -> None:
        """End the output. Raises DiskError."""


class OutputFile:
    """A file of lines, each of which is one write; no other run can have it open.

    Raises UsageError for a file that has content (unless it is resumed or replaced) or is in use, DiskError for one
    that cannot be opened.
    """

    def __init__(self, path: Path, is_resumed: bool = False, is_rewritten: bool = False, is_forced: bool = False):
        """Open the file; with `is_rewritten`, the lines go to a new one, which replaces it at the end."""
        is_device = path.exists() and not path.is_file()  # or a pipe, whose real path may not exist
        self.path = path = path if is_device else Path(os.path.realpath(path))
        self.is_rewritten = self._is_apart = is_rewritten and path.exists()
        self._name = str(path)
        self._temporary = path.with_name(f".{path.name}.retry")
        self._is_new = False  # made by this run
        self._earlier_size = 0  # bytes
        self._has_name = False  # as a file on a disk has, until it is removed
        self._n_written, self._n_earlier = 0, -1  # lines; -1 = not known yet
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
        is_new = not path.exists()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | BINARY | (os.O_EXCL if is_new else 0)
        self._descriptors.append(os.open(path, flags, 0o666))
        _lock(self._descriptors[0], path)
        self._is_new = is_new
        found = os.fstat(self._descriptors[0])
        self._has_name = found.st_nlink > 0  # some file systems count no names
        if found.st_size and not (is_resumed or is_forced):  # an empty one is that of a run that failed at once
            raise exists_error(path)
        if not is_resumed:
            os.ftruncate(self._descriptors[0], 0)
            return
        self._earlier_size = self._end_of_lines(path)
        os.ftruncate(self._descriptors[0], self._earlier_size)
        if self.is_rewritten:
            self._temporary.unlink(missing_ok=True)  # of a run that was killed
            mode = stat.S_IMODE(os.fstat(self._descriptors[0]).st_mode)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | BINARY
            self._descriptors.append(os.open(self._temporary, flags, mode))

    def _end_of_lines(self, path: Path) -> int:
        """The bytes up to the end of the last whole line; a kill can leave a part of one after it."""
        with path.open("rb") as file:
            end, found = file.seek(0, os.SEEK_END), -1
            while end and found < 0:
                start = max(end - _BLOCK, 0)
                file.seek(start)
                found = file.read(end - start).rfind(b"\n")
                end = start + found + 1 if found >= 0 else start
            file.seek(end)
            if not _BEGIN.startswith(file.read(len(_BEGIN))):  # removing it would destroy a file of something else
                raise self._not_a_batch("the end")
        return end

    def _not_a_batch(self, place: str) -> UsageError:
        hint = "choose another file, or replace it with --force"
        return UsageError(f"{place} of {self._name} is not the output of a batch", hint)

    def earlier(self) -> Generator[WrittenLine, None, None]:
        """The lines of earlier runs. Raises UsageError for a line that no batch wrote."""
        if not self._earlier_size:
            return
        with self.path.open("rb") as file:
            n_earlier = 0
            for line in self._earlier_lines(file):
                n_earlier += 1
                yield line
            self._n_earlier = n_earlier

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
                raise self._not_a_batch(f"line {number}")
            yield WrittenLine(line_id, values.get("error") is not None, line)

    def write(self, line: bytes) -> None:
        """Append a line. What a full disk leaves of it is removed. Raises DiskError or OutputClosedError."""
        if self._is_apart and self._n_written == self._n_earlier:  # this is a line that no earlier run wrote
            self._replace()
        descriptor, rest = self._descriptors[-1], line
        if self._has_name and not os.fstat(descriptor).st_nlink:  # it goes with its last descriptor
            raise DiskError(f"{self._name} was removed while it was written", "its lines are lost; run the batch again")
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

    def withdraw(self) -> None:
        """Remove the file after an error, if this run made it and wrote no line: the command can be given again."""
        if self._is_new and not self._n_written:
            self.close()
            self.path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Close the file. A new one first gets the lines of the old one that follow, and replaces it."""
        try:
            if self._is_apart:
                for line in islice(self.earlier(), self._n_written, None):
                    self.write(line.data)
                self._replace()
        finally:
            self.close()
            if self._is_apart:
                self._temporary.unlink(missing_ok=True)

    def _replace(self) -> None:
        """Let the new file replace the old one, and go on with it. Raises DiskError."""
        self.close()  # Windows does not rename an open file
        try:
            os.replace(self._temporary, self.path)
            self._is_apart = False
            self._descriptors.append(os.open(self.path, os.O_WRONLY | os.O_APPEND | BINARY))
        except OSError as error:
            raise DiskError(f"cannot replace {self._name}: {error_text(error)}") from None
        _lock(self._descriptors[0], self.path)

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        descriptors, self._descriptors = self._descriptors, []
        for descriptor in descriptors:
            os.close(descriptor)


def exists_error(path: Path) -> UsageError:
    """The error for an output that has lines, and that is neither resumed nor replaced."""
    return UsageError(f"{path} already exists", "continue it with --resume, or replace it with --force")


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
