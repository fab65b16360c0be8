"""Commands that show how single tokens of the last answer were sampled."""

import os
from collections import defaultdict
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from llmcli.engine.events import Measure
from llmcli.errors import UsageError
from llmcli.files import data_dir, make_private
from llmcli.text import plural
from llmcli.ui.charts.heatmap import print_heat
from llmcli.ui.charts.trace_table import percent, print_why, short_name, token_text
from llmcli.ui.chat.app import ChatApp
from llmcli.ui.commands.messages import parse_number
from llmcli.ui.commands.registry import command, matching
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import draft_facts, print_facts, print_rows

if TYPE_CHECKING:
    from llmcli.chat.inspect import AnswerInspector
    from llmcli.engine.events import TokenInspection, TokenTrace

_BEFORE = 32  # characters of the answer that are shown before a token
_TOLERANCE = 0.005  # of a recomputed probability


def _tokens(chat: ChatApp, start: str) -> list[tuple[str, str]]:
    known = [token for token in chat.turn.answer.traces if token.id is not None] if chat.turn else []
    return matching(((str(token.i), repr(token.text or token.reasoning)) for token in known), start)


@command("why [N|TEXT]", "/why", "/why 12", "/why comet", complete=_tokens)
def why(chat: ChatApp, argument: str) -> None:
    """Show step by step how a token was sampled.

    N is its number in the answer, from 0; TEXT is its text or the start of it. Alone it takes the token with the
    highest entropy. The table has the most likely candidates and what each sampler did to them. After /continue or
    /branch N K the numbers start again: the text before is a part of the prompt.
    """
    if inspected := _inspect(chat, argument, 8):
        answered, found = inspected
        print_why(found, answered.answer.settings)
        _note_differences(answered, found)


@command(
    "alternatives [N|TEXT]", "/alternatives", "/alternatives 12", "/alternatives 5, then /branch 5 2", complete=_tokens
)
def alternatives(chat: ChatApp, argument: str) -> None:
    """List the other candidates for a token.

    N and TEXT as for /why. K is the rank of a candidate, BEFORE its probability by the model, AFTER its probability
    after the sampler chain. /branch N K continues from it.
    """
    inspected = _inspect(chat, argument, 10)
    if not inspected:
        return
    answered, found = inspected
    rows = []
    for candidate in found.stepwise.candidates:
        sampler, mark = found.stepwise.removed_by(candidate), "*" if candidate.id == found.drawn else ""
        after = f"- {short_name(sampler)}" if sampler else percent(found.stepwise.after(candidate))
        rows.append((f"{candidate.rank}{mark}", token_text(candidate.text, 16), percent(candidate.before), after))
    print_rows(("K", "TOKEN", "BEFORE %", "AFTER %"), rows, right=("K", "BEFORE %", "AFTER %"))
    chat.listed_candidates = found.at, [(str(one.rank), one.text) for one in found.stepwise.candidates]
    console.note(f"* was sampled; /branch {found.at} K continues from another candidate")
    _note_differences(answered, found)


def open_inspector(chat: ChatApp) -> "AnswerInspector | None":
    """The last answer, for inspection; None when the user stopped waiting for the model; UsageError without one."""
    if not any(message.role == "assistant" for message in chat.path()):
        raise UsageError("no answer yet", "send a message first")
    if not (engine := chat.wait_for_model()):
        return None
    if not engine.capabilities.inspection:
        raise UsageError(f"{engine.name} does not support /why", "use a model of this machine")
    from llmcli.chat.inspect import last_answer

    return last_answer(chat.controller, chat.turn)


def parse_token_index(answered: "AnswerInspector", argument: str) -> int:
    """The number of the token that `argument` names: a number, or its text with or without quotes; or UsageError."""
    most = len(answered.tokens) - 1
    number = parse_number(argument)
    if number is not None and number > most:
        raise UsageError(f"token {argument[:_BEFORE]} does not exist", f"use a number from 0 to {most}")
    if number is None:
        text = argument[1:-1] if argument[0] in "\"'" and argument[0] == argument[-1] else argument
        number = answered.find(text) if text else None
    if number is None:
        raise UsageError(f"{text[:_BEFORE]!r} is not in the last answer", f"use a number from 0 to {most}")
    return number


def _inspect(chat: ChatApp, argument: str, count: int) -> "tuple[AnswerInspector, TokenInspection] | None":
    """The last answer and `count` candidates of a token, after printing its position; None if the user stopped it."""
    answered = open_inspector(chat)
    if not answered:
        return None
    if argument:
        number: int | None = parse_token_index(answered, argument)
    else:
        number = chat.work("measuring the answer", answered.least_sure)
    if number is None:
        return None
    doing = "generating the answer again" if answered.inspector.stateful_steps else "evaluating the answer"
    found = chat.work(doing, partial(answered.inspector.inspect, number, count))
    if not found:
        return None
    text = (answered.answer.settings.prefill or "") + "".join(map(answered.text, range(found.at)))
    before = " ".join(text.split())
    end = f"…{before[-_BEFORE:]}" if len(before) > _BEFORE else before
    position = f"token {found.at} (0 to {len(answered.tokens) - 1})"
    position += " of the continuation" if answered.is_continued else ""
    position += f', after "{end}"' if before else ""
    chat.say(position if argument else f"least sure: {position}")
    return answered, found


def _note_differences(answered: "AnswerInspector", found: "TokenInspection") -> None:
    if not answered.traces:
        console.note("this answer is from an earlier chat; its tokens may differ from the original ones")
    if not found.exact:
        names = ", ".join(answered.inspector.stateful_steps)
        console.note(f"could not reproduce the answer exactly: {names} state was reset at this token")
        return
    original = answered.traces[found.at].p if answered.traces else None
    chosen = next(candidate for candidate in found.stepwise.candidates if candidate.id == found.drawn)
    if original is not None and abs(found.stepwise.after(chosen) - original) > _TOLERANCE:
        console.note(f"recomputed with different batch sizes; the original probability was {original:.1%}")


@command("tokens [temperature|p|entropy|drafted]", "/tokens", "/tokens p", "/tokens drafted", aliases=("heat",))
def tokens(chat: ChatApp, argument: str) -> None:
    """Show the tokens of the last answer in color.

    The color shows the temperature, the probability (p) or the entropy of each token, or whether it was accepted from
    a draft of speculative decoding (drafted). Without color, bars below the text show it.
    """
    by = {"": "temperature", "temp": "temperature", "probability": "p"}.get(argument, argument)
    if by not in get_args(Measure):
        raise UsageError(f"/tokens must be temperature, p, entropy or drafted, got '{argument}'")
    _require_traces(chat, "/tokens")
    print_heat(traces_of_last_answer(chat), by)  # type: ignore[arg-type]


def _require_traces(chat: ChatApp, command_name: str) -> None:
    engine = chat.controller.engine
    if engine and not engine.capabilities.traces:
        raise UsageError(f"{engine.name} does not support {command_name}", "use a model of this machine")


def traces_of_last_answer(chat: ChatApp) -> list["TokenTrace"]:
    """How the tokens of the last answer were sampled; UsageError if this chat has none in this branch."""
    if not chat.turn or not chat.turn.answer.traces or chat.turn.message not in chat.path():
        raise UsageError("no answer in this branch since the chat was opened", "send a message, or use /retry")
    return chat.turn.answer.traces


@command("trace [on [FOLDER]|off|FILE]", "/trace on", "/trace last.jsonl", "/trace off")
def trace(chat: ChatApp, argument: str) -> None:
    """Write how each token is sampled to a file.

    `on` writes one file per answer. FILE.jsonl gets the trace of the last answer. Alone it shows whether traces are
    on. `llmcli trace show FILE` reads them.
    """
    _require_traces(chat, "/trace")
    word, _, name = argument.partition(" ")
    if word in ("", "on", "off"):
        if word == "on":
            folder = Path(os.path.expanduser(name.strip())) if name.strip() else data_dir() / "traces"
            chat.traces = make_private(folder)
        elif word == "off":
            chat.traces = None
        console.note(f"traces are on: one file per answer in {chat.traces}" if chat.traces else "traces are off")
        return
    from llmcli.inference.trace_file import TraceWriter

    path, traces = Path(os.path.expanduser(argument)), traces_of_last_answer(chat)
    if path.suffix != ".jsonl":
        raise UsageError(f"/trace must be on, off or FILE.jsonl, got '{path}'")
    if path.exists():
        raise UsageError(f"{path} already exists", "choose another name")
    with closing(TraceWriter(path)) as writer:
        for token in traces:
            writer.write(token)
    console.note(f"wrote {plural(len(traces), 'token')} to {path} (see `llmcli trace show` and `llmcli trace plot`)")


@command("stats", "/stats", "/retry, then /stats", "/model starter, then /retry, then /stats")
def stats(chat: ChatApp, _argument: str) -> None:
    """Show token counts and speed of the last answer.

    It also shows the time to the first token, the finish reason and the seed; and how many tokens were drafted, how
    many of them accepted, and the gain, as far as speculative decoding was used.
    """
    answers = [message for message in chat.session.conversation.messages.values() if message.timings]
    last = next((message for message in reversed(chat.path()) if message.timings), None)
    if not last:
        console.note("no answer yet")
        return
    t = defaultdict(float, last.timings)
    n_total = int(sum(message.timings.get("predicted_n", 0) for message in answers))
    facts = [
        ("prompt", f"{plural(int(t['prompt_n']), 'token')} evaluated, {t['prompt_per_second']:.1f} tokens/s"),
        ("answer", f"{plural(int(t['predicted_n']), 'token')}, {t['predicted_per_second']:.1f} tokens/s"),
        ("first token", f"{t['ttft_ms'] / 1e3:.2f} s"),
        *([("drafts", drafts)] if (drafts := draft_facts(t)) else []),
        ("end", last.finish_reason),
        ("seed", str(last.params.get("seed", ""))),
        ("model", last.model),
        ("session", f"{plural(len(answers), 'answer')}, {plural(n_total, 'token')}"),
    ]
    print_facts(facts)
