"""Commands that show and free the context, and the figures of the last answer."""

import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING

from llmcli.chat.conversation import SPEAKER_NAMES
from llmcli.errors import UsageError
from llmcli.inference.request import system_text
from llmcli.text import ellipsize, plural
from llmcli.ui.chat.context_overflow import compact_now
from llmcli.ui.commands.registry import CONTEXT, INSPECT, command
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.table import print_facts, print_rows

if TYPE_CHECKING:
    from llmcli.ui.chat.app import ChatApp

_FULL, _EMPTY = "█", "·"
_WIDEST = 60  # columns of the bar
_OVERFLOW = {  # what happens at the next message
    "ask": "you choose what to drop",
    "error": "the message is refused",
    "oldest": "the oldest turns are dropped",
    "compact": "the oldest turns are summarized",
}


@command(
    "context",
    heading=CONTEXT,
    help="Show what fills the context, message by message.",
    detail="The table has a row for each message, with its number of tokens.",
    examples=("/context", "/compact, then /context", "/n_ctx 8192, then /context"),
)
def context(chat: "ChatApp", _argument: str) -> None:
    """Print a bar and a table of the tokens in the context."""
    local = chat.wait_for_model()
    if not local:
        return
    controller = chat.controller
    path = chat.path()
    read = {message.id for message in controller.window(path)}
    fit = controller.fit(path)
    counted = [controller.prompt_builder.count(message) if message.id in read else 0 for message in path]
    system = system_text(controller.settings)
    n_system = local.count_tokens(system) if system else 0
    n_template = max(fit.n_prompt - sum(counted) - n_system, 0)
    rows = [("", "template", _amount(n_template, fit.n_ctx), "")]
    if system:
        rows.insert(0, ("", "system", _amount(n_system, fit.n_ctx), ellipsize(system)))
    for number, (message, tokens) in enumerate(zip(path, counted, strict=True), 1):
        amount = _amount(tokens, fit.n_ctx) if message.id in read else "not read"
        rows.append((str(number), SPEAKER_NAMES[message.role], amount, ellipsize(message.content)))
    free = max(fit.n_ctx - fit.n_prompt, 0)
    chat.say(_bar([n_system + n_template, *counted], fit.n_ctx))
    cached = local.n_evaluated(controller.prompt(path).tokens)
    chat.say(f"{fit.n_prompt} of {fit.n_ctx} tokens, {free} free, {cached} in the KV cache")
    print_rows(("N", "WHAT", "TOKENS", "BEGINNING"), rows, right=("N", "TOKENS"), spare=("BEGINNING",))
    if fit.is_over:
        overflow = controller.settings.overflow
        console.warn(f"the context has no room for the next answer: {_OVERFLOW[overflow]} (overflow = {overflow})")


def _amount(tokens: int, n_ctx: int) -> str:
    return f"{tokens} {tokens / n_ctx:>4.0%}"


def _bar(parts: list[int], n_ctx: int) -> str:
    """One row: each part in one of two alternating shades, then what is free."""
    width = min(shutil.get_terminal_size().columns - 2, _WIDEST)
    bar, total, shades = "", 0, (_FULL, "▓")
    for index, tokens in enumerate(parts):
        total += tokens
        bar += shades[index % 2] * (round(min(total / n_ctx, 1) * width) - len(bar))
    return f"[{bar}{_EMPTY * (width - len(bar))}]"


@command(
    "compact",
    heading=CONTEXT,
    usage="[N]",
    help="Free context: summarize the oldest turns.",
    detail="The model writes the summary, and you see it before it is used. The last N turns (default 2) stay.",
    examples=("/compact", "/compact 4", "/compact, then /context"),
)
def compact(chat: "ChatApp", argument: str) -> None:
    """Replace the oldest turns by a summary, in a new branch."""
    if argument and not argument.isdecimal():
        raise UsageError(f"/compact takes the number of turns to keep, got '{argument}'", "try /compact 2")
    if chat.wait_for_model():
        compact_now(chat.controller, chat.live, chat.path(), int(argument) if argument else None)


@command(
    "stats",
    heading=INSPECT,
    help="Show token counts and speed of the last answer.",
    detail="It also shows the time to the first token, the finish reason and the seed.",
    examples=("/stats", "/retry, then /stats", "/model starter, then /retry, then /stats"),
)
def stats(chat: "ChatApp", _argument: str) -> None:
    """Print the figures of the last answer."""
    path = chat.path()
    answers = [message for message in chat.session.conversation.messages.values() if message.timings]
    last = next((message for message in reversed(path) if message.timings), None)
    if not last:
        console.note("no answer yet")
        return
    t = last.timings
    n_total = int(sum(message.timings.get("predicted_n", 0) for message in answers))
    facts = [
        ("prompt", f"{_tokens(t, 'prompt_n')} evaluated, {t.get('prompt_per_second', 0):.1f} tokens/s"),
        ("answer", f"{_tokens(t, 'predicted_n')}, {t.get('predicted_per_second', 0):.1f} tokens/s"),
        ("first token", f"{t.get('ttft_ms', 0) / 1e3:.2f} s"),
        ("end", last.finish_reason),
        ("seed", str(last.params.get("seed", ""))),
        ("model", last.model),
        ("session", f"{plural(len(answers), 'answer')}, {plural(n_total, 'token')}"),
    ]
    print_facts(facts)


def _tokens(timings: Mapping[str, float], key: str) -> str:
    return plural(int(timings.get(key, 0)), "token")
