"""When the next turn does not fit the context: say so beforehand, and do what `overflow` says."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmcli.chat.dialogue import Fit, too_long
from llmcli.chat.tree import Message
from llmcli.ui.ask import choose
from llmcli.ui.console import console

if TYPE_CHECKING:
    from llmcli.ui.repl.chat import Chat


def make_room(chat: "Chat", path: Sequence[Message]) -> bool:
    """Whether `path` may be sent, after making room for it if need be. False: the user took it back.

    Raises:
        ContextOverflowError: where `overflow` is error, or nobody can be asked, or nothing helps.
    """
    dialogue = chat.dialogue
    fit = dialogue.fit(path)
    if not fit.over:
        return True
    how = dialogue.settings.overflow
    if how == "ask":
        if not chat.live:
            raise too_long(fit)
        how = _ask(fit)
    if how == "error":
        raise too_long(fit)
    if how == "back":
        return False
    if how == "compact" and len(path) > 1:
        from llmcli.ui.commands.filling import compact_now

        compact_now(chat)
        draft = path[-1]
        path = [*chat.path(), chat.session.draft(draft.role, draft.content, attachments=draft.attachments)]
        if not dialogue.fit(path).over:
            return True
    number = dialogue.drop_oldest(path)
    if number:
        console.warn(f"the model no longer reads the oldest {number} messages: the context of {fit.n_ctx} is full")
    return True


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
