"""Preload: the likely model loads in a thread while Python imports modules and parses the command line.

llama.cpp reads a model without Python's lock, so both run in parallel. The guess is cheap and can be wrong: then
the model is freed and the right one is loaded.
"""

import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.errors import LlmcliError

if TYPE_CHECKING:
    from llmcli.engine.llama.model import Model

_COMMANDS = ("generate", "compare", "chat", "batch")
_ELSEWHERE = ("LLMCLI_ENDPOINT", "LLMCLI_RPC")
_MAX_SIZE = 256 << 20  # bytes; the load of a larger file needs a progress line and a way to stop it


class ModelPreload(threading.Thread):
    """One load in the background, which only waits for C code, so it never waits for Python's lock."""

    def __init__(self, parts: Sequence[Path]) -> None:
        from llmcli.engine.llama.model import Model

        super().__init__(daemon=True)
        self._load = Model.load  # imported by now: in the thread, the import would wait for the main thread's
        self.parts = tuple(parts)
        self.model: Model | None = None  # which the user of the thread must close; None when the load failed
        self.start()

    def run(self) -> None:
        with suppress(LlmcliError):  # the load of the command itself reports it
            self.model = self._load(self.parts, 0, quiet=True)


_current: ModelPreload | None = None
is_whole_process = False  # whether the command is all that this process does, as `main` says; not in tests


def start(arguments: Sequence[str]) -> None:
    """Start the load if this command needs a model that is on this machine and has loaded safely before."""
    global _current
    words = set(arguments)
    if (
        not words
        or arguments[0] not in ("generate", "compare", "chat", "batch")
        or {"--help", "-h", "--help-all"} & words
    ):
        return
    if sum(word in ("-v", "--verbose") for word in arguments) > 1 or any(word.startswith("-vv") for word in arguments):
        return  # a load in the background drops llama.cpp's log
    elsewhere = ("--endpoint", "--ray", "--rpc")
    if any(word.partition("=")[0] in elsewhere for word in arguments) or any(map(os.environ.get, _ELSEWHERE)):
        return  # a server answers or computes, or the machines of a cluster
    if arguments[0] == "chat" and sys.stdin and sys.stdin.isatty():
        return  # the prompt appears first, and the model loads while the user types
    if has_warm():
        return
    from llmcli.engine.llama import hardware

    try:
        parts = _safe_parts(_guess(arguments))
        if parts and not hardware.has_gpu():  # the number of GPU layers depends on the header and the settings
            _current = ModelPreload(parts)
    except (LlmcliError, OSError):
        return  # the command itself meets the same error, and reports it


def has_warm() -> bool:
    """Whether a process keeps a model loaded: then this one need not load it."""
    from llmcli.files import runtime_dir

    try:
        return any(name.endswith(".json") for name in os.listdir(runtime_dir()))
    except (OSError, LlmcliError):
        return False


def claim(parts: Sequence[Path]) -> "Model | None":
    """The model at `parts`, if that is the one that was preloaded; any other one is freed."""
    global _current
    preload = _current
    if not preload:
        return None
    preload.join()  # after a Ctrl-C here, `cancel` waits for it
    _current = None
    if preload.model and preload.parts != tuple(parts):
        preload.model.close()
        return None
    return preload.model


def let_system_free() -> None:
    """At the end of a command: nothing is freed any more, if the process ends with it."""
    if is_whole_process:
        from llmcli.engine.llama import bindings

        bindings.is_process_ending = True


def cancel() -> None:
    """Free a model that was not used, so that no thread is inside llama.cpp when the program ends."""
    claim(())


def _guess(arguments: Sequence[str]) -> str:
    """The model of these arguments, without the parser; else of the environment, or of the config file."""
    for index, word in enumerate(arguments):
        if word in ("-m", "--model"):
            return arguments[index + 1] if index + 1 < len(arguments) else ""
        if word.startswith("--model="):
            return word.removeprefix("--model=")
    from llmcli.files import config_path, read_limited

    path, name = config_path(), os.environ.get("LLMCLI_MODEL")
    if name or not path.exists():
        return name or "starter"
    import tomllib

    try:
        table = tomllib.loads(read_limited(path).decode())
        return "" if table.get("endpoint") or table.get("rpc") else str(table.get("model", "starter"))
    except (ValueError, RecursionError):
        return ""


def _safe_parts(reference: str) -> Sequence[Path]:
    """The file of the model, if it is on this machine and has loaded safely before; split models are not preloaded."""
    from llmcli.files import cache_dir, data_dir
    from llmcli.models.locations import STARTER, ModelLocations, is_starter_downloaded, starter_path

    if reference == STARTER:
        return (starter_path(cache_dir()),) if is_starter_downloaded(cache_dir()) else ()
    from llmcli.models.lookup import find_model_file

    # Without aliases and imported folders: the command itself resolves them.
    file = find_model_file(reference, ModelLocations(cache_dir(), data_dir()))
    if len(file.parts) > 1 or file.path.stat().st_size > _MAX_SIZE:
        return ()
    from llmcli.engine.llama.probe import probe_record
    from llmcli.models.notes import is_probed

    return file.parts if is_probed(data_dir(), file.parts, probe_record()) else ()
