"""Download a model for a command: plan it, show what it costs, then fetch it with progress bars."""

from llmcli.inference.sizing import memory_and_cores
from llmcli.models.hub import cache, environment
from llmcli.models.locations import ModelFile, ModelLocations, ModelNotDownloadedError
from llmcli.models.lookup import find_model_file
from llmcli.models.reference import HubReference, UrlReference
from llmcli.models.sources.hub import PullPlan, plan_pull, pull
from llmcli.models.sources.url import UrlPlan, plan_url, pull_url
from llmcli.text import format_age, format_size
from llmcli.ui.terminal.ask import can_ask, confirm
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.progress import Downloads

Plan = PullPlan | UrlPlan


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
    fetch_planned(plan, locations)


def plan_reference(reference: HubReference | UrlReference, locations: ModelLocations, projector: bool = False) -> Plan:
    """Plan the download of a reference."""
    if isinstance(reference, HubReference):
        return plan_hub(reference, locations, projector)
    return plan_url(reference, locations.cache_dir, locations.offline, console.note)


def plan_hub(reference: HubReference, locations: ModelLocations, projector: bool = False) -> PullPlan:
    """Plan a download from the Hub; warn before the token is sent to another host."""
    warn_about_token(locations)
    return plan_pull(reference, locations, memory_and_cores()[0], projector, console.note)


def fetch_planned(plan: Plan, locations: ModelLocations) -> ModelFile:
    """Download with progress bars. After Ctrl-C, print how to resume."""
    try:
        with Downloads() as downloads:
            if isinstance(plan, UrlPlan):
                return pull_url(plan, downloads.bar(plan.path.name), downloads.say)
            return pull(plan, locations, downloads.bar, downloads.say)
    except KeyboardInterrupt:
        console.note(f"interrupted; run `llmcli pull {plan.reference}` to resume")
        raise


def find_offline(reference: str, locations: ModelLocations) -> ModelFile | None:
    """In offline mode the downloaded model, if there is one; None in online mode."""
    if not locations.is_offline:
        return None
    try:
        found = find_model_file(reference, locations)
    except ModelNotDownloadedError:
        return None
    console.note(f"{reference} is already downloaded; offline: did not check for updates")
    return found


def describe(plan: Plan) -> str:
    """One line: what will be downloaded, its size, and the reason for the choice."""
    if plan.missing == 0:
        rest = ", already downloaded"
    else:
        rest = f", {format_size(plan.missing)} left to download" if plan.missing < plan.size else ""
    if isinstance(plan, UrlPlan):
        return f"{plan.path.name}, {format_size(plan.size)}{rest}"
    n_parts = len(plan.variant.parts)
    parts = f" in {n_parts} parts" if n_parts > 1 else ""
    reason = f" ({plan.reason})" if plan.reason else ""
    return f"{plan.repo.name}/{plan.variant.path}{parts}, {format_size(plan.size)}{rest}{reason}"


def newer_revision(plan: Plan, locations: ModelLocations) -> str:
    """A message if the reference now means other files than when it was pulled; "" if not."""
    if isinstance(plan, UrlPlan):
        return ""
    old = cache.load_revision(locations.data_dir, str(plan.reference))
    if old is None or old.files == plan.variant.parts:
        return ""
    version = f"commit {old.commit[:8]}, pulled {format_age(old.time)}"
    return f"a newer version of this model; the old one ({version}) is kept, see `llmcli models list`"


def warn_about_token(locations: ModelLocations) -> None:
    """Warn if the token will be sent to a host other than the official Hub."""
    host, source = environment.unofficial_endpoint(), environment.token_source()
    if host and source and not locations.is_offline:
        console.warn(
            f"your Hugging Face token ({source}) is sent to {host}, the host in HF_ENDPOINT",
            "set HF_HUB_DISABLE_IMPLICIT_TOKEN=1 to prevent it",
        )
