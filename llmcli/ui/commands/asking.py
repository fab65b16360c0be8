"""The chat itself."""

from itertools import groupby
from typing import TYPE_CHECKING

from llmcli.errors import UsageError
from llmcli.params.settings import fields
from llmcli.ui.commands import complete
from llmcli.ui.commands.registry import Command, assign, command, commands, lookup
from llmcli.ui.console import console

if TYPE_CHECKING:
    from llmcli.ui.repl.chat import Chat

_KEYS = (
    ("Enter", "send"),
    ("Alt-Enter, Ctrl-J, \\ at the end", "new line; a block between three quotes may have many"),
    ("Ctrl-C", "stop the answer; clear the line"),
    ("Up, Down, +, - in an answer", "warmer, colder from its next token on"),
    ("Ctrl-D", "leave"),
    ("Ctrl-R", "search what was typed before"),
    ("Ctrl-X Ctrl-E", "write in $EDITOR"),
    ("Tab", "complete commands, values, models, sessions, @files"),
)


def _names(_chat: "Chat", start: str) -> list[tuple[str, str]]:
    return [(one.name, one.summary) for one in commands().values() if one.name.startswith(start)]


@command("[CMD]", "?", complete=_names)
def help_(chat: "Chat", argument: str) -> None:
    """Show all commands, or what one of them does."""
    if argument:
        _explain(chat, argument.lstrip("/").lower().replace("-", "_"))
        return
    for heading, group in groupby(commands().values(), key=lambda one: one.heading):
        chat.say(heading, "1")
        chat.definitions([(f"  /{one.name} {one.usage}".rstrip(), one.summary) for one in group])
    chat.say("Keys", "1")
    chat.definitions([(f"  {key}", meaning) for key, meaning in _KEYS])
    chat.say("Every setting is a command too, as in /top_p 0.9; /set lists them.")


def _explain(chat: "Chat", name: str) -> None:
    found = lookup(name)
    if isinstance(found, Command):
        also = f" (also {', '.join('/' + one for one in found.aliases)})" if found.aliases else ""
        chat.say(f"/{found.name} {found.usage}".rstrip() + also)
        chat.say(found.help)
        return
    param = fields()[found].param
    chat.say(f"/{found} VALUE")
    chat.say(f"{param.help} ({complete.setting_note(chat, found)})")


class LeaveError(Exception):
    """The user has had enough."""


@command("", "quit", "bye", "q")
def exit_(_chat: "Chat", _argument: str) -> None:
    """Leave; everything is saved already."""
    raise LeaveError


@command("[on|off]", complete=complete.values_of("markdown"))
def markdown(chat: "Chat", argument: str) -> None:
    """Render Markdown, or show the text as it is."""
    assign(chat, f"markdown {argument}")


@command("[NAME]", complete=complete.values_of("theme"))
def theme(chat: "Chat", argument: str) -> None:
    """Colours for a dark or a light terminal."""
    assign(chat, f"theme {argument}")


@command("[on|off]", complete=complete.words("on", "off"))
def multiline(chat: "Chat", argument: str) -> None:
    """Let Enter make a new line and Alt-Enter send."""
    if argument not in ("", "on", "off"):
        raise UsageError(f"/multiline takes on or off, got {argument!r}")
    reader = chat.reader
    reader.multiline = argument == "on" if argument in ("on", "off") else not reader.multiline
    console.note("Enter makes a new line, Alt-Enter sends" if reader.multiline else "Enter sends")
