"""Find and load the model of a command, with progress messages."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import perf_counter
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from llmcli.cli import model_preload
from llmcli.engine.events import Cancellation
from llmcli.errors import LlmcliError, TimeLimitError
from llmcli.files import config_path, data_dir, make_private
from llmcli.inference.resolved_model import ResolvedModel, resolve_model
from llmcli.models.locations import ModelLocations, ModelNotDownloadedError, model_locations
from llmcli.params.settings import ResolvedSettings, Settings, format_setting
from llmcli.text import ellipsize
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.interrupt import interruptible, time_limit
from llmcli.ui.terminal.progress import Downloads, ProgressLine

if TYPE_CHECKING:
    from llmcli.inference.embedding import EmbeddingModel
    from llmcli.inference.endpoint_server import ServedEndpoint
    from llmcli.inference.engine import Engine
    from llmcli.inference.local import LocalEngine
    from llmcli.inference.remote_embedding import RemoteEmbeddingModel
    from llmcli.inference.warm import WarmModel

    VectorModel = EmbeddingModel | RemoteEmbeddingModel

_Model = TypeVar("_Model", "Engine", "VectorModel")
Target: TypeAlias = "ResolvedModel | ServedEndpoint"  # what answers, found but not opened


def find_target(settings: Settings) -> Target:
    """Find what answers: the endpoint of the settings, else their model. Raises LlmcliError, as `find_model`."""
    if not settings.endpoint:
        return find_model(settings)
    from llmcli.inference.endpoint_server import open_endpoint  # with HTTP

    served = open_endpoint(settings, console.note, seconds=settings.timeout)
    if served.remark:
        console.note(served.remark)
    return served


def find_model(settings: Settings, for_text: bool = True) -> ResolvedModel:
    """Find the model and check it; a missing model is downloaded if the user allows it.

    Raises ModelInvalidError for one that does not generate text, unless its vocabulary or its vectors are needed.
    """
    locations = model_locations(settings)
    try:
        return _resolve(settings.model, locations, for_text)
    except ModelNotDownloadedError as missing:
        from llmcli.cli.models.pull import pull_if_missing

        pull_if_missing(missing, locations, settings.pull, for_text)
        return _resolve(settings.model, locations, for_text)


@contextmanager
def open_model(
    target: Target, settings: Settings, status: ProgressLine, *, can_be_warm: bool = True
) -> Iterator[tuple["Engine", Cancellation]]:
    """A model, and what stops its answers, until Ctrl-C or the time limit of the settings. Raises TimeLimitError.

    Unless it `can_be_warm`, this process loads it, and ends with an RPC server that it needs.
    """

    def load(cancellation: Cancellation) -> "Engine":
        if isinstance(target, ResolvedModel):
            if not can_be_warm:
                return _load(target, settings, cancellation, status)
            try:
                found = open_elsewhere(target, settings, cancellation, status.loading)
            finally:
                status.clear()
            return found or _load(target, settings, cancellation, status)
        from llmcli.inference.endpoint import EndpointEngine

        def notify(text: str) -> None:
            status.clear()
            console.note(text)

        return EndpointEngine(target, notify, cancellation)

    with _open(target, settings, load) as (engine, cancellation):
        try:
            yield engine, cancellation
        finally:  # the answer is printed: whoever reads it need not wait
            model_preload.let_system_free()
            for line in engine.keep_context():
                console.detail(line)


@contextmanager
def open_embedding_model(
    target: ResolvedModel, settings: Settings, status: ProgressLine, pooling: str = ""
) -> Iterator[tuple["VectorModel", Cancellation]]:
    """The same for a model that computes vectors."""

    def open_there(found: "WarmModel", cancellation: Cancellation) -> "VectorModel":
        from llmcli.inference.warm import open_vectors

        return open_vectors(found, settings, pooling, target.notes, cancellation, status.loading)

    def load(cancellation: Cancellation) -> "VectorModel":
        if there := _open_warm(target, settings, lambda found: open_there(found, cancellation)):
            return there
        from llmcli.inference.embedding import EmbeddingModel  # most commands compute none

        with _load_log(status):
            return EmbeddingModel(target, settings, pooling, cancellation, status.loading)

    with _open(target, settings, load) as opened:
        yield opened


@contextmanager
def _open(
    target: Target, settings: Settings, load: Callable[[Cancellation], _Model]
) -> Iterator[tuple[_Model, Cancellation]]:
    cancellation = Cancellation()
    with interruptible(cancellation), time_limit(cancellation, settings.timeout):
        with _report_timeout(settings, cancellation, "the model is still loading"):
            model = load(cancellation)
        for fact in model.facts:
            console.detail(fact)
        console.warn_all(target.notes)
        try:
            with _report_timeout(settings, cancellation, "the tokens of the prompt are still counted"):
                yield model, cancellation
        finally:
            model.close()
    console.warn_all(target.notes)  # those that an answer added


@contextmanager
def _report_timeout(settings: Settings, cancellation: Cancellation, doing: str) -> Iterator[None]:
    """Raise TimeLimitError if it is the time limit that ends this block."""
    try:
        yield
    except KeyboardInterrupt:
        if not cancellation.is_set() or cancellation.reason != "timeout":
            raise
        message = f"stopped by --timeout after {settings.timeout:g} s: {doing}"
        raise TimeLimitError(message, "raise --timeout") from None


def open_elsewhere(
    target: ResolvedModel, settings: Settings, cancellation: Cancellation, progress: Callable[[float], None]
) -> "Engine | None":
    """The model in another process, where one has it loaded, or where a lost RPC server must not end this one."""
    found = open_warm(target, settings, cancellation, progress)
    if found or not settings.rpc:
        return found
    from llmcli.inference.rpc_engine import RpcEngine

    return RpcEngine(settings, target.notes, cancellation, progress, has_log=console.engine_log)


def open_warm(
    target: ResolvedModel, settings: Settings, cancellation: Cancellation, progress: Callable[[float], None]
) -> "Engine | None":
    """The model in a process that has it loaded, or that `keep_alive` starts now; None where there is none."""

    def open_there(found: "WarmModel") -> "Engine":
        from llmcli.inference.warm import open_engine

        return open_engine(found, settings, target.notes, cancellation, progress)

    return _open_warm(target, settings, open_there)


def _open_warm(
    target: ResolvedModel, settings: Settings, open_there: "Callable[[WarmModel], _Model]"
) -> "_Model | None":
    if not settings.keep_alive and not model_preload.has_warm():
        return None
    from llmcli.inference import warm
    from llmcli.inference.engine_messages import can_be_sent
    from llmcli.inference.remote_engine import EngineGoneError

    if console.engine_log or not can_be_sent(settings):  # its log would be elsewhere, and it runs no code of users
        return None
    found = warm.find(target.file.parts, settings)
    if not found and settings.keep_alive:
        try:
            found = warm.start(target.file, settings, settings.keep_alive)
        except LlmcliError as error:
            console.warn(str(error), error.hint)
    if not found:
        return None
    try:
        opened = open_there(found)
    except (OSError, EngineGoneError) as error:
        console.detail(f"the warm process of {found.model} is passed over: {error}")
        return None
    console.detail(f"{found.model} is loaded already, in process {found.pid}")
    return opened


def _load(target: ResolvedModel, settings: Settings, cancellation: Cancellation, status: ProgressLine) -> "LocalEngine":
    from llmcli.inference.local import LocalEngine  # with all of the engine, which a warm process has already

    with _load_log(status):
        start = perf_counter()
        _import_what_answers(settings)
        preloaded = model_preload.claim(target.file.parts if settings.has_default_load else ())
        engine = LocalEngine(target, settings, cancellation, status.loading, preloaded)
        engine.waited_ms = (perf_counter() - start) * 1e3
        return engine


def _import_what_answers(settings: Settings) -> None:
    """While the model is loading in its thread, import what the first answer needs."""
    from llmcli.inference import answer  # noqa: F401  it stays imported

    if not settings.raw and not settings.is_decision:
        from llmcli.inference import template  # noqa: F401  with Jinja, 20 ms


@contextmanager
def _load_log(status: ProgressLine) -> Iterator[None]:
    """With `-vv` the log of llama.cpp is shown from now on; at the end of the block the progress line is erased."""
    if console.engine_log:
        from llmcli.inference.local import subscribe_log

        subscribe_log(console.detail)
    try:
        yield
    finally:
        status.clear()


def print_settings(resolved: ResolvedSettings) -> None:
    """With `--verbose`: the configuration file, and each setting that is not a default, with its layer."""
    file = config_path()
    console.detail(f"configuration file: {file}{'' if file.exists() else ' (not present)'}")
    for key, origin in resolved.origins.items():
        if origin != "default":
            console.detail(f"{key} = {ellipsize(format_setting(resolved.settings, key), 60)} (from {origin})")


def welcome(resolved: ResolvedSettings) -> None:
    """On the first run with the default model, print how to get a better model than the starter."""
    marker = data_dir() / "welcomed"
    if resolved.origins["model"] != "default" or resolved.settings.endpoint or marker.exists():
        return
    console.note("this is the starter, a very small model; see `llmcli models recommend` for better ones")
    with suppress(OSError, LlmcliError):  # if the folder cannot be written, the message appears again
        make_private(marker.parent)
        marker.touch(mode=0o600)


def _resolve(model: str, locations: ModelLocations, for_text: bool) -> ResolvedModel:
    def report_check(name: str, size: int) -> None:
        if size >= 1 << 30:  # bytes; the check of a smaller file is too fast for a message
            console.note(f"checking {name} in a separate process (first use)")

    with Downloads() as downloads:
        return resolve_model(model, locations, downloads.bar("downloading the starter model"), report_check, for_text)
