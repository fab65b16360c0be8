"""The commands of `llmcli models` that manage the models on this machine: rm, verify, partials, alias, import."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli.cli.completion import complete_reference
from llmcli.cli.options import with_settings
from llmcli.config.presets import resolve_settings
from llmcli.errors import ExitStatus, ModelNotFoundError, UsageError
from llmcli.params.settings import Layer
from llmcli.text import format_age, format_size, plural
from llmcli.ui.terminal.ask import can_ask, confirm
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import print_json, print_line
from llmcli.ui.terminal.table import print_rows

if TYPE_CHECKING:
    from llmcli.models.download.partial_file import InterruptedDownload
    from llmcli.models.locations import ModelLocations

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Reference = Annotated[
    str, typer.Argument(metavar="MODEL", help="Model reference or alias.", autocompletion=complete_reference)
]
_OWNERS = {"ollama": ("Ollama", "remove it with `ollama rm`"), "lmstudio": ("LM Studio", "remove it in LM Studio")}


@with_settings(only=("model_folders",))
def remove_model(
    flags: Layer,
    model: Reference,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Skip the confirmation.")] = False,
) -> int:
    """Delete a downloaded model.

    The files and the freed disk space are shown first. Files that another model shares are kept.
    """
    from llmcli.models.installed import incomplete_model, installed_model, plan_removal, remove
    from llmcli.models.locations import ModelNotDownloadedError, model_locations
    from llmcli.models.lookup import find_model_file

    locations = model_locations(resolve_settings(flags))
    try:
        item = installed_model(find_model_file(model, locations), locations)
    except ModelNotDownloadedError as missing:
        incomplete = incomplete_model(missing.reference, locations)
        if incomplete is None:
            raise ModelNotFoundError(str(missing), "list the models with `llmcli models list`") from None
        item = incomplete
    if not item.is_removable:
        owner, hint = _OWNERS.get(item.source, ("you, not to llmcli", "delete the file yourself"))
        raise UsageError(f"{item.path} belongs to {owner}", hint)
    plan = plan_removal(item, locations)
    for path in plan.names:
        console.note(f"will remove {path}")
    for path in plan.kept:
        console.note(f"will keep {path} (shared with another model)")
    question = f"Remove {item.name} and free {format_size(plan.freed)}?"
    if not yes and not can_ask():
        raise UsageError(f"refusing to remove {item.name} without confirmation", "use --yes")
    if not yes and not confirm(question, default=False):
        return ExitStatus.FAILED
    remove(plan, locations)
    console.note(f"removed {item.name}, {format_size(plan.freed)} freed")
    return ExitStatus.OK


@with_settings(only=("model_folders",))
def verify_models(
    flags: Layer,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]", help="Model to verify (without it, all models).", autocompletion=complete_reference
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Verify models by their sha256.

    The checksum of each file is computed and compared with the published one. The exit status is 8 if a file is
    damaged.
    """
    from llmcli.models.installed import installed_model, inventory, verify
    from llmcli.models.locations import model_locations
    from llmcli.models.lookup import find_model_file
    from llmcli.ui.terminal.progress import Downloads

    locations = model_locations(resolve_settings(flags))
    items = inventory(locations) if model is None else [installed_model(find_model_file(model, locations), locations)]
    results = []
    with Downloads() as downloads:
        for item in items:
            results += verify(item, locations.data_dir, downloads.bar)
    if as_json:
        print_json([{"file": str(result.path), "state": result.state, "sha256": result.sha256} for result in results])
    else:
        print_rows(("STATE", "MODEL", "SHA256"), [(result.state, result.name, result.sha256) for result in results])
    damaged = [result for result in results if result.state == "damaged"]
    for result in damaged:
        console.warn(f"{result.path} is damaged", f"download it again with `llmcli pull {result.name}`")
    return ExitStatus.MODEL_INVALID if damaged else ExitStatus.OK


@with_settings(only=("offline",))
def partials(
    flags: Layer,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Interrupted download (without it, all of them).")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the download.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Delete the partial file.")] = False,
    as_json: Json = False,
) -> int:
    """List, resume or delete interrupted downloads."""
    from llmcli.models.download.partial_file import interrupted_downloads
    from llmcli.models.locations import model_locations

    if resume and remove:
        raise UsageError("--resume and --remove cannot be used together", "use one of them")
    locations = model_locations(resolve_settings(flags))
    found = interrupted_downloads(locations.hub, locations.cache_dir, locations.data_dir)
    chosen = [item for item in found if name in (None, item.name, item.path.name)]
    if name is not None and not chosen:
        raise ModelNotFoundError(f"no interrupted download '{name}'", "list them with `llmcli models partials`")
    if resume:
        return _resume(chosen, locations)
    if remove:
        return _delete(chosen, locations.data_dir)
    if as_json:
        data = [
            {"name": item.name, "file": str(item.path), "bytes": item.downloaded, "size": item.size} for item in chosen
        ]
        print_json(data)
        return ExitStatus.OK
    if not chosen:
        console.note("no interrupted downloads")
        return ExitStatus.OK
    rows = [(item.name, _progress(item), format_age(item.time)) for item in chosen]
    print_rows(("NAME", "DOWNLOADED", "CHANGED"), rows)
    console.note("resume them with `llmcli models partials --resume`, delete them with `--remove`")
    return ExitStatus.OK


def alias(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Name of the alias.")] = None,
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="Model reference or path.", autocompletion=complete_reference),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Delete the alias.")] = False,
) -> int:
    """Set, show or delete an alias for a model.

    Without arguments, all aliases are listed.
    """
    from llmcli.config import config_file
    from llmcli.files import check_name
    from llmcli.models.locations import STARTER, model_locations
    from llmcli.models.lookup import reference_to_download

    known = config_file.aliases()
    if name is None:
        print_rows(("NAME", "MODEL"), list(known.items())) if known else console.note("no aliases")
        return ExitStatus.OK
    if remove or model is None:
        if name not in known:
            raise UsageError(f"unknown alias '{name}'", "list the aliases with `llmcli models alias`")
        if remove:
            config_file.set_alias(name, None)
        else:
            print_line(known[name])
        return ExitStatus.OK
    if check_name(name, "alias") == STARTER:
        raise UsageError(f"'{name}' is the name of a model", "choose another name")
    model = known.get(model, model)
    path = Path(model).expanduser()
    if not path.is_file():
        reference_to_download(
            model, model_locations(resolve_settings(Layer("flag", {})))
        )  # raises an error for an unknown model
    config_file.set_alias(name, str(path.absolute()) if path.is_file() else model)
    return ExitStatus.OK


@with_settings(only=("model_folders",))
def import_folders(
    flags: Layer,
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FOLDER]...", help="Folders with models (without them, Ollama's and LM Studio's)."),
    ] = None,
    forget: Annotated[bool, typer.Option("--forget", help="Stop using the models of these folders.")] = False,
) -> int:
    """Use the models of other programs in place.

    Models of Ollama, LM Studio or any folder are read where they are. They are never copied or changed.
    """
    from llmcli.config import config_file
    from llmcli.models.sources import ollama
    from llmcli.models.sources.folder import lmstudio_folders, lmstudio_search_paths, models_in_folder

    chosen = [folder.expanduser().absolute() for folder in folders or []] or [
        *ollama.stores(),
        *lmstudio_folders(),
    ]
    if not chosen:
        searched = ", ".join(map(str, [*ollama.search_paths(), *lmstudio_search_paths()]))
        raise ModelNotFoundError(
            f"no models of Ollama or LM Studio found in {searched}",
            "give a folder with .gguf files: llmcli models import FOLDER",
        )
    kept = list(resolve_settings(flags).model_folders)
    if forget:
        config_file.set_value("model_folders", tuple(folder for folder in kept if Path(folder) not in chosen))
        return ExitStatus.OK
    rows = []
    for folder in chosen:
        found = models_in_folder(folder)
        if not found and folders:
            raise ModelNotFoundError(
                f"no models found in {folder}", "give a folder with .gguf files, or an Ollama store"
            )
        rows += [(model.name, format_size(model.size), model.source) for model in found]
    config_file.set_value("model_folders", tuple(dict.fromkeys([*kept, *map(str, chosen)])))
    print_rows(("NAME", "SIZE", "FROM"), rows, ("SIZE",))
    console.note(f"{plural(len(rows), 'model')} imported in place; use one with --model NAME")
    return ExitStatus.OK


def _resume(chosen: Sequence["InterruptedDownload"], locations: "ModelLocations") -> int:
    from llmcli.cli.models.download import fetch_planned, plan_reference
    from llmcli.models.reference import HubReference, UrlReference, parse

    for name in dict.fromkeys(item.name for item in chosen if item.size):
        reference = parse(name)
        if isinstance(reference, HubReference | UrlReference):
            print_line(str(fetch_planned(plan_reference(reference, locations), locations).path))
    for item in chosen:
        if not item.size and item.is_from_llmcli:
            console.warn(f"cannot resume {item.path}: its model is not known", "pull its model again")
        elif not item.size:
            console.warn(f"cannot resume {item.path}: another program started it")
    return ExitStatus.OK


def _delete(chosen: Sequence["InterruptedDownload"], data_dir: Path) -> int:
    from llmcli.models.download.partial_file import has_complete_parts, remove_interrupted

    deleted = [item for item in chosen if remove_interrupted(item, data_dir)]
    for item in chosen:
        if item not in deleted:
            why = "the download is active" if item.is_from_llmcli else "another program started it"
            console.note(f"kept {item.path.name}: {why}")
    for name in dict.fromkeys(item.name for item in deleted if item.size and has_complete_parts(item)):
        console.note(f"kept the complete parts of {name}; remove them with `llmcli models rm {name}`")
    freed = format_size(sum(item.downloaded for item in deleted))
    console.note(f"deleted {plural(len(deleted), 'interrupted download')}, {freed} freed")
    return ExitStatus.OK


def _progress(item: "InterruptedDownload") -> str:
    downloaded = format_size(item.downloaded)
    return f"{downloaded} of {format_size(item.size)} ({item.downloaded / item.size:.0%})" if item.size else downloaded
