"""Going back and branching."""

from datetime import datetime
from typing import TYPE_CHECKING

from llmcli.chat.excerpt import excerpt
from llmcli.chat.tree import Message
from llmcli.errors import UsageError
from llmcli.ui.commands.registry import command
from llmcli.ui.commands.talking import continue_
from llmcli.ui.console import console
from llmcli.ui.units import plural

if TYPE_CHECKING:
    from llmcli.chat.dissection import Answered
    from llmcli.ui.repl.chat import Chat

_LONGEST = 9  # digits of a number

WHO = {"user": "you", "assistant": "model", "summary": "summary"}


@command("[N]")
def undo(chat: "Chat", argument: str) -> None:
    """Take back the last turn, or the last N."""
    if argument and not argument.isdecimal():
        raise UsageError("/undo takes the number of turns", "as in /undo 2")
    gone = chat.session.undo(int(argument or 1))
    console.note(f"took back {plural(len(gone), 'message')}, from {excerpt(gone[0].content)!r} on")


@command()
def redo(chat: "Chat", _argument: str) -> None:
    """Take back the last /undo or /clear."""
    chat.session.redo()
    console.note(f"back at {plural(len(chat.path()), 'message')}")


@command()
def branches(chat: "Chat", _argument: str) -> None:
    """List the branches of the conversation."""
    conversation = chat.session.conversation
    leaves = conversation.leaves()
    if not leaves:
        console.note("nothing was said yet")
        return
    here = {message.id for message in chat.path()}
    rows = []
    for number, leaf in enumerate(leaves, 1):
        path = conversation.path(leaf)
        shared = str(sum(message.id in here for message in path))
        mark = "*" if leaf == conversation.head else ""
        last = path[-1]
        rows.append((f"{number}{mark}", str(len(path)), shared, _changed(last), excerpt(last.content, 36)))
    heads = "N", "MESSAGES", "SHARED", "SETTINGS", "LAST"
    chat.rows(heads, rows, right=("MESSAGES", "SHARED"), spare=("SHARED", "MESSAGES"))


def _changed(message: Message) -> str:
    """The settings that an answer was given with, seed last; what tells branches apart."""
    shown = ("temperature", "seed", "preset", "top_p", "min_p", "top_k", "mirostat")
    known = ((key, message.params[key]) for key in shown if key in message.params)
    return " ".join(f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in known)


def _numbers(chat: "Chat", start: str) -> list[tuple[str, str]]:
    """The branches of the list; after a number and a space, the candidates that /alternatives showed there."""
    number, space, _ = start.partition(" ")
    if space and chat.listed and number == str(chat.listed[0]):
        known = [(f"{number} {rank}", repr(text)) for rank, text in chat.listed[1]]
        return [one for one in known if one[0].startswith(start)]
    conversation = chat.session.conversation
    numbered = enumerate(conversation.leaves(), 1)
    return [(str(n), excerpt(conversation.messages[leaf].content)) for n, leaf in numbered if str(n).startswith(start)]


@command("N [K]", complete=_numbers)
def branch(chat: "Chat", argument: str) -> None:
    """Go to branch N of the list.

    With K, take candidate K at token N of the last answer, as /alternatives N shows them, and go on from there in a new
    branch.
    """
    if len(words := argument.split()) == 2:
        _branch_off(chat, *words)
        return
    leaves = chat.session.conversation.leaves()
    if not argument.isdecimal() or not 0 < int(argument) <= len(leaves):
        raise UsageError(f"there is no branch {argument or 'without a number'}", "/branches lists them")
    chat.session.move(leaves[int(argument) - 1])
    show(chat, chat.path()[-2:], len(chat.path()) - 1)


def _branch_off(chat: "Chat", number: str, rank: str) -> None:
    """Let the model go on from another token than the one that it drew."""
    from llmcli.ui.commands.choosing import last, number_of, working

    if not rank.isdecimal() or not number.isdecimal():
        raise UsageError("/branch N K takes two numbers", "/alternatives N shows which there are")
    answered = last(chat)
    if not answered:
        return
    at = number_of(answered, number)
    with working(chat, "reading") as progress:
        token = answered.candidate(at, int(rank[:_LONGEST]), progress)
    if token is None:
        console.note("stopped")
        return
    if token == answered.tokens[at]:
        raise UsageError(f"candidate {rank} is the one that was drawn", "choose another one")
    content, reasoning = answered.beginning(at, token)
    _go_on(chat, answered, content, reasoning, answered.ends(token))


def _go_on(chat: "Chat", answered: "Answered", content: str, reasoning: str, whole: bool) -> None:
    """Put the beginning of an answer beside the last one, and let the model go on with it unless it is `whole`."""
    session, old = chat.session, answered.message
    head, turn = session.conversation.head, chat.turn
    session.move(old.parent)
    session.say("assistant", content, reasoning=reasoning, model=old.model, finish_reason="edited")
    if whole:
        chat.render(content)
        console.note("the answer ends there; /branches leads back")
        return
    try:
        continue_(chat, "")
    finally:
        if chat.turn is turn:  # it was not even begun
            session.move(head)


@command("NAME")
def fork(chat: "Chat", argument: str) -> None:
    """Go on in a new session; this one stays as it is."""
    if not argument:
        raise UsageError("/fork needs a name for the new session", "as in /fork other-ending")
    before = chat.session.name
    chat.dialogue.take(chat.session.copy(argument))
    console.note(f"this is {argument} now" + (f"; {before} stays as it is" if before else ""))


@command("", "new")
def clear(chat: "Chat", _argument: str) -> None:
    """Begin a new conversation. Settings and system prompt stay; /redo and /branches lead back."""
    chat.session.clear()
    chat.pending = []
    console.note("a new conversation; settings and system prompt stay")


@command("[N]")
def history(chat: "Chat", argument: str) -> None:
    """Show what was said, all or the last N messages. The numbers are those that /edit and /copy take."""
    path = chat.path()
    if argument and (not argument.isdecimal() or argument == "0"):
        raise UsageError("/history takes the number of messages", "as in /history 4")
    if not path:
        console.note("nothing was said yet")
        return
    start = max(len(path) - int(argument), 0) if argument else 0
    show(chat, path[start:], start + 1)


def show(chat: "Chat", messages: list[Message], number: int) -> None:
    """Print messages under their numbers."""
    for at, message in enumerate(messages, max(number, 1)):
        files = "".join(f" +{one.name}" for one in message.attachments)
        when = f"{datetime.fromtimestamp(message.time):%H:%M}" if message.time else ""
        facts = " · ".join(filter(None, (when, message.model, _changed(message), _state(message))))
        chat.say(f"{at} {WHO[message.role]}{files}" + (f"  {facts}" if facts else ""), "2")
        if message.role == "user":
            chat.say(message.content.rstrip("\n"))
        else:
            chat.render(message.content)
        chat.say("")


def _state(message: Message) -> str:
    return message.finish_reason if message.finish_reason not in ("", "stop") else ""
