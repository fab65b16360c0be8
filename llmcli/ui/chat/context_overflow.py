"""What happens when the next message does not fit the context: the setting `overflow` decides."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from llmcli.chat.controller import ChatController, PromptFit, overflow_error
from llmcli.chat.conversation import Message
from llmcli.chat.sessions.session import Session
from llmcli.engine.events import Cancellation
from llmcli.errors import UsageError
from llmcli.text import plural
from llmcli.ui.chat.answer_display import Parts
from llmcli.ui.terminal.ask import choose, edit
from llmcli.ui.terminal.console import console


class OverflowChat(Protocol):
    """The part of a chat that is necessary to resolve an overflow."""

    controller: ChatController
    live: bool

    @property
    def session(self) -> Session: ...

    def path(self) -> list[Message]: ...

    def stream_to_stderr(self, parts: Parts, doing: str, cancellation: Cancellation) -> None: ...


def resolve_overflow(
    chat: OverflowChat, path: Sequence[Message], begun: Message | None = None, draft: Message | None = None
) -> Sequence[Message] | None:
    """The path to answer, with `draft` (not sent yet) at its end, after the context has room; None: do not send it.

    Raises:
        ContextOverflowError: where `overflow` is error, or the user cannot be asked, or nothing helps.
    """
    controller = chat.controller
    if draft:
        controller.check_length(draft)
    whole = [*path, draft] if draft else path
    fit = controller.fit(whole, begun)
    if not fit.is_over:
        return whole
    policy = controller.settings.overflow
    if policy == "ask" and chat.live:
        policy = _ask_policy(fit)
    if policy in ("ask", "error"):
        raise overflow_error(fit)
    if policy == "back":
        return None
    if policy == "compact" and len(whole) > 2 and _compact(chat, path):
        path = chat.path()
        whole = (
            [*path, chat.session.conversation.draft(draft.role, draft.content, attachments=draft.attachments)]
            if draft
            else path
        )
        if not controller.fit(whole, begun).is_over:
            return whole
    number = controller.drop_oldest(whole, begun)
    if number:
        dropped = plural(number, "message")
        console.warn(f"the model no longer reads the oldest {dropped}: the context of {fit.n_ctx} tokens is full")
    return whole


def compact_now(chat: OverflowChat, path: Sequence[Message], keep: int | None = None) -> bool:
    """Summarize `path`, show the summary, ask the user if possible, and continue from it; whether that was done.

    Raises:
        UsageError: when there is too little to summarize.
    """
    from llmcli.chat.compaction import Compaction  # imports the engine, which the completion of commands does not need

    compaction = Compaction(chat.controller, path, keep)
    chat.stream_to_stderr(compaction.parts(), "summarizing the oldest turns", compaction.cancellation)
    if compaction.interrupted or not compaction.text:
        console.note("nothing changed")
        return False
    if compaction.n_skipped:
        omitted = plural(compaction.n_skipped, "message")
        console.warn(f"the summary omits the oldest {omitted}: they did not fit into the context")
    if chat.live:
        choices = {"yes": "use it", "edit": "change it first", "no": "change nothing"}
        choice = choose("continue with this summary?", choices, "yes")
        if choice == "no":
            console.note("nothing changed")
            return False
        if choice == "edit":
            compaction.text = edit(compaction.text).strip() or compaction.text
    number = compaction.use()
    console.note(f"the summary replaces {plural(number, 'message')} (/branches lists the full conversation)")
    return True


def _compact(chat: OverflowChat, path: Sequence[Message]) -> bool:
    """Replace the oldest turns of `path` by a summary; False where there are too few of them."""
    with suppress(UsageError):
        return compact_now(chat, path)
    return False


def _ask_policy(fit: PromptFit) -> str:
    needed = f"{fit.n_prompt} tokens, and {fit.reserve} for an answer"
    console.warn(f"the conversation does not fit: {needed}, in a context of {fit.n_ctx}")
    return choose(
        "how to continue?",
        {
            "oldest": "drop the oldest turns from what the model reads",
            "compact": "let the model summarize the oldest turns",
            "back": "do not send the message",
        },
        "back",
    )
