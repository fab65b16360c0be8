"""`llmcli sessions`: the conversations on this disk."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli.chat import session_files
from llmcli.chat.config import config_layer
from llmcli.cli.options import complete_session
from llmcli.errors import DiskError, ExitStatus, LlmcliError, UsageError
from llmcli.params.layers import Layer, resolve
from llmcli.ui.ask import can_ask, confirm
from llmcli.ui.console import console, wants_colour
from llmcli.ui.output import put, put_line
from llmcli.ui.table import put_rows
from llmcli.ui.units import ago

if TYPE_CHECKING:
    from llmcli.chat.session import Session

_NOTHING_HERE = "nothing is said in the present branch; `sessions show --all` prints the others"

app = typer.Typer(help="List, read, search, export and remove conversations.", rich_markup_mode=None)
Name = Annotated[str, typer.Argument(metavar="NAME", help="A session.", autocompletion=complete_session)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """List, read, search, export and remove conversations."""
    if context.invoked_subcommand is None:
        list_sessions()


@app.command("list")
def list_sessions(as_json: Json = False) -> int:
    """List the sessions, the one that was changed last first."""
    listed = session_files.listed()
    if as_json:
        put_line(json.dumps([asdict(one) for one in listed], ensure_ascii=False))
    elif listed:
        rows = [(one.name, str(one.n_messages), ago(one.changed), one.title) for one in listed]
        put_rows(("SESSION", "MESSAGES", "CHANGED", "BEGINS"), rows, right=("MESSAGES",), spare=("BEGINS", "MESSAGES"))
    else:
        console.note("no sessions yet; `llmcli chat` begins one")
    return ExitStatus.OK


@app.command("show")
def show_session(
    name: Name,
    everything: Annotated[bool, typer.Option("--all", help="Every branch, not only the last one.")] = False,
) -> int:
    """Print what was said."""
    session = _read(name)
    conversation = session.conversation
    messages = list(conversation.messages.values()) if everything else conversation.path()
    if not messages:
        console.note(_NOTHING_HERE)
    for message in messages:
        after = f" (after {message.parent})" if everything and message.parent else ""
        put_line(f"{message.id} {message.role}{after}", "1" if wants_colour(sys.stdout) else "")
        put_line(message.content.rstrip("\n") + "\n")
    return ExitStatus.OK


@app.command("search")
def search_sessions(text: Annotated[str, typer.Argument(metavar="TEXT")], as_json: Json = False) -> int:
    """List the messages of any session that hold TEXT, case ignored."""
    hits = list(session_files.search(text))
    if as_json:
        put_line(json.dumps([asdict(hit) for hit in hits], ensure_ascii=False))
    elif hits:
        rows = [(hit.session, str(hit.id), hit.role, hit.excerpt) for hit in hits]
        put_rows(("SESSION", "N", "WHO", "TEXT"), rows, right=("N",), spare=("WHO",))
    else:
        console.note(f"no session holds {text!r}")
    return ExitStatus.OK if hits else ExitStatus.FAILED


@app.command("export")
def export_session(
    name: Name,
    to: Annotated[
        str, typer.Argument(metavar="FILE", help="FILE.md, .json, .html or .svg; `-` is Markdown on stdout.")
    ] = "-",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> int:
    """Write a session as Markdown, JSON, a page for a browser or a picture."""
    from llmcli.chat.compose import system_text
    from llmcli.chat.export import form_of
    from llmcli.ui.document import document, write

    form = "md" if to == "-" else form_of(Path(to))
    session = _read(name)
    path = session.conversation.path()
    if not path:
        console.note(_NOTHING_HERE)
    system = None
    try:
        system = system_text(resolve([config_layer(), Layer("session", session.overrides)]).settings)
    except DiskError as error:  # the file of the system prompt is gone
        console.warn(f"the system prompt is left out: {error}")
    text = document(path, name, system, form, session.conversation.messages)
    if to == "-":
        put(text if text.endswith("\n") else text + "\n")
        return ExitStatus.OK
    target = Path(os.path.expanduser(to))
    if os.path.exists(target) and not force:
        raise UsageError(f"{target} is there already", "choose another name, or --force")
    write(text, target)
    return ExitStatus.OK


@app.command("rm")
def remove_sessions(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", autocompletion=complete_session)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    """Delete sessions for good."""
    names = list(dict.fromkeys(names))
    for name in names:
        session_files.existing(name)
    if not yes:
        what = names[0] if len(names) == 1 else f"{len(names)} sessions"
        if not can_ask():
            raise UsageError("nobody can be asked here", "say --yes to remove without asking")
        if not confirm(f"remove {what} for good?", False):
            return ExitStatus.FAILED
    for name in names:
        session_files.remove(name)
    return ExitStatus.OK


@app.command("rename")
def rename_session(name: Name, new: Annotated[str, typer.Argument(metavar="NEW")]) -> int:
    """Give a session another name."""
    session_files.rename(name, new)
    return ExitStatus.OK


def _read(name: str) -> "Session":
    """A session to look at: a chat may have it open meanwhile."""
    from llmcli.chat.session import Session

    session = Session.read(name)
    for note in session.notes:
        console.warn(note)
    if not session.conversation.messages:
        raise LlmcliError(f"{name} holds no message")
    return session
