"""The slash commands: how one is declared, found by its name, completed in the input line, and run."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module

from llmcli.chat.controller import RELOAD_KEYS, chat_setting_keys
from llmcli.config.presets import presets
from llmcli.errors import LlmcliError, UsageError
from llmcli.files import matching_paths
from llmcli.params.settings import fields, find, format_setting
from llmcli.text import did_you_mean, ellipsize, sanitize
from llmcli.ui.chat.app import ChatApp
from llmcli.ui.terminal.output import to_stderr

Run = Callable[[ChatApp, str], None]
Complete = Callable[[ChatApp, str], Iterable[tuple[str, str]]]  # the argument so far -> (value, note)
_MODULES = ("messages", "branches", "compare", "settings", "inspect", "context", "sessions", "files", "help")
# Words from other programs, by the commands and settings that do the same.
_SYNONYMS_OF = {
    "temp": "creativity creative randomness dynatemp",
    "stats": "speed bench benchmark perf usage",
    "why tokens": "logprobs probabilities",
    "character": "persona personality",
    "max_tokens": "length",
    "n_ctx": "ctx context_size",
    "system": "prompt",
    "params": "settings parameters options config",
    "model": "info show",
    "json": "format",
    "load": "open resume",
    "sessions": "list search find",
    "file": "attach",
    "compact": "summarize",
    "retry": "again",
    "undo": "delete",
    "theme": "color colors color_scheme",
}
SYNONYMS = {word: targets.split() for targets, words in _SYNONYMS_OF.items() for word in words.split()}


@dataclass(frozen=True, kw_only=True)
class Command:
    """A slash command, declared by `command` or made of a setting, whose key is its name. `help` is one paragraph."""

    usage: str
    examples: tuple[str, ...]
    help: str
    run: Run
    complete: Complete | None = None  # without it, the words of the usage, or the values of the setting of that name
    aliases: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.usage.partition(" ")[0]

    def check(self, argument: str) -> str:
        """The argument; UsageError if the usage does not allow it."""
        form = self.usage.removeprefix(self.name).strip()
        example = next((one for one in self.examples if " " in one), "")
        if not argument and form and form[0] != "[":
            raise UsageError(f"/{self.name} needs an argument: /{self.usage}", f"try {example}")
        if not argument or form.strip("[]") != "N":
            return argument
        if not argument.isdecimal():
            raise UsageError(f"/{self.name} takes a number, got '{argument}'", f"try {example}")
        return argument[:9]  # Python refuses to read 5,000 digits, and nothing here is that many

    @property
    def heading(self) -> str:
        """The heading of its module."""
        module = self.run.__module__.rpartition(".")[2]
        return "The chat" if module == "help" else module.capitalize()

    @property
    def summary(self) -> str:
        """The first sentence of the help without its full stop, for lists."""
        return self.help.partition(". ")[0].rstrip(".")


_declared: dict[str, Command] = {}  # in the order of the imports


def command(
    usage: str, *examples: str, aliases: tuple[str, ...] = (), complete: Complete | None = None
) -> Callable[[Run], Run]:
    """Declare the command that the decorated function runs, with its docstring as help, and three examples.

    `usage` is its name and its argument, as in `think [on|off|hide]`: words in lower case are typed as they are, words
    in capitals stand for any text, and N alone for a number. Brackets are around what can be missing.
    """

    def declare(run: Run) -> Run:
        text = " ".join((run.__doc__ or "").split())
        made = Command(usage=usage, examples=examples, help=text, run=run, complete=complete, aliases=aliases)
        _declared[made.name] = made
        return run

    return declare


@cache
def commands() -> Mapping[str, Command]:
    """Every command by name, in the order of the modules; each module has one heading."""
    modules = [import_module(f"llmcli.ui.commands.{name}").__name__ for name in _MODULES]
    return dict(sorted(_declared.items(), key=lambda item: modules.index(item[1].run.__module__)))


def commands_by_name() -> dict[str, Command]:
    """Every name of every command, aliases included."""
    return {**commands(), **{alias: entry for entry in commands().values() for alias in entry.aliases}}


def find_command(name: str) -> Command | None:
    """The command called `name`, or the one that sets the setting of that name; None without either."""
    if known := commands_by_name().get(name):
        return known
    try:
        setting = find(name)
    except UsageError:
        return None
    key = setting.key
    if key not in chat_setting_keys():
        return None
    values = [str(choice) for choice in (*setting.suggest, *setting.choices) if str(choice)]
    value = "on" if setting.kind is bool else next(iter(values), "") or setting.format(setting.default) or "VALUE"
    once = f"/set {key} {value}" if key in RELOAD_KEYS else f"/retry {key}={value}"
    return Command(
        usage=f"{key} [VALUE]",
        examples=(f"/{key} {value}", once, f"/reset {key}"),
        help=setting.help,
        run=lambda chat, argument: commands()["set"].run(chat, f"{key} {argument}"),
    )


def require_command(name: str, argument: str = "") -> Command:
    """What `find_command` finds, or UsageError with the command that does the same (and `argument`), or the nearest."""
    if found := find_command(name):
        return found
    known = [f"/preset {name}"] if name in presets() else []
    known += [f"/{target} {ellipsize(argument)}".rstrip() for target in SYNONYMS.get(name, ())]
    targets = " or ".join(known)
    hint = f"use {targets}" if targets else similar_command(name) or "see /help"
    if name == "delete":
        hint += " for a turn; `llmcli sessions rm NAME` deletes a session"
    raise UsageError(f"unknown command '/{name}'", hint)


def similar_command(name: str) -> str:
    """`did you mean '/x'?` for the most similar command or setting, or an empty text."""
    return did_you_mean(f"/{name}", [f"/{known}" for known in (*commands_by_name(), *chat_setting_keys())])


def dispatch(chat: ChatApp, name: str, argument: str) -> None:
    """Run a command, or set the setting of that name; LlmcliError says what is wrong."""
    found = require_command(name, argument)
    with to_stderr(not chat.live):  # what a command prints is not an answer
        found.run(chat, found.check(argument))


# Completion


def suggest(chat: ChatApp, text: str) -> Iterator[tuple[str, int, str]]:
    """The completions of `text`, the input before the cursor: each with how many characters it replaces, and a note."""
    if mention := re.search(r'(?:^|\s)(@"?[^\s"]*)$', text):
        for value, note in complete_paths(chat, mention[1][1:]):
            yield f"@{value}", len(mention[1]), note
        return
    if not text.startswith("/"):
        return
    name, space, argument = text[1:].partition(" ")
    name = name.lower()
    if not space:
        for entry in commands().values():
            if entry.name.startswith(name):
                end = " " if " " in entry.usage else ""
                yield f"/{entry.name}{end}", len(text), entry.summary
        for key in chat_setting_keys():
            if key.startswith(name) and key not in commands():
                yield f"/{key} ", len(text), setting_note(chat, key)
        return
    found = find_command(name.replace("-", "_"))
    if not found:
        return
    values: Iterable[tuple[str, str]]
    with suppress(LlmcliError):  # also if no setting has that name
        if found.complete:
            values = found.complete(chat, argument)
        elif words := re.findall(r"\b[a-z]+\b", found.usage.removeprefix(found.name)):
            values = matching(((word, "") for word in words), argument)
        else:
            values = values_of(chat, argument, found.name)
        for value, note in values:
            replaced = argument if value.startswith(argument) else argument.rpartition(" ")[2]
            yield sanitize(value), len(replaced), sanitize(note)


def setting_note(chat: ChatApp, key: str) -> str:
    """The current value of a setting, and its valid values."""
    current = format_setting(chat.controller.settings, key)
    return sanitize(" · ".join(filter(None, (f"now {current}", fields()[key].valid_values))))


def values_of(chat: ChatApp, start: str, key: str) -> Iterator[tuple[str, str]]:
    """The values that a setting can take, as far as they can be listed; of `model` the downloaded ones."""
    field = find(key)
    if field.key == "model":
        yield from matching(((name, "") for name in chat.model_names()), start)
        return
    choices = ("on", "off") if field.kind is bool else (*field.choices, *field.suggest)
    note = setting_note(chat, field.key)
    yield from ((str(choice), note) for choice in choices if str(choice).startswith(start))
    if not choices and not start:
        yield "", note


def complete_assignments(chat: ChatApp, argument: str) -> Iterator[tuple[str, str]]:
    """The last word of `KEY=VALUE ...`."""
    return complete_pair(chat, argument.rpartition(" ")[2], "=")


def complete_pair(chat: ChatApp, text: str, separator: str = " ") -> Iterator[tuple[str, str]]:
    """Keys with value and range, then, after the separator, the values of the key."""
    key, found, start = text.partition(separator)
    if not found:
        known = (other for other in chat_setting_keys() if other.startswith(key))
        yield from ((other + separator, setting_note(chat, other)) for other in known)
        return
    with suppress(LlmcliError):
        values = values_of(chat, start.lstrip(), key)
        yield from ((f"{key}{separator}{value}", note) for value, note in values if value)


def complete_paths(_chat: ChatApp, argument: str) -> Iterator[tuple[str, str]]:
    """The files and folders whose names start with the last word, in quotes if they contain spaces."""
    word = argument.rpartition(" ")[2]
    for name in matching_paths(word.removeprefix('"')):
        is_folder = name.endswith("/")
        spaced = " " in name or word.startswith('"')
        text = f'"{name}' + ("" if is_folder else '"') if spaced else name
        if text.isprintable():
            yield text, "folder" if is_folder else ""


def matching(words: Iterable[tuple[str, str]], start: str) -> list[tuple[str, str]]:
    """Those of the words, each with its note, that start with `start`."""
    return [(word, note) for word, note in words if word.startswith(start)]
