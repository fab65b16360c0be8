"""`llmcli pull`, and the download of a missing model for other commands: plan it, show what it costs, download it."""

from contextlib import suppress
from typing import Annotated

from llmcli.cli.command_line import Argument, Option
from llmcli.cli.completion import complete_remote
from llmcli.cli.options import with_settings
from llmcli.config.presets import resolve_settings
from llmcli.errors import ExitStatus, ModelInvalidError, NetworkError
from llmcli.inference.sizing import memory_and_cores
from llmcli.models.gguf.kind import kind_of
from llmcli.models.hub import environment
from llmcli.models.installed import find_interrupted
from llmcli.models.locations import STARTER, ModelFile, ModelLocations, ModelNotDownloadedError, model_locations
from llmcli.models.lookup import find_model_file
from llmcli.models.reference import HubReference, RemoteReference
from llmcli.models.sources.registry import parse_remote, plan_download
from llmcli.models.sources.source import DownloadPlan
from llmcli.params.settings import Layer
from llmcli.text import ellipsize, format_size
from llmcli.ui.terminal.console import can_ask, confirm, console
from llmcli.ui.terminal.output import print_line
from llmcli.ui.terminal.progress import Downloads


@with_settings(only=("offline",))
def pull(
    flags: Layer,
    reference: Annotated[
        str,
        Argument(
            metavar="MODEL",
            help="Model to download: owner/repo[:Q4_K_M], a URL, or a name from `models recommend`.",
            autocompletion=complete_remote,
        ),
    ],
    yes: Annotated[bool, Option("--yes", "-y", help="Download a model of any kind, without a question.")] = False,
) -> int:
    settings = resolve_settings(flags)
    locations = model_locations(settings)
    remote = parse_remote(reference, locations)
    if remote is None:  # the starter, or a file
        if locations.aliases.get(reference, reference) == STARTER:
            from llmcli.models.sources.starter import pull_starter

            with Downloads() as downloads:
                pull_starter(locations, downloads.bar, downloads.say)
        from llmcli.inference.resolved_model import resolve_model  #

        with Downloads() as downloads:
            starting = downloads.bar("downloading the starter model")
            print_line(str(resolve_model(reference, locations, starting).file.path))
        return ExitStatus.OK
    if locations.is_offline:
        with suppress(ModelNotDownloadedError):
            file = find_model_file(reference, locations)
            console.note(f"{reference} is already downloaded; offline: did not check for updates")
            print_line(str(file.path))
            return ExitStatus.OK
    plan = plan_reference(remote, locations)
    kind, problem = ("", None) if yes else inspect(plan, for_text=False)
    console.note(describe(plan, kind))
    if plan.update:
        console.note(plan.update)
    if problem:
        if not can_ask():
            raise ModelInvalidError(str(problem), f"{problem.hint}; to download this one too, add --yes")
        console.warn(str(problem), problem.hint)
        if not confirm("Download it all the same?", default=False):
            return ExitStatus.FAILED
    print_line(str(download_with_bars(plan).path))
    return ExitStatus.OK


def pull_if_missing(
    missing: ModelNotDownloadedError, locations: ModelLocations, without_asking: bool, for_text: bool = True
) -> None:
    """Download the model of a command: at once with --pull, or after a confirmation on a terminal.

    Raises `missing` if the user does not allow it, and ModelInvalidError for a model that does not generate text, or
    with `for_text` false for one that gives no vectors and scores either.
    """
    if not without_asking and (not can_ask() or locations.is_offline):
        raise missing
    plan = plan_reference(missing.reference, locations)
    kind, problem = inspect(plan, for_text)
    if problem:
        raise problem
    console.note(f"{missing.reference} is not downloaded yet: {describe(plan, kind)}")
    if not without_asking and not confirm("Download it?", default=True):
        raise missing
    download_with_bars(plan)


def plan_reference(reference: RemoteReference, locations: ModelLocations) -> DownloadPlan:
    """Plan the download of a reference; warn before the token of the Hub is sent to another host.

    A partial download of an older version is deleted: nothing can resume it.
    """
    if isinstance(reference, HubReference):
        warn_about_token(locations)
    plan = plan_download(reference, locations, memory_and_cores()[0], console.note)
    for item in find_interrupted(locations):
        if item.name == str(plan.reference) and plan.replaces(item.path) and item.remove(locations.data_dir):
            size = format_size(item.downloaded)
            console.note(f"deleted {size} of {item.name} from an interrupted download: its server has another file now")
    return plan


def inspect(plan: DownloadPlan, for_text: bool) -> tuple[str, ModelInvalidError | None]:
    """The kind and architecture of a model, and why it is of no use (for text), from its header, before the download.

    Both are empty where nothing is left to ask: after an interrupted download, or if the server does not answer now.
    """
    if plan.missing < plan.size:
        return "", None
    try:
        header = plan.header()
    except ModelInvalidError as error:
        return "", error
    except NetworkError:  # the download itself tries longer
        return "", None
    kind = kind_of(header)
    is_useful = kind.generates if for_text else kind.runs
    problem = None if is_useful else ModelInvalidError(f"{plan.title} is {kind.noun}", kind.hint)
    return f"{kind.name} model, architecture {ellipsize(header.architecture)}", problem


def describe(plan: DownloadPlan, kind: str = "") -> str:
    """One line: what will be downloaded, its size, the reason for the choice, and what kind of model it is."""
    rest = f", {format_size(plan.missing)} left to download" if plan.missing < plan.size else ""
    rest = rest if plan.missing else ", already downloaded"
    reason = f" ({plan.reason})" if plan.reason else ""
    return f"{plan.title}, {format_size(plan.size)}{rest}{reason}{kind and f': {kind}'}"


def download_with_bars(plan: DownloadPlan) -> ModelFile:
    """Download with progress bars. After Ctrl-C, print how to resume."""
    try:
        with Downloads() as downloads:
            return plan.download(downloads.bar, downloads.say)
    except KeyboardInterrupt:
        console.note(f"interrupted; run `llmcli pull {plan.reference}` to resume")
        raise


def warn_about_token(locations: ModelLocations) -> None:
    """Warn if the token will be sent to a host other than the official Hub."""
    host, source = environment.unofficial_endpoint(), environment.token_source()
    if host and source and not locations.is_offline:
        console.warn(
            f"your Hugging Face token ({source}) is sent to {host}, the host in HF_ENDPOINT",
            "set HF_HUB_DISABLE_IMPLICIT_TOKEN=1 to prevent it",
        )
