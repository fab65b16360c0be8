"""The commands of `llmcli models` that show models: list, show."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from llmcli.cli.completion import complete_reference
from llmcli.cli.options import with_settings
from llmcli.config.presets import resolve_settings
from llmcli.models.installed import inventory_with_aliases
from llmcli.models.locations import ModelNotDownloadedError, model_locations
from llmcli.models.lookup import find_model_file
from llmcli.models.reference import HubReference
from llmcli.models.sources.source import InstalledModel
from llmcli.params.settings import Layer
from llmcli.text import format_age, format_count, format_size, sanitize
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import print_facts, print_json, print_line, print_rows


@with_settings(only=("model_folders",))
def list_models(
    flags: Layer, as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False
) -> None:
    """List the models on this machine.

    A model with an alias is listed by its alias; the line below it is the model or file that the alias names.
    """
    items = inventory_with_aliases(model_locations(resolve_settings(flags)))
    if as_json:
        print_json([_data(item) for item in items])
    elif not items:
        console.note("no models yet; see `llmcli models recommend`, then run `llmcli pull NAME`")
    else:
        heads = "NAME", "QUANT", "SIZE", "CONTEXT", "USED", "FROM"
        rows = [
            (
                ", ".join(item.aliases) or item.name,
                item.quantization,
                format_size(item.size),
                str(item.summary.n_ctx_train or ""),
                format_age(item.last_used),
                item.source.label or item.source.name,
            )
            for item in items
        ]
        targets = [sanitize(f"alias of {item.name}") if item.aliases else "" for item in items]
        print_rows(heads, rows, ("SIZE", "CONTEXT"), below=targets, spare=("FROM", "QUANT"))


@with_settings(only=("n_ctx", "n_ubatch", "cache_type_k", "cache_type_v", "offline", "model_folders"))
def show_model(
    flags: Layer,
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Model on this machine or on the Hub.", autocompletion=complete_reference),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
    template: Annotated[bool, typer.Option("--template", help="Print only the chat template.")] = False,
) -> None:
    """Show details of a model.

    Architecture, size, context, chat template, license, checksum and memory. A model on the Hub is not downloaded:
    only its header is read.
    """
    from llmcli.inference.sizing import local_model_info, remote_model_info

    settings = resolve_settings(flags)
    locations = model_locations(settings)
    try:
        info = local_model_info(find_model_file(model, locations), locations, settings)
    except ModelNotDownloadedError as missing:
        if not isinstance(missing.reference, HubReference):
            raise
        from llmcli.cli.models.download import warn_about_token
        from llmcli.inference.sizing import memory_and_cores
        from llmcli.models.hub.repo_download import plan_pull

        warn_about_token(locations)
        plan = plan_pull(missing.reference, locations, memory_and_cores()[0], console.note)
        info = remote_model_info(plan, settings)
    if template:
        print_line(info["chat_template"] or "")
    elif as_json:
        print_json(info)
    else:
        print_facts([(name, text) for name, text in _facts(info) if text])


def _data(item: InstalledModel) -> dict[str, Any]:
    return {
        "name": item.name,
        "aliases": list(item.aliases),
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


def _facts(info: dict[str, Any]) -> Sequence[tuple[str, str]]:
    """The facts as labels and texts."""
    memory, template = info["memory"], info["chat_template"]
    parts = f" in {info['n_files']} files" if info["n_files"] > 1 else ""
    bits = f", {8 * info['size'] / info['n_parameters']:.1f} bits per weight" if info["n_parameters"] else ""
    sampling = ", ".join(f"{key} {value}" for key, value in info["sampling"].items())
    split = ", ".join(f"{format_size(memory[key])} {key}" for key in ("weights", "kv_cache", "compute"))
    need = f"{format_size(memory['total'])} at a context of {memory['n_ctx']} tokens ({split})"
    fits = {True: "yes", False: "no", None: ""}[memory["fits"]]
    return (
        ("name", info["name"]),
        ("model", info["title"]),
        ("architecture", info["architecture"]),
        ("parameters", format_count(info["n_parameters"]) if info["n_parameters"] else ""),
        ("quantization", info["quantization"] + bits),
        ("size", format_size(info["size"]) + parts),
        ("trained context", f"{info['n_ctx_train']} tokens" if info["n_ctx_train"] else ""),
        ("vocabulary", f"{info['n_vocab']} tokens" if info["n_vocab"] else ""),
        ("memory", need),
        ("fits in memory", fits),
        ("chat template", f"yes, {len(template)} characters (--template prints it)" if template else "none"),
        ("sampling defaults", sampling or "none"),
        ("license", info["license"]),
        ("mmproj", info["projector"] or ""),
        ("commit", info["commit"] or ""),
        ("file", info["file"]),
        ("checksum", _checksum(info)),
        ("last used", format_age(info["used"]) if info["downloaded"] else ""),
    )


def _checksum(info: dict[str, Any]) -> str:
    if not info["downloaded"]:
        return f"sha256 {info['sha256']} (published)" if info["sha256"] else ""
    if info["damaged"]:
        return f"DAMAGED: the sha256 is not {info['sha256']}; `llmcli pull` repairs it"
    if info["verified"]:
        return f"sha256 {info['sha256']}, verified {format_age(info['verified'])}"
    if info["sha256"]:
        return f"sha256 {info['sha256']} (published), not verified yet: run `llmcli models verify`"
    return "no published checksum"
