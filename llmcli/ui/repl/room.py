"""When the next turn does not fit the context: say so beforehand, and do what `overflow` says."""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from llmcli.chat.dialogue import Fit, too_long
from llmcli.chat.tree import Message
from llmcli.errors import UsageError
from llmcli.ui.ask import choose
from llmcli.ui.console import console
from llmcli.ui.units import plural

if TYPE_CHECKING:
    from llmcli.ui.repl.chat import Chat


def make_room(
    chat: "Chat", path: Sequence[Message], begun: Message | None = None, draft: Message | None = None
) -> Sequence[Message] | None:
    """The path to answer, with `draft` (not said yet) at its end, once there is room for it; None: take it back.

    Raises:
        ContextOverflowError: where `overflow` is error, or nobody can be asked, or nothing helps.
    """
    dialogue = chat.dialogue
    if draft:
        dialogue.refuse_endless(draft)
    whole = [*path, draft] if draft else path
    fit = dialogue.fit(whole, begun)
    if not fit.over:
        return whole
    how = dialogue.settings.overflow
    how = _ask(fit) if how == "ask" and chat.live else how
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
        console.warn(
            f"the model no longer reads the oldest {plural(number, 'message')}: the context of {fit.n_ctx} is full"
        )
    return whole


def _compact(chat: "Chat", path: Sequence[Message]) -> bool:
    """Whether the oldest turns of `path` are in a summary now; with too few of them there is none."""
    from llmcli.ui.commands.filling import compact_now

    with suppress(UsageError):
        return compact_now(chat, path)
    return False


def _ask(fit: Fit) -> str:
    console.warn(
        f"this does not fit: {fit.n_prompt} tokens and room for an answer ({fit.reserve}) in a context of {fit.n_ctx}"
    )
    return choose(
        "make room?",
        {
            "oldest": "the model no longer reads the oldest turns",
            "compact": "the model summarizes the oldest turns",
            "back": "take the message back",
        },
        "back",
    )
