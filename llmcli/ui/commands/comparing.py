"""Comparing."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmcli.chat.attachments import attach, find_mentions
from llmcli.chat.tree import Message
from llmcli.chat.variants import Variant, variants_of
from llmcli.errors import UsageError
from llmcli.params.selection import random_seed
from llmcli.params.settings import find
from llmcli.ui.commands import complete
from llmcli.ui.commands.registry import command
from llmcli.ui.console import console
from llmcli.ui.interrupt import interruptible, time_limit
from llmcli.ui.repl.room import make_room
from llmcli.ui.repl.terminal import ending_later
from llmcli.ui.repl.waiting import Waiting
from llmcli.ui.status import Status
from llmcli.ui.typeahead import silent_keys

if TYPE_CHECKING:  # they stand on the engine, which is imported where the model is loaded
    from llmcli.chat.local import LocalModel
    from llmcli.ui.repl.chat import Chat

_PRESSES = 3  # of Ctrl-C, as for one answer
_LAST = re.compile(r"""(?:^|\s)([A-Za-z][\w-]*)=("[^"]*"|'[^']*'|\S+)\s*$""")  # KEY=VALUE at the end of a text
_HOW = "as in /compare Why is the sky blue? temp=0.2,0.8 n=2"


@command("[QUESTION] KEY=V1,V2 … [n=K]", complete=complete.assignments)
def compare(chat: "Chat", argument: str) -> None:
    """Answer with several settings side by side. Without QUESTION, the last one is answered; /keep goes on with one.

    As in /compare temp=0.2,0.8 top_p=0.9,1 n=2, which gives eight answers: two by each of the four settings. Values
    that hold a comma are parted by ;.
    """
    question, specs, n_seeds = parted(argument)
    seed = chat.dialogue.settings.seed
    seed = random_seed() if seed is None else seed
    variants = variants_of(specs, seed, n_seeds, chat.dialogue.parse)
    if not (local := chat.ready()):
        return
    draft = _draft(chat, question) if question else None
    path = make_room(chat, chat.path() if draft else _asked(chat), draft=draft)
    if path is not None:
        _compare(chat, local, path, draft is not None, variants, seed)


def parted(argument: str) -> tuple[str, list[str], int]:
    """The question, what varies, and how many seeds, of the argument of /compare.

    Raises:
        UsageError: for a setting that is not there, and a number that is none.
    """
    specs: list[str] = []
    n_seeds = 1
    while found := _LAST.search(argument):
        name, text = found[1], found[2]
        if name != "n" and not _is_setting(name, text):
            break
        argument = argument[: found.start()].rstrip()
        text = text[1:-1] if text[0] in "\"'" and text[-1] == text[0] else text
        if name != "n":
            specs.insert(0, f"{name}={text}")
        elif not text.isdecimal() or int(text[:4]) < 1:
            raise UsageError(f"n is how often each answers, from 1 on, got {text!r}", _HOW)
        else:
            n_seeds = int(text[:4])
    return argument, specs, n_seeds


def _is_setting(name: str, text: str) -> bool:
    """Whether NAME=TEXT at the end of a question varies a setting. `x=5` is of the question; `tmp=1,2` is an error."""
    try:
        return bool(find(name))
    except UsageError:
        if "," in text or ";" in text:
            raise
        return False


def _draft(chat: "Chat", question: str) -> Message:
    files = [attach(name) for name in find_mentions(question)]
    return chat.session.draft("user", question, attachments=(*chat.pending, *files))


def _asked(chat: "Chat") -> list[Message]:
    """The path to the last question."""
    path = chat.path()
    path = path[:-1] if path and path[-1].role == "assistant" else path
    if not path or path[-1].role != "user":
        raise UsageError("there is no question to answer", _HOW)
    return path


def _compare(
    chat: "Chat", local: "LocalModel", path: Sequence[Message], new: bool, variants: Sequence[Variant], seed: int
) -> None:
    """Let the answers be written, show them and their figures, and hold them ready for /keep."""
    from llmcli.chat.rivals import Rivals
    from llmcli.ui.compare import report, show

    local.abort.clear()
    rivals = Rivals(chat.dialogue, path, new, variants, seed)
    comparison, settings = rivals.comparison, chat.dialogue.settings
    report.warn_inert([(one.label, turn.resolved) for one, turn in zip(variants, rivals.turns, strict=True)])
    view = show.view_of(comparison) if chat.live else None
    waiting = Waiting(view.status if view else Status().update)
    waiting.text, comparison.progress = "reading the prompt", waiting.reading
    think = settings.think == "show"
    with (
        ending_later(),
        interruptible(local.abort, _PRESSES),
        silent_keys(chat.live),
        time_limit(local.abort, settings.timeout),
        waiting,
    ):
        show.run(comparison, view, think, waiting.end)
    if not chat.live:
        report.put_texts(comparison, think)
    report.tell(comparison, chat.live)
    report.tell_failures(comparison)
    chat.rivals = rivals
    console.note("/keep N goes on with one of them; none is part of the conversation yet")


def _numbers(chat: "Chat", start: str) -> list[tuple[str, str]]:
    compared = chat.rivals.comparison.compared if chat.rivals else []
    numbered = [(str(number), one.variant.label) for number, one in enumerate(compared, 1)]
    return [(number, label) for number, label in numbered if number.startswith(start)]


@command("N", complete=_numbers)
def keep(chat: "Chat", argument: str) -> None:
    """Go on with answer N of the last comparison. It follows its question, in a new branch."""
    rivals = chat.rivals
    if not rivals or rivals.session is not chat.session:
        raise UsageError("nothing was compared here", _HOW)
    if not argument.isdecimal():
        raise UsageError("/keep takes the number of an answer", "as in /keep 2")
    chat.turn = rivals.keep(int(argument[:4]))
    chat.pending = [one for one in chat.pending if one not in rivals.question.attachments]
    label = rivals.comparison.compared[int(argument[:4]) - 1].variant.label
    console.note(f"answer {int(argument[:4])} ({label}) is part of the conversation now; go on from there")
