"""Commands that compare answers under several settings."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmcli.chat.attachments import attach, find_mentions
from llmcli.chat.conversation import Message
from llmcli.errors import UsageError
from llmcli.inference.comparison import Variant, variants_of
from llmcli.params.samplers import random_seed
from llmcli.params.settings import find
from llmcli.ui.chat.overflow import make_room
from llmcli.ui.commands import registry
from llmcli.ui.commands.registry import COMPARE, command
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.interrupt import ending_later, interruptible, silent_keys, time_limit
from llmcli.ui.terminal.progress import Status, Waiting

if TYPE_CHECKING:  # they stand on the engine, which is imported where the model is loaded
    from llmcli.inference.local import LocalModel
    from llmcli.ui.chat.app import Chat

_PRESSES = 3  # of Ctrl-C, as for one answer
_LAST_PAIR = re.compile(r"""(?:^|\s)([A-Za-z][\w-]*)=("[^"]*"|'[^']*'|\S+)\s*$""")  # KEY=VALUE at the end of a text
_EXAMPLE_HINT = "try /compare Why is the sky blue? temp=0.2,0.8"
_COUNTS = ("answers", "n")  # how the number of answers is called; `n` is the old name


@command(
    "compare",
    heading=COMPARE,
    usage="[QUESTION] KEY=V1,V2 … [answers=K]",
    help="Answer with several settings side by side.",
    detail="Without QUESTION, the last question is answered. With several KEYs each combination answers. answers=K "
    "generates K answers for each, with different seeds. Use ; between values that contain a comma. /keep N continues "
    "with one of the answers.",
    examples=(
        "/compare temp=0.2,0.8,1.4",
        "/compare answers=3",
        "/compare Why is the sky blue? temp=0.2,0.8 answers=2",
    ),
    complete=registry.assignments,
    everyday=True,
)
def compare(chat: "Chat", argument: str) -> None:
    """Generate several answers to one question, side by side."""
    question, specs, n_seeds = split_arguments(argument)
    seed = chat.dialogue.settings.seed
    seed = random_seed() if seed is None else seed
    variants = variants_of(specs, seed, n_seeds, chat.dialogue.parse)
    if not (local := chat.ready()):
        return
    draft = _draft(chat, question) if question else None
    path = make_room(chat, chat.path() if draft else _path_to_question(chat), draft=draft)
    if path is not None:
        _compare(chat, local, path, draft is not None, variants, seed)


def split_arguments(argument: str) -> tuple[str, list[str], int]:
    """The question, the settings that vary, and the number of answers for each, of the argument of /compare.

    Raises:
        UsageError: for an unknown setting, and a count that is not a number of at least 1.
    """
    specs: list[str] = []
    n_seeds = 1
    while found := _LAST_PAIR.search(argument):
        name, text = found[1], found[2]
        if name not in _COUNTS and not _is_setting(name, text):
            break
        argument = argument[: found.start()].rstrip()
        text = text[1:-1] if text[0] in "\"'" and text[-1] == text[0] else text
        if name not in _COUNTS:
            specs.insert(0, f"{name}={text}")
        elif not text.isdecimal() or int(text[:4]) < 1:
            raise UsageError(f"{name} must be an integer of at least 1, got '{text}'", "try answers=2")
        else:
            n_seeds = int(text[:4])
    return argument, specs, n_seeds


def _is_setting(name: str, text: str) -> bool:
    """Whether NAME=TEXT at the end is a setting. `x=5` is a part of the question; `tmp=1,2` is an error."""
    try:
        return bool(find(name))
    except UsageError:
        if "," in text or ";" in text:
            raise
        return False


def _draft(chat: "Chat", question: str) -> Message:
    files = [attach(name) for name in find_mentions(question)]
    return chat.session.draft("user", question, attachments=(*chat.pending, *files))


def _path_to_question(chat: "Chat") -> list[Message]:
    """The path to the last question."""
    path = chat.path()
    path = path[:-1] if path and path[-1].role == "assistant" else path
    if not path or path[-1].role != "user":
        raise UsageError("no question to answer", _EXAMPLE_HINT)
    return path


def _compare(
    chat: "Chat", local: "LocalModel", path: Sequence[Message], new: bool, variants: Sequence[Variant], seed: int
) -> None:
    """Generate the answers, show them and their figures, and keep them for /keep."""
    from llmcli.chat.compare import Rivals
    from llmcli.ui import comparison as screen

    local.abort.clear()
    rivals = Rivals(chat.dialogue, path, new, variants, seed)
    comparison, settings = rivals.comparison, chat.dialogue.settings
    screen.warn_inert([(one.label, turn.resolved) for one, turn in zip(variants, rivals.turns, strict=True)])
    view = screen.view_of(comparison) if chat.live else None
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
        screen.run(comparison, view, think, waiting.end)
    if not chat.live:
        screen.put_texts(comparison, think)
    screen.tell(comparison, chat.live)
    screen.tell_failures(comparison)
    chat.rivals = rivals
    console.note("/keep N continues with one of them; none is part of the conversation yet")


def _answer_numbers(chat: "Chat", start: str) -> list[tuple[str, str]]:
    compared = chat.rivals.comparison.compared if chat.rivals else []
    numbered = [(str(number), one.variant.label) for number, one in enumerate(compared, 1)]
    return [(number, label) for number, label in numbered if number.startswith(start)]


@command(
    "keep",
    heading=COMPARE,
    usage="N",
    help="Continue with answer N of the last comparison.",
    detail="It follows its question, in a new branch.",
    examples=("/keep 2", "/keep 1, then /continue", "/compare answers=3, then /keep 3"),
    complete=_answer_numbers,
)
def keep(chat: "Chat", argument: str) -> None:
    """Add an answer of the last comparison to the conversation."""
    rivals = chat.rivals
    if not rivals or rivals.session is not chat.session:
        raise UsageError("no comparison to keep an answer of", _EXAMPLE_HINT)
    if not argument.isdecimal():
        raise UsageError("/keep takes the number of an answer", "try /keep 2")
    chat.turn = rivals.keep(int(argument[:4]))
    chat.pending = [one for one in chat.pending if one not in rivals.question.attachments]
    label = rivals.comparison.compared[int(argument[:4]) - 1].variant.label
    console.note(f"kept answer {int(argument[:4])} ({label}): the conversation continues from it")
