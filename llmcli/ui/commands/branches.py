"""Commands that go back in the conversation and between its branches."""

from datetime import datetime
from typing import TYPE_CHECKING

from llmcli.chat.conversation import SPEAKER_NAMES, Message
from llmcli.errors import UsageError
from llmcli.text import ellipsize, plural
from llmcli.ui.commands.messages import continue_
from llmcli.ui.commands.registry import BRANCHES, MESSAGES, SESSIONS, command
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.table import print_rows

if TYPE_CHECKING:
    from llmcli.chat.inspect import AnswerInspector
    from llmcli.ui.chat.app import ChatApp

_LONGEST = 9  # digits of a number


@command(
    "undo",
    heading=MESSAGES,
    usage="[N]",
    help="Remove the last turn, or the last N.",
    detail="A turn is your message and its answer. /redo restores it.",
    examples=("/undo", "/undo 3", "/undo, then /redo"),
    everyday=True,
)
def undo(chat: "ChatApp", argument: str) -> None:
    """Go back by whole turns; the messages stay in the session."""
    if argument and not argument.isdecimal():
        raise UsageError(f"/undo takes the number of turns, got '{argument}'", "try /undo 2")
    removed = chat.session.conversation.undo(int(argument or 1))
    start = ellipsize(removed[0].content)
    console.note(f"removed {plural(len(removed), 'message')}, starting at {start!r} (/redo restores them)")


@command(
    "redo",
    heading=MESSAGES,
    help="Restore what /undo or /clear removed.",
    detail="For another answer to the same message, use /retry.",
    examples=("/undo, then /redo", "/undo 3, then /redo", "/clear, then /redo"),
)
def redo(chat: "ChatApp", _argument: str) -> None:
    """Restore what the last /undo or /clear removed."""
    chat.session.conversation.redo()
    console.note(f"restored: the conversation has {plural(len(chat.path()), 'message')}")


@command(
    "branches",
    heading=BRANCHES,
    help="List the branches of the conversation.",
    detail="/retry and /edit start branches. * marks the current one; SHARED counts the messages that a branch has in "
    "common with it.",
    examples=("/branches", "/branches, then /branch 2", "/retry, then /branches"),
)
def branches(chat: "ChatApp", _argument: str) -> None:
    """Print a table with a row for each branch."""
    conversation = chat.session.conversation
    leaves = conversation.leaves()
    if not leaves:
        console.note("the conversation is empty")
        return
    current = {message.id for message in chat.path()}
    rows = []
    for number, leaf in enumerate(leaves, 1):
        path = conversation.path(leaf)
        shared = str(sum(message.id in current for message in path))
        mark = "*" if leaf == conversation.head else ""
        last = path[-1]
        rows.append((f"{number}{mark}", str(len(path)), shared, _settings_of(last), ellipsize(last.content, 36)))
    heads = "N", "MESSAGES", "SHARED", "SETTINGS", "LAST"
    print_rows(heads, rows, right=("MESSAGES", "SHARED"), spare=("SHARED", "MESSAGES"))


def _settings_of(message: Message) -> str:
    """The settings of an answer that distinguish branches."""
    shown = ("temperature", "seed", "preset", "top_p", "min_p", "top_k", "mirostat")
    known = ((key, message.params[key]) for key in shown if key in message.params)
    return " ".join(f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in known)


def _branch_numbers(chat: "ChatApp", start: str) -> list[tuple[str, str]]:
    """The numbers of the branches; after a number and a space, the candidates that /alternatives showed there."""
    number, space, _ = start.partition(" ")
    if space and chat.listed_candidates and number == str(chat.listed_candidates[0]):
        known = [(f"{number} {rank}", repr(text)) for rank, text in chat.listed_candidates[1]]
        return [pair for pair in known if pair[0].startswith(start)]
    conversation = chat.session.conversation
    numbered = enumerate(conversation.leaves(), 1)
    return [
        (str(n), ellipsize(conversation.messages[leaf].content)) for n, leaf in numbered if str(n).startswith(start)
    ]


@command(
    "branch",
    heading=BRANCHES,
    usage="N [K]",
    help="Switch to branch N of the list.",
    detail="With K: choose candidate K for token N of the last answer, as /alternatives N lists them, and continue "
    "from there in a new branch.",
    examples=("/branch 2", "/alternatives 5, then /branch 5 2", "/branch 0 3"),
    complete=_branch_numbers,
)
def branch(chat: "ChatApp", argument: str) -> None:
    """Move to the end of a branch, or branch off inside the last answer."""
    if len(words := argument.split()) == 2:
        _branch_off(chat, *words)
        return
    leaves = chat.session.conversation.leaves()
    if not argument.isdecimal() or not 0 < int(argument) <= len(leaves):
        message = f"branch {argument} does not exist" if argument else "/branch needs the number of a branch"
        raise UsageError(message, "see the numbers in /branches")
    chat.session.conversation.move(leaves[int(argument) - 1])
    show(chat, chat.path()[-2:], len(chat.path()) - 1)


def _branch_off(chat: "ChatApp", number: str, rank: str) -> None:
    """Let the model continue from another token than the one that was sampled."""
    from llmcli.ui.commands.inspect import busy, open_inspector, parse_token_index

    if not rank.isdecimal() or not number.isdecimal():
        raise UsageError("/branch N K takes two numbers", "see them with /alternatives N")
    answered = open_inspector(chat)
    if not answered:
        return
    at = parse_token_index(answered, number)
    with busy(chat, "evaluating the answer") as watch:
        token = answered.candidate(at, int(rank[:_LONGEST]), *watch)
    if token is None:
        console.note("stopped")
        return
    if token == answered.tokens[at]:
        raise UsageError(f"candidate {rank} is the token of this answer", "choose another candidate")
    content, reasoning = answered.text_before(at, token)
    _continue_from(chat, answered, content, reasoning, answered.ends(token))


def _continue_from(chat: "ChatApp", answered: "AnswerInspector", content: str, reasoning: str, whole: bool) -> None:
    """Add the beginning of an answer beside the last one, and let the model continue it unless it is `whole`."""
    session, old = chat.session, answered.message
    head, turn = session.conversation.head, chat.turn
    session.conversation.move(old.parent)
    session.add("assistant", content, reasoning=reasoning, model=old.model, finish_reason="edited")
    if whole:
        chat.render(content)
        console.note("the answer ends there (/branches lists the earlier one)")
        return
    try:
        continue_(chat, "")
    finally:
        if chat.turn is turn:  # the answer did not start
            session.conversation.move(head)


@command(
    "fork",
    heading=SESSIONS,
    usage="NAME",
    help="Continue in a copy of this session.",
    detail="The copy gets the NAME; this session stays as it is.",
    examples=("/fork other-ending", "/fork draft-2", "/fork short, then /undo 2"),
)
def fork(chat: "ChatApp", argument: str) -> None:
    """Copy the session, and continue in the copy."""
    if not argument:
        raise UsageError("/fork needs a name for the new session", "try /fork other-ending")
    before = chat.session.name
    chat.controller.switch_session(chat.session.copy(argument))
    console.note(f"session {chat.session.name}" + (f" (a copy of {before}, which stays as it is)" if before else ""))


@command(
    "clear",
    heading=MESSAGES,
    help="Start a new conversation.",
    detail="Settings and system prompt stay. /redo restores the earlier conversation.",
    examples=("/clear", "/clear, then /redo", "/save plot, then /clear"),
    aliases=("new",),
    everyday=True,
)
def clear(chat: "ChatApp", _argument: str) -> None:
    """Start over at the root of the session."""
    chat.session.conversation.clear()
    chat.pending = []
    console.note("new conversation; settings and system prompt stay (/redo restores the earlier one)")


@command(
    "history",
    heading=MESSAGES,
    usage="[N]",
    help="Show the conversation, or its last N messages.",
    detail="/edit and /copy take the numbers that it shows.",
    examples=("/history", "/history 4", "/history, then /edit 3"),
)
def history(chat: "ChatApp", argument: str) -> None:
    """Print the messages of the current branch."""
    path = chat.path()
    if argument and (not argument.isdecimal() or argument == "0"):
        raise UsageError(f"/history takes the number of messages, got '{argument}'", "try /history 4")
    if not path:
        console.note("the conversation is empty")
        return
    start = max(len(path) - int(argument), 0) if argument else 0
    show(chat, path[start:], start + 1)


def show(chat: "ChatApp", messages: list[Message], number: int) -> None:
    """Print messages under their numbers."""
    for at, message in enumerate(messages, max(number, 1)):
        files = "".join(f" +{one.name}" for one in message.attachments)
        when = f"{datetime.fromtimestamp(message.time):%H:%M}" if message.time else ""
        facts = " · ".join(filter(None, (when, message.model, _settings_of(message), _end_of(message))))
        chat.say(f"{at} {SPEAKER_NAMES[message.role]}{files}" + (f"  {facts}" if facts else ""), "2")
        if message.role == "user":
            chat.say(message.content.rstrip("\n"))
        else:
            chat.render(message.content)
        chat.say("")


def _end_of(message: Message) -> str:
    """The finish reason of an answer; empty if the model ended it."""
    return message.finish_reason if message.finish_reason not in ("", "stop") else ""
