"""Looking into an answer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llmcli.errors import UsageError
from llmcli.ui.commands.registry import command
from llmcli.ui.console import console
from llmcli.ui.output import aside
from llmcli.ui.repl.stage import Stage
from llmcli.ui.repl.terminal import ending_later

if TYPE_CHECKING:  # they stand on the engine, which is imported where the model is loaded
    from llmcli.chat.dissection import Answered
    from llmcli.engine.dissect import Dissection
    from llmcli.ui.repl.chat import Chat

_LIKELIEST, _LISTED = 8, 10  # candidates by the model and in the end: of /why, of /alternatives
_BEFORE = 32  # characters of the answer that are shown before a token
_LONGEST = 9  # digits of a number
_OTHERWISE = 0.005  # a probability that differs so much from what it was is worth a word


def _numbers(chat: "Chat", start: str) -> list[tuple[str, str]]:
    """The numbers of the last answer's tokens, with their texts."""
    traces = chat.turn.answer.traces if chat.turn else []
    numbered = [(str(one.i), one.text or one.reasoning) for one in traces if one.id is not None]
    return [(number, repr(text)) for number, text in numbered if number.startswith(start)]


@command("[N|TEXT]", complete=_numbers)
def why(chat: "Chat", argument: str) -> None:
    """Show step by step how a token was drawn.

    N is its number in the answer, from 0; TEXT is what it says, or begins to say; alone, it is the one that the model
    was least sure of. A table has the likeliest candidates and what each sampler of the chain made of them.
    """
    from llmcli.ui.why import put_why

    answered = last(chat)
    found = _looked(chat, answered, argument, _LIKELIEST) if answered else None
    if answered and found:
        with aside(not chat.live):
            put_why(found, answered.made.settings)
        _explain(answered, found)


@command("[N|TEXT]", complete=_numbers)
def alternatives(chat: "Chat", argument: str) -> None:
    """List what else could have come at a token.

    N and TEXT are those of /why. Each candidate has its number K (its place by the model itself), its probability by
    the model, and the one that the chain left it; /branch N K goes on from it.
    """
    from llmcli.ui.trace_table import token_text
    from llmcli.ui.why import percent, short

    answered = last(chat)
    found = _looked(chat, answered, argument, _LISTED) if answered else None
    if not answered or not found:
        return
    rows = []
    for one in found.stepwise.candidates:
        gone, mark = found.stepwise.removed_by(one), "*" if one.id == found.drawn else ""
        after = f"- {short(gone)}" if gone else percent(found.stepwise.after(one))
        rows.append((f"{one.rank}{mark}", token_text(one.text, 16), percent(one.before), after))
    chat.rows(("K", "TOKEN", "BEFORE %", "AFTER %"), rows, right=("K", "BEFORE %", "AFTER %"))
    chat.listed = found.at, [(str(one.rank), one.text) for one in found.stepwise.candidates]
    console.note(f"* was drawn; /branch {found.at} K goes on from another one")
    _explain(answered, found)


def last(chat: "Chat") -> "Answered | None":
    """The last answer, to look into; None when the user gave up waiting for the model.

    Raises:
        UsageError: when there is none.
    """
    if not any(message.role == "assistant" for message in chat.path()):
        raise UsageError("no answer was given here yet", "say something first")
    if not chat.ready():
        return None
    from llmcli.chat.dissection import last_answer

    return last_answer(chat.dialogue, chat.turn)


def number_of(answered: "Answered", argument: str) -> int:
    """The number of the token that somebody named by it or by a text, which may stand in quotes.

    Raises:
        UsageError: when there is no such token.
    """
    most = len(answered.tokens) - 1
    if argument.isdecimal():
        if len(argument) <= _LONGEST and int(argument) <= most:
            return int(argument)
        raise UsageError(f"there is no token {argument[:_BEFORE]}", f"those of the last answer are 0 to {most}")
    text = argument[1:-1] if argument[0] in "\"'" and argument[0] == argument[-1] else argument
    number = answered.find(text) if text else None
    if number is None:
        raise UsageError(f"the last answer does not say {text[:_BEFORE]!r}", f"its tokens have numbers, 0 to {most}")
    return number


@contextmanager
def working(chat: "Chat", doing: str) -> Iterator[Callable[[int, int], None]]:
    """Within this block the screen says what the model does and how far it is, and Ctrl-C stops it."""
    local = chat.dialogue.local
    assert local
    local.abort.clear()
    stage = Stage(chat.dialogue.settings, chat.live)

    def progress(done: int, total: int) -> None:
        stage.waiting.text = f"{doing} {done / max(total, 1):.0%}"

    with ending_later(), stage.open(local.abort, doing):
        yield progress


def _looked(chat: "Chat", answered: "Answered", argument: str, count: int) -> "Dissection | None":
    """A token taken apart, after saying which one; None where somebody stopped it."""
    if argument:
        number: int | None = number_of(answered, argument)
    else:
        with working(chat, "measuring the answer") as progress:
            number = answered.least_sure(progress)
    found = None
    if number is not None:
        doing = "going through the answer again" if answered.subject.remembering else "reading"
        with working(chat, doing) as progress:
            found = answered.dissect(number, count, progress)
    if not found:
        console.note("stopped")
        return None
    chat.say(("" if argument else "the model was least sure of ") + _place(answered, found.at))
    return found


def _place(answered: "Answered", number: int) -> str:
    """Where a token stands."""
    said = (answered.made.settings.prefill or "") + "".join(map(answered.text, range(number)))
    before = " ".join(said.split())
    shown = f"…{before[-_BEFORE:]}" if len(before) > _BEFORE else before
    return f"token {number} of 0 to {len(answered.tokens) - 1}" + (f', after "{shown}"' if before else "")


def _explain(answered: "Answered", found: "Dissection") -> None:
    """What is not as it was when the token was drawn."""
    if not answered.traces:
        console.note("the answer is from an earlier chat: these are the tokens of its text, maybe not those drawn")
    if not found.exact:
        names = ", ".join(answered.subject.remembering)
        console.note(f"the answer did not come again in the same way: {names} began anew at this token")
        return
    then = answered.traces[found.at].p if answered.traces else None
    now = next(found.stepwise.after(one) for one in found.stepwise.candidates if one.id == found.drawn)
    if then is not None and abs(now - then) > _OTHERWISE:
        console.note(f"read again in other batches, which round otherwise: it was {then:.1%} when it was drawn")
