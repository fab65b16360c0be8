"""The context."""

import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmcli.chat.compose import system_text
from llmcli.chat.excerpt import excerpt
from llmcli.chat.tree import Message
from llmcli.errors import UsageError
from llmcli.ui.ask import choose
from llmcli.ui.commands.branching import WHO
from llmcli.ui.commands.registry import command
from llmcli.ui.console import console
from llmcli.ui.units import plural

if TYPE_CHECKING:
    from llmcli.ui.repl.chat import Chat

_FULL, _EMPTY = "█", "·"
_WIDEST = 60  # columns of the bar


@command()
def context(chat: "Chat", _argument: str) -> None:
    """Show what fills the context, message by message."""
    local = chat.ready()
    if not local:
        return
    dialogue = chat.dialogue
    path = chat.path()
    read = {message.id for message in dialogue.window(path)}
    fit = dialogue.fit(path)
    counted = [dialogue.transcript.count(message) if message.id in read else 0 for message in path]
    system = system_text(dialogue.settings)
    n_system = local.count_tokens(system) if system else 0
    frame = max(fit.n_prompt - sum(counted) - n_system, 0)
    rows = [("", "template", _amount(frame, fit.n_ctx), "")]
    if system:
        rows.insert(0, ("", "system", _amount(n_system, fit.n_ctx), excerpt(system)))
    for number, (message, tokens) in enumerate(zip(path, counted, strict=True), 1):
        amount = _amount(tokens, fit.n_ctx) if message.id in read else "left out"
        rows.append((str(number), WHO[message.role], amount, excerpt(message.content)))
    free = max(fit.n_ctx - fit.n_prompt, 0)
    chat.say(_bar([n_system + frame, *counted], fit.n_ctx))
    known = local.evaluated(dialogue.prompt(path).tokens)
    chat.say(f"{fit.n_prompt} of {fit.n_ctx} tokens, {free} free; {known} are read already")
    chat.rows(("N", "WHAT", "TOKENS", "BEGINNING"), rows, right=("N", "TOKENS"), spare=("BEGINNING",))
    if fit.over:
        console.warn(f"the next answer has no room; {_help(dialogue.settings.overflow)}")


def _help(overflow: str) -> str:
    meaning = {
        "ask": "you will be asked what to leave out",
        "error": "it will be refused",
        "oldest": "the oldest turns will be left out",
        "compact": "the oldest turns will be summarized",
    }
    return f"{meaning[overflow]} (overflow = {overflow})"


def _amount(tokens: int, n_ctx: int) -> str:
    return f"{tokens} {tokens / n_ctx:>4.0%}"


def _bar(parts: list[int], n_ctx: int) -> str:
    """One row: a stretch for each part, in two shades by turns, then what is free."""
    width = min(shutil.get_terminal_size().columns - 2, _WIDEST)
    bar, total, shades = "", 0, (_FULL, "▓")
    for index, tokens in enumerate(parts):
        total += tokens
        bar += shades[index % 2] * (round(min(total / n_ctx, 1) * width) - len(bar))
    return f"[{bar}{_EMPTY * (width - len(bar))}]"


@command("[N]")
def compact(chat: "Chat", argument: str) -> None:
    """Let the model summarize the oldest turns. The summary is shown before it is used; the last N turns (2) stay."""
    if argument and not argument.isdecimal():
        raise UsageError("/compact takes the number of turns that stay", "as in /compact 2")
    if chat.ready():
        compact_now(chat, chat.path(), int(argument) if argument else None)


def compact_now(chat: "Chat", path: Sequence[Message], keep: int | None = None) -> bool:
    """Write a summary of `path`, show it, ask where somebody can be asked, and go on from it; whether that was done.

    Raises:
        UsageError: when there is too little to summarize.
    """
    from llmcli.chat.compaction import Compaction  # stands on the engine, which completion does without

    compaction = Compaction(chat.dialogue, path, keep)
    chat.stream_aside(compaction.parts(), "summarizing the oldest turns")
    if compaction.interrupted or not compaction.text:
        console.note("nothing was changed")
        return False
    if compaction.left_out:
        lost = plural(compaction.left_out, "message")
        console.warn(f"the oldest {lost} did not fit into the context to be summarized, and the summary lacks them")
    if chat.live:
        wanted = choose(
            "go on from this?", {"yes": "use it", "edit": "change it first", "no": "leave all as it is"}, "yes"
        )
        if wanted == "no":
            console.note("nothing was changed")
            return False
        if wanted == "edit":
            from llmcli.ui.editor import edit

            compaction.text = edit(compaction.text).strip() or compaction.text
    number = compaction.use()
    console.note(f"the summary stands for {plural(number, 'message')} now; /branches leads back to them")
    return True


@command()
def stats(chat: "Chat", _argument: str) -> None:
    """Show tokens and speed of the last answer."""
    path = chat.path()
    answers = [message for message in chat.session.conversation.messages.values() if message.timings]
    last = next((message for message in reversed(path) if message.timings), None)
    if not last:
        console.note("no answer yet")
        return
    t = last.timings
    facts = [
        ("prompt", f"{t.get('prompt_n', 0):.0f} tokens read, {t.get('prompt_per_second', 0):.1f} a second"),
        ("answer", f"{t.get('predicted_n', 0):.0f} tokens, {t.get('predicted_per_second', 0):.1f} a second"),
        ("first token", f"{t.get('ttft_ms', 0) / 1e3:.2f} s"),
        ("end", last.finish_reason),
        ("seed", str(last.params.get("seed", ""))),
        ("model", last.model),
        ("session", f"{len(answers)} answers, {sum(m.timings.get('predicted_n', 0) for m in answers):.0f} tokens"),
    ]
    chat.facts(facts)
