"""The sha256 of files, and of a model: known from a note or the name of a blob, otherwise computed once."""

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

from llmcli.errors import DiskError
from llmcli.files import read_error
from llmcli.models import notes
from llmcli.models.locations import STARTER, STARTER_SHA256, ModelFile, Progress

_BLOCK = 4 << 20
# The Hub's cache and Ollama's store name a file after its sha256.
_BLOB = re.compile(r"(?:sha256-)?([0-9a-f]{64})")


def sha256_of(path: Path, progress: Progress, stop: Callable[[], bool] = lambda: False) -> str:
    """The sha256 of a file, in hex; "" if `stop()` returns True. Raises DiskError when the file cannot be read."""
    digest, buffer = hashlib.sha256(), bytearray(_BLOCK)
    view, done = memoryview(buffer), 0
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            while n_bytes := file.readinto(buffer):
                if stop():
                    return ""
                digest.update(view[:n_bytes])
                done += n_bytes
                progress(done, size)
    except OSError as error:
        raise read_error(path, error) from None
    return digest.hexdigest()


class ModelHasher:
    """The sha256 of one model; `start` computes it in a thread if it is not known."""

    def __init__(self, file: ModelFile, data_dir: Path) -> None:
        self._file, self._data_dir = file, data_dir
        self._digests = {file.path: STARTER_SHA256} if file.trusted and file.name == STARTER else {}  # of the parts
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def known(self) -> str:
        """The sha256 if no model file must be read for it, otherwise "". Of several parts, that of the list."""
        digests = [self._known_part(part) for part in self._file.parts]
        if len(digests) == 1 or not all(digests):
            return digests[0] if all(digests) else ""
        return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()

    def start(self) -> None:
        """Compute it in the background, unless it is known."""
        if not self.known and not self._thread:
            self._thread = threading.Thread(target=self.sha256, daemon=True)
            self._thread.start()

    def wait(self, seconds: float) -> str:
        """Wait for the result of `start`; "" when it takes longer or the files cannot be read."""
        if self._thread:
            self._thread.join(seconds)
        return self.known

    def sha256(self, progress: Progress = lambda _done, _total: None, stop: Callable[[], bool] = lambda: False) -> str:
        """The sha256 in hex, computed if necessary; "" when the files cannot be read or `stop()` returns True."""
        with self._lock, contextlib.suppress(DiskError):
            for part in self._file.parts:
                if not self._known_part(part) and (digest := sha256_of(part, progress, stop)):
                    self._digests[part] = digest
                    notes.record_sha256(self._data_dir, part, digest)
        return self.known

    def _known_part(self, part: Path) -> str:
        if part not in self._digests:
            path = Path(os.path.realpath(part))
            blob = _BLOB.fullmatch(path.name) if path.parent.name == "blobs" else None
            digest = notes.read(self._data_dir, path).get("sha256") or (blob[1] if blob else "")
            self._digests.setdefault(part, digest)  # the thread can have computed it by now
        return self._digests[part]
