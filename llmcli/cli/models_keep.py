"""The commands of `llmcli models` that keep what is here in order: rm, verify, partials, alias, import."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli.cli.options import complete_reference, with_settings
from llmcli.cli.settings import in_force
from llmcli.errors import ExitStatus, ModelNotFoundError, UsageError
from llmcli.params.layers import Layer
from llmcli.params.settings import Settings
from llmcli.ui.ask import can_ask, confirm
from llmcli.ui.console import console
from llmcli.ui.output import put_line
from llmcli.ui.table import put_rows
from llmcli.ui.units import ago, gigabytes

if TYPE_CHECKING:
    from llmcli.models.hub.partials import Unfinished

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Reference = Annotated[str, typer.Argument(metavar="MODEL", help="A model.", autocompletion=complete_reference)]
_OWNERS = {"ollama": "Ollama: `ollama rm` removes it", "lmstudio": "LM Studio, which can remove it"}


@with_settings(only=("model_folders",))
def remove_model(
    flags: Layer,
    model: Reference,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    """Remove a downloaded model.

    What will go and how much is freed is shown first. What another model shares stays.
    """
    from llmcli.chat.library import shelf
    from llmcli.models.find import NotHereError, find
    from llmcli.models.inventory import incomplete_item, item_of
    from llmcli.models.reference import HubReference
    from llmcli.models.remove import plan_removal, remove

    place = shelf(in_force(flags))
    try:
        item = item_of(find(model, place), place)
    except NotHereError as missing:
        begun = incomplete_item(missing.reference, place) if isinstance(missing.reference, HubReference) else None
        if begun is None:
            raise
        item = begun
    if not item.is_ours:
        owner = _OWNERS.get(item.source, "you: llmcli removes only what was downloaded")
        raise UsageError(f"{item.path} belongs to {owner}", "Nothing was removed.")
    removal = plan_removal(item, place)
    for path in removal.names:
        console.note(f"removes {path}")
    for path in removal.kept:
        console.note(f"keeps {path}, which another model shares")
    question = f"Remove {item.name} and free {gigabytes(removal.freed)}?"
    if not yes and not can_ask():
        raise UsageError(f"{item.name} is not removed without a yes", "Add --yes.")
    if not yes and not confirm(question, default=False):
        return ExitStatus.FAILED
    remove(removal, place)
    console.note(f"removed {item.name}, {gigabytes(removal.freed)} are free again")
    return ExitStatus.OK


@with_settings(only=("model_folders",))
def verify(
    flags: Layer,
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="A model; all, without it.", autocompletion=complete_reference),
    ] = None,
    as_json: Json = False,
) -> int:
    """Check models against their sha256.

    The checksum of each file is computed and compared with its publisher's; the status is 8 if one is damaged.
    """
    from llmcli.chat.library import shelf
    from llmcli.models.check import check
    from llmcli.models.find import find
    from llmcli.models.inventory import inventory, item_of
    from llmcli.ui.download import Downloads

    place = shelf(in_force(flags))
    items = inventory(place) if model is None else [item_of(find(model, place), place)]
    results = []
    with Downloads() as downloads:
        for item in items:
            results += check(item, place.data_dir, downloads.bar)
    if as_json:
        rows = [{"file": str(one.path), "state": one.state, "sha256": one.sha256} for one in results]
        put_line(json.dumps(rows, ensure_ascii=False, indent=2))
    else:
        put_rows(("STATE", "MODEL", "SHA256"), [(one.state, one.name, one.sha256) for one in results])
    damaged = [one for one in results if one.state == "damaged"]
    for one in damaged:
        console.warn(f"{one.path} is damaged: `llmcli pull {one.name}` fetches it again")
    return ExitStatus.MODEL_INVALID if damaged else ExitStatus.OK


@with_settings(only=("offline",))
def partials(
    flags: Layer,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One of them; all, without it.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with it.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Throw it away.")] = False,
    as_json: Json = False,
) -> int:
    """List, resume or remove partial downloads."""
    from llmcli.chat.library import shelf
    from llmcli.models.hub import partials as store

    settings = in_force(flags)
    if resume and remove:
        raise UsageError("--resume and --remove cannot be used together", "Keep one of them.")
    place = shelf(settings)
    found = store.partials(place.hub, place.cache_dir, place.data_dir)
    chosen = [one for one in found if name in (None, one.name, one.path.name)]
    if name is not None and not chosen:
        raise ModelNotFoundError(f"there is no unfinished download {name}", "See `llmcli models partials`.")
    if resume:
        return _resume(chosen, settings)
    if remove:
        return _throw_away(chosen, place.data_dir)
    if as_json:
        rows = [{"name": one.name, "file": str(one.path), "bytes": one.here, "size": one.size} for one in chosen]
        put_line(json.dumps(rows, ensure_ascii=False, indent=2))
        return ExitStatus.OK
    if not chosen:
        console.note("no unfinished downloads")
        return ExitStatus.OK
    put_rows(("NAME", "HERE", "LAST"), [(one.name, _progress(one.here, one.size), ago(one.time)) for one in chosen])
    console.note("`llmcli models partials --resume` goes on with them, `--remove` throws them away")
    return ExitStatus.OK


def _throw_away(chosen: Sequence["Unfinished"], data_dir: Path) -> int:
    from llmcli.models.hub import partials as store

    gone = [one for one in chosen if store.remove(one, data_dir)]
    for one in chosen:
        if one not in gone:
            why = "is being downloaded" if one.is_ours else "was begun by another program"
            console.note(f"{one.path.name} {why} and stays")
    for name in dict.fromkeys(one.name for one in gone if one.size and store.has_whole_parts(one)):
        console.note(f"the parts of {name} that are whole stay; `llmcli models rm {name}` removes them")
    console.note(f"removed {len(gone)} unfinished downloads, {gigabytes(sum(one.here for one in gone))} are free again")
    return ExitStatus.OK


def _progress(here: int, size: int) -> str:
    return f"{gigabytes(here)} of {gigabytes(size)} ({here / size:.0%})" if size else gigabytes(here)


def _resume(chosen: Sequence["Unfinished"], settings: Settings) -> int:
    from llmcli.cli.pulling import fetch_planned, plan_reference
    from llmcli.models.reference import HubReference, UrlReference, parse

    for name in dict.fromkeys(one.name if one.size else "" for one in chosen):
        reference = parse(name) if name else None
        if isinstance(reference, HubReference | UrlReference):
            put_line(str(fetch_planned(plan_reference(reference, settings), settings).path))
    for one in chosen:
        if not one.size:
            how = "pull its model again" if one.is_ours else "it was begun by another program"
            console.warn(f"{one.path} cannot be gone on with: {how}")
    return ExitStatus.OK


def alias(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="The new name.")] = None,
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="What it means.", autocompletion=complete_reference)
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the name out.")] = False,
) -> int:
    """Give a model a name of your own.

    Without arguments the names are listed.
    """
    from llmcli.chat import config
    from llmcli.chat.library import to_download
    from llmcli.models.starter import STARTER
    from llmcli.params.names import check_name

    known = config.aliases()
    if name is None:
        put_rows(("NAME", "MODEL"), list(known.items())) if known else console.note("no aliases yet")
        return ExitStatus.OK
    if remove or model is None:
        if name not in known:
            raise UsageError(f"there is no alias {name}", "See `llmcli models alias`.")
        if remove:
            config.set_alias(name, None)
        else:
            put_line(known[name])
        return ExitStatus.OK
    if check_name(name, "alias") == STARTER:
        raise UsageError(f"{name} is the name of a model already", "Choose another.")
    model = known.get(model, model)
    path = Path(model).expanduser()
    if not path.is_file():
        to_download(model, in_force(Layer("flag", {})))  # refuses what leads nowhere
    config.set_alias(name, str(path.absolute()) if path.is_file() else model)
    return ExitStatus.OK


@with_settings(only=("model_folders",))
def import_folders(
    flags: Layer,
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FOLDER]...", help="Folders with models; Ollama's and LM Studio's, without them."),
    ] = None,
    forget: Annotated[bool, typer.Option("--forget", help="Use the models of these folders no longer.")] = False,
) -> int:
    """Use other programs' models in place.

    Those of Ollama and LM Studio, or of any folder, are read where they are and never copied.
    """
    from llmcli.chat import config
    from llmcli.models import lmstudio, ollama
    from llmcli.models.folders import models_in

    chosen = [folder.expanduser().absolute() for folder in folders or []] or [*ollama.stores(), *lmstudio.folders()]
    if not chosen:
        raise ModelNotFoundError(
            "neither Ollama nor LM Studio has models here", "Name a folder: llmcli models import FOLDER"
        )
    kept = list(in_force(flags).model_folders)
    if forget:
        config.set_value("model_folders", tuple(folder for folder in kept if Path(folder) not in chosen))
        return ExitStatus.OK
    rows = []
    for folder in chosen:
        found = models_in(folder)
        if not found and folders:
            raise ModelNotFoundError(f"{folder} holds no models", "Give a folder with .gguf files, or an Ollama store.")
        rows += [(model.name, gigabytes(model.size), model.source) for model in found]
    config.set_value("model_folders", tuple(dict.fromkeys([*kept, *map(str, chosen)])))
    put_rows(("NAME", "SIZE", "FROM"), rows, ("SIZE",))
    console.note(f"{len(rows)} models are used where they are; take one with --model NAME")
    return ExitStatus.OK
