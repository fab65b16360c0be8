"""Find and load the model of a command, with progress messages."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import perf_counter

from llmcli.cli import model_preload
from llmcli.engine.events import Cancellation
from llmcli.errors import LlmcliError, TimeLimitError
from llmcli.files import config_path, data_dir, make_private
from llmcli.inference.engine import Engine
from llmcli.inference.local import LocalEngine, subscribe_log
from llmcli.inference.resolved_model import ResolvedModel, resolve_model
from llmcli.models.locations import ModelNotDownloadedError, model_locations
from llmcli.params.settings import ResolvedSettings, Settings, fields
from llmcli.text import ellipsize
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.progress import Downloads, ProgressLine

_LARGE = 1 << 30  # bytes; the check of a smaller file is too fast for a message


def find_model(settings: Settings) -> ResolvedModel:
    """Find the model and check it; a missing model is downloaded if the user allows it."""
    try:
        return _resolve(settings)
    except ModelNotDownloadedError as missing:
        from llmcli.cli.models.download import pull_if_missing

        pull_if_missing(missing, model_locations(settings), settings.pull)
        return _resolve(settings)


@contextmanager
def open_model(
    target: ResolvedModel, settings: Settings, abort: Cancellation, status: ProgressLine
) -> Iterator[LocalEngine]:
    """Load the model for the time of the block.

    Raises:
        TimeLimitError: the time limit passed while it was loading.
        KeyboardInterrupt: the user interrupted it.
    """
    if console.engine_log:
        subscribe_log(console.detail)
    try:
        start = perf_counter()
        preloaded = model_preload.claim(target.file.parts)
        local = LocalEngine(target, settings, abort, status.loading, preloaded)
        local.waited_ms = (perf_counter() - start) * 1e3
    except KeyboardInterrupt:
        if abort.is_set() and abort.reason == "timeout":
            raise TimeLimitError(
                f"stopped by --timeout after {settings.timeout:g} s: the model is still loading", "raise --timeout"
            ) from None
        raise
    finally:
        status.clear()
    print_model_facts(local)
    try:
        yield local
    finally:
        local.close()


def print_settings(resolved: ResolvedSettings) -> None:
    """With `--verbose`: the configuration file, and each setting that is not a default, with its layer."""
    if not console.verbose:
        return
    file = config_path()
    console.detail(f"configuration file: {file}{'' if file.exists() else ' (not present)'}")
    for key, origin in resolved.origins.items():
        if origin != "default":
            value = fields()[key].format(getattr(resolved.settings, key)) or "none"
            console.detail(f"{key} = {ellipsize(value, 60)} (from {origin})")


def print_model_facts(engine: Engine) -> None:
    """With `--verbose`: the file of the model, what its header says, and how long the load took."""
    if not console.verbose:
        return
    for fact in engine.facts:
        console.detail(fact)


def welcome(origin: str) -> None:
    """On the first run with the default model, print how to get a better model than the starter."""
    marker = data_dir() / "welcomed"
    if origin != "default" or marker.exists():
        return
    console.note("this is the starter, a very small model; see `llmcli models recommend` for better ones")
    with suppress(OSError, LlmcliError):  # if the folder cannot be written, the message appears again
        make_private(marker.parent)
        marker.touch(mode=0o600)


def _resolve(settings: Settings) -> ResolvedModel:
    with Downloads() as downloads:
        return resolve_model(settings, downloads.bar("downloading the starter model"), _report_check)


def _report_check(name: str, size: int) -> None:
    if size >= _LARGE:
        console.note(f"checking {name} in a separate process (first use)")
