"""Finding and opening the model of a command, with what a person sees meanwhile."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from llmcli.chat.local import LocalModel, Target, locate
from llmcli.cli import headstart
from llmcli.engine import log
from llmcli.engine.abort import AbortFlag
from llmcli.errors import TimeLimitError
from llmcli.models.find import NotHereError
from llmcli.params.settings import Settings
from llmcli.ui.console import console
from llmcli.ui.download import Downloads
from llmcli.ui.status import Status

_LONG = 1 << 30  # bytes; a smaller file is tried before anyone wonders


def find_model(settings: Settings) -> Target:
    """Find the model and check it. What is not here is downloaded if the user allows it."""
    try:
        return _locate(settings)
    except NotHereError as missing:
        from llmcli.cli.pulling import bring_missing

        bring_missing(missing, settings)
        return _locate(settings)


def _locate(settings: Settings) -> Target:
    with Downloads() as downloads:
        return locate(settings, downloads.bar("fetching the starter model"), _say_trying)


def _say_trying(name: str, size: int) -> None:
    if size >= _LONG:
        console.note(f"{name} is new here: trying it in a process of its own first")


@contextmanager
def open_model(target: Target, settings: Settings, abort: AbortFlag, status: Status) -> Iterator[LocalModel]:
    """Load the model for the time of the block.

    Raises:
        TimeLimitError: when the time limit passed meanwhile.
        KeyboardInterrupt: when it was interrupted.
    """
    if console.verbose:
        log.listen(console.detail)
    try:
        begin = perf_counter()
        early = headstart.take(target.file.parts)
        local = LocalModel(target, settings, abort, status.loading, early)
        local.waited_ms = (perf_counter() - begin) * 1e3
    except KeyboardInterrupt:
        if abort.is_set() and abort.reason == "timeout":
            raise TimeLimitError(
                f"stopped by --timeout after {settings.timeout:g} s: the model is still loading", "raise --timeout"
            ) from None
        raise
    finally:
        status.clear()
    try:
        yield local
    finally:
        local.close()
