"""The slash commands: how one is declared, found by its name, and run."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module

from llmcli.chat.controller import chat_setting_keys
from llmcli.config.presets import presets
from llmcli.errors import UsageError
from llmcli.params.settings import find
from llmcli.text import did_you_mean, ellipsize
from llmcli.ui.chat.app import ChatApp
from llmcli.ui.terminal.output import to_stderr

Run = Callable[[ChatApp, str], None]
Complete = Callable[[ChatApp, str], Iterable[tuple[str, str]]]  # the argument so far -> (value, note)
_MODULES = ("messages", "branches", "compare", "settings", "inspect", "context", "sessions", "files", "help")
# Names from other programs, by the commands and settings that do the same.
_SYNONYMS_OF: Mapping[tuple[str, ...], str] = {
    ("temp",): "creativity creative randomness dynatemp",
    ("stats",): "speed bench benchmark perf usage",
    ("why", "tokens"): "logprobs probabilities",
    ("character",): "persona personality",
    ("max_tokens",): "length",
    ("n_ctx",): "ctx context_size",
    ("system",): "prompt",
    ("params",): "settings parameters options config",
    ("model",): "info show",
    ("json",): "format",
    ("load",): "open resume",
    ("sessions",): "list search find",
    ("file",): "attach",
    ("compact",): "summarize",
    ("retry",): "again",
    ("undo",): "delete",
    ("theme",): "color colors color_scheme",
}
SYNONYMS = {word: targets for targets, words in _SYNONYMS_OF.items() for word in words.split()}


@dataclass(kw_only=True)
class Command:
    """A slash command, as the decorator of the function that runs it. `help` is one sentence.

    `usage` is its name and its argument, as in `think [on|off|hide]`: words in lower case are typed as they are, words
    in capitals stand for any text.
    """

    usage: str = field(kw_only=False)
    help: str
    detail: str = ""
    examples: tuple[str, str, str]
    aliases: tuple[str, ...] = ()
    complete: Complete | None = None  # without it, the words of the usage
    run: Run = field(init=False)

    def __call__(self, run: Run) -> Run:
        """Declare the command."""
        self.run = run
        _declared[self.name] = self
        return run

    @property
    def name(self) -> str:
        return self.usage.partition(" ")[0]

    @property
    def heading(self) -> str:
        """The heading of its module."""
        module = self.run.__module__.rpartition(".")[2]
        return "The chat" if module == "help" else module.capitalize()

    @property
    def summary(self) -> str:
        """The help without its full stop, for lists."""
        return self.help.rstrip(".")

    @property
    def description(self) -> str:
        """The help and its details as one paragraph."""
        return f"{self.help} {self.detail}".rstrip()


command = Command  # the name of the decorator
_declared: dict[str, Command] = {}  # in the order of the imports


@cache
def commands() -> Mapping[str, Command]:
    """Every command by name, in the order of the modules; each module has one heading."""
    modules = [import_module(f"llmcli.ui.commands.{name}").__name__ for name in _MODULES]
    return dict(sorted(_declared.items(), key=lambda item: modules.index(item[1].run.__module__)))


def commands_by_name() -> dict[str, Command]:
    """Every name of every command, aliases included."""
    known = dict(commands())
    return known | {alias: entry for entry in known.values() for alias in entry.aliases}


def parse_command(text: str) -> tuple[str, str] | None:
    """The name and the argument of a command line; None for a message. `/etc/hosts is ...` is a message."""
    match = re.match(r"/([A-Za-z?][\w?-]*)(?:\s+|$)", text)
    return (match[1].lower().replace("-", "_"), text[match.end() :].strip()) if match else None


def find_command(name: str) -> Command | str | None:
    """The command called `name`, or the key of the setting that it sets; None without either."""
    known = commands_by_name()
    if name in known:
        return known[name]
    try:
        key = find(name).key
    except UsageError:
        return None
    return key if key in chat_setting_keys() else None


def require_command(name: str, argument: str = "") -> Command | str:
    """The command called `name`, or the key of the setting that it sets; a hint repeats its `argument`.

    Raises:
        UsageError: with the command that does the same, or the nearest name.
    """
    found = find_command(name)
    if found is None:
        known = [f"/preset {name}"] if name in presets() else []
        known += [f"/{target} {ellipsize(argument)}".rstrip() for target in SYNONYMS.get(name, ())]
        targets = " or ".join(known)
        hint = f"use {targets}" if targets else similar_command(name) or "see /help"
        if name == "delete":
            hint += " for a turn; `llmcli sessions rm NAME` deletes a session"
        raise UsageError(f"unknown command '/{name}'", hint)
    return found


def similar_command(name: str) -> str:
    """`did you mean '/x'?` for the most similar command or setting, or an empty text."""
    return did_you_mean(f"/{name}", [f"/{known}" for known in (*commands_by_name(), *chat_setting_keys())])


def dispatch(chat: ChatApp, name: str, argument: str) -> None:
    """Run a command, or set the setting of that name.

    Raises:
        LlmcliError: what is wrong with the command.
    """
    found = require_command(name, argument)
    with to_stderr(not chat.live):  # what a command prints is not an answer
        if isinstance(found, Command):
            found.run(chat, argument)
        else:
            commands()["set"].run(chat, f"{found} {argument}")
