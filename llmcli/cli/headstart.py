"""A head start: the likely model loads in a thread while Python still imports and parses the command line.

llama.cpp reads a model without holding Python's lock, so the two run side by side. The guess is cheap and may
be wrong: then the model is dropped and the right one loaded, as if nothing had happened.
"""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmcli.engine.abort import AbortFlag
    from llmcli.engine.model import Model

_COMMANDS = ("generate",)
_PAUSE = 0.05


class HeadStart:
    """One load in the background, of a file that is known to be safe to load."""

    def __init__(self, reference: str) -> None:
        self._reference = reference
        self._model: Model | None = None
        self._parts: tuple[Path, ...] = ()
        self._share = 0.0
        self._abort: AbortFlag | None = None
        self._cancelled = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        """Any fault here is left to the real load, which tells it properly."""
        try:
            self._load()
        except BaseException:
            self._model = None

    def _load(self) -> None:
        from llmcli.engine import hardware
        from llmcli.engine.abort import AbortFlag
        from llmcli.engine.model import Model

        self._abort = AbortFlag()
        if any(device.kind in ("GPU", "IGPU") for device in hardware.devices()):
            return  # how many layers go to the GPU is decided from the header and the settings
        self._parts = self._safe_parts()
        if self._parts and not self._cancelled:
            self._model = Model.load(self._parts, 0, self._on_progress, self._abort)

    def _safe_parts(self) -> tuple[Path, ...]:
        from llmcli.chat.local import is_safe
        from llmcli.chat.paths import cache_dir
        from llmcli.models import starter
        from llmcli.models.reference import STARTER, resolve

        if self._reference == STARTER and not starter.is_present(cache_dir()):
            return ()
        file = resolve(self._reference, cache_dir())
        return file.parts if is_safe(file) else ()

    def _on_progress(self, share: float) -> None:
        self._share = share

    def take(self, parts: Sequence[Path], progress: Callable[[float], None]) -> "Model | None":
        """The loaded model if it is the one at `parts`; waits for it. It belongs to the caller then."""
        while self._thread.is_alive():
            progress(self._share)
            self._thread.join(_PAUSE)
        model, self._model = self._model, None
        if model and tuple(parts) != self._parts:
            model.close()
            return None
        return model

    def cancel(self) -> None:
        """Give up and free what nobody took, so that no thread is inside llama.cpp when the program ends."""
        self._cancelled = True
        if self._abort:
            self._abort.set()
        self._thread.join()
        if self._model:
            self._model.close()


_current: HeadStart | None = None


def begin(arguments: Sequence[str]) -> None:
    """Start loading if this command line will want a model."""
    global _current
    if not arguments or arguments[0] not in _COMMANDS or {"--help", "-h"} & set(arguments):
        return
    _current = HeadStart(_guess(arguments))


def take(parts: Sequence[Path], progress: Callable[[float], None]) -> "Model | None":
    """The model at `parts` if it was begun."""
    return _current.take(parts, progress) if _current else None


def end() -> None:
    """Before the program ends."""
    global _current
    if _current:
        _current.cancel()
        _current = None


def _guess(arguments: Sequence[str]) -> str:
    """The model these arguments mean, looked up the quick way."""
    for index, word in enumerate(arguments):
        if word in ("-m", "--model"):
            return arguments[index + 1] if index + 1 < len(arguments) else ""
        if word.startswith("--model="):
            return word.removeprefix("--model=")
    return os.environ.get("LLMCLI_MODEL") or _configured()


def _configured() -> str:
    from llmcli.chat.paths import config_file

    try:
        text = config_file().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return "starter"
    import tomllib

    try:
        return str(tomllib.loads(text).get("model", "starter"))
    except tomllib.TOMLDecodeError:
        return ""
