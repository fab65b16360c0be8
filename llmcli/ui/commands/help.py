"""Commands of the chat itself: help, leaving, how it looks."""

import re
from functools import partial
from itertools import groupby

from llmcli.chat.controller import chat_setting_keys
from llmcli.errors import UsageError
from llmcli.params.settings import fields
from llmcli.ui.chat.app import ChatApp
from llmcli.ui.commands import registry
from llmcli.ui.commands.registry import Command, command, commands, dispatch, matching, setting_note, values_of
from llmcli.ui.markdown.theme import theme_names
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import print_definitions

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
# The commands of the short list.
_EVERYDAY = (
    *("retry", "continue", "edit", "undo", "clear", "compare", "system", "temp", "model", "preset", "character", "why"),
    *("save", "sessions", "export", "file", "copy"),
)
_OVERVIEW = (
    "/help all: every command · /help CMD: details and examples",
    "keys: Enter sends · Alt-Enter new line · Tab completes · Ctrl-C stops an answer",
    "Up, Down during an answer: warmer, colder · @FILE attaches · /exit leaves",
)
_ENDING = 3  # letters that may differ: creativity, creative


def _words(_chat: ChatApp, start: str) -> list[tuple[str, str]]:
    return matching([("all", "every command"), *((name, entry.summary) for name, entry in commands().items())], start)


@command("help [all|CMD|WORD]", "/help all", "/help temp", "/help top_p", aliases=("?",), complete=_words)
def help_(chat: ChatApp, argument: str) -> None:
    """Show the commands, or details of one.

    `all` lists every command and key. CMD is a command or a setting. Any other WORD searches the help.
    """
    if not argument:
        print_definitions([(f"  /{name}", commands()[name].summary) for name in _EVERYDAY])
        chat.say("\n".join(_OVERVIEW), "2")
        return
    if argument.lower() == "all":
        for heading, group in groupby(commands().values(), key=lambda entry: entry.heading):
            chat.say(heading, "1")
            print_definitions([(f"  /{entry.usage}", entry.summary + _also(entry)) for entry in group])
        chat.say("Keys", "1")
        print_definitions([(f"  {key}", meaning) for key, meaning in _KEYS])
        chat.say("Every setting is a command too, for example /top_p 0.9; /set lists them.")
        return
    found = registry.find_command(argument.lstrip("/").lower().replace("-", "_"))
    if not found:
        _search(argument.lstrip("/"))
        return
    chat.say(f"/{found.usage}{_also(found)}", "1")
    chat.say(found.help + ("" if found.name in commands() else f" ({setting_note(chat, found.name)})"))
    chat.say("Examples:", "2")
    for example in found.examples:
        chat.say(f"  {example}")


def _also(entry: Command) -> str:
    return f" (also {', '.join('/' + alias for alias in entry.aliases)})" if entry.aliases else ""


def _search(text: str) -> None:
    """List the commands and settings whose help contains the words of `text`; UsageError if there are none."""
    words = re.findall(r"\w+", text.lower())
    stems = [re.escape(word[:-_ENDING] if len(word) > 2 * _ENDING else word) for word in words]
    texts = {name: " ".join((name, entry.help, *entry.examples)) for name, entry in commands().items()}
    texts |= {key: f"{key} {fields()[key].help}" for key in chat_setting_keys() if key not in texts}
    found = [target for word in words for target in registry.SYNONYMS.get(word, ())]
    found += [name for name, whole in texts.items() if all(re.search(rf"\b{stem}", whole.lower()) for stem in stems)]
    if not words or not found:
        near = registry.similar_command(text)
        raise UsageError(f"the help does not contain '{text}'", f"{near} see /help all".lstrip())
    print_definitions([(f"  /{name}", registry.require_command(name).summary) for name in dict.fromkeys(found)])


@command("exit", "/exit", "/quit", "/bye", aliases=("quit", "bye", "q"))
def exit_(_chat: ChatApp, _argument: str) -> None:
    """Leave the chat. Everything is saved. Ctrl-D does the same."""
    raise EOFError  # as Ctrl-D does


@command("markdown [on|off]", "/markdown", "/markdown off", "/markdown on", complete=partial(values_of, key="markdown"))
def markdown(chat: ChatApp, argument: str) -> None:
    """Turn the rendering of Markdown on or off. Off shows the text as the model writes it."""
    dispatch(chat, "set", f"markdown {argument}")


def _themes(_chat: ChatApp, start: str) -> list[tuple[str, str]]:
    return matching([(name, "") for name in theme_names()], start)


@command("theme [NAME|FILE]", "/theme", "/theme light", "/theme monokai", complete=_themes)
def theme(chat: ChatApp, argument: str) -> None:
    """Set the colors of answers.

    NAME is auto (what the terminal reports), dark, light, or a Pygments style, which colors code. FILE is a theme
    file of rich.
    """
    dispatch(chat, "set", f"theme {argument}")


@command("multiline [on|off]", "/multiline", "/multiline on", "/multiline off")
def multiline(chat: ChatApp, argument: str) -> None:
    """Make Enter start a new line, and Alt-Enter send. Alone it switches between the two."""
    if argument not in ("", "on", "off"):
        raise UsageError(f"/multiline must be on or off, got '{argument}'")
    reader = chat.reader
    reader.multiline = argument == "on" if argument else not reader.multiline
    console.note("Enter starts a new line, Alt-Enter sends" if reader.multiline else "Enter sends")
