"""Download a model for a command: plan it, show what it costs, then fetch it with progress bars."""

from llmcli.inference.sizing import memory_and_cores
from llmcli.models.hub import environment
from llmcli.models.locations import ModelFile, ModelLocations, ModelNotDownloadedError
from llmcli.models.reference import HubReference, RemoteReference
from llmcli.models.sources.registry import plan_download
from llmcli.models.sources.source import DownloadPlan
from llmcli.text import format_size
from llmcli.ui.terminal.console import can_ask, confirm, console
from llmcli.ui.terminal.progress import Downloads


def pull_if_missing(missing: ModelNotDownloadedError, locations: ModelLocations, without_asking: bool) -> None:
    """Download the model of a command: at once with --pull, or after a confirmation on a terminal.

    Raises:
        ModelNotDownloadedError: the user did not allow it.
        LlmcliError: the download failed.
    """
    if not without_asking and (not can_ask() or locations.is_offline):
        raise missing
    plan = plan_reference(missing.reference, locations)
    console.note(f"{missing.reference} is not downloaded yet: {describe(plan)}")
    if not without_asking and not confirm("Download it?", default=True):
        raise missing
    fetch_planned(plan)


def plan_reference(reference: RemoteReference, locations: ModelLocations, projector: bool = False) -> DownloadPlan:
    """Plan the download of a reference; warn before the token of the Hub is sent to another host."""
    if isinstance(reference, HubReference):
        warn_about_token(locations)
    return plan_download(reference, locations, memory_and_cores()[0], console.note, projector)


def fetch_planned(plan: DownloadPlan) -> ModelFile:
    """Download with progress bars. After Ctrl-C, print how to resume."""
    try:
        with Downloads() as downloads:
            return plan.fetch(downloads.bar, downloads.say)
    except KeyboardInterrupt:
        console.note(f"interrupted; run `llmcli pull {plan.reference}` to resume")
        raise


def describe(plan: DownloadPlan) -> str:
    """One line: what will be downloaded, its size, and the reason for the choice."""
    rest = f", {format_size(plan.missing)} left to download" if plan.missing < plan.size else ""
    rest = rest if plan.missing else ", already downloaded"
    reason = f" ({plan.reason})" if plan.reason else ""
    return f"{plan.title}, {format_size(plan.size)}{rest}{reason}"


def warn_about_token(locations: ModelLocations) -> None:
    """Warn if the token will be sent to a host other than the official Hub."""
    host, source = environment.unofficial_endpoint(), environment.token_source()
    if host and source and not locations.is_offline:
        console.warn(
            f"your Hugging Face token ({source}) is sent to {host}, the host in HF_ENDPOINT",
            "set HF_HUB_DISABLE_IMPLICIT_TOKEN=1 to prevent it",
        )
