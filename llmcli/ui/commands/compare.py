"""Commands that compare answers under several settings."""

import re
from collections.abc import Sequence

from llmcli.chat.conversation import Message, attach, find_mentions
from llmcli.errors import UsageError
from llmcli.inference.comparison import Variant, variants_of
from llmcli.params.samplers import random_seed
from llmcli.params.settings import find
from llmcli.ui.chat.app import ChatApp
from llmcli.ui.chat.busy_screen import BusyScreen
from llmcli.ui.commands.messages import parse_number, path_to_question
from llmcli.ui.commands.registry import command, complete_assignments, matching
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import to_stderr

_LAST_PAIR = re.compile(r"""(?:^|\s)([A-Za-z][\w-]*)=("[^"]*"|'[^']*'|\S+)\s*$""")  # KEY=VALUE at the end of a text
_EXAMPLE_HINT = "try /compare Why is the sky blue? temp=0.2,0.8"


@command(
    "compare [QUESTION] KEY=V1,V2 … [answers=K]",
    "/compare temp=0.2,0.8,1.4",
    "/compare answers=3",
    "/compare Why is the sky blue? temp=0.2,0.8 answers=2",
    complete=complete_assignments,
)
def compare(chat: ChatApp, argument: str) -> None:
    """Answer with several settings side by side.

    Without QUESTION, the model answers the last one again. With several KEYs, each combination is compared.
    answers=K generates K answers for each, with different seeds. Use ; between values that contain a comma. /keep N
    continues with one of the answers.
    """
    question, specs, n_seeds = split_arguments(argument)
    seed = chat.controller.settings.seed
    seed = random_seed() if seed is None else seed
    variants = variants_of(specs, seed, n_seeds, chat.controller.parse)
    if not chat.wait_for_model():
        return
    path, draft = path_to_question(chat), None
    if question:
        files = [attach(name, chat.controller.settings.encoding) for name in find_mentions(question)]
        draft = chat.session.conversation.draft("user", question, attachments=(*chat.pending, *files))
        path = chat.path()
    elif not path:
        raise UsageError("no question to answer", _EXAMPLE_HINT)
    fitting = chat.resolve_overflow(path, draft=draft)
    if fitting is not None:
        chat.note_missing_files(question)
        _compare(chat, fitting, variants, seed)


def split_arguments(argument: str) -> tuple[str, list[str], int]:
    """The question, the settings that vary, and the number of answers for each, of the argument of /compare."""
    specs: list[str] = []
    n_seeds = 1
    while found := _LAST_PAIR.search(argument):
        name, text = found.groups()
        text = text[1:-1] if text[0] in "\"'" and text[-1] == text[0] else text
        if name in ("answers", "n"):  # `n` is the old name
            n_seeds = parse_number(text) or 0
            if not n_seeds:
                raise UsageError(f"{name} must be an integer of at least 1, got '{text}'", "try answers=2")
        elif _is_setting(name, text):
            specs.insert(0, f"{name}={text}")
        else:
            break
        argument = argument[: found.start()].rstrip()
    return argument, specs, n_seeds


def _is_setting(name: str, text: str) -> bool:
    """Whether NAME=TEXT at the end is a setting. `x=5` is a part of the question; `tmp=1,2` is an error."""
    try:
        return bool(find(name))
    except UsageError:
        if "," in text or ";" in text:
            raise
        return False


def _compare(chat: ChatApp, path: list[Message], variants: Sequence[Variant], seed: int) -> None:
    from llmcli.chat.compare import CompareSession
    from llmcli.ui import comparison as screen

    compare_session = CompareSession(chat.controller, path, variants, seed)
    comparison, settings = compare_session.comparison, chat.controller.settings
    screen.warn_ineffective(
        [(one.label, turn.resolved) for one, turn in zip(variants, compare_session.turns, strict=True)]
    )
    view = screen.view_of(comparison, settings) if chat.live else None
    cancellation, think = compare_session.cancellation, settings.think == "show"
    busy_screen = BusyScreen(settings, chat.live, "reading the prompt", cancellation, view=view)
    comparison.progress = busy_screen.progress
    with busy_screen.open(settings.timeout):
        screen.run(comparison, view, think, busy_screen.spinner.end)
    if not chat.live:
        with to_stderr(False):
            screen.print_texts(comparison, think)
    screen.print_summary(comparison, chat.live)
    screen.print_errors(comparison)
    chat.compare_session = compare_session
    console.note("/keep N continues with one of them; none is part of the conversation yet")
    if any(answer.finish_reason == "timeout" for answer in comparison.answers):
        chat.note_timeout(settings.timeout)
    if comparison.interrupted:
        chat.after_interrupt()


def _answer_numbers(chat: ChatApp, start: str) -> list[tuple[str, str]]:
    compared = chat.compare_session.comparison.answers if chat.compare_session else []
    return matching(((str(number), one.request.label) for number, one in enumerate(compared, 1)), start)


@command("keep N", "/keep 2", "/keep 1, then /continue", "/compare answers=3, then /keep 3", complete=_answer_numbers)
def keep(chat: ChatApp, argument: str) -> None:
    """Continue with answer N of the last comparison. It follows its question, in a new branch."""
    compare_session = chat.compare_session
    if not compare_session or compare_session.session is not chat.session:
        raise UsageError("no comparison yet", _EXAMPLE_HINT)
    number = int(argument)
    chat.turn = compare_session.keep(number)
    chat.pending = [one for one in chat.pending if one not in compare_session.question.attachments]
    label = compare_session.comparison.answers[number - 1].request.label
    console.note(f"kept answer {number} ({label}): the conversation continues from it")
