"""Completion in the input line: commands, their arguments, and files after @."""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice

from llmcli.chat.controller import chat_setting_keys
from llmcli.errors import LlmcliError
from llmcli.files import matching_paths
from llmcli.params.settings import fields, find, format_setting
from llmcli.text import sanitize
from llmcli.ui.chat.app import ChatApp
from llmcli.ui.commands.registry import Command, Complete, commands, require_command
from llmcli.ui.input.layout import Suggestion

_MAX_ENTRIES = 200  # entries of a menu


def suggest(chat: ChatApp, text: str) -> Iterator[Suggestion]:
    """The completions of `text`, the input before the cursor."""
    mention = re.search(r'(?:^|\s)@("?)([^\s"]*)$', text)
    if mention:
        yield from _complete_file(mention[2], mention[1])
    elif text.startswith("/"):
        yield from _complete_command(chat, text)


def _complete_command(chat: ChatApp, text: str) -> Iterator[Suggestion]:
    name, space, argument = text[1:].partition(" ")
    if not space:
        yield from _complete_name(chat, name.lower())
        return
    with suppress(LlmcliError):
        found = require_command(name.lower().replace("-", "_"))
        for value, note in _values(chat, found, argument):
            yield Suggestion(sanitize(value), _replaced(argument, value), sanitize(note))


def _values(chat: ChatApp, found: Command | str, argument: str) -> Iterable[tuple[str, str]]:
    """What the argument of a command or the value of a setting may become, each with a note."""
    if not isinstance(found, Command):
        return _setting_values(chat, found, argument)
    if found.complete:
        return found.complete(chat, argument)
    words = re.findall(r"\b[a-z]+\b", found.usage.removeprefix(found.name))
    return matching(((word, "") for word in words), argument)


def _replaced(argument: str, value: str) -> int:
    """How many characters of the argument the value replaces: all, or those of its last word."""
    if value.startswith(argument):
        return len(argument)
    return len(argument) - (argument.rfind(" ") + 1)


def _complete_name(chat: ChatApp, start: str) -> Iterator[Suggestion]:
    for entry in commands().values():
        if entry.name.startswith(start):
            text = f"/{entry.name} " if entry.takes_argument else f"/{entry.name}"
            yield Suggestion(text, len(start) + 1, entry.summary)
    for key in chat_setting_keys():
        if key.startswith(start) and key not in commands():
            yield Suggestion(f"/{key} ", len(start) + 1, setting_note(chat, key))


def setting_note(chat: ChatApp, key: str) -> str:
    """The current value of a setting, and its valid values."""
    current = format_setting(chat.controller.settings, key)
    return sanitize(" · ".join(filter(None, (f"now {current}", fields()[key].valid_values))))


def _setting_values(chat: ChatApp, key: str, start: str) -> Iterator[tuple[str, str]]:
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


def complete_settings(chat: ChatApp, argument: str) -> Iterator[tuple[str, str]]:
    """`KEY VALUE`: keys with value and range, then values."""
    return _key_then_value(chat, argument, " ")


def complete_assignments(chat: ChatApp, argument: str) -> Iterator[tuple[str, str]]:
    """The last word of `KEY=VALUE ...`."""
    return _key_then_value(chat, argument.rpartition(" ")[2], "=")


def _key_then_value(chat: ChatApp, text: str, separator: str) -> Iterator[tuple[str, str]]:
    key, found, start = text.partition(separator)
    if not found:
        known = (other for other in chat_setting_keys() if other.startswith(key))
        yield from ((other + separator, setting_note(chat, other)) for other in known)
        return
    with suppress(LlmcliError):
        values = _setting_values(chat, key, start.lstrip())
        yield from ((f"{key}{separator}{value}", note) for value, note in values if value)


def complete_values(key: str) -> Complete:
    """Completion with the values of one setting."""
    return lambda chat, start: _setting_values(chat, key, start)


def complete_models(chat: ChatApp, start: str) -> list[tuple[str, str]]:
    """The downloaded models."""
    return matching(((name, "") for name in chat.model_names()), start)


def complete_paths(_chat: ChatApp, argument: str) -> Iterator[tuple[str, str]]:
    """The files and folders whose names start with the last word."""
    for suggestion in _complete_file(argument.rpartition(" ")[2], ""):
        yield suggestion.text.removeprefix("@"), suggestion.note


def matching(words: Iterable[tuple[str, str]], start: str) -> list[tuple[str, str]]:
    """Those of the words, each with its note, that start with `start`."""
    return [(word, note) for word, note in words if word.startswith(start)]


def _complete_file(start: str, quote: str) -> Iterator[Suggestion]:
    for name in islice(matching_paths(start), _MAX_ENTRIES):
        is_folder = name.endswith("/")
        spaced = quote or " " in name
        text = f'@"{name}' + ("" if is_folder else '"') if spaced else f"@{name}"
        if text.isprintable():
            yield Suggestion(text, len(start) + len(quote) + 1, "folder" if is_folder else "")
