"""Commands of the chat itself: help, leaving, how it looks."""

import re
from itertools import groupby
from typing import TYPE_CHECKING

from llmcli.chat.controller import chat_setting_keys, requires_reload
from llmcli.errors import UsageError
from llmcli.params.settings import fields
from llmcli.ui.commands import registry
from llmcli.ui.commands.registry import (
    SYNONYMS,
    THE_CHAT,
    Command,
    command,
    commands,
    find_command,
    require_command,
    set_setting,
)
from llmcli.ui.terminal.ask import can_ask
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.table import print_definitions

if TYPE_CHECKING:
    from llmcli.ui.chat.app import ChatApp

_KEYS = (
    ("Enter", "send the message"),
    ("Alt-Enter, Ctrl-J", "new line; so does \\ at the end of a line"),
    ('"""', "starts and ends a message of several lines"),
    ("Ctrl-C", "stop the answer; clear the input line"),
    ("Up, Down, +, -", "while the model answers: raise or lower the temperature"),
    ("Ctrl-D", "leave"),
    ("Ctrl-R", "search the earlier input"),
    ("Ctrl-X Ctrl-E", "write in $EDITOR"),
    ("Tab", "complete commands, values, models, sessions, @files"),
)
_OVERVIEW = (
    "/help all: every command · /help CMD: details and examples",
    "keys: Enter sends · Alt-Enter new line · Tab completes · Ctrl-C stops an answer",
    "Up, Down during an answer: warmer, colder · @FILE attaches · /exit leaves",
)
# Words that people type without the slash, and the command.
_WITHOUT_SLASH = {"help": "help", "exit": "exit", "quit": "exit", "exit()": "exit", "quit()": "exit", ":q": "exit"}
_ENDING = 3  # letters that may differ: creativity, creative


def _words(_chat: "ChatApp", start: str) -> list[tuple[str, str]]:
    words = [("all", "every command"), *((entry.name, entry.summary) for entry in commands().values())]
    return [(word, note) for word, note in words if word.startswith(start)]


@command(
    "help",
    heading=THE_CHAT,
    usage="[all|CMD|WORD]",
    help="Show the commands, or details of one.",
    detail="`all` lists every command and key. CMD is a command or a setting. Any other WORD searches the help.",
    examples=("/help all", "/help temp", "/help top_p"),
    aliases=("?",),
    complete=_words,
)
def help_(chat: "ChatApp", argument: str) -> None:
    """Print the short list, the long one, or the help of a command or a setting."""
    if not argument:
        print_definitions([(f"  /{entry.name}", entry.summary) for entry in commands().values() if entry.everyday])
        for line in _OVERVIEW:
            chat.say(line, "2")
        return
    if argument.lower() == "all":
        _print_all(chat)
        return
    found = find_command(argument.lstrip("/").lower().replace("-", "_"))
    if isinstance(found, Command):
        _describe_command(chat, found)
    elif found:
        _describe_setting(chat, found)
    else:
        _search(argument.lstrip("/"))


def _print_all(chat: "ChatApp") -> None:
    """Every command under its heading, with usage and aliases, then the keys."""
    for heading, group in groupby(commands().values(), key=lambda entry: entry.heading):
        chat.say(heading, "1")
        print_definitions([(f"  {_usage(entry)}", entry.summary + _also(entry)) for entry in group])
    chat.say("Keys", "1")
    print_definitions([(f"  {key}", meaning) for key, meaning in _KEYS])
    chat.say("Every setting is a command too, for example /top_p 0.9; /set lists them.")


def _usage(entry: Command) -> str:
    return f"/{entry.name} {entry.usage}".rstrip()


def _also(entry: Command) -> str:
    return f" (also {', '.join('/' + alias for alias in entry.aliases)})" if entry.aliases else ""


def _describe_command(chat: "ChatApp", entry: Command) -> None:
    chat.say(_usage(entry) + _also(entry), "1")
    chat.say(entry.description)
    _print_examples(chat, entry.examples)


def _describe_setting(chat: "ChatApp", key: str) -> None:
    param = fields()[key].param
    chat.say(f"/{key} VALUE", "1")
    chat.say(f"{param.help} ({registry.setting_note(chat, key)})")
    value = _example_value(key)
    once = f"/set {key} {value}" if requires_reload(key) else f"/retry {key}={value}"
    _print_examples(chat, (f"/{key} {value}", once, f"/reset {key}"))


def _example_value(key: str) -> str:
    """A value that the setting may take."""
    field = fields()[key]
    if field.kind is bool:
        return "on"
    known = [str(choice) for choice in (*field.param.suggest, *field.param.choices) if str(choice)]
    return next(iter(known), "") or field.format(field.default) or "VALUE"


def _print_examples(chat: "ChatApp", examples: tuple[str, ...]) -> None:
    chat.say("Examples:", "2")
    for example in examples:
        chat.say(f"  {example}")


def _search(text: str) -> None:
    """List the commands and settings whose help contains the words of `text`.

    Raises:
        UsageError: when there are none, with the nearest command.
    """
    words = re.findall(r"\w+", text.lower())
    stems = [word[:-_ENDING] if len(word) > 2 * _ENDING else word for word in words]
    found: dict[str, str] = {}
    for target in (target for word in words for target in SYNONYMS.get(word, ())):
        found[target] = _summary(target)
    for entry in commands().values():
        if _contains(stems, " ".join((entry.name, entry.description, *entry.examples))):
            found[entry.name] = entry.summary
    for key in chat_setting_keys():
        if key not in commands() and _contains(stems, f"{key} {fields()[key].param.help}"):
            found[key] = _summary(key)
    if not stems or not found:
        require_command(words[0] if len(words) == 1 else text)
        raise UsageError(f"the help does not contain '{text}'", "see /help all")
    print_definitions([(f"  /{name}", summary) for name, summary in found.items()])


def _contains(stems: list[str], text: str) -> bool:
    return all(re.search(rf"\b{re.escape(stem)}", text.lower()) for stem in stems)


def _summary(name: str) -> str:
    """The help of a command, or of the setting of that name."""
    found = require_command(name)
    if isinstance(found, Command):
        return found.summary
    return fields()[found].param.help.partition(". ")[0].rstrip(".")


class ExitChatError(Exception):
    """The user wants to leave the chat."""


@command(
    "exit",
    heading=THE_CHAT,
    help="Leave the chat.",
    detail="Everything is saved. Ctrl-D does the same.",
    examples=("/exit", "/quit", "/bye"),
    aliases=("quit", "bye", "q"),
)
def exit_(_chat: "ChatApp", _argument: str) -> None:
    """Leave the chat."""
    raise ExitChatError


def is_command_without_slash(chat: "ChatApp", text: str) -> bool:
    """Whether a person typed a word like `exit` alone, and was told so; typed again, it is sent."""
    word = text.strip().lower()
    name = _WITHOUT_SLASH.get(word)
    if not name or chat.editing is not None or chat.refused_word == word or not can_ask():
        chat.refused_word = ""
        return False
    chat.refused_word = word
    console.note(f"not sent: type /{name} for the command, or '{word}' again to send it")
    return True


@command(
    "markdown",
    heading=THE_CHAT,
    usage="[on|off]",
    help="Turn the rendering of Markdown on or off.",
    detail="Off shows the text as the model writes it.",
    examples=("/markdown", "/markdown off", "/markdown on"),
    complete=registry.complete_values("markdown"),
)
def markdown(chat: "ChatApp", argument: str) -> None:
    """Set or show whether answers are rendered."""
    set_setting(chat, f"markdown {argument}")


@command(
    "theme",
    heading=THE_CHAT,
    usage="[auto|dark|light]",
    help="Set the colors for a dark or a light terminal.",
    detail="`auto` uses what the terminal reports.",
    examples=("/theme", "/theme light", "/theme auto"),
    complete=registry.complete_values("theme"),
)
def theme(chat: "ChatApp", argument: str) -> None:
    """Set or show the theme."""
    set_setting(chat, f"theme {argument}")


@command(
    "multiline",
    heading=THE_CHAT,
    usage="[on|off]",
    help="Make Enter start a new line, and Alt-Enter send.",
    detail="Alone it switches between the two.",
    examples=("/multiline", "/multiline on", "/multiline off"),
    complete=registry.complete_words("on", "off"),
)
def multiline(chat: "ChatApp", argument: str) -> None:
    """Set what Enter does."""
    if argument not in ("", "on", "off"):
        raise UsageError(f"/multiline must be on or off, got '{argument}'")
    reader = chat.reader
    reader.multiline = argument == "on" if argument in ("on", "off") else not reader.multiline
    console.note("Enter starts a new line, Alt-Enter sends" if reader.multiline else "Enter sends")
