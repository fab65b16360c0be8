"""A file for the output instead of stdout, which appears when the output is complete."""

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from llmcli.errors import DiskError, UsageError, error_text
from llmcli.files import BINARY, OPEN_SAFE
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import redirect


class OutputFile:
    """Within its block what goes to stdout goes into a file, and with `tee` to stdout too.

    The text is in `NAME.partial` while it comes. `complete` renames that to `NAME`, or appends it: a reader sees the
    file as before or with all of the output. If the block ends without it, the partial file stays.
    """

    def __init__(self, name: str, append: bool = False, force: bool = False, tee: bool = False) -> None:
        """Raises UsageError for a file that exists and is not to be changed, DiskError for one that cannot be."""
        if not name.strip():
            raise UsageError("the file name of --output is empty", "give the name of a file")
        path = Path(os.path.expanduser(name))
        if path.is_dir():
            raise UsageError(f"{name} is a folder, not a file", "give the name of a file")
        if path.is_file() and not (append or force):
            raise UsageError(f"{name} already exists", "replace it with --force, or add to it with --append")
        is_device = path.exists() and not path.is_file()  # or a pipe: neither can be replaced
        path = path if is_device else Path(os.path.realpath(path))  # a link stays one
        self._name, self._path, self._append, self._tee = name, path, append, tee
        self._partial = None if is_device else path.with_name(f"{path.name}.partial")
        self._is_complete = False
        try:
            self._descriptor = self._open()
        except OSError as error:
            raise self._error(error) from None

    def _open(self) -> int:
        if not self._partial:
            return os.open(self._path, os.O_WRONLY | BINARY)
        self._partial.unlink(missing_ok=True)  # of an earlier run
        if self._path.exists() and not os.access(self._path, os.W_OK):
            raise PermissionError(13, "Permission denied")
        return os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | OPEN_SAFE, 0o666)

    def _error(self, error: OSError) -> DiskError:
        return DiskError(f"cannot write {self._name}: {error_text(error)}", "choose another file, or free some space")

    def __enter__(self) -> "OutputFile":
        self._redirection = redirect(self._write, self._tee)
        self._redirection.__enter__()
        return self

    def _write(self, data: bytes) -> None:
        try:
            _write_all(self._descriptor, data)
        except OSError as error:
            raise self._error(error) from None

    def complete(self) -> None:
        """End the output, which is all there. Raises DiskError."""
        if not self._partial:
            return
        try:
            os.fsync(self._descriptor)
            if self._append and self._path.exists():
                self._append_to(self._path, self._partial.read_bytes())
                self._partial.unlink()
            else:
                with suppress(OSError):  # the mode of a file that it replaces
                    os.chmod(self._partial, self._path.stat().st_mode & 0o7777)
                os.close(self._descriptor)  # Windows cannot move an open file
                self._descriptor = -1
                os.replace(self._partial, self._path)
        except OSError as error:
            raise self._error(error) from None
        self._is_complete = True

    @staticmethod
    def _append_to(path: Path, data: bytes) -> None:
        """Append in one piece or not at all, after a line feed that a last line lacks."""
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | OPEN_SAFE)
        try:
            size = os.lseek(descriptor, 0, os.SEEK_END)
            os.lseek(descriptor, max(size - 1, 0), os.SEEK_SET)
            try:
                _write_all(descriptor, data if os.read(descriptor, 1) in (b"", b"\n") else b"\n" + data)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._redirection.__exit__(kind, error, trace)
        if self._descriptor >= 0:
            os.close(self._descriptor)
        if self._is_complete or not self._partial:
            return
        with suppress(OSError):
            if self._partial.stat().st_size:
                console.note(f"the output until then is in {self._partial}")
            else:
                self._partial.unlink()


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
