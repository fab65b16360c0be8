"""`llmcli models`: list the models on this machine, and the group of all model commands."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmcli.cli.models.hub import files, pull, recommend, search
from llmcli.cli.models.manage import alias, import_folders, partials, remove_model, verify
from llmcli.cli.models_show import show
from llmcli.cli.options import with_settings
from llmcli.errors import ExitStatus
from llmcli.params.settings import Layer
from llmcli.text import ago, gigabytes
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import put_line
from llmcli.ui.terminal.sanitize import safe
from llmcli.ui.terminal.table import put_rows

if TYPE_CHECKING:
    from llmcli.models.inventory import Item

app = typer.Typer(help="Download, list, verify and remove models.", no_args_is_help=True, rich_markup_mode=None)


@with_settings(only=("model_folders",))
def list_models(
    flags: Layer,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> int:
    """List the models on this machine.

    A model with an alias is listed by its alias; the line below it is the model or file that the alias names.
    """
    from llmcli.config.layers import resolve_settings
    from llmcli.models.inventory import inventory_with_aliases
    from llmcli.models.locations import shelf

    items = inventory_with_aliases(shelf(resolve_settings(flags)))
    if as_json:
        put_line(json.dumps([_data(item) for item in items], ensure_ascii=False, indent=2))
        return ExitStatus.OK
    if not items:
        console.note("no models yet; see `llmcli models recommend`, then run `llmcli pull NAME`")
        return ExitStatus.OK
    heads = "NAME", "QUANT", "SIZE", "CONTEXT", "USED", "FROM"
    targets = [safe(f"alias of {item.name}") if item.aliases else "" for item in items]
    put_rows(heads, [_row(item) for item in items], ("SIZE", "CONTEXT"), below=targets, spare=("FROM", "QUANT"))
    return ExitStatus.OK


def _row(item: "Item") -> tuple[str, ...]:
    source = {"hub": "Hub cache", "url": "URL"}.get(item.source, item.source)
    return (
        ", ".join(item.aliases) or item.name,
        item.quantization,
        gigabytes(item.size),
        str(item.glimpse.n_ctx_train or ""),
        ago(item.used),
        source,
    )


def _data(item: "Item") -> dict[str, Any]:
    return {
        "name": item.name,
        "aliases": list(item.aliases),
        "quantization": item.quantization,
        "size": item.size,
        "n_ctx_train": item.glimpse.n_ctx_train,
        "used": item.used,
        "source": item.source,
        "repo": item.cached.repo if item.cached else None,
        "commit": item.cached.commit if item.cached else None,
        "files": [str(part) for part in item.parts],
        "sha256": list(item.digests),
    }


app.command("pull")(pull)
app.command("list")(list_models)
app.command("show")(show)
app.command("files")(files)
app.command("search")(search)
app.command("rm")(remove_model)
app.command("verify")(verify)
app.command("partials")(partials)
app.command("alias")(alias)
app.command("import")(import_folders)
app.command("recommend")(recommend)
