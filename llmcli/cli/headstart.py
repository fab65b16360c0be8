"""A head start: the likely model loads in a thread while Python still imports and parses the command line.

llama.cpp reads a model without holding Python's lock, so the two run side by side. The guess is cheap and may
be wrong: then the model is dropped and the right one loaded, as if nothing had happened.
"""

import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.errors import LlmcliError

if TYPE_CHECKING:
    from llmcli.engine.model import Model

_COMMANDS = ("generate", "compare", "chat")
_WITHOUT = {"--help", "-h", "--verbose"}  # the load in the background drops llama.cpp's log
_LARGEST = 256 << 20  # bytes; a larger file takes long enough to want a progress line and a way to stop


class HeadStart:
    """One load in the background. The thread does nothing but wait for C, so it never waits for Python's lock."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self.parts = tuple(parts)
        self._model: Model | None = None
        self._thread = threading.Thread(target=self._load, daemon=True)
        self._thread.start()

    def _load(self) -> None:
        from llmcli.engine.model import Model

        try:
            self._model = Model.load(self.parts, 0, quiet=True)
        except LlmcliError:
            self._model = None  # the real load tells it properly

    def wait(self) -> "Model | None":
        """The loaded model; it belongs to the caller then."""
        self._thread.join()
        model, self._model = self._model, None
        return model


_current: HeadStart | None = None


def begin(arguments: Sequence[str]) -> None:
    """Start loading if this command line will want a model that is here and known to be safe."""
    global _current
    if not arguments or arguments[0] not in _COMMANDS or _WITHOUT & set(arguments):
        return
    if arguments[0] == "chat" and sys.stdin and sys.stdin.isatty():
        return  # the prompt comes first, and the model while the user types
    try:
        parts = _safe_parts(_guess(arguments))
        _current = HeadStart(parts) if parts and _on_cpu() else None
    except (LlmcliError, OSError):
        return  # the command itself comes to the same fault, and tells it


def take(parts: Sequence[Path]) -> "Model | None":
    """The model at `parts` if that is the one that was begun."""
    model = _current.wait() if _current else None
    if model and _current and tuple(parts) != _current.parts:
        model.close()
        return None
    return model


def end() -> None:
    """Free what nobody took, so that no thread is inside llama.cpp when the program ends."""
    global _current
    model = _current.wait() if _current else None
    _current = None
    if model:
        model.close()


def _safe_parts(reference: str) -> Sequence[Path]:
    """The model's one file, if it is here and has been loaded safely before; split models get no head start."""
    from llmcli.chat.paths import cache_dir, data_dir
    from llmcli.models import starter

    if reference == starter.STARTER:
        return (starter.starter_path(cache_dir()),) if starter.is_present(cache_dir()) else ()
    from llmcli.models.find import find
    from llmcli.models.shelf import Shelf

    file = find(reference, Shelf(cache_dir(), data_dir()))  # aliases and imported folders are left to the command
    if len(file.parts) > 1 or file.path.stat().st_size > _LARGEST:
        return ()
    from llmcli.engine.binding import bindings_version
    from llmcli.models.known import is_safe

    return file.parts if is_safe(file, cache_dir(), bindings_version()) else ()


def _on_cpu() -> bool:
    """Whether this is a CPU build; how much goes to a GPU is decided from the header and the settings."""
    from llmcli.engine import hardware

    return not hardware.has_gpu()


def _guess(arguments: Sequence[str]) -> str:
    """The model these arguments mean, looked up the quick way."""
    for index, word in enumerate(arguments):
        if word in ("-m", "--model"):
            return arguments[index + 1] if index + 1 < len(arguments) else ""
        if word.startswith("--model="):
            return word.removeprefix("--model=")
    return os.environ.get("LLMCLI_MODEL") or _configured()


def _configured() -> str:
    """The model of the configuration file, else the starter."""
    from llmcli.chat.paths import config_file

    path = config_file()
    if not path.exists():
        return "starter"
    import tomllib

    try:
        return str(tomllib.loads(path.read_text(encoding="utf-8")).get("model", "starter"))
    except ValueError:
        return ""
