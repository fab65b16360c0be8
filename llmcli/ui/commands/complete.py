"""What may be typed next: commands, their arguments, settings with their values, files after @."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.chat.dialogue import settable
from llmcli.errors import LlmcliError
from llmcli.params import values
from llmcli.params.settings import fields, find
from llmcli.ui.commands.registry import Command, Complete, commands, lookup
from llmcli.ui.prompt.suggestion import Suggestion
from llmcli.ui.safe import safe

if TYPE_CHECKING:
    from llmcli.ui.repl.chat import Chat

_MOST = 200  # entries of a menu


def suggest(chat: "Chat", text: str) -> Iterator[Suggestion]:
    """What fits at the end of `text`, which stands before the cursor."""
    mention = re.search(r'(?:^|\s)@("?)([^\s"]*)$', text)
    if mention:
        yield from _files(mention[2], mention[1])
    elif text.startswith("/"):
        yield from _command(chat, text)


def _command(chat: "Chat", text: str) -> Iterator[Suggestion]:
    name, space, argument = text[1:].partition(" ")
    if not space:
        yield from _names(chat, name.lower())
        return
    with suppress(LlmcliError):
        found = lookup(name.lower().replace("-", "_"))
        if isinstance(found, Command):
            for value, note in found.complete(chat, argument) if found.complete else ():
                yield Suggestion(safe(value), _open(argument, value), safe(note))
        else:
            for value, note in setting_values(chat, found, argument):
                yield Suggestion(value, len(argument), note)


def _open(argument: str, value: str) -> int:
    """How much of the argument the value stands in place of: all, or the last word of several."""
    if value.startswith(argument):
        return len(argument)
    return len(argument) - (argument.rfind(" ") + 1)


def _names(chat: "Chat", start: str) -> Iterator[Suggestion]:
    for one in commands().values():
        if one.name.startswith(start):
            text = f"/{one.name} " if one.usage else f"/{one.name}"
            yield Suggestion(text, len(start) + 1, one.summary)
    for key in settable():
        if key.startswith(start) and key not in commands():
            yield Suggestion(f"/{key} ", len(start) + 1, setting_note(chat, key))


def setting_note(chat: "Chat", key: str) -> str:
    """The present value of a setting, and its range."""
    field = fields()[key]
    param = field.param
    now = field.format(getattr(chat.dialogue.settings, key)) or "none"
    if (param.min, param.max, param.above) == (None, None, None):
        return safe(f"now {now}")
    return safe(f"now {now} · {values.range_text(param.min, param.max, param.above, param.also)}")


def setting_values(chat: "Chat", key: str, start: str) -> Iterator[tuple[str, str]]:
    """The values a setting may take, as far as they can be listed."""
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
            yield from ((f"{key} {one}", note) for one, note in setting_values(chat, key, value.lstrip()) if one)
        return
    yield from ((f"{one} ", setting_note(chat, one)) for one in settable() if one.startswith(key))


def assignments(chat: "Chat", argument: str) -> Iterator[tuple[str, str]]:
    """`KEY=VALUE ...`, for one answer."""
    word = argument.rpartition(" ")[2]
    key, equals, value = word.partition("=")
    if equals:
        with suppress(LlmcliError):
            yield from ((f"{key}={one}", note) for one, note in setting_values(chat, key, value) if one)
        return
    yield from ((f"{one}=", setting_note(chat, one)) for one in settable() if one.startswith(key))


def words(*known: str) -> Complete:
    """These and nothing else."""
    return lambda _chat, start: [(word, "") for word in known if word.startswith(start)]


def values_of(key: str) -> Complete:
    """The values of one setting."""
    return lambda chat, start: setting_values(chat, key, start)


def models(chat: "Chat", start: str) -> Iterator[tuple[str, str]]:
    """The models that are here."""
    yield from ((name, "") for name in chat.model_names() if name.startswith(start))


def paths(_chat: "Chat", argument: str) -> Iterator[tuple[str, str]]:
    """The files and folders that begin with the last word."""
    for one in _files(argument.rpartition(" ")[2], ""):
        yield one.text.removeprefix("@"), one.note


def _files(start: str, quote: str) -> Iterator[Suggestion]:
    folder, slash, begin = start.rpartition("/")
    try:
        entries = sorted(Path((folder + slash) or ".").expanduser().iterdir(), key=lambda entry: entry.name.lower())
    except (OSError, RuntimeError, ValueError):
        return
    shown = [one for one in entries if one.name.startswith(begin) and (begin or not one.name.startswith("."))]
    for entry in shown[:_MOST]:
        name = f"{folder}{slash}{entry.name}" + ("/" if entry.is_dir() else "")
        spaced = quote or " " in name
        text = f'@"{name}' + ("" if entry.is_dir() else '"') if spaced else f"@{name}"
        if text.isprintable():
            yield Suggestion(text, len(start) + len(quote) + 1, "folder" if entry.is_dir() else "")
