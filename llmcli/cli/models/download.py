"""Download a model with messages and progress bars, and explain how to resume after an interruption."""

from llmcli.engine.llama import hardware
from llmcli.models.hub import cache, environment
from llmcli.models.locations import ModelFile, NotHereError, shelf
from llmcli.models.lookup import find
from llmcli.models.reference import HubReference, UrlReference
from llmcli.models.sources.hub import Plan, plan, pull
from llmcli.models.sources.url import UrlPlan, plan_url, pull_url
from llmcli.params.settings import Settings
from llmcli.text import ago, gigabytes
from llmcli.ui.terminal.ask import can_ask, confirm
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.progress import Downloads

Planned = Plan | UrlPlan


def plan_reference(reference: HubReference | UrlReference, settings: Settings, projector: bool = False) -> Planned:
    """Plan the download of a reference."""
    if isinstance(reference, HubReference):
        return plan_hub(reference, settings, projector)
    place = shelf(settings)
    return plan_url(reference, place.cache_dir, place.offline, console.note)


def plan_hub(reference: HubReference, settings: Settings, projector: bool = False) -> Plan:
    """Plan a download from the Hub; warn before the token is sent to another host."""
    warn_about_token(settings)
    return plan(reference, shelf(settings), hardware.available_memory(), projector, console.note)


def fetch_planned(planned: Planned, settings: Settings) -> ModelFile:
    """Download with progress bars. After Ctrl-C, print how to resume."""
    place = shelf(settings)
    try:
        with Downloads() as downloads:
            if isinstance(planned, UrlPlan):
                return pull_url(planned, downloads.bar(planned.place.name), downloads.say)
            return pull(planned, place, downloads.bar, downloads.say)
    except KeyboardInterrupt:
        console.note(f"interrupted; run `llmcli pull {planned.reference}` to resume")
        raise


def found_offline(reference: str, settings: Settings) -> ModelFile | None:
    """In offline mode the downloaded model, if there is one; None in online mode."""
    if not (settings.offline or environment.is_offline()):
        return None
    try:
        found = find(reference, shelf(settings))
    except NotHereError:
        return None
    console.note(f"{reference} is already downloaded; offline: did not check for updates")
    return found


def describe(planned: Planned) -> str:
    """One line: what will be downloaded, its size, and the reason for the choice."""
    if isinstance(planned, UrlPlan):
        return f"{planned.place.name}, {gigabytes(planned.size)}{_rest(planned)}"
    variant = planned.variant
    parts = f" in {len(variant.parts)} parts" if len(variant.parts) > 1 else ""
    why = f" ({planned.reason})" if planned.reason else ""
    return f"{planned.repo.name}/{variant.path}{parts}, {gigabytes(planned.size)}{_rest(planned)}{why}"


def update_of(planned: Planned, settings: Settings) -> str:
    """A message if the reference now means other files than when it was pulled; "" if not."""
    if isinstance(planned, UrlPlan):
        return ""
    old = cache.load_revision(shelf(settings).data_dir, str(planned.reference))
    if old is None or old.files == planned.variant.parts:
        return ""
    version = f"commit {old.commit[:8]}, pulled {ago(old.time)}"
    return f"a newer version of this model; the old one ({version}) is kept, see `llmcli models list`"


def _rest(planned: Planned) -> str:
    if planned.missing == 0:
        return ", already downloaded"
    return f", {gigabytes(planned.missing)} left to download" if planned.missing < planned.size else ""


def bring_missing(missing: NotHereError, settings: Settings) -> None:
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
    host = environment.foreign_endpoint()
    offline = settings.offline or environment.is_offline()
    if host and not offline and environment.token_source():
        console.warn(
            f"your Hugging Face token ({environment.token_source()}) is sent to {host}, the host in HF_ENDPOINT",
            "set HF_HUB_DISABLE_IMPLICIT_TOKEN=1 to prevent it",
        )
