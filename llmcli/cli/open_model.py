"""Find and load the model of a command, with progress messages."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import perf_counter

from llmcli.cli import preload
from llmcli.engine.llama import bindings, hardware
from llmcli.engine.llama.bindings import AbortFlag
from llmcli.errors import LlmcliError, TimeLimitError
from llmcli.files import config_file, data_dir, make_private
from llmcli.inference.local import LocalModel, ResolvedModel, resolve_model
from llmcli.models.hub import cache, environment
from llmcli.models.locations import ModelFile, ModelNotDownloadedError, model_locations
from llmcli.models.lookup import find_model_file
from llmcli.models.reference import HubReference, UrlReference
from llmcli.models.sources.hub import PullPlan, plan_pull, pull
from llmcli.models.sources.url import UrlPlan, plan_url, pull_url
from llmcli.params.settings import ResolvedSettings, Settings, fields
from llmcli.text import ago, ellipsize, gigabytes
from llmcli.ui.terminal.ask import can_ask, confirm
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.progress import Downloads, ProgressLine

_LARGE = 1 << 30  # bytes; the check of a smaller file is too fast for a message
Planned = PullPlan | UrlPlan


def find_model(settings: Settings) -> ResolvedModel:
    """Find the model and check it; a missing model is downloaded if the user allows it."""
    try:
        return _locate(settings)
    except ModelNotDownloadedError as missing:
        pull_if_missing(missing, settings)
        return _locate(settings)


def _locate(settings: Settings) -> ResolvedModel:
    with Downloads() as downloads:
        return resolve_model(settings, downloads.bar("downloading the starter model"), _report_check)


def _report_check(name: str, size: int) -> None:
    if size >= _LARGE:
        console.note(f"checking {name} in a separate process (first use)")


@contextmanager
def open_model(
    target: ResolvedModel, settings: Settings, abort: AbortFlag, status: ProgressLine
) -> Iterator[LocalModel]:
    """Load the model for the time of the block.

    Raises:
        TimeLimitError: the time limit passed while it was loading.
        KeyboardInterrupt: the user interrupted it.
    """
    if console.engine_log:
        bindings.subscribe_log(console.detail)
    try:
        start = perf_counter()
        preloaded = preload.claim(target.file.parts)
        local = LocalModel(target, settings, abort, status.loading, preloaded)
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
    file = config_file()
    console.detail(f"configuration file: {file}{'' if file.exists() else ' (not present)'}")
    for key, origin in resolved.origins.items():
        if origin != "default":
            value = fields()[key].format(getattr(resolved.settings, key)) or "none"
            console.detail(f"{key} = {ellipsize(value, 60)} (from {origin})")


def print_model_facts(local: "LocalModel") -> None:
    """With `--verbose`: the file of the model, what its header says, and how long the load took."""
    if not console.verbose:
        return
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


def plan_reference(reference: HubReference | UrlReference, settings: Settings, projector: bool = False) -> Planned:
    """Plan the download of a reference."""
    if isinstance(reference, HubReference):
        return plan_hub(reference, settings, projector)
    place = model_locations(settings)
    return plan_url(reference, place.cache_dir, place.offline, console.note)


def plan_hub(reference: HubReference, settings: Settings, projector: bool = False) -> PullPlan:
    """Plan a download from the Hub; warn before the token is sent to another host."""
    warn_about_token(settings)
    return plan_pull(reference, model_locations(settings), hardware.available_memory(), projector, console.note)


def fetch_planned(planned: Planned, settings: Settings) -> ModelFile:
    """Download with progress bars. After Ctrl-C, print how to resume."""
    place = model_locations(settings)
    try:
        with Downloads() as downloads:
            if isinstance(planned, UrlPlan):
                return pull_url(planned, downloads.bar(planned.path.name), downloads.say)
            return pull(planned, place, downloads.bar, downloads.say)
    except KeyboardInterrupt:
        console.note(f"interrupted; run `llmcli pull {planned.reference}` to resume")
        raise


def find_offline(reference: str, settings: Settings) -> ModelFile | None:
    """In offline mode the downloaded model, if there is one; None in online mode."""
    if not (settings.offline or environment.is_offline()):
        return None
    try:
        found = find_model_file(reference, model_locations(settings))
    except ModelNotDownloadedError:
        return None
    console.note(f"{reference} is already downloaded; offline: did not check for updates")
    return found


def describe(planned: Planned) -> str:
    """One line: what will be downloaded, its size, and the reason for the choice."""
    if isinstance(planned, UrlPlan):
        return f"{planned.path.name}, {gigabytes(planned.size)}{_rest(planned)}"
    variant = planned.variant
    parts = f" in {len(variant.parts)} parts" if len(variant.parts) > 1 else ""
    why = f" ({planned.reason})" if planned.reason else ""
    return f"{planned.repo.name}/{variant.path}{parts}, {gigabytes(planned.size)}{_rest(planned)}{why}"


def newer_revision(planned: Planned, settings: Settings) -> str:
    """A message if the reference now means other files than when it was pulled; "" if not."""
    if isinstance(planned, UrlPlan):
        return ""
    old = cache.load_revision(model_locations(settings).data_dir, str(planned.reference))
    if old is None or old.files == planned.variant.parts:
        return ""
    version = f"commit {old.commit[:8]}, pulled {ago(old.time)}"
    return f"a newer version of this model; the old one ({version}) is kept, see `llmcli models list`"


def _rest(planned: Planned) -> str:
    if planned.missing == 0:
        return ", already downloaded"
    return f", {gigabytes(planned.missing)} left to download" if planned.missing < planned.size else ""


def pull_if_missing(missing: ModelNotDownloadedError, settings: Settings) -> None:
    """Download the model of a command: at once with --pull, or after a confirmation on a terminal.

    Raises:
        NotHereError: the user did not allow it.
        LlmcliError: the download failed.
    """
    if not settings.pull and (not can_ask() or settings.offline or environment.is_offline()):
        raise missing
    planned = plan_reference(missing.reference, settings)
    console.note(f"{missing.reference} is not downloaded yet: {describe(planned)}")
    if not settings.pull and not confirm("Download it?", default=True):
        raise missing
    fetch_planned(planned, settings)


def warn_about_token(settings: Settings) -> None:
    """Warn if the token will be sent to a host other than the official Hub."""
    host = environment.unofficial_endpoint()
    offline = settings.offline or environment.is_offline()
    if host and not offline and environment.token_source():
        console.warn(
            f"your Hugging Face token ({environment.token_source()}) is sent to {host}, the host in HF_ENDPOINT",
            "set HF_HUB_DISABLE_IMPLICIT_TOKEN=1 to prevent it",
        )
