"""Downloading a model, as a person sees it: what comes and why, bars, and what stays when it is interrupted."""

from llmcli.chat.library import shelf
from llmcli.engine import hardware
from llmcli.models.find import ModelFile, NotHereError, find
from llmcli.models.hub import environment, records
from llmcli.models.hub.pull import Plan, plan, pull
from llmcli.models.hub.url_fetch import UrlPlan, plan_url, pull_url
from llmcli.models.reference import HubReference, UrlReference
from llmcli.params.settings import Settings
from llmcli.ui.ask import can_ask, confirm
from llmcli.ui.console import console
from llmcli.ui.download import Downloads
from llmcli.ui.units import ago, gigabytes

Planned = Plan | UrlPlan


def plan_reference(reference: HubReference | UrlReference, settings: Settings, projector: bool = False) -> Planned:
    """Ask what a reference would bring."""
    if isinstance(reference, HubReference):
        return plan_hub(reference, settings, projector)
    place = shelf(settings)
    return plan_url(reference, place.cache_dir, place.offline, console.note)


def plan_hub(reference: HubReference, settings: Settings, projector: bool = False) -> Plan:
    """The same for the hub; warns before a token goes to a host that is not the hub's own."""
    warn_about_token(settings)
    return plan(reference, shelf(settings), hardware.available_memory(), projector, console.note)


def fetch_planned(planned: Planned, settings: Settings) -> ModelFile:
    """Fetch it under bars. On Ctrl-C what has come is kept, and that is said."""
    place = shelf(settings)
    try:
        with Downloads() as downloads:
            if isinstance(planned, UrlPlan):
                return pull_url(planned, downloads.bar(planned.place.name), downloads.say)
            return pull(planned, place, downloads.bar, downloads.say)
    except KeyboardInterrupt:
        console.note(f"interrupted: what has come is kept, `llmcli pull {planned.reference}` goes on from there")
        raise


def found_offline(reference: str, settings: Settings) -> ModelFile | None:
    """The model as it is here, where nobody may be asked for a newer one; None when it is not, or the hub may be."""
    if not (settings.offline or environment.is_offline()):
        return None
    try:
        found = find(reference, shelf(settings))
    except NotHereError:
        return None
    console.note(f"{reference} is here; being offline, no newer version was looked for")
    return found


def describe(planned: Planned) -> str:
    """One line: what comes, how much of it, and why this."""
    if isinstance(planned, UrlPlan):
        return f"{planned.place.name}, {gigabytes(planned.size)}{_rest(planned)}"
    variant = planned.variant
    parts = f" in {len(variant.parts)} parts" if len(variant.parts) > 1 else ""
    why = f" ({planned.reason})" if planned.reason else ""
    return f"{planned.repo.name}/{variant.path}{parts}, {gigabytes(planned.size)}{_rest(planned)}{why}"


def update_of(planned: Planned, settings: Settings) -> str:
    """What changed since the same reference was pulled before; "" for nothing."""
    if isinstance(planned, UrlPlan):
        return ""
    old = records.load(shelf(settings).data_dir, str(planned.reference))
    if old is None or old.files == planned.variant.parts:
        return ""
    version = f"commit {old.commit[:8]}, pulled {ago(old.time)}"
    return f"this is another version than yours ({version}), which stays: see `llmcli models list`"


def _rest(planned: Planned) -> str:
    if planned.missing == 0:
        return ", already here"
    return f", {gigabytes(planned.missing)} still to come" if planned.missing < planned.size else ""


def bring_missing(missing: NotHereError, settings: Settings) -> None:
    """Download what a command needs: at once with --pull, after a yes on a terminal, else not.

    Raises:
        NotHereError: when nobody allowed it.
        LlmcliError: when it cannot be had.
    """
    if not settings.pull and (not can_ask() or settings.offline or environment.is_offline()):
        raise missing
    planned = plan_reference(missing.reference, settings)
    console.note(f"{missing.reference} is not here: {describe(planned)}")
    if not settings.pull and not confirm("Download it?", default=True):
        raise missing
    fetch_planned(planned, settings)


def warn_about_token(settings: Settings) -> None:
    """Say where a token is about to go if that is not the hub itself."""
    place = environment.foreign_endpoint()
    offline = settings.offline or environment.is_offline()
    if place and not offline and environment.token_source():
        console.warn(
            f"your hub token ({environment.token_source()}) goes to {place}, because HF_ENDPOINT says so; "
            "HF_HUB_DISABLE_IMPLICIT_TOKEN=1 keeps it here"
        )
