"""Commands that ask for, continue, change, remove and show messages."""

import shlex
from datetime import datetime
from typing import Any

from llmcli.chat.controller import RELOAD_KEYS
from llmcli.chat.conversation import SPEAKER_NAMES, Message
from llmcli.errors import UsageError
from llmcli.text import ellipsize, plural
from llmcli.ui.chat.app import ChatApp
from llmcli.ui.commands.registry import command, complete_assignments
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.console import edit as edit_text

_LONG = 1200  # characters; a longer message is easier to change in an editor


@command(
    "retry [KEY=VALUE …]",
    "/retry",
    "/retry temperature=1.2",
    "/retry temperature=1.2 seed=7",
    aliases=("regen", "regenerate"),
    complete=complete_assignments,
)
def retry(chat: ChatApp, argument: str) -> None:
    """Generate another answer.

    Settings given as KEY=VALUE apply to this answer only. The earlier answer stays as a branch.
    """
    try:
        words = shlex.split(argument)
    except ValueError as error:
        raise UsageError(f"/retry: {error}", "quote a value that contains spaces: stop='a b'") from None
    values: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            hint = "try /retry temperature=1.2 for a freer answer, or change the question with /edit"
            raise UsageError(f"/retry takes settings as KEY=VALUE, got '{word}'", hint)
        key, value = chat.controller.parse(name, text)
        if key in RELOAD_KEYS:
            raise UsageError(f"{key} cannot change for one answer", f"set it with /{key} {text}")
        values[key] = value
    path = path_to_question(chat)
    if not path:
        raise UsageError("no message to answer again", "send a message first")
    chat.answer(path, values)


def path_to_question(chat: ChatApp) -> list[Message]:
    """The messages up to the last question; empty if there is none before the last answer."""
    path = chat.path()
    path = path[:-1] if path and path[-1].role == "assistant" else path
    return path if path and path[-1].role == "user" else []


@command("continue", "/continue", "/max_tokens 400, then /continue", "/edit 2 Once upon a time, then /continue")
def continue_(chat: ChatApp, _argument: str) -> None:
    """Continue the last answer. After Ctrl-C, after a limit, or after you changed the answer with /edit."""
    path = chat.path()
    if not path or path[-1].role != "assistant":
        raise UsageError("no answer to continue", "use /retry to answer the last message")
    chat.answer(path[:-1], begun=path[-1])
    if chat.turn and chat.turn.message is None and chat.turn.answer.finish_reason != "interrupt":
        console.note("the model added nothing")


@command("edit [N [TEXT]]", "/edit", "/edit 3", "/edit 1 What is a comet?")
def edit(chat: ChatApp, argument: str) -> None:
    """Change a message, and answer again.

    N is its number in /history; without N it is your last message. Without TEXT you edit the message in the input
    line, or in $EDITOR if it is long. To extend a changed answer of the model, use /continue. The earlier version
    and all messages after it stay in a branch; a note says which.
    """
    path = chat.path()
    number, _, text = argument.partition(" ")
    questions = [n for n, message in enumerate(path, 1) if message.role == "user"]
    if not number and not questions:
        raise UsageError("the conversation is empty", "send a message first")
    position = parse_message_number(number, path) if number else questions[-1]
    if text.strip():
        chat.replace(position, text.strip())
        return
    content = path[position - 1].content
    if not chat.live:
        raise UsageError("/edit needs the new text (no terminal to edit in)", f"try /edit {position} TEXT")
    if len(content) > _LONG:
        chat.replace(position, edit_text(content))
        return
    chat.editing, chat.draft = position, content
    console.note(f"editing message {position}: Enter saves the change, Ctrl-C cancels")


def parse_message_number(text: str, path: list[Message]) -> int:
    """The number of a message in /history; UsageError if it does not exist."""
    number = parse_number(text)
    if not number or number > len(path):
        raise UsageError(f"message {ellipsize(text)} does not exist", "see the numbers in /history")
    return number


def parse_number(text: str) -> int | None:
    """A typed number, cut to 9 digits: Python refuses to read 5,000 of them, and nothing here is that many."""
    return int(text[:9]) if text.isdecimal() else None


@command("undo [N]", "/undo", "/undo 2", "/undo, then /redo")
def undo(chat: ChatApp, argument: str) -> None:
    """Remove the last turn, or the last N. A turn is your message and its answer. /redo restores it."""
    removed = chat.session.conversation.undo(int(argument or 1))
    start = ellipsize(removed[0].content)
    back = "; the messages before /edit are back" if chat.session.conversation.head != removed[0].parent else ""
    console.note(f"removed {plural(len(removed), 'message')}, starting at {start!r} (/redo restores them){back}")


@command("redo", "/undo, then /redo", "/undo 3, then /redo", "/clear, then /redo")
def redo(chat: ChatApp, _argument: str) -> None:
    """Restore what /undo or /clear removed. For another answer to the same message, use /retry."""
    chat.session.conversation.redo()
    console.note(f"restored: the conversation has {plural(len(chat.path()), 'message')}")


@command("clear", "/clear", "/clear, then /redo", "/save plot, then /clear", aliases=("new",))
def clear(chat: ChatApp, _argument: str) -> None:
    """Start a new conversation. Settings and system prompt stay. /redo restores the earlier conversation."""
    chat.session.conversation.clear()
    chat.pending = []
    console.note("new conversation; settings and system prompt stay (/redo restores the earlier one)")


@command("history [N]", "/history", "/history 4", "/history, then /edit 3")
def history(chat: ChatApp, argument: str) -> None:
    """Show the conversation, or its last N messages. /edit and /copy take the numbers that it shows."""
    path = chat.path()
    if argument and not int(argument):
        raise UsageError("/history takes a number of at least 1, got '0'", "try /history 4")
    if not path:
        console.note("the conversation is empty")
    show_last(chat, int(argument or len(path)))


def show_last(chat: ChatApp, count: int) -> None:
    """Print the last messages under their numbers."""
    for number, message in list(enumerate(chat.path(), 1))[-count:]:
        files = "".join(f" +{one.name}" for one in message.attachments)
        when = f"{datetime.fromtimestamp(message.time):%H:%M}" if message.time else ""
        end = message.finish_reason if message.finish_reason != "stop" else ""  # "stop": the model ended the answer
        facts = " · ".join(filter(None, (when, message.model, describe_settings(message), end)))
        chat.say(f"{number} {SPEAKER_NAMES[message.role]}{files}" + (f"  {facts}" if facts else ""), "2")
        if message.role == "user":
            chat.say(message.content.rstrip("\n"))
        else:
            chat.render(message.content)
        chat.say("")


def describe_settings(message: Message) -> str:
    """The settings of an answer that distinguish branches."""
    shown = ("temperature", "seed", "preset", "top_p", "min_p", "top_k", "mirostat")
    known = ((key, message.params[key]) for key in shown if key in message.params)
    return " ".join(f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in known)
