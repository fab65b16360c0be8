"""Commands that show what fills the context, and free it."""

import shutil
from itertools import accumulate

from llmcli.chat.conversation import SPEAKER_NAMES
from llmcli.inference.request import system_text
from llmcli.text import ellipsize
from llmcli.ui.chat.app import ChatApp
from llmcli.ui.commands.registry import command
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import print_rows

_OVERFLOW = {  # what happens at the next message
    "ask": "you choose what to drop",
    "error": "the message is refused",
    "oldest": "the oldest turns are dropped",
    "compact": "the oldest turns are summarized",
}


@command("context", "/context", "/compact, then /context", "/n_ctx 8192, then /context")
def context(chat: ChatApp, _argument: str) -> None:
    """Show what fills the context, message by message.

    The table has a row for each message that the model reads, with its number of tokens, and one for all messages that
    were dropped.
    """
    if not (engine := chat.wait_for_model()):
        return
    controller, path = chat.controller, chat.path()
    unread = controller.unread(path)
    fit = controller.fit(path)
    count = controller.prompt_builder.count_tokens
    # The dropped messages are one row.
    dropped = {*unread}
    read = [(number, message) for number, message in enumerate(path, 1) if number not in dropped]
    counted = [count(message.text) for _, message in read]
    system = system_text(controller.settings)
    n_system = engine.count_tokens(system) if system else 0
    n_template = max(fit.n_prompt - sum(counted) - n_system, 0)
    rows = [("", "template", _amount(n_template, fit.n_ctx), "")]
    if system:
        rows.insert(0, ("", "system", _amount(n_system, fit.n_ctx), ellipsize(system)))
    if unread:
        rows.append((f"{unread[0]}-{unread[-1]}", "dropped", "not read", ""))
    for (number, message), tokens in zip(read, counted, strict=True):
        row = (str(number), SPEAKER_NAMES[message.role], _amount(tokens, fit.n_ctx), ellipsize(message.content))
        rows.append(row)
    free = max(fit.n_ctx - fit.n_prompt, 0)
    if fit.n_ctx:
        chat.say(_bar([n_system + n_template, *counted], fit.n_ctx))
    if engine.capabilities.tokens:
        cached = engine.n_evaluated(controller.prompt(path).tokens)
        chat.say(f"{fit.n_prompt} of {fit.n_ctx} tokens, {free} free, {cached} in the KV cache")
    else:
        of_all = f" of {fit.n_ctx}" if fit.n_ctx else ""
        size = "" if fit.n_ctx else "; the server does not tell the size of the context, /n_ctx sets it"
        chat.say(f"about {fit.n_prompt}{of_all} tokens: an estimate, as the server counts them{size}")
    print_rows(("N", "WHAT", "TOKENS", "BEGINNING"), rows, right=("N", "TOKENS"), spare=("BEGINNING",))
    if fit.is_over:
        overflow = controller.settings.overflow
        console.warn(f"the context has no room for the next answer: {_OVERFLOW[overflow]} (overflow = {overflow})")


def _amount(tokens: int, n_ctx: int) -> str:
    return f"{tokens} {tokens / n_ctx:>4.0%}" if n_ctx else str(tokens)


def _bar(parts: list[int], n_ctx: int) -> str:
    """One row: each part in one of two alternating shades, then what is free."""
    width, bar = min(shutil.get_terminal_size().columns - 2, 60), ""
    for index, total in enumerate(accumulate(parts)):
        bar += "█▓"[index % 2] * (round(min(total / n_ctx, 1) * width) - len(bar))
    return f"[{bar:·<{width}}]"


@command("compact [N]", "/compact", "/compact 4", "/compact, then /context")
def compact(chat: ChatApp, argument: str) -> None:
    """Free context: summarize the oldest turns.

    The model writes the summary, and you see it before it is used. The last N turns (default 2) stay.
    """
    if chat.wait_for_model():
        chat.compact(chat.path(), int(argument) if argument else None)
