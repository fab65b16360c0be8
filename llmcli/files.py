"""The ground: folders, private files and text files, JSON lines, and checks of JSON values."""

import codecs
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from llmcli.errors import DiskError, UsageError, error_text

VERSION = 1  # of JSON lines
BINARY = getattr(os, "O_BINARY", 0)  # Windows would change the ends of lines
OPEN_SAFE = BINARY | getattr(os, "O_NOFOLLOW", 0)  # bytes as they are, and no link is followed
_APPEND = os.O_WRONLY | os.O_APPEND | OPEN_SAFE
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")  # device names of Windows
_SURROGATE = re.compile("[\ud800-\udfff]")
_T = TypeVar("_T")
# How a message names a type of JSON, and what msgspec says of a value: Expected `int` >= 0 - at `$.threads[1]`.
_JSON_TYPES = {"int": "an integer", "float": "a number", "str": "a string", "bool": "true or false"}
_JSON_TYPES |= {"array": "a list", "object": "an object"}
_EXPECTED = re.compile(r"Expected `([^`]+)`((?: of length)?(?: [<>]=)?(?: [\d.+e-]+)?)(?:, got .*)?")
_MAX_LINE = 64 << 20  # bytes; no session has a longer line
_MAX_TEXT = 64 << 20  # bytes of one text file, and of stdin
_MAX_JSON = 4 << 20  # bytes; a longer file is cut, and so it is not valid
_MAX_NAME = 64  # characters
_MAX_FILE_NAME = 255  # characters
_STDIN_NAMES = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
# Byte order marks with their encodings; the one of UTF-32 begins with the one of UTF-16.
_MARKS = {b"\xff\xfe\0\0": "utf-32-le", b"\0\0\xfe\xff": "utf-32-be", b"\xef\xbb\xbf": "utf-8"}
_MARKS |= {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
_XDG = {"config": "~/.config", "data": "~/.local/share", "cache": "~/.cache"}
_NAME_HINT = "start with a letter or a digit; use letters from a to z, digits, dots, dashes and underscores"
_WRITABLE_HINT = "set LLMCLI_HOME to a folder that you can write to"
_WRITE_HINT = "free some space or make the folder writable; the session is not saved"


def config_dir() -> Path:
    """The folder of `config.toml`; `LLMCLI_HOME` moves it and the others."""
    return _folder("config")


def data_dir() -> Path:
    """The folder of sessions, history and notes about models."""
    return _folder("data")


def cache_dir() -> Path:
    """The folder of files that can be downloaded again: the starter and models from URLs."""
    return _folder("cache")


def runtime_dir() -> Path:
    """The folder of sockets and notes about processes that run."""
    folder = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.environ.get("LLMCLI_HOME") or not os.path.isabs(folder):
        return data_dir() / "runtime"  # elsewhere, the system has no such folder that is only this user's
    return Path(folder) / "llmcli"


def config_path() -> Path:
    """The configuration file, which may be missing."""
    return config_dir() / "config.toml"


def _folder(kind: str) -> Path:
    home = os.environ.get("LLMCLI_HOME")
    if home:
        return Path(os.path.expanduser(home)) / kind
    if sys.platform == "linux":  # what platformdirs finds there; it takes 6 ms, and the load of a model waits for it
        folder = os.environ.get(f"XDG_{kind.upper()}_HOME", "").strip() or os.path.expanduser(_XDG[kind])
        if os.path.isabs(folder):
            return Path(folder) / "llmcli"
    import platformdirs

    try:
        return Path(getattr(platformdirs, f"user_{kind}_dir")("llmcli", appauthor=False))
    except RuntimeError:  # HOME is not set, and the user is not in the system's list
        raise DiskError("cannot find the home folder", _WRITABLE_HINT) from None


def make_private(folder: Path) -> Path:
    """Create `folder`, which only this user can read, if it does not exist. Raises DiskError."""
    try:
        make_private_folder(folder)
    except OSError as error:
        raise DiskError(f"cannot create {folder}: {error.strerror}", _WRITABLE_HINT) from None
    return folder


def make_private_folder(folder: Path) -> None:
    """Create the folder and its missing parents with mode 0700; existing ones keep their mode. Raises OSError."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_private_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)


def check_name(name: str, kind: str) -> str:
    """`name`, if it is valid; if not, raise UsageError. `kind` is what it names, for the error."""
    reason = ""
    if not name:
        reason = "it is empty"
    elif len(name) > _MAX_NAME:
        reason = f"it has more than {_MAX_NAME} characters"
    elif other := re.search(r"[^A-Za-z0-9._-]", name):
        reason = f"it contains {other[0]!r}"
    elif not name[0].isalnum():
        reason = f"it starts with {name[0]!r}"
    elif name[-1] == ".":
        reason = "it ends with a dot"
    elif _DEVICES.fullmatch(name):
        reason = "Windows reserves it for a device"
    if reason:
        article = "an" if kind[0] in "aeiou" else "a"
        raise UsageError(f"{name[:80]!r} is not a valid name for {article} {kind}: {reason}", _NAME_HINT)
    return name


def open_new_private(path: Path) -> BinaryIO:
    """Create a new file with mode 0600 (whatever the umask) and open it for writing. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY
    return os.fdopen(os.open(path, flags, 0o600), "wb")


def replace_private(path: Path, data: bytes, sync: bool = True) -> None:
    """Write `data` to `path` atomically: a reader sees the old file or the new one. Raises OSError.

    Without `sync`, which waits for the disk, a power cut can leave an empty file.
    """
    make_private_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
    try:
        with open_new_private(temporary) as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a private file with a JSON object, which replaces the old one. Raises OSError."""
    replace_private(path, json.dumps(data).encode(), sync=False)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} if the file is missing, too large or not valid."""
    try:
        with path.open("rb") as file:
            data = json.loads(file.read(_MAX_JSON))  # not by msgspec: a start may read a note, but no other JSON
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


@dataclass
class TextReading:
    """What the program around this module adds to the reading of texts: it prints warnings, and has stdin."""

    warn: Callable[[str, str], object] = lambda _message, _hint: None
    stdin: Callable[..., bytes] | None = None  # reads all of it; None where no file may be stdin, as in a chat


text_reading = TextReading()


def is_stdin(name: str) -> bool:
    """Whether a file name means stdin."""
    return name in _STDIN_NAMES


def is_inline(text: str) -> bool:
    """Whether a template or a schema is the content itself; any other text is the name of a file."""
    return "{" in text or len(text) > _MAX_FILE_NAME or "\n" in text


def read_text(name: str, encoding: str = "utf-8") -> str:
    """The text of a file, or of stdin, as `decode_text` reads it.

    Raises UsageError (the name is empty, or stdin has another use) or DiskError (missing, a folder, too large, binary
    or not readable).
    """
    if not name.strip():
        raise UsageError("the file name is empty", "give the name of a file")
    if is_stdin(name):
        if text_reading.stdin is None:
            raise UsageError(f"'{name}' is stdin, which cannot be read as a file here", "give the name of a file")
        return decode_text(text_reading.stdin(), "stdin", encoding)
    path = Path(os.path.expanduser(name))
    try:
        if path.is_dir():
            raise DiskError(f"{name} is a folder, not a file", "give the name of a file")
        data = read_limited(path)
    except FileNotFoundError:
        raise DiskError(f"file not found: {name}") from None
    except (OSError, ValueError) as error:
        raise DiskError(f"cannot read {name}: {error_text(error)}") from None
    return decode_text(data, name, encoding)


def read_limited(path: Path) -> bytes:
    """The bytes of a text file. Raises OSError, and DiskError when it is too large."""
    with path.open("rb") as file:
        return read_at_most(file, str(path), "give a smaller file")


def read_at_most(file: BinaryIO, name: str, hint: str) -> bytes:
    """All bytes of an open file. Raises OSError, and DiskError with `hint` when there are too many for a text."""
    data = file.read(_MAX_TEXT + 1)  # a pipe or a device has no size: read one byte more than allowed
    if len(data) > _MAX_TEXT:
        raise DiskError(f"{name} is larger than {_MAX_TEXT >> 20} MiB", hint)
    return data


def decode_text(data: bytes, name: str, encoding: str = "utf-8") -> str:
    """The text that a file or stdin (`name`) contains; a byte order mark counts more than `encoding`.

    Bytes that the encoding does not have become U+FFFD, with a warning. Raises DiskError when it is binary.
    """
    mark, encoding = byte_order_mark(data, encoding)
    if encoding == "utf-8" and b"\0" in data[:8192]:
        raise DiskError(f"{name} is not a text file", "give a text file, or its encoding, such as --encoding utf-16-le")
    return decode_bytes(data[len(mark) :], name, encoding)


def byte_order_mark(data: bytes, encoding: str) -> tuple[bytes, str]:
    """The byte order mark at the beginning, and the encoding that it names; without one, nothing and `encoding`.

    UTF-16 and UTF-32 without a mark are little-endian, as on Windows.
    """
    mark = next(filter(data.startswith, _MARKS), b"")
    if not mark and (name := codecs.lookup(encoding).name) in ("utf-16", "utf-32"):
        encoding = f"{name}-le"  # Python's readers of streams insist on the mark
    return mark, _MARKS.get(mark, encoding)


def decode_bytes(data: bytes, name: str, encoding: str = "utf-8") -> str:
    """The text of some bytes of a file or of stdin; those that are not valid become U+FFFD, with a warning."""
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        place = f"byte 0x{data[error.start]:02x} at position {error.start}"
        warning = f"{name} is not {encoding.upper()} ({place}): some characters are lost"
        text_reading.warn(warning, "set its encoding, such as --encoding latin-1")
        return data.decode(encoding, "replace")


def read_error(path: Path, error: OSError) -> DiskError:
    """The error for a file that cannot be read."""
    hint = "check its name" if isinstance(error, FileNotFoundError) else "check its permissions"
    return DiskError(f"cannot read {path}: {error_text(error)}", hint)


def matching_paths(start: str) -> Iterator[str]:
    """The paths that begin with `start`; a folder has a slash at its end, and hidden files are listed after a dot."""
    folder, slash, name = start.rpartition("/")
    try:
        entries = sorted(Path((folder + slash) or ".").expanduser().iterdir(), key=lambda entry: entry.name.lower())
    except (OSError, RuntimeError, ValueError):  # RuntimeError: ~nobody
        return
    for entry in entries:
        if entry.name.startswith(name) and (name or not entry.name.startswith(".")):
            yield f"{folder}{slash}{entry.name}" + ("/" if entry.is_dir() else "")


class JsonlAppender:
    """Appends lines to a file; each call is one write, so that a kill leaves all of its lines or none."""

    def __init__(self, path: Path, new: bool = False) -> None:
        """Open a file, or create it with `new`. Raises DiskError, and FileExistsError if a new file exists."""
        make_private(path.parent)
        self.path = path
        self.waiting: list[bytes] = []  # lines that are not written yet, because the disk was full
        self._descriptor = -1
        try:
            self._descriptor = os.open(path, _APPEND | (os.O_CREAT | os.O_EXCL if new else 0), 0o600)
            with path.open("rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
                if file.read(1) not in (b"", b"\n"):
                    self._write(b"\n")  # so that a line that was cut stays apart
        except FileExistsError:
            raise
        except OSError as error:
            self.close()
            raise DiskError(f"cannot write {path}: {error.strerror}") from None

    def add(self, events: Iterable[Mapping[str, Any]], sync: bool = False) -> None:
        """Append lines, after those that could not be written before; with `sync` they survive a power cut.

        Raises DiskError if they cannot be written; the next call tries again.
        """
        self.waiting += map(encode, events)
        try:
            self._write(b"".join(self.waiting))
            self.waiting.clear()
            if sync:
                os.fsync(self._descriptor)
        except OSError as error:
            raise DiskError(f"cannot write {self.path}: {error.strerror}", _WRITE_HINT) from None

    def _write(self, data: bytes) -> None:
        rest = data
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            if len(rest) < len(data):
                with suppress(OSError):
                    os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - len(data) + len(rest))
            raise

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def encode(event: Mapping[str, Any] | Sequence[Any]) -> bytes:
    """One line of the file; lone surrogates, which UTF-8 cannot encode, become U+FFFD."""
    import msgspec  # 8 ms; it is four times as fast as `json`

    try:
        return msgspec.json.encode(event) + b"\n"
    except UnicodeEncodeError:
        text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
        return _SURROGATE.sub("\ufffd", text).encode() + b"\n"


def read_events(path: Path, faults: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The objects of a file; `faults` gets a text for each line that is not one.

    Raises DiskError (the file cannot be read) or UsageError (a newer version of the program wrote it).
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(lines_of(file), 1):
                try:
                    event = convert(decode_json(line), dict[str, Any])
                    version = convert(event.get("version"), int) if event.get("type") == "session" else VERSION
                except ValueError:
                    if faults is not None and line.strip():
                        faults.append(f"skipped line {number}, which is not valid")
                    continue
                if version > VERSION:
                    raise UsageError(f"{path.name} was written by a newer version of llmcli", "update llmcli")
                yield event
    except OSError as error:
        raise DiskError(f"cannot read {path}: {error.strerror}") from None


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """The lines of an open file; one that is too long for memory comes in parts."""
    return iter(partial(file.readline, _MAX_LINE), b"")


def decode_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError if it is not valid."""
    import msgspec

    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError):
        raise ValueError("not valid JSON") from None


def json_fault(error: Exception) -> str:
    """What msgspec finds wrong with a JSON text, with its place."""
    return str(error).removeprefix("JSON is malformed: ") if isinstance(error, ValueError) else "too deep"


def convert(data: Any, kind: type[_T], name: str = "") -> _T:
    """JSON data as a value of a type of msgspec, strictly; unknown keys are ignored. `name` is the name of all of it.

    Raises ValueError that names the field: `threads[1] must be an integer >= 1`, `threads is missing`.
    """
    import msgspec

    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        rule, _, place = str(error).partition(" - at `$")
    place = name + place.rstrip("`")
    if rule.startswith("Object missing"):
        field = rule.split("`")[1]
        raise ValueError(f"{place}.{field} is missing".lstrip("."))
    found = _EXPECTED.fullmatch(rule)
    types = [_JSON_TYPES.get(one, one) for one in found[1].split(" | ")] if found else []
    fault = f"must be {' or '.join(types)}{found[2]}" if found else "is not valid"
    raise ValueError(f"{place} {fault}".lstrip(". "))
