"""The commands of `llmcli models` for the models on this machine: list, rm, verify, partials, alias, import."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from llmcli.cli.command_line import Argument, Option
from llmcli.cli.completion import complete_reference
from llmcli.cli.options import Json, with_settings
from llmcli.config import config_file
from llmcli.config.presets import resolve_settings
from llmcli.errors import (
    ExitStatus,
    LlmcliError,
    ModelInvalidError,
    ModelNotFoundError,
    NotAllowedError,
    UsageError,
)
from llmcli.files import check_name
from llmcli.models import installed
from llmcli.models.gguf.parser import read_headers
from llmcli.models.installed import InterruptedDownload, installed_model
from llmcli.models.locations import STARTER, ModelLocations, ModelNotDownloadedError, model_locations
from llmcli.models.lookup import find_model_file
from llmcli.models.reference import HubReference, RemoteReference
from llmcli.models.sources import hub
from llmcli.models.sources.folder import skipped_files
from llmcli.models.sources.registry import models_in_folder, parse, parse_remote, programs
from llmcli.models.sources.source import InstalledModel
from llmcli.params.settings import Layer
from llmcli.text import ellipsize, format_age, format_size, plural, sanitize
from llmcli.ui.terminal.console import can_ask, confirm, console
from llmcli.ui.terminal.output import print_json, print_line, print_rows
from llmcli.ui.terminal.progress import Downloads

_FOLDER_HINT = "give a folder with .gguf files, or an Ollama store"
Reference = Annotated[str, Argument(help="Model reference or alias.", autocompletion=complete_reference)]


@with_settings(only=("model_folders", "endpoint"))
def list_models(flags: Layer, as_json: Annotated[bool, Option("--json", help="Print a JSON array.")] = False) -> None:
    if endpoint := flags.get("endpoint", str):
        _list_endpoint(endpoint, as_json)
        return
    locations = model_locations(resolve_settings(flags))
    items = installed.inventory_with_aliases(locations)
    damages = [installed.damage(item, locations.data_dir) for item in items]
    if as_json:
        print_json([_model_data(item) | {"damage": damage} for item, damage in zip(items, damages, strict=True)])
    elif not items:
        console.note("no models yet; see `llmcli models recommend`, then run `llmcli pull NAME`")
    else:
        heads = "NAME", "KIND", "ARCH", "QUANT", "SIZE", "CONTEXT", "USED", "FROM"
        rows = [
            (
                ", ".join(item.aliases) or item.name,
                "damaged" if damage else item.kind,
                ellipsize(item.summary.architecture, 20),
                item.quantization,
                format_size(item.size),
                str(item.summary.n_ctx_train or ""),
                format_age(item.last_used),
                item.source.label or item.source.name,
            )
            for item, damage in zip(items, damages, strict=True)
        ]
        targets = [sanitize(f"alias of {item.name}") if item.aliases else "" for item in items]
        print_rows(heads, rows, ("SIZE", "CONTEXT"), below=targets, spare=("ARCH", "FROM", "QUANT"))
        for item, damage in zip(items, damages, strict=True):
            if damage:
                console.warn(f"{item.name} is damaged: {damage}", item.source.repair_hint(item, locations))


@with_settings(only=("model_folders",))
def remove_model(
    flags: Layer,
    model: Reference,
    yes: Annotated[bool, Option("--yes", "-y", help="Skip the confirmation.")] = False,
    foreign: Annotated[
        bool, Option("--foreign", help="With --yes: remove files that another program downloaded too.")
    ] = False,
) -> int:
    locations = model_locations(resolve_settings(flags))
    item = _only_model(model, locations)
    plan = item.source.plan_removal(item, locations)
    if plan.is_foreign and yes and not foreign:
        raise UsageError(
            f"{item.name} was not downloaded by llmcli: another program can need it",
            "add --foreign to remove it all the same",
        )
    for path in plan.names:
        console.note(f"will remove {path}")
    for path in plan.kept:
        console.note(f"will keep {path} (shared with another model)")
    if plan.is_foreign:
        console.warn(f"{item.name} was not downloaded by llmcli: another program can need it")
    if not yes and not can_ask():
        raise UsageError(f"refusing to remove {item.name} without confirmation", "use --yes")
    if not yes and not confirm(f"Remove {item.name} and free {format_size(plan.freed)}?", default=False):
        return ExitStatus.FAILED
    installed.remove(plan, locations)
    console.note(f"removed {item.name}, {format_size(plan.freed)} freed")
    return ExitStatus.OK


@with_settings(only=("model_folders",))
def verify_models(
    flags: Layer,
    model: Annotated[
        str | None, Argument(help="Model to verify (without it, all models).", autocompletion=complete_reference)
    ] = None,
    as_json: Json = False,
) -> int:
    locations = model_locations(resolve_settings(flags))
    file = None if model is None else find_model_file(model, locations)
    items = [installed_model(file, locations)] if file else installed.inventory(locations)
    with Downloads() as downloads:
        verified = [(item, installed.verify(item, locations.data_dir, downloads.bar)) for item in items]
    results = [result for _, of_item in verified for result in of_item]
    if as_json:
        print_json([{"file": str(result.path), "state": result.state, "sha256": result.sha256} for result in results])
    else:
        print_rows(("STATE", "MODEL", "SHA256"), [(result.state, result.name, result.sha256) for result in results])
    damaged = [(item, result) for item, of_item in verified for result in of_item if result.state == "damaged"]
    for item, result in damaged:
        console.warn(f"{result.path} is damaged", item.source.repair_hint(item, locations))
    return ExitStatus.MODEL_INVALID if damaged else ExitStatus.OK


@with_settings(only=("offline",))
def partials(
    flags: Layer,
    name: Annotated[str | None, Argument(help="Interrupted download (without it, all of them).")] = None,
    resume: Annotated[bool, Option("--resume", help="Resume the download.")] = False,
    remove: Annotated[bool, Option("--remove", help="Delete the partial file.")] = False,
    as_json: Json = False,
) -> None:
    if resume and remove:
        raise UsageError("--resume and --remove cannot be used together", "use one of them")
    locations = model_locations(resolve_settings(flags))
    found = installed.find_interrupted(locations)
    chosen = [item for item in found if name in (None, item.name, item.path.name)]
    if name is not None and not chosen:
        raise ModelNotFoundError(f"no interrupted download '{name}'", "list them with `llmcli models partials`")
    if resume:
        _resume(chosen, locations)
    elif remove:
        _delete(chosen, locations.data_dir)
    elif as_json:
        data = [{"name": one.name, "file": str(one.path), "bytes": one.downloaded, "size": one.size} for one in chosen]
        print_json(data)
    elif not chosen:
        console.note("no interrupted downloads")
    else:
        rows = []
        for item in chosen:
            of_size = f" of {format_size(item.size)} ({item.downloaded / item.size:.0%})" if item.size else ""
            rows.append((item.name, format_size(item.downloaded) + of_size, format_age(item.time)))
        print_rows(("NAME", "DOWNLOADED", "CHANGED"), rows)
        console.note("resume them with `llmcli models partials --resume`, delete them with `--remove`")


def alias(
    name: Annotated[str | None, Argument(help="Name of the alias.")] = None,
    model: Annotated[str | None, Argument(help="Model reference or path.", autocompletion=complete_reference)] = None,
    remove: Annotated[bool, Option("--remove", help="Delete the alias.")] = False,
) -> None:
    known = config_file.aliases()
    if name is None:
        print_rows(("NAME", "MODEL"), list(known.items())) if known else console.note("no aliases")
    elif model is not None and not remove:
        if check_name(name, "alias") == STARTER:
            raise UsageError(f"'{name}' is the name of a model", "choose another name")
        model = known.get(model, model)
        path, locations = Path(model).expanduser(), model_locations(resolve_settings(Layer("flag", {})))
        if path.is_file():
            model = str(path.absolute())
        elif parse_remote(model, locations) is None:
            find_model_file(model, locations)  # raises an error for an unknown model
        config_file.set_alias(name, model)
    elif name not in known:
        raise UsageError(f"unknown alias '{name}'", "list the aliases with `llmcli models alias`")
    elif remove:
        config_file.set_alias(name, None)
    else:
        print_line(known[name])


@with_settings(only=("model_folders",))
def import_folders(
    flags: Layer,
    folders: Annotated[
        list[str] | None,
        Argument(metavar="[FOLDER]...", help="Folders with models (without them, Ollama's and LM Studio's)."),
    ] = None,
    forget: Annotated[bool, Option("--forget", help="Stop using the models of these folders.")] = False,
) -> None:
    if folders and "" in folders:
        raise UsageError("the name of a folder is empty", _FOLDER_HINT)
    chosen = [Path(folder).expanduser().absolute() for folder in folders or []]
    chosen = chosen or [folder for program in programs() for folder in program.folders()]
    kept = list(resolve_settings(flags).model_folders)
    if forget:
        left = tuple(folder for folder in kept if Path(folder).expanduser().absolute() not in chosen)
        if len(left) == len(kept):
            message = f"not imported: {', '.join(map(str, chosen))}" if chosen else "give the folder to forget"
            raise UsageError(message, f"imported: {', '.join(kept) or 'no folder'}")
        config_file.set_value("model_folders", left)
        return
    if not chosen:
        searched = ", ".join(str(path) for program in programs() for path in program.search_paths())
        raise ModelNotFoundError(
            f"no models of Ollama or LM Studio found in {searched}",
            "give a folder with .gguf files: llmcli models import FOLDER",
        )
    models = [model for folder in chosen for model in _sound_models(folder, is_named=bool(folders))]
    config_file.set_value("model_folders", tuple(dict.fromkeys([*kept, *map(str, chosen)])))
    rows = [(model.name, format_size(model.size), model.source.name) for model in models]
    print_rows(("NAME", "SIZE", "FROM"), rows, ("SIZE",))
    console.note(f"{plural(len(rows), 'model')} imported in place; use one with --model NAME")


def _only_model(text: str, locations: ModelLocations) -> InstalledModel:
    """The model that a name means; unlike elsewhere, a name that can mean several is an error, not the best match."""
    is_file = Path(text).expanduser().is_file()
    reference = None if is_file else parse_remote(text, locations)
    found = hub.SOURCE.all_named(reference, locations) if isinstance(reference, HubReference) else []
    if len(found) > 1:
        names = ", ".join(item.name for item in found)
        raise UsageError(f"'{text}' means {len(found)} models: {names}", "give one of these names")
    if found:
        return found[0]
    try:
        item = installed_model(find_model_file(text, locations), locations)
    except ModelNotDownloadedError as missing:
        raise ModelNotFoundError(str(missing), "list the models with `llmcli models list`") from None
    if item.cached and isinstance(reference, HubReference):  # the nearest one, such as UD-Q4_K_M for Q4_K_M
        raise UsageError(f"'{text}' is not on this machine, only {item.name}", "give this name if you mean it")
    return item


def _list_endpoint(text: str, as_json: bool) -> None:
    """List the models of a server."""
    from llmcli.inference.endpoint_server import look_at, reachable

    served = look_at(reachable(text, resolve_settings(Layer("flag", {})).offline), console.note)
    console.warn_all(served.notes)
    if as_json:
        print_json(
            [
                {"name": one.name, "owner": one.owner, "n_ctx": one.n_ctx or served.n_ctx or None}
                for one in served.models
            ]
        )
    elif not served.models:
        console.note(f"{served.host} does not list its models; name one with -m")
    else:
        rows = [(one.name, str(one.n_ctx or served.n_ctx or ""), one.owner) for one in served.models]
        print_rows(("NAME", "CONTEXT", "OWNER"), rows, ("CONTEXT",), spare=("OWNER", "CONTEXT"))


def _model_data(item: InstalledModel) -> dict[str, Any]:
    return {
        "name": item.name,
        "aliases": list(item.aliases),
        "kind": item.kind,
        "architecture": item.summary.architecture,
        "quantization": item.quantization,
        "size": item.size,
        "n_ctx_train": item.summary.n_ctx_train,
        "used": item.last_used,
        "source": item.source.name,
        "repo": item.cached.repo if item.cached else None,
        "commit": item.cached.commit if item.cached else None,
        "files": [str(part) for part in item.parts],
        "sha256": list(item.digests),
    }


def _sound_models(folder: Path, is_named: bool) -> list[InstalledModel]:
    """The models of a folder that are complete; a warning names each other file. Raises if a named folder has none."""
    found, sound, faults = models_in_folder(folder), [], []
    for model in found:
        try:
            read_headers(model.parts)
            sound.append(model)
        except ModelInvalidError as error:
            faults.append(error)
    if is_named and not sound:
        raise faults[0] if faults else ModelNotFoundError(f"no models found in {folder}", _FOLDER_HINT)
    for fault in faults:
        console.warn(f"skipped {fault}", fault.hint)
    for path in skipped_files(folder, found):
        console.warn(f"skipped {path}: not a GGUF model, or a part of it is missing")
    return sound


def _resume(chosen: Sequence[InterruptedDownload], locations: ModelLocations) -> None:
    from llmcli.cli.models.pull import describe, download_with_bars, plan_reference

    error: LlmcliError | None = None
    for name in dict.fromkeys(item.name for item in chosen if item.size):
        reference = parse(name)
        if not isinstance(reference, RemoteReference):
            continue
        try:
            plan = plan_reference(reference, locations)
            console.note(describe(plan))
            print_line(str(download_with_bars(plan).path))
        except (ModelNotFoundError, NotAllowedError) as refusal:  # it is about this model only
            console.note(f"kept the partial download; delete it with `llmcli models partials {name} --remove`")
            if error:
                console.warn(str(error), error.hint)
            error = refusal
    for item in chosen:
        if not item.size and item.is_from_llmcli:
            console.warn(f"cannot resume {item.path}: its model is not known", "pull its model again")
        elif not item.size:
            console.warn(f"cannot resume {item.path}: another program started it")
    if error:
        raise error


def _delete(chosen: Sequence[InterruptedDownload], data_dir: Path) -> None:
    deleted = [item for item in chosen if item.remove(data_dir)]
    for item in chosen:
        if item not in deleted:
            why = "the download is active" if item.is_from_llmcli else "another program started it"
            console.note(f"kept {item.path.name}: {why}")
    for name in dict.fromkeys(item.name for item in deleted if item.size and item.has_complete_parts):
        console.note(f"kept the complete parts of {name}; remove them with `llmcli models rm {name}`")
    freed = format_size(sum(item.downloaded for item in deleted))
    console.note(f"deleted {plural(len(deleted), 'interrupted download')}, {freed} freed")
