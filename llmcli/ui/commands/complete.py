"""Completion of commands, their arguments, settings with their values, and files after @."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.chat.controller import settable
from llmcli.errors import LlmcliError
from llmcli.params import param as values
from llmcli.params.settings import fields, find
from llmcli.ui.commands.registry import Command, Complete, commands, lookup
from llmcli.ui.prompt.suggestion import Suggestion
from llmcli.ui.terminal.sanitize import safe

if TYPE_CHECKING:
    from llmcli.ui.chat.app import Chat

_MAX_ENTRIES = 200  # entries of a menu


def suggest(chat: "Chat", text: str) -> Iterator[Suggestion]:
    """The completions of `text`, which stands before the cursor."""
    mention = re.search(r'(?:^|\s)@("?)([^\s"]*)$', text)
    if mention:
        yield from _complete_file(mention[2], mention[1])
    elif text.startswith("/"):
        yield from _complete_command(chat, text)


def _complete_command(chat: "Chat", text: str) -> Iterator[Suggestion]:
    name, space, argument = text[1:].partition(" ")
    if not space:
        yield from _complete_name(chat, name.lower())
        return
    with suppress(LlmcliError):
        found = lookup(name.lower().replace("-", "_"))
        if isinstance(found, Command):
            for value, note in found.complete(chat, argument) if found.complete else ():
                yield Suggestion(safe(value), _replaced(argument, value), safe(note))
        else:
            for value, note in setting_values(chat, found, argument):
                yield Suggestion(value, len(argument), note)


def _replaced(argument: str, value: str) -> int:
    """How many characters of the argument the value replaces: all, or those of its last word."""
    if value.startswith(argument):
        return len(argument)
    return len(argument) - (argument.rfind(" ") + 1)


def _complete_name(chat: "Chat", start: str) -> Iterator[Suggestion]:
    for entry in commands().values():
        if entry.name.startswith(start):
            text = f"/{entry.name} " if entry.usage else f"/{entry.name}"
            yield Suggestion(text, len(start) + 1, entry.summary)
    for key in settable():
        if key.startswith(start) and key not in commands():
            yield Suggestion(f"/{key} ", len(start) + 1, setting_note(chat, key))


def setting_note(chat: "Chat", key: str) -> str:
    """The current value of a setting, and its range."""
    field = fields()[key]
    param = field.param
    current = field.format(getattr(chat.dialogue.settings, key)) or "none"
    if (param.min, param.max, param.above) == (None, None, None):
        return safe(f"now {current}")
    return safe(f"now {current} · {values.range_text(param.min, param.max, param.above, param.also)}")


def setting_values(chat: "Chat", key: str, start: str) -> Iterator[tuple[str, str]]:
    """The values that a setting can take, as far as they can be listed."""
    field = find(key)
    if field.key == "model":
        yield from models(chat, start)
        return
    choices = ("on", "off") if field.kind is bool else (*field.param.choices, *field.param.suggest)
    note = setting_note(chat, field.key)
    yield from ((str(choice), note) for choice in choices if str(choice).startswith(start))
    if not choices and not start:
        yield "", note


def settings(chat: "Chat", argument: str) -> Iterator[tuple[str, str]]:
    """`KEY VALUE`: keys with value and range, then values."""
    key, space, value = argument.partition(" ")
    if space:
        with suppress(LlmcliError):
            yield from ((f"{key} {text}", note) for text, note in setting_values(chat, key, value.lstrip()) if text)
        return
    yield from ((f"{other} ", setting_note(chat, other)) for other in settable() if other.startswith(key))


def assignments(chat: "Chat", argument: str) -> Iterator[tuple[str, str]]:
    """The last word of `KEY=VALUE ...`."""
    word = argument.rpartition(" ")[2]
    key, equals, value = word.partition("=")
    if equals:
        with suppress(LlmcliError):
            yield from ((f"{key}={text}", note) for text, note in setting_values(chat, key, value) if text)
        return
    yield from ((f"{other}=", setting_note(chat, other)) for other in settable() if other.startswith(key))


def words(*known: str) -> Complete:
    """Completion with these words."""
    return lambda _chat, start: [(word, "") for word in known if word.startswith(start)]


def values_of(key: str) -> Complete:
    """Completion with the values of one setting."""
    return lambda chat, start: setting_values(chat, key, start)


def models(chat: "Chat", start: str) -> Iterator[tuple[str, str]]:
    """The downloaded models."""
    yield from ((name, "") for name in chat.model_names() if name.startswith(start))


def paths(_chat: "Chat", argument: str) -> Iterator[tuple[str, str]]:
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
