"""`llmcli models`: list the models on this machine, and the group of all model commands."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmcli.cli.models.hub import files, pull, recommend, search
from llmcli.cli.models.manage import alias, import_folders, partials, remove_model, verify
from llmcli.cli.options import complete_reference, with_settings
from llmcli.config.presets import resolve_settings
from llmcli.errors import ExitStatus
from llmcli.params.settings import Layer
from llmcli.text import ago, count, gigabytes, sanitize
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import print_line
from llmcli.ui.terminal.table import print_facts, print_rows

if TYPE_CHECKING:
    from llmcli.models.inventory import InstalledModel

app = typer.Typer(help="Download, list, verify and remove models.", no_args_is_help=True, rich_markup_mode=None)


@with_settings(only=("model_folders",))
def list_models(
    flags: Layer,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> int:
    """List the models on this machine.

    A model with an alias is listed by its alias; the line below it is the model or file that the alias names.
    """
    from llmcli.config.presets import resolve_settings
    from llmcli.models.inventory import inventory_with_aliases
    from llmcli.models.locations import model_locations

    items = inventory_with_aliases(model_locations(resolve_settings(flags)))
    if as_json:
        print_line(json.dumps([_data(item) for item in items], ensure_ascii=False, indent=2))
        return ExitStatus.OK
    if not items:
        console.note("no models yet; see `llmcli models recommend`, then run `llmcli pull NAME`")
        return ExitStatus.OK
    heads = "NAME", "QUANT", "SIZE", "CONTEXT", "USED", "FROM"
    targets = [sanitize(f"alias of {item.name}") if item.aliases else "" for item in items]
    print_rows(heads, [_row(item) for item in items], ("SIZE", "CONTEXT"), below=targets, spare=("FROM", "QUANT"))
    return ExitStatus.OK


def _row(item: "InstalledModel") -> tuple[str, ...]:
    source = {"hub": "Hub cache", "url": "URL"}.get(item.source, item.source)
    return (
        ", ".join(item.aliases) or item.name,
        item.quantization,
        gigabytes(item.size),
        str(item.summary.n_ctx_train or ""),
        ago(item.last_used),
        source,
    )


def _data(item: "InstalledModel") -> dict[str, Any]:
    return {
        "name": item.name,
        "aliases": list(item.aliases),
        "quantization": item.quantization,
        "size": item.size,
        "n_ctx_train": item.summary.n_ctx_train,
        "used": item.last_used,
        "source": item.source,
        "repo": item.cached.repo if item.cached else None,
        "commit": item.cached.commit if item.cached else None,
        "files": [str(part) for part in item.parts],
        "sha256": list(item.digests),
    }


app.command("pull")(pull)
app.command("list")(list_models)


@with_settings(only=("n_ctx", "n_ubatch", "cache_type_k", "cache_type_v", "offline", "model_folders"))
def show_model(
    flags: Layer,
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Model on this machine or on the Hub.", autocompletion=complete_reference),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
    template: Annotated[bool, typer.Option("--template", help="Print only the chat template.")] = False,
) -> int:
    """Show details of a model.

    Architecture, size, context, chat template, license, checksum and memory. A model on the Hub is not downloaded:
    only its header is read.
    """
    from llmcli.inference.sizing import local_model_info, remote_model_info
    from llmcli.models.locations import ModelNotDownloadedError, model_locations
    from llmcli.models.lookup import find_model_file
    from llmcli.models.reference import HubReference

    settings = resolve_settings(flags)
    place = model_locations(settings)
    try:
        portrait = local_model_info(find_model_file(model, place), place, settings)
    except ModelNotDownloadedError as missing:
        if not isinstance(missing.reference, HubReference):
            raise
        from llmcli.cli.open_model import plan_hub

        portrait = remote_model_info(plan_hub(missing.reference, settings), settings)
    if template:
        print_line(portrait["chat_template"] or "")
    elif as_json:
        print_line(json.dumps(portrait, ensure_ascii=False, indent=2))
    else:
        print_facts([(name, text) for name, text in _facts(portrait) if text])
    return ExitStatus.OK


app.command("show_model")(show_model)
app.command("files")(files)
app.command("search")(search)
app.command("rm")(remove_model)
app.command("verify")(verify)
app.command("partials")(partials)
app.command("alias")(alias)
app.command("import")(import_folders)
app.command("recommend")(recommend)


def _facts(it: dict[str, Any]) -> Sequence[tuple[str, str]]:
    """The facts as labels and texts."""
    memory, template = it["memory"], it["chat_template"]
    parts = f" in {it['n_files']} files" if it["n_files"] > 1 else ""
    bits = f", {8 * it['size'] / it['n_parameters']:.1f} bits per weight" if it["n_parameters"] else ""
    sampling = ", ".join(f"{key} {value}" for key, value in it["sampling"].items())
    split = ", ".join(f"{gigabytes(memory[key])} {key}" for key in ("weights", "kv_cache", "compute"))
    need = f"{gigabytes(memory['total'])} at a context of {memory['n_ctx']} tokens ({split})"
    fits = {True: "yes", False: "no", None: ""}[memory["fits"]]
    return (
        ("name", it["name"]),
        ("model", it["title"]),
        ("architecture", it["architecture"]),
        ("parameters", count(it["n_parameters"]) if it["n_parameters"] else ""),
        ("quantization", it["quantization"] + bits),
        ("size", gigabytes(it["size"]) + parts),
        ("trained context", f"{it['n_ctx_train']} tokens" if it["n_ctx_train"] else ""),
        ("vocabulary", f"{it['n_vocab']} tokens" if it["n_vocab"] else ""),
        ("memory", need),
        ("fits in memory", fits),
        ("chat template", f"yes, {len(template)} characters (--template prints it)" if template else "none"),
        ("sampling defaults", sampling or "none"),
        ("license", it["license"]),
        ("mmproj", it["projector"] or ""),
        ("commit", it["commit"] or ""),
        ("file", it["file"]),
        ("checksum", _checksum(it)),
        ("last used", ago(it["used"]) if it["downloaded"] else ""),
    )


def _checksum(it: dict[str, Any]) -> str:
    if not it["downloaded"]:
        return f"sha256 {it['sha256']} (published)" if it["sha256"] else ""
    if it["damaged"]:
        return f"DAMAGED: the sha256 is not {it['sha256']}; `llmcli pull` repairs it"
    if it["verified"]:
        return f"sha256 {it['sha256']}, verified {ago(it['verified'])}"
    if it["sha256"]:
        return f"sha256 {it['sha256']} (published), not verified yet: run `llmcli models verify`"
    return "no published checksum"
