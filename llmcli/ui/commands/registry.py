"""The table of slash commands, from which help, completion and the README's table are made."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from llmcli.chat.controller import settable
from llmcli.errors import UsageError
from llmcli.params.settings import find
from llmcli.text import did_you_mean

if TYPE_CHECKING:
    from llmcli.ui.chat.app import Chat

Run = Callable[["Chat", str], None]
Complete = Callable[["Chat", str], Iterable[tuple[str, str]]]  # the argument so far -> (value, note)

MESSAGES, BRANCHES, COMPARE, SETTINGS, INSPECT = "Messages", "Branches", "Compare", "Settings", "Inspect"
CONTEXT, SESSIONS, FILES, THE_CHAT = "Context", "Sessions", "Files", "The chat"
_HEADINGS = (MESSAGES, BRANCHES, COMPARE, SETTINGS, INSPECT, CONTEXT, SESSIONS, FILES, THE_CHAT)

_MODULES = (
    "talking",
    "branching",
    "comparing",
    "setting",
    "presets",
    "seeing",
    "choosing",
    "filling",
    "keeping",
    "sharing",
    "asking",
)

# Words that people bring from other programs -> the commands and settings that do it here.
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "creativity": ("temp",),
    "creative": ("temp",),
    "randomness": ("temp",),
    "dynatemp": ("temp",),
    "speed": ("stats",),
    "bench": ("stats",),
    "benchmark": ("stats",),
    "perf": ("stats",),
    "usage": ("stats",),
    "logprobs": ("why", "tokens"),
    "probabilities": ("why", "tokens"),
    "persona": ("character",),
    "personality": ("character",),
    "length": ("max_tokens",),
    "prompt": ("system",),
    "settings": ("params",),
    "parameters": ("params",),
    "options": ("params",),
    "config": ("params",),
    "info": ("model",),
    "show": ("model",),
    "format": ("json",),
    "open": ("load",),
    "resume": ("load",),
    "list": ("sessions",),
    "search": ("sessions",),
    "find": ("sessions",),
    "attach": ("file",),
    "summarize": ("compact",),
    "again": ("retry",),
    "delete": ("undo",),
    "color": ("theme",),
    "colors": ("theme",),
    "color_scheme": ("theme",),
}


@dataclass(frozen=True)
class Command:
    """A slash command. `help` is one sentence; `everyday` ones stand in the short list of /help."""

    name: str
    usage: str
    help: str
    detail: str
    examples: tuple[str, ...]
    heading: str
    run: Run
    complete: Complete | None
    aliases: tuple[str, ...]
    everyday: bool

    @property
    def summary(self) -> str:
        """The help without its full stop, for lists."""
        return self.help.rstrip(".")

    @property
    def description(self) -> str:
        """The help and its details as one paragraph."""
        return f"{self.help} {self.detail}".rstrip()


_COMMANDS: dict[str, Command] = {}  # in the order of the imports
_SORTED: dict[str, Command] = {}  # by heading, then in the order of _MODULES


def command(
    name: str,
    *,
    heading: str,
    help: str,  # noqa: A002 - as Typer and argparse call it
    examples: tuple[str, str, str],
    usage: str = "",
    detail: str = "",
    aliases: tuple[str, ...] = (),
    complete: Complete | None = None,
    everyday: bool = False,
) -> Callable[[Run], Run]:
    """Make a function the slash command `name`."""

    def register(run: Run) -> Run:
        _COMMANDS[name] = Command(name, usage, help, detail, examples, heading, run, complete, aliases, everyday)
        return run

    return register


def commands() -> Mapping[str, Command]:
    """Every command by name, in the order of the headings."""
    if not _SORTED:
        modules = [import_module(f"llmcli.ui.commands.{name}").__name__ for name in _MODULES]

        def place(entry: Command) -> tuple[int, int]:
            return _HEADINGS.index(entry.heading), modules.index(entry.run.__module__)

        _SORTED.update((entry.name, entry) for entry in sorted(_COMMANDS.values(), key=place))
    return _SORTED


def names() -> dict[str, Command]:
    """Every name of every command, aliases included."""
    known = dict(commands())
    return known | {alias: entry for entry in known.values() for alias in entry.aliases}


def split(text: str) -> tuple[str, str] | None:
    """The name and the argument of a command line; None for a message. `/etc/hosts is ...` is a message."""
    match = re.match(r"/([A-Za-z?][\w?-]*)(?:\s+|$)", text)
    return (match[1].lower().replace("-", "_"), text[match.end() :].strip()) if match else None


def get(name: str) -> Command | str | None:
    """The command called `name`, or the key of the setting that it sets; None where there is neither."""
    known = names()
    if name in known:
        return known[name]
    try:
        key = find(name).key
    except UsageError:
        return None
    return key if key in settable() else None


def lookup(name: str) -> Command | str:
    """The command called `name`, or the key of the setting that it sets.

    Raises:
        UsageError: with the command that does the same, or the nearest name.
    """
    found = get(name)
    if found is None:
        raise UsageError(f"unknown command '/{name}'", _suggestion(name))
    return found


def _suggestion(name: str) -> str:
    """What to type instead; only what exists is named."""
    if name in SYNONYMS:
        return "use " + " or ".join(f"/{target}" for target in SYNONYMS[name])
    return did_you_mean(f"/{name}", [f"/{known}" for known in (*names(), *settable())]) or "see /help"


def obey(chat: "Chat", name: str, argument: str) -> None:
    """Run a command, or set the setting of that name.

    Raises:
        LlmcliError: what is wrong with the command.
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
