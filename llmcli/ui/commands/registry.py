"""The table of slash commands, from which help, completion and the README's table are made."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from llmcli.chat.dialogue import settable
from llmcli.errors import UsageError
from llmcli.params.settings import fields, find
from llmcli.params.suggest import did_you_mean

if TYPE_CHECKING:
    from llmcli.ui.repl.chat import Chat

Run = Callable[["Chat", str], None]
Complete = Callable[["Chat", str], Iterable[tuple[str, str]]]  # the argument so far -> (value, note)

_MODULES = (
    "talking",
    "branching",
    "comparing",
    "setting",
    "seeing",
    "choosing",
    "filling",
    "keeping",
    "sharing",
    "asking",
)


@dataclass(frozen=True)
class Command:
    """A command: its help is the docstring of its function, its heading that of the function's module."""

    name: str
    usage: str
    help: str
    heading: str
    run: Run
    complete: Complete | None
    aliases: tuple[str, ...]

    @property
    def summary(self) -> str:
        """The first sentence of its help."""
        return self.help.split(". ")[0].rstrip(".")


_COMMANDS: dict[str, Command] = {}  # in the order of the imports
_SORTED: dict[str, Command] = {}  # in the order of _MODULES


def command(usage: str = "", *aliases: str, complete: Complete | None = None) -> Callable[[Run], Run]:
    """Make a function the slash command of its own name; a trailing underscore (`continue_`) is left away."""

    def register(run: Run) -> Run:
        name = run.__name__.rstrip("_")
        heading = (import_module(run.__module__).__doc__ or "").split("\n")[0].rstrip(".")
        text = " ".join((run.__doc__ or "").split())
        _COMMANDS[name] = Command(name, usage, text, heading, run, complete, aliases)
        return run

    return register


def commands() -> Mapping[str, Command]:
    """Every command by name, in the order of the modules."""
    if not _SORTED:
        for name in _MODULES:
            module = import_module(f"llmcli.ui.commands.{name}")
            _SORTED.update((n, one) for n, one in _COMMANDS.items() if one.run.__module__ == module.__name__)
    return _SORTED


def names() -> dict[str, Command]:
    """Every name a command answers to."""
    known = dict(commands())
    return known | {alias: one for one in known.values() for alias in one.aliases}


def split(text: str) -> tuple[str, str] | None:
    """The name and the argument of a command line; None for a message. `/etc/hosts is ...` is a message."""
    found = re.match(r"/([A-Za-z?][\w?-]*)(?:\s+|$)", text)
    return (found[1].lower().replace("-", "_"), text[found.end() :].strip()) if found else None


def lookup(name: str) -> Command | str:
    """The command called `name`, or the key of the setting that it sets.

    Raises:
        UsageError: with the nearest name.
    """
    known = names()
    if name in known:
        return known[name]
    try:
        key = find(name).key
    except UsageError:
        known_names = [f"/{one}" for one in (*known, *fields())]
        raise UsageError(f"there is no command /{name}", did_you_mean(f"/{name}", known_names) or "see /help") from None
    if key not in settable():
        raise UsageError(f"there is no command /{name}", "see /help")
    return key


def obey(chat: "Chat", name: str, argument: str) -> None:
    """Run a command, or set the setting of that name.

    Raises:
        LlmcliError: what the command says is wrong.
    """
    found = lookup(name)
    if isinstance(found, Command):
        found.run(chat, argument)
    else:
        assign(chat, f"{found} {argument}")


def assign(chat: "Chat", argument: str) -> None:
    """Run `/set`.

    Raises:
        LlmcliError: what is wrong with the value.
    """
    commands()["set"].run(chat, argument)
