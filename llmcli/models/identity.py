"""The sha256 of a model, from records or file names where possible, otherwise computed once per file.

The sha256 of a model in several files is the sha256 of a text: the sha256 of each file in hex, one per line.
"""

import hashlib
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

from llmcli.errors import DiskError
from llmcli.models import notes
from llmcli.models.find import ModelFile
from llmcli.models.starter import SHA256, STARTER, Progress

# The Hub's cache and Ollama's store name a file after its sha256.
_BLOB = re.compile(r"(?:sha256-)?([0-9a-f]{64})")


class StoppedError(Exception):
    """The computation of the sha256 was canceled."""


class Identity:
    """The sha256 of one model; `begin` computes it in a thread if it is not known."""

    def __init__(self, file: ModelFile, data_dir: Path) -> None:
        self._file = file
        self._data_dir = data_dir
        self._found = ""
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def known(self) -> str:
        """The sha256 if no model file must be read for it, otherwise ""."""
        self._found = self._found or _joined([_known(part, self._file, self._data_dir) for part in self._file.parts])
        return self._found

    def begin(self) -> None:
        """Start to compute it in the background, unless it is known."""
        if not self.known and not self._thread:
            self._thread = threading.Thread(target=self.sha256, daemon=True)
            self._thread.start()

    def wait(self, seconds: float) -> str:
        """Wait for the result of `begin`; "" when it takes longer or the files cannot be read."""
        if self._thread:
            self._thread.join(seconds)
        return self.known

    def sha256(self, progress: Progress | None = None, stop: Callable[[], bool] = lambda: False) -> str:
        """The sha256 in hex, computed if necessary; "" when the files cannot be read or `stop()` returns True."""

        def step(done: int, total: int) -> None:
            if stop():
                raise StoppedError
            if progress:
                progress(done, total)

        with self._lock:
            try:
                self._found = self.known or _joined([self._compute(part, step) for part in self._file.parts])
            except (DiskError, StoppedError):
                return ""
            return self._found

    def _compute(self, part: Path, progress: Progress) -> str:
        known = _known(part, self._file, self._data_dir)
        if known:
            return known
        digest = notes.sha256_of(part, progress)
        notes.remember(self._data_dir, part, digest)
        return digest


def _known(part: Path, file: ModelFile, data_dir: Path) -> str:
    if file.trusted and file.name == STARTER:
        return SHA256
    recorded = notes.when_verified(data_dir, part)
    if recorded:
        return recorded[0]
    path = Path(os.path.realpath(part))
    blob = _BLOB.fullmatch(path.name)
    return blob[1] if blob and path.parent.name == "blobs" else ""


def _joined(digests: list[str]) -> str:
    if len(digests) < 2 or not all(digests):
        return digests[0] if all(digests) else ""
    return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()
