"""Commands that ask for, continue, stop and change messages."""

import re
import shlex
from typing import TYPE_CHECKING, Any

from llmcli.chat.controller import requires_reload
from llmcli.chat.conversation import Message
from llmcli.errors import UsageError
from llmcli.files import read_text
from llmcli.inference.request import system_text
from llmcli.ui.commands import registry
from llmcli.ui.commands.registry import MESSAGES, SETTINGS, command, set_setting
from llmcli.ui.terminal.console import console

if TYPE_CHECKING:
    from llmcli.ui.chat.app import ChatApp

_LONG = 1200  # characters; a longer message is easier to change in an editor


@command(
    "retry",
    heading=MESSAGES,
    usage="[KEY=VALUE …]",
    help="Generate another answer.",
    detail="Settings given as KEY=VALUE apply to this answer only. The earlier answer stays as a branch.",
    examples=("/retry", "/retry temperature=1.2", "/retry temperature=1.2 seed=7"),
    aliases=("regen", "regenerate"),
    complete=registry.complete_assignments,
    everyday=True,
)
def retry(chat: "ChatApp", argument: str) -> None:
    """Answer the last question again, with other settings if given."""
    extra, path = _assignments(chat, argument), chat.path()
    if path and path[-1].role == "assistant":
        path = path[:-1]
    if not path or path[-1].role != "user":
        raise UsageError("no message to answer again", "send a message first")
    chat.answer(path, extra)


def _assignments(chat: "ChatApp", argument: str) -> dict[str, Any]:
    values = {}
    try:
        words = shlex.split(argument)
    except ValueError as error:
        raise UsageError(f"/retry: {error}", "quote a value that contains spaces: stop='a b'") from None
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            hint = "try /retry temperature=1.2 for a freer answer, or change the question with /edit"
            raise UsageError(f"/retry takes settings as KEY=VALUE, got '{word}'", hint)
        key, value = chat.controller.parse(name, text)
        if requires_reload(key):
            raise UsageError(f"{key} cannot change for one answer", f"set it with /{key} {text}")
        values[key] = value
    return values


@command(
    "continue",
    heading=MESSAGES,
    help="Continue the last answer.",
    detail="After Ctrl-C, after a limit, or after you changed the answer with /edit.",
    examples=("/continue", "/max_tokens 400, then /continue", "/edit 2 Once upon a time, then /continue"),
    everyday=True,
)
def continue_(chat: "ChatApp", _argument: str) -> None:
    """Extend the last answer from its end."""
    last = _last_answer(chat)
    chat.answer(chat.path()[:-1], begun=last)
    if chat.turn and chat.turn.message is None and chat.turn.answer.finish_reason != "interrupt":
        console.note("the model added nothing")


def _last_answer(chat: "ChatApp") -> Message:
    path = chat.path()
    if not path or path[-1].role != "assistant":
        raise UsageError("no answer to continue", "use /retry to answer the last message")
    return path[-1]


@command(
    "stop",
    heading=SETTINGS,
    usage="[TEXT]",
    help="Set a stop string, at which answers end.",
    detail="`none` removes all of them. Ctrl-C stops the answer that the model is writing.",
    examples=("/stop", "/stop The end", "/stop none"),
    complete=registry.complete_values("stop"),
)
def stop(chat: "ChatApp", argument: str) -> None:
    """Set or show the stop strings."""
    if argument:
        set_setting(chat, f"stop {argument}")
        return
    texts = chat.controller.settings.stop
    chat.say("Ctrl-C stops an answer" + (f"; answers also stop at {', '.join(map(repr, texts))}" if texts else ""))


@command(
    "edit",
    heading=MESSAGES,
    usage="[N [TEXT]]",
    help="Change a message, and answer again.",
    detail="N is its number in /history; without N it is your last message. Without TEXT you edit the message in the "
    "input line, or in $EDITOR if it is long. To extend a changed answer of the model, use /continue. The earlier "
    "version stays as a branch.",
    examples=("/edit", "/edit 3", "/edit 1 What is a comet?"),
    everyday=True,
)
def edit(chat: "ChatApp", argument: str) -> None:
    """Replace a message by an edited one, in a new branch."""
    path = chat.path()
    number, _, text = argument.partition(" ")
    position = parse_message_number(number, path) if number else _last_question(path)
    if text.strip():
        chat.replace(position, text.strip())
        return
    content = path[position - 1].content
    if not chat.live:
        raise UsageError("/edit needs the new text (no terminal to edit in)", f"try /edit {position} TEXT")
    if len(content) > _LONG:
        from llmcli.ui.terminal.ask import edit as edit_text

        chat.replace(position, edit_text(content))
        return
    chat.editing, chat.draft = position, content
    console.note(f"editing message {position}: Enter saves the change, Ctrl-C cancels")


def parse_message_number(text: str, path: list[Message]) -> int:
    """The number of a message in /history.

    Raises:
        UsageError: if that message does not exist.
    """
    if not text.isdecimal() or not 0 < int(text) <= len(path):
        raise UsageError(f"message {text} does not exist", "see the numbers in /history")
    return int(text)


def _last_question(path: list[Message]) -> int:
    number = next((len(path) - index for index, message in enumerate(reversed(path)) if message.role == "user"), 0)
    if not number:
        raise UsageError("the conversation is empty", "send a message first")
    return number


@command(
    "system",
    heading=SETTINGS,
    usage="[TEXT|@FILE|edit|none]",
    help="Show or set the system prompt.",
    detail="From TEXT, from a file (@FILE) or in your editor (edit). `none` removes it.",
    examples=("/system Answer in one sentence.", "/system @reviewer.txt", "/system none"),
    complete=registry.complete_words("edit", "none"),
    everyday=True,
)
def system(chat: "ChatApp", argument: str) -> None:
    """Show or set the system prompt."""
    current = system_text(chat.controller.settings)
    if not argument:
        chat.say(current or "no system prompt")
        return
    if argument == "edit":
        from llmcli.ui.terminal.ask import edit as edit_text

        argument = edit_text(current or "").strip()
    elif argument.startswith("@"):
        argument = read_text(argument[1:].strip()).rstrip("\n")
    elif re.fullmatch('"[^"]+"', argument):
        argument = argument[1:-1]
    removed = argument in ("none", "")
    chat.controller.set("system", None if removed else argument)
    console.note("system prompt removed" if removed else "system prompt changed")
