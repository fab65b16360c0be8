"""Where vectors are kept: a SQLite file with their texts and places, or an array of numpy."""

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.errors import DiskError, UsageError, error_text
from llmcli.files import open_new_private
from llmcli.pipelines.text_source import Text

if TYPE_CHECKING:  # numpy takes 60 ms
    from numpy import int64
    from numpy.typing import NDArray

    from llmcli.inference.embedding import Vector

    Ids = NDArray[int64]

VERSION = "1"
SUFFIXES = (".sqlite", ".sqlite3", ".db")
_BLOCK = 4096  # vectors that are read at a time
ROUNDING = 1e-6  # of the squared length of a vector, and of a cosine
_PATIENCE = 5.0  # seconds to wait for another program that writes
_SCHEMA = """
CREATE TABLE IF NOT EXISTS store (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS vectors (
    id INTEGER PRIMARY KEY, text TEXT NOT NULL, file TEXT NOT NULL, line INTEGER NOT NULL,
    vector BLOB NOT NULL, digest BLOB NOT NULL UNIQUE);
"""


@dataclass(frozen=True)
class StoreIdentity:
    """What makes vectors comparable: they are from one model, pooled in one way."""

    model: str  # its name
    reference: str  # what finds it again, as for --model
    sha256: str  # of its file
    pooling: str
    n_dims: int

    def difference(self, other: "StoreIdentity") -> str:
        """Why vectors of the other identity cannot be compared with these; empty if they can."""
        if self.sha256 != other.sha256:
            same_name = f", of another file (sha256 {self.sha256[:12]}, not {other.sha256[:12]})"
            return f"vectors of {self.model!r}, not of {other.model!r}{same_name * (self.model == other.model)}"
        if (self.pooling, self.n_dims) != (other.pooling, other.n_dims):
            mine, theirs = (f"{one.n_dims} numbers with pooling {one.pooling}" for one in (self, other))
            return f"vectors of {mine}, not of {theirs}"
        return ""


@dataclass(frozen=True)
class StoredText(Text):
    """A text of a store, under its number there."""

    id: int = 0


class VectorStore:
    """A SQLite file with texts and their vectors (float32, little-endian); each addition is one transaction."""

    def __init__(self, path: Path, identity: StoreIdentity | None = None) -> None:
        """Open a store for reading. With an `identity` it is for writing, made if it is missing, and must have it.

        Raises DiskError (missing, not readable) or UsageError (not a store, of a newer version, of another model).
        """
        self.path = path
        is_new = identity is not None and not (path.exists() and os.path.getsize(path))
        if not is_new and not path.is_file():
            fault = f"{path} is not a file" if path.exists() else f"store not found: {path}"
            raise DiskError(fault, f"make one with `llmcli embed --file FILE -o {path.name}`")
        with self._errors():
            if is_new and not path.exists():
                with suppress(FileExistsError):  # another program makes it, too
                    open_new_private(path).close()
            mode = "ro" if identity is None else "rw"
            self._db = sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", timeout=_PATIENCE, uri=True)
            self._db.execute("PRAGMA trusted_schema = OFF")  # a store may come from others
        try:
            if is_new and identity:
                self._make(identity)
            self.identity = self._read_identity()
            if identity:
                self.check(identity, ", another store, or replace this one with --force")
        except BaseException:
            self.close()
            raise

    def check(self, identity: StoreIdentity, or_else: str = "") -> None:
        """Raise UsageError if vectors of this identity cannot be compared with those of the store."""
        if difference := self.identity.difference(identity):
            raise UsageError(f"{self.path} has {difference}", f"use -m {self.identity.reference}{or_else}")

    def _make(self, identity: StoreIdentity) -> None:
        values = {"version": VERSION, **{key: str(value) for key, value in asdict(identity).items()}}
        with self._errors(), self._db:
            # Another program may make the same store at the same time: the values of the first one stay.
            self._db.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}")
            self._db.executemany("INSERT OR IGNORE INTO store VALUES (?, ?)", values.items())

    def _read_identity(self) -> StoreIdentity:
        with self._errors():
            # A view or a trigger could compute without an end.
            if self._db.execute("SELECT 1 FROM sqlite_master WHERE type NOT IN ('table', 'index')").fetchone():
                raise self._not_a_store()
            values = dict(self._db.execute("SELECT key, value FROM store"))
        if values.get("version", VERSION) != VERSION:
            raise UsageError(f"{self.path} was written by a newer version of llmcli", "update llmcli")
        try:
            model, reference, sha256, pooling, n_dims = (values[one.name] for one in fields(StoreIdentity))
            return StoreIdentity(str(model), str(reference), str(sha256), str(pooling), int(n_dims))
        except (KeyError, ValueError):
            raise self._not_a_store() from None

    def _not_a_store(self) -> UsageError:
        return UsageError(f"{self.path} is not a store of vectors", "give a file that `llmcli embed -o` has made")

    def ids(self) -> "Ids":
        """The numbers of all texts, in order."""
        import numpy

        with self._errors():
            rows = self._db.execute("SELECT id FROM vectors ORDER BY id")
            return numpy.fromiter((number for (number,) in rows), numpy.int64)

    def is_missing(self, text: Text) -> bool:
        """Whether the text is not in the store, with the same place."""
        with self._errors():
            return not self._db.execute("SELECT 1 FROM vectors WHERE digest = ?", (_digest(text),)).fetchone()

    def add(self, rows: Sequence[tuple[Text, "Vector"]]) -> None:
        """Add vectors with their texts in one transaction. Raises DiskError."""
        values = [(one.text, one.file, one.line, vector.astype("<f4").tobytes(), _digest(one)) for one, vector in rows]
        insert = "INSERT OR IGNORE INTO vectors (text, file, line, vector, digest) VALUES (?, ?, ?, ?, ?)"
        with self._errors(), self._db:
            self._db.executemany(insert, values)

    def blocks(self, after: int = 0, size: int = _BLOCK) -> Iterator[tuple["Ids", "Vector"]]:
        """The numbers of the texts after `after`, and a matrix with their vectors of the length 1, in blocks.

        Raises UsageError for a vector of another length, or one that is not finite.
        """
        import numpy

        from llmcli.inference.embedding import normalized

        select = "SELECT id, vector FROM vectors WHERE id > ? ORDER BY id LIMIT ?"
        while True:
            with self._errors():
                rows = self._db.execute(select, (after, size)).fetchall()
            if not rows:
                return
            if any(not isinstance(data, bytes) or len(data) != 4 * self.identity.n_dims for _, data in rows):
                raise self._not_a_store()
            ids = numpy.array([number for number, _ in rows])
            if ids[0] <= after or (numpy.diff(ids) <= 0).any():  # the pages of a damaged file can be a circle
                raise self._not_a_store()
            matrix = numpy.frombuffer(b"".join(data for _, data in rows), "<f4").reshape(len(rows), -1)
            squares = numpy.einsum("ij,ij->i", matrix, matrix)
            if not numpy.isfinite(squares).all():
                raise self._not_a_store()
            is_normalized = abs(squares - 1).max() < ROUNDING  # as almost all stores are: then it is twice as fast
            yield ids, matrix if is_normalized else normalized(matrix)
            after = rows[-1][0]

    def vectors(self, ids: Sequence[int]) -> "Vector":
        """A matrix with the vectors of these numbers, of the length 1."""
        import numpy

        return numpy.concatenate([next(self.blocks(number - 1, 1))[1] for number in ids])

    def texts(self, ids: Sequence[int]) -> Mapping[int, StoredText]:
        """The texts with these numbers."""
        select = "SELECT text, file, line FROM vectors WHERE id = ?"
        with self._errors():
            rows = [(number, *self._db.execute(select, (number,)).fetchone()) for number in ids]
            return {number: StoredText(str(text), str(file), int(line), number) for number, text, file, line in rows}

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        self._db.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise the errors of SQLite as those of this program."""
        try:
            yield
        except sqlite3.OperationalError as error:
            reason = str(error)
            if reason.startswith(("no such", "Could not decode")):  # a table, a column or a text
                raise self._not_a_store() from None
            hint = "close the program that uses it" if "locked" in reason else "check the disk and the permissions"
            raise DiskError(f"cannot use {self.path}: {reason}", hint) from None
        except (sqlite3.DatabaseError, OverflowError, TypeError, ValueError):
            raise self._not_a_store() from None
        except OSError as error:
            hint = "choose another file, or free some space"
            raise DiskError(f"cannot write {self.path}: {error_text(error)}", hint) from None


def remove_store(path: Path) -> None:
    """Delete a store, and what a kill left beside it. Raises DiskError."""
    try:
        for suffix in ("", "-journal", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.unlink(f"{path}{suffix}")
    except OSError as error:
        raise DiskError(f"cannot delete {path}: {error_text(error)}") from None


def _digest(text: Text) -> bytes:
    """The same for the same text at the same place."""
    return blake2b(f"{text.file}\0{text.line}\0{text.text}".encode("utf-8", "replace"), digest_size=16).digest()


class ArrayFile:
    """Writes a .npy file row by row; it appears under its name at the end."""

    def __init__(self, path: Path, n_dims: int) -> None:
        """Begin the file. Raises DiskError."""
        self.path, self.n_dims, self.n_rows = path, n_dims, 0
        self._temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
        with self._errors():
            self._file = open_new_private(self._temporary)
            self._write_header()

    def add(self, vectors: "Sequence[Vector]") -> None:
        """Append rows. Raises DiskError."""
        with self._errors():
            for vector in vectors:
                self._file.write(vector.astype("<f4").tobytes())
        self.n_rows += len(vectors)

    def save(self) -> None:
        """Put the file in its place. Raises DiskError."""
        with self._errors():
            self._file.seek(0)
            self._write_header()
            self._file.close()
            os.replace(self._temporary, self.path)

    def close(self) -> None:
        """Delete what was not saved."""
        with suppress(OSError):  # the disk is full, and that was said
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _write_header(self) -> None:
        """The header has room for a larger number of rows, so that it can be written again."""
        from numpy.lib.format import write_array_header_1_0

        shape = (self.n_rows, self.n_dims)
        write_array_header_1_0(self._file, {"descr": "<f4", "fortran_order": False, "shape": shape})

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = "choose another file, or free some space"
            raise DiskError(f"cannot write {self.path}: {error_text(error)}", hint) from None
