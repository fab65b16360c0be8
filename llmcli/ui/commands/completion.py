"""Completion in the input line: commands, their arguments, and files after @."""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from llmcli.chat.controller import chat_setting_keys
from llmcli.errors import LlmcliError
from llmcli.files import matching_paths
from llmcli.params.settings import fields, find, format_setting
from llmcli.text import sanitize
from llmcli.ui.chat.app import ChatApp
from llmcli.ui.commands.registry import Command, Complete, commands, require_command

_MAX_ENTRIES = 200  # entries of a menu


class Suggestion(NamedTuple):
    """`text` replaces the `back` characters before the cursor; `note` is shown beside it."""

    text: str
    back: int
    note: str


def suggest(chat: ChatApp, text: str) -> Iterator[Suggestion]:
    """The completions of `text`, the input before the cursor."""
    if mention := re.search(r'(?:^|\s)@("?)([^\s"]*)$', text):
        quote, start = mention.groups()
        for value, note in _files(start, quote):
            yield Suggestion(f"@{value}", len(f"@{quote}{start}"), note)
    elif text.startswith("/"):
        name, space, argument = text[1:].partition(" ")
        if not space:
            yield from (Suggestion(value, len(text), note) for value, note in _names(chat, name.lower()))
            return
        last_word = len(argument) - (argument.rfind(" ") + 1)
        for value, note in _arguments(chat, name.lower().replace("-", "_"), argument):
            replaced = len(argument) if value.startswith(argument) else last_word
            yield Suggestion(sanitize(value), replaced, sanitize(note))


def _names(chat: ChatApp, start: str) -> Iterator[tuple[str, str]]:
    """The commands and settings that begin with `start`, with their slash."""
    for entry in commands().values():
        if entry.name.startswith(start):
            yield f"/{entry.name} " if " " in entry.usage else f"/{entry.name}", entry.summary
    for key in chat_setting_keys():
        if key.startswith(start) and key not in commands():
            yield f"/{key} ", setting_note(chat, key)


def _arguments(chat: ChatApp, name: str, argument: str) -> Iterator[tuple[str, str]]:
    """What the argument of a command or the value of a setting may become."""
    with suppress(LlmcliError):
        found = require_command(name)
        if not isinstance(found, Command):
            yield from _setting_values(chat, found, argument)
        elif found.complete:
            yield from found.complete(chat, argument)
        else:
            words = re.findall(r"\b[a-z]+\b", found.usage.removeprefix(found.name))
            yield from matching(((word, "") for word in words), argument)


def setting_note(chat: ChatApp, key: str) -> str:
    """The current value of a setting, and its valid values."""
    current = format_setting(chat.controller.settings, key)
    return sanitize(" · ".join(filter(None, (f"now {current}", fields()[key].valid_values))))


def _setting_values(chat: ChatApp, key: str, start: str) -> Iterator[tuple[str, str]]:
    """The values that a setting can take, as far as they can be listed; of `model` the downloaded ones."""
    field = find(key)
    if field.key == "model":
        yield from matching(((name, "") for name in chat.model_names()), start)
        return
    choices = ("on", "off") if field.kind is bool else (*field.param.choices, *field.param.suggest)
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
        values = _setting_values(chat, key, start.lstrip())
        yield from ((f"{key}{separator}{value}", note) for value, note in values if value)


def complete_values(key: str) -> Complete:
    """Completion with the values of one setting."""
    return lambda chat, start: _setting_values(chat, key, start)


def complete_paths(_chat: ChatApp, argument: str) -> Iterator[tuple[str, str]]:
    """The files and folders whose names start with the last word."""
    return _files(argument.rpartition(" ")[2])


def _files(start: str, quote: str = "") -> Iterator[tuple[str, str]]:
    """The paths that begin with `start`, in quotes if they contain spaces."""
    for name in islice(matching_paths(start), _MAX_ENTRIES):
        is_folder = name.endswith("/")
        spaced = quote or " " in name
        text = f'"{name}' + ("" if is_folder else '"') if spaced else name
        if text.isprintable():
            yield text, "folder" if is_folder else ""


def matching(words: Iterable[tuple[str, str]], start: str) -> list[tuple[str, str]]:
    """Those of the words, each with its note, that start with `start`."""
    return [(word, note) for word, note in words if word.startswith(start)]
