"""What happens when the next turn does not fit the context: the setting `overflow` decides."""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from llmcli.chat.controller import Fit, too_long
from llmcli.chat.conversation import Message
from llmcli.errors import UsageError
from llmcli.text import plural
from llmcli.ui.terminal.ask import choose
from llmcli.ui.terminal.console import console

if TYPE_CHECKING:
    from llmcli.ui.chat.app import Chat


def make_room(
    chat: "Chat", path: Sequence[Message], begun: Message | None = None, draft: Message | None = None
) -> Sequence[Message] | None:
    """The path to answer, with `draft` (not sent yet) at its end, when there is room for it; None: do not send it.

    Raises:
        ContextOverflowError: where `overflow` is error, or the user cannot be asked, or nothing helps.
    """
    dialogue = chat.dialogue
    if draft:
        dialogue.refuse_endless(draft)
    whole = [*path, draft] if draft else path
    fit = dialogue.fit(whole, begun)
    if not fit.over:
        return whole
    how = dialogue.settings.overflow
    if how == "ask" and chat.live:
        how = _ask_how(fit)
    if how in ("ask", "error"):
        raise too_long(fit)
    if how == "back":
        return None
    if how == "compact" and len(whole) > 2 and _compact(chat, path):
        path = chat.path()
        whole = [*path, chat.session.draft(draft.role, draft.content, attachments=draft.attachments)] if draft else path
        if not dialogue.fit(whole, begun).over:
            return whole
    number = dialogue.drop_oldest(whole, begun)
    if number:
        dropped = plural(number, "message")
        console.warn(f"the model no longer reads the oldest {dropped}: the context of {fit.n_ctx} tokens is full")
    return whole


def _compact(chat: "Chat", path: Sequence[Message]) -> bool:
    """Replace the oldest turns of `path` by a summary; False where there are too few of them."""
    from llmcli.ui.commands.context import compact_now

    with suppress(UsageError):
        return compact_now(chat, path)
    return False


def _ask_how(fit: Fit) -> str:
    needed = f"{fit.n_prompt} tokens, and {fit.reserve} for an answer"
    console.warn(f"the conversation does not fit: {needed}, in a context of {fit.n_ctx}")
    return choose(
        "make room?",
        {
            "oldest": "drop the oldest turns from what the model reads",
            "compact": "let the model summarize the oldest turns",
            "back": "do not send the message",
        },
        "back",
    )
