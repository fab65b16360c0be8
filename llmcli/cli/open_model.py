"""Find and load the model of a command, with progress messages."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import perf_counter

from llmcli.cli import model_preload
from llmcli.engine.llama import bindings
from llmcli.engine.llama.bindings import AbortFlag
from llmcli.errors import LlmcliError, TimeLimitError
from llmcli.files import config_path, data_dir, make_private
from llmcli.inference.local import LocalModel, ResolvedModel, resolve_model
from llmcli.models.locations import ModelNotDownloadedError, model_locations
from llmcli.params.settings import ResolvedSettings, Settings, format_setting
from llmcli.text import ellipsize
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.interrupt import interruptible, time_limit
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
    target: ResolvedModel, settings: Settings, status: ProgressLine, timeout: float = 0.0
) -> Iterator[LocalModel]:
    """Load the model for a block that Ctrl-C or `timeout` (seconds, 0 = none) stops; print its notes at the end.

    Raises:
        TimeLimitError: the time limit passed while it was loading.
        KeyboardInterrupt: the user interrupted it.
    """
    abort = AbortFlag()
    with interruptible(abort), time_limit(abort, timeout):
        local = _load(target, settings, abort, status)
        print_model_facts(local)
        try:
            yield local
        finally:
            local.close()
    for note in target.notes:
        console.warn(note)


def _load(target: ResolvedModel, settings: Settings, abort: AbortFlag, status: ProgressLine) -> LocalModel:
    if console.engine_log:
        bindings.subscribe_log(console.detail)
    start = perf_counter()
    try:
        preloaded = model_preload.claim(target.file.parts)
        local = LocalModel(target, settings, abort, status.loading, preloaded)
        local.waited_ms = (perf_counter() - start) * 1e3
        return local
    except KeyboardInterrupt:
        if abort.is_set() and abort.reason == "timeout":
            raise TimeLimitError(
                f"stopped by --timeout after {settings.timeout:g} s: the model is still loading", "raise --timeout"
            ) from None
        raise
    finally:
        status.clear()


def print_settings(resolved: ResolvedSettings) -> None:
    """With `--verbose`: the configuration file, and each setting that is not a default, with its layer."""
    file = config_path()
    console.detail(f"configuration file: {file}{'' if file.exists() else ' (not present)'}")
    for key, origin in resolved.origins.items():
        if origin != "default":
            console.detail(f"{key} = {ellipsize(format_setting(resolved.settings, key), 60)} (from {origin})")


def print_model_facts(local: LocalModel) -> None:
    """With `--verbose`: the file of the model, what its header says, and how long the load took."""
    header, shape = local.target.header, local.shape
    console.detail(f"model: {local.name}, {local.target.file.path}")
    facts = f"{header.architecture}, {shape.n_layers} layers, {shape.weights / 2**20:.0f} MiB of weights"
    console.detail(f"{facts}, trained context {shape.n_ctx_train} tokens, layers on the GPU {local.gpu_layers}")
    console.detail(f"loaded in {local.load_ms / 1e3:.2f} s")


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
