"""`llmcli models`: what is on this machine, and what is done with it."""

import json
from typing import Annotated, Any

import typer

from llmcli.cli.models_hub import files, pull, recommend, search
from llmcli.cli.models_keep import alias, import_folders, partials, remove_model, verify
from llmcli.cli.models_show import show
from llmcli.cli.options import with_settings
from llmcli.errors import ExitStatus
from llmcli.params.layers import Layer
from llmcli.ui.console import console
from llmcli.ui.output import put_line
from llmcli.ui.table import put_rows
from llmcli.ui.units import ago, gigabytes

app = typer.Typer(help="Get, list, check and remove models.", no_args_is_help=True, rich_markup_mode=None)


@with_settings(only=("model_folders",))
def list_models(
    flags: Layer,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> int:
    """List the models on this machine."""
    from llmcli.chat.library import shelf
    from llmcli.cli.settings import in_force
    from llmcli.models.inventory import Item, inventory

    items = inventory(shelf(in_force(flags)))
    if as_json:
        put_line(json.dumps([_data(item) for item in items], ensure_ascii=False, indent=2))
        return ExitStatus.OK
    if not items:
        console.note("no models yet; `llmcli models recommend` names some, `llmcli pull NAME` gets one")
        return ExitStatus.OK

    def row(item: Item) -> tuple[str, ...]:
        context = item.glimpse.n_ctx_train
        place = {"hub": "hub cache", "url": "address"}.get(item.source, item.source)
        return item.name, item.quantization, gigabytes(item.size), str(context or ""), ago(item.used), place

    heads = "NAME", "QUANT", "SIZE", "CONTEXT", "USED", "FROM"
    put_rows(heads, [row(item) for item in items], ("SIZE", "CONTEXT"), spare=("FROM", "QUANT"))
    return ExitStatus.OK


def _data(item: Any) -> dict[str, Any]:
    return {
        "name": item.name,
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
