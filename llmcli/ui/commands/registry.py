"""The slash commands: their registry, lookup and completion."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.chat.controller import chat_setting_keys
from llmcli.errors import LlmcliError, UsageError
from llmcli.params.settings import fields, find
from llmcli.text import did_you_mean, sanitize
from llmcli.ui.input.layout import Suggestion
from llmcli.ui.terminal.output import to_stderr

if TYPE_CHECKING:
    from llmcli.ui.chat.app import ChatApp

Run = Callable[["ChatApp", str], None]
Complete = Callable[["ChatApp", str], Iterable[tuple[str, str]]]  # the argument so far -> (value, note)
MESSAGES, BRANCHES, COMPARE, SETTINGS, INSPECT = "Messages", "Branches", "Compare", "Settings", "Inspect"
CONTEXT, SESSIONS, FILES, THE_CHAT = "Context", "Sessions", "Files", "The chat"
_HEADINGS = (MESSAGES, BRANCHES, COMPARE, SETTINGS, INSPECT, CONTEXT, SESSIONS, FILES, THE_CHAT)
_MODULES = ("messages", "branches", "compare", "settings", "inspect", "context", "sessions", "files", "help")
# Names from other programs, by the commands and settings that do the same.
_SYNONYMS_OF: Mapping[tuple[str, ...], str] = {
    ("temp",): "creativity creative randomness dynatemp",
    ("stats",): "speed bench benchmark perf usage",
    ("why", "tokens"): "logprobs probabilities",
    ("character",): "persona personality",
    ("max_tokens",): "length",
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
_MAX_ENTRIES = 200  # entries of a menu


@dataclass(frozen=True)
class Command:
    """A slash command. `help` is one sentence; The short list of /help has the `everyday` ones."""

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


def require_command(name: str) -> Command | str:
    """The command called `name`, or the key of the setting that it sets.

    Raises:
        UsageError: with the command that does the same, or the nearest name.
    """
    found = find_command(name)
    if found is None:
        raise UsageError(f"unknown command '/{name}'", _suggestion(name))
    return found


def _suggestion(name: str) -> str:
    """What to type instead; only what exists is named."""
    if name in SYNONYMS:
        return "use " + " or ".join(f"/{target}" for target in SYNONYMS[name])
    return (
        did_you_mean(f"/{name}", [f"/{known}" for known in (*commands_by_name(), *chat_setting_keys())]) or "see /help"
    )


def dispatch(chat: "ChatApp", name: str, argument: str) -> None:
    """Run a command, or set the setting of that name.

    Raises:
        LlmcliError: what is wrong with the command.
    """
    found = require_command(name)
    with to_stderr(not chat.live):  # what a command prints is not an answer
        if isinstance(found, Command):
            found.run(chat, argument)
        else:
            set_setting(chat, f"{found} {argument}")


def set_setting(chat: "ChatApp", argument: str) -> None:
    """Run `/set`.

    Raises:
        LlmcliError: what is wrong with the value.
    """
    commands()["set"].run(chat, argument)


def suggest(chat: "ChatApp", text: str) -> Iterator[Suggestion]:
    """The completions of `text`, the input before the cursor."""
    mention = re.search(r'(?:^|\s)@("?)([^\s"]*)$', text)
    if mention:
        yield from _complete_file(mention[2], mention[1])
    elif text.startswith("/"):
        yield from _complete_command(chat, text)


def _complete_command(chat: "ChatApp", text: str) -> Iterator[Suggestion]:
    name, space, argument = text[1:].partition(" ")
    if not space:
        yield from _complete_name(chat, name.lower())
        return
    with suppress(LlmcliError):
        found = require_command(name.lower().replace("-", "_"))
        if isinstance(found, Command):
            for value, note in found.complete(chat, argument) if found.complete else ():
                yield Suggestion(sanitize(value), _replaced(argument, value), sanitize(note))
        else:
            for value, note in setting_values(chat, found, argument):
                yield Suggestion(value, len(argument), note)


def _replaced(argument: str, value: str) -> int:
    """How many characters of the argument the value replaces: all, or those of its last word."""
    if value.startswith(argument):
        return len(argument)
    return len(argument) - (argument.rfind(" ") + 1)


def _complete_name(chat: "ChatApp", start: str) -> Iterator[Suggestion]:
    for entry in commands().values():
        if entry.name.startswith(start):
            text = f"/{entry.name} " if entry.usage else f"/{entry.name}"
            yield Suggestion(text, len(start) + 1, entry.summary)
    for key in chat_setting_keys():
        if key.startswith(start) and key not in commands():
            yield Suggestion(f"/{key} ", len(start) + 1, setting_note(chat, key))


def setting_note(chat: "ChatApp", key: str) -> str:
    """The current value of a setting, and its valid values."""
    field = fields()[key]
    current = field.format(getattr(chat.controller.settings, key)) or "none"
    return sanitize(" · ".join(filter(None, (f"now {current}", field.valid_values))))


def setting_values(chat: "ChatApp", key: str, start: str) -> Iterator[tuple[str, str]]:
    """The values that a setting can take, as far as they can be listed."""
    field = find(key)
    if field.key == "model":
        yield from complete_models(chat, start)
        return
    choices = ("on", "off") if field.kind is bool else (*field.param.choices, *field.param.suggest)
    note = setting_note(chat, field.key)
    yield from ((str(choice), note) for choice in choices if str(choice).startswith(start))
    if not choices and not start:
        yield "", note


def complete_settings(chat: "ChatApp", argument: str) -> Iterator[tuple[str, str]]:
    """`KEY VALUE`: keys with value and range, then values."""
    return _key_then_value(chat, argument, " ")


def complete_assignments(chat: "ChatApp", argument: str) -> Iterator[tuple[str, str]]:
    """The last word of `KEY=VALUE ...`."""
    return _key_then_value(chat, argument.rpartition(" ")[2], "=")


def _key_then_value(chat: "ChatApp", text: str, separator: str) -> Iterator[tuple[str, str]]:
    key, found, start = text.partition(separator)
    if not found:
        known = (other for other in chat_setting_keys() if other.startswith(key))
        yield from ((other + separator, setting_note(chat, other)) for other in known)
        return
    with suppress(LlmcliError):
        values = setting_values(chat, key, start.lstrip())
        yield from ((f"{key}{separator}{value}", note) for value, note in values if value)


def complete_words(*known: str) -> Complete:
    """Completion with these words."""
    return lambda _chat, start: [(word, "") for word in known if word.startswith(start)]


def complete_values(key: str) -> Complete:
    """Completion with the values of one setting."""
    return lambda chat, start: setting_values(chat, key, start)


def complete_models(chat: "ChatApp", start: str) -> Iterator[tuple[str, str]]:
    """The downloaded models."""
    yield from ((name, "") for name in chat.model_names() if name.startswith(start))


def complete_paths(_chat: "ChatApp", argument: str) -> Iterator[tuple[str, str]]:
    """The files and folders whose names start with the last word."""
    for suggestion in _complete_file(argument.rpartition(" ")[2], ""):
        yield suggestion.text.removeprefix("@"), suggestion.note


def _complete_file(start: str, quote: str) -> Iterator[Suggestion]:
    folder, slash, beginning = start.rpartition("/")
    try:
        entries = sorted(Path((folder + slash) or ".").expanduser().iterdir(), key=lambda entry: entry.name.lower())
    except (OSError, RuntimeError, ValueError):
        return
    shown = [
        entry for entry in entries if entry.name.startswith(beginning) and (beginning or not entry.name.startswith("."))
    ]
    for entry in shown[:_MAX_ENTRIES]:
        name = f"{folder}{slash}{entry.name}" + ("/" if entry.is_dir() else "")
        spaced = quote or " " in name
        text = f'@"{name}' + ("" if entry.is_dir() else '"') if spaced else f"@{name}"
        if text.isprintable():
            yield Suggestion(text, len(start) + len(quote) + 1, "folder" if entry.is_dir() else "")
