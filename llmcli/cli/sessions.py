"""`llmcli sessions`: the conversations on this disk."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from llmcli.chat.conversation import SPEAKER_NAMES
from llmcli.chat.sessions import store
from llmcli.chat.sessions.listing import search, session_summaries
from llmcli.chat.sessions.session import Session
from llmcli.cli.command_line import Argument, Option
from llmcli.cli.completion import complete_session
from llmcli.cli.options import Force, Json, output_path
from llmcli.config.config_file import config_layer
from llmcli.errors import DiskError, ExitStatus, LlmcliError, UsageError
from llmcli.inference.request import system_text
from llmcli.params.settings import Layer, resolve
from llmcli.text import format_age, plural, sanitize
from llmcli.ui.terminal.console import can_ask, confirm, console
from llmcli.ui.terminal.output import print_json, print_line, print_rows, print_text

_BOLD = "1"
_EMPTY_BRANCH = "the current branch is empty; `llmcli sessions show {} --all` prints the other branches"

Name = Annotated[str, Argument(help="Name of a session.", autocompletion=complete_session)]
ShortName = Annotated[str, Argument(help="Name of a session, or its last part.", autocompletion=complete_session)]


def list_sessions(as_json: Json = False) -> None:
    listed = session_summaries()
    if as_json:
        print_json([asdict(session) for session in listed], indent=None)
        return
    if not listed:
        console.note("no sessions yet; start one with `llmcli chat`")
        return
    heads = ["SESSION", "MESSAGES", "BRANCHES", "CHANGED", "FIRST MESSAGE"]
    rows = [[one.name, str(one.n_messages), str(one.n_branches), format_age(one.changed), one.title] for one in listed]
    several = any(one.n_branches > 1 for one in listed)
    for row in (heads, *rows):  # the column of branches is for sessions that have several
        if not several:
            del row[2]
        elif row[2] == "1":
            row[2] = ""
    print_rows(heads, rows, right=("MESSAGES", "BRANCHES"), spare=("FIRST MESSAGE", "BRANCHES", "MESSAGES"))


def show_session(
    name: ShortName,
    everything: Annotated[bool, Option("--all", help="Show every branch, not only the current one.")] = False,
) -> None:
    session = _read(name)
    conversation = session.conversation
    leaves: Sequence[int | None] = conversation.leaves() if everything else [conversation.head]
    shown: set[int] = set()  # a branch omits the messages that it shares with one above it
    for number, leaf in enumerate(leaves, 1):
        path = conversation.path(leaf)
        new = [message for message in path if message.id not in shown]
        shown |= {message.id for message in new}
        if len(leaves) > 1:
            mark = " (current)" if leaf == conversation.head else ""
            shared = len(path) - len(new)
            after = f", after message {shared}" if shared else ""
            print_line(f"branch {number} of {len(leaves)}{after}{mark}\n", _BOLD)
        for place, message in enumerate(new, len(path) - len(new) + 1):  # as /history and `llmcli replay` count
            files = "".join(f" +{file.name}" for file in message.attachments)
            print_line(f"{place} {SPEAKER_NAMES[message.role]}{sanitize(files)}", _BOLD)
            print_line(sanitize(message.content.rstrip("\n")) + "\n")  # in a pipe too: `export` has the text verbatim
    if not shown:
        console.note(_EMPTY_BRANCH.format(session.name))


def search_sessions(
    text: Annotated[str, Argument(help="Text to find (case is ignored).")], as_json: Json = False
) -> int:
    hits = list(search(text))
    if as_json:
        print_json([asdict(hit) for hit in hits], indent=None)
    elif hits:
        rows = [(hit.session, str(hit.number), SPEAKER_NAMES.get(hit.role, hit.role), hit.excerpt) for hit in hits]
        print_rows(("SESSION", "N", "WHO", "TEXT"), rows, right=("N",), spare=("WHO",))
    else:
        console.note(f"no message contains {text!r}")
    return ExitStatus.OK if hits else ExitStatus.FAILED


def export_session(
    name: ShortName,
    to: Annotated[
        str, Argument(metavar="FILE", help="FILE.md, .txt, .json, .html or .svg; `-` is Markdown on stdout.")
    ] = "-",
    force: Force = False,
) -> None:
    from llmcli.chat.export import format_of
    from llmcli.ui.export_file import document, write

    form = "md" if to == "-" else format_of(Path(to))
    session = _read(name)
    path = session.conversation.path()
    if not path:
        console.note(_EMPTY_BRANCH.format(session.name))
    system = None
    try:
        system = system_text(resolve([config_layer(), Layer("session", session.overrides)]).settings)
    except DiskError as error:  # the file of the system prompt was deleted
        console.warn(f"the export has no system prompt: {error}", error.hint)
    text = document(path, session.name, system, form, session.conversation.messages)
    if to == "-":
        print_text(text if text.endswith("\n") else text + "\n")
        return
    target = output_path(to, force)
    write(text, target)
    console.note(f"exported to {os.path.abspath(target)}")


def remove_sessions(
    names: Annotated[
        list[str], Argument(metavar="NAME...", help="Full names of sessions.", autocompletion=complete_session)
    ],
    yes: Annotated[bool, Option("--yes", "-y", help="Delete without confirmation.")] = False,
) -> int:
    names = list(dict.fromkeys(names))
    for name in names:
        store.existing_path(name)
    if not yes:
        what = repr(names[0]) if len(names) == 1 else f"{len(names)} sessions"
        if not can_ask():
            raise UsageError(f"cannot ask for confirmation to delete {what} (not a terminal)", "use --yes")
        if not confirm(f"Delete {what} permanently?", False):
            return ExitStatus.FAILED
    for name in names:
        store.remove(name)
    console.note(f"deleted {plural(len(names), 'session')}")
    return ExitStatus.OK


def rename_session(name: Name, new: Annotated[str, Argument(help="New name; spaces become dashes.")]) -> None:
    new = store.to_name(new)
    store.rename(name, new)
    console.note(f"renamed to {new!r}")


def _read(name: str) -> Session:
    session = Session.read(name)
    for note in session.notes:
        console.warn(note)
    if not session.conversation.messages:
        raise LlmcliError(f"session {session.name!r} has no messages")
    return session
