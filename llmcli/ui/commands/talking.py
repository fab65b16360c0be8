"""Talking."""

import re
import shlex
from typing import TYPE_CHECKING, Any

from llmcli.chat.compose import read_text, system_text
from llmcli.chat.dialogue import reopens
from llmcli.chat.tree import Message
from llmcli.errors import UsageError
from llmcli.ui.commands import complete
from llmcli.ui.commands.registry import assign, command
from llmcli.ui.console import console

if TYPE_CHECKING:
    from llmcli.ui.repl.chat import Chat

_LONG = 1200  # characters; a longer message is easier to change in an editor


@command("[KEY=VALUE …]", "regen", "regenerate", complete=complete.assignments)
def retry(chat: "Chat", argument: str) -> None:
    """Answer again, with other settings if given.

    As in /retry temperature=1.2 seed=7; the old answer stays as a branch.
    """
    path = chat.path()
    if path and path[-1].role == "assistant":
        path = path[:-1]
    if not path or path[-1].role != "user":
        raise UsageError("there is no question to answer again", "say something first")
    chat.answer(path, _assignments(chat, argument))


def _assignments(chat: "Chat", argument: str) -> dict[str, Any]:
    values = {}
    try:
        words = shlex.split(argument)
    except ValueError as error:
        raise UsageError(f"/retry: {error}", "quote a value that has spaces, as in stop='a b'") from None
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise UsageError(f"/retry takes KEY=VALUE, got {word!r}", "as in /retry temperature=1.2 seed=7")
        key, value = chat.dialogue.parse(name, text)
        if reopens(key):
            raise UsageError(f"{key} cannot change for one answer", f"set it with /{key} {text}")
        values[key] = value
    return values


@command()
def continue_(chat: "Chat", _argument: str) -> None:
    """Go on with the last answer where it ended. After Ctrl-C, a limit, or an edit of it."""
    last = _last_answer(chat)
    chat.answer(chat.path()[:-1], begun=last)
    if chat.turn and chat.turn.message is None and chat.turn.answer.finish_reason != "interrupt":
        console.note("the model has nothing to add")


def _last_answer(chat: "Chat") -> Message:
    path = chat.path()
    if not path or path[-1].role != "assistant":
        raise UsageError("there is no answer to go on with", "/retry answers the last message")
    return path[-1]


@command("[TEXT]", complete=complete.values_of("stop"))
def stop(chat: "Chat", argument: str) -> None:
    """Stop answers before a text (`none`: no more). An answer that is being written stops with Ctrl-C."""
    if argument:
        assign(chat, f"stop {argument}")
        return
    now = chat.dialogue.settings.stop
    chat.say("Ctrl-C stops an answer" + (f"; answers end before {', '.join(map(repr, now))}" if now else ""))


@command("[N [TEXT]]")
def edit(chat: "Chat", argument: str) -> None:
    """Change a message, the model's own too, and go on there.

    N is its number in /history; without it, it is your last one. Without TEXT it comes into the line, or into
    $EDITOR if it is long. The old one stays as a branch.
    """
    path = chat.path()
    number, _, text = argument.partition(" ")
    at = _number(number, path) if number else _last_question(path)
    if text.strip():
        chat.replace(at, text.strip())
        return
    old = path[at - 1].content
    if not chat.live:
        raise UsageError("/edit needs the new text here", f"as in /edit {at} What is a comet?")
    if len(old) > _LONG:
        from llmcli.ui.editor import edit as edit_text

        chat.replace(at, edit_text(old))
        return
    chat.editing, chat.draft = at, old
    console.note(f"changing message {at}; Enter keeps the change, Ctrl-C leaves it as it was")


def _number(text: str, path: list[Message]) -> int:
    if not text.isdecimal() or not 0 < int(text) <= len(path):
        raise UsageError(f"there is no message {text}", "/history shows their numbers")
    return int(text)


def _last_question(path: list[Message]) -> int:
    number = next((len(path) - index for index, one in enumerate(reversed(path)) if one.role == "user"), 0)
    if not number:
        raise UsageError("nothing was said yet", "say something first")
    return number


@command("[TEXT|@FILE|edit|none]", complete=complete.words("edit", "none"))
def system(chat: "Chat", argument: str) -> None:
    """Show or change the system prompt. From a TEXT, a file, or an editor; `none` takes it away."""
    now = system_text(chat.dialogue.settings)
    if not argument:
        chat.say(now or "there is no system prompt")
        return
    if argument == "edit":
        from llmcli.ui.editor import edit as edit_text

        argument = edit_text(now or "").strip()
    elif argument.startswith("@"):
        argument = read_text(argument[1:].strip()).rstrip("\n")
    elif re.fullmatch('"[^"]+"', argument):
        argument = argument[1:-1]
    chat.dialogue.set("system", None if argument in ("none", "") else argument)
    console.note("the system prompt is changed" if argument not in ("none", "") else "there is no system prompt now")
