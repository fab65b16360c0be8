"""`llmcli models`: the group of all commands about models, one module per kind of command."""

import typer

from llmcli.cli.models.hub import files, pull, recommend, search
from llmcli.cli.models.manage import alias, import_folders, partials, remove_model, verify_models
from llmcli.cli.models.show import list_models, show_model

app = typer.Typer(help="Download, list, verify and remove models.", no_args_is_help=True, rich_markup_mode=None)
app.command("pull")(pull)
app.command("list")(list_models)
app.command("show")(show_model)
app.command("files")(files)
app.command("search")(search)
app.command("rm")(remove_model)
app.command("verify")(verify_models)
app.command("partials")(partials)
app.command("alias")(alias)
app.command("import")(import_folders)
app.command("recommend")(recommend)
