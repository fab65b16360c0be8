"""What happens when the next message does not fit the context: the setting `overflow` decides."""

from collections.abc import Sequence
from contextlib import suppress

from llmcli.chat.controller import ChatController, PromptFit, overflow_error
from llmcli.chat.conversation import Message
from llmcli.errors import UsageError
from llmcli.text import plural
from llmcli.ui.chat.busy_screen import BusyScreen
from llmcli.ui.terminal.console import choose, console, edit


def resolve_overflow(
    controller: ChatController,
    live: bool,
    path: Sequence[Message],
    begun: Message | None = None,
    draft: Message | None = None,
) -> Sequence[Message] | None:
    """The path to answer, with `draft` (not sent yet) at its end, after the context has room; None: do not send it.

    `live`: a user is at a terminal and can be asked.

    Raises:
        ContextOverflowError: where `overflow` is error, or the user cannot be asked, or nothing helps.
    """
    if draft:
        controller.check_length(draft)
    whole = [*path, draft] if draft else path
    fit = controller.fit(whole, begun)
    if not fit.is_over:
        return whole
    policy = controller.settings.overflow
    if policy == "ask" and live:
        policy = _ask_policy(fit)
    if policy in ("ask", "error"):
        raise overflow_error(fit)
    if policy == "back":
        return None
    compacted = False
    if policy == "compact" and len(whole) > 2:
        with suppress(UsageError):  # too few turns
            compacted = compact_now(controller, live, path)
    if compacted:
        conversation = controller.session.conversation
        path = whole = conversation.path()
        if draft:
            whole = [*path, conversation.draft(draft.role, draft.content, attachments=draft.attachments)]
        if not controller.fit(whole, begun).is_over:
            return whole
    number = controller.drop_oldest(whole, begun)
    if number:
        dropped = plural(number, "message")
        console.warn(f"the model no longer reads the oldest {dropped}: the context of {fit.n_ctx} tokens is full")
    return whole


def compact_now(controller: ChatController, live: bool, path: Sequence[Message], keep: int | None = None) -> bool:
    """Summarize `path`, show the summary, ask the user if possible, and continue from it; whether that was done.

    Raises:
        UsageError: when there is too little to summarize.
    """
    from llmcli.chat.compaction import Compaction  # imports the engine, which the completion of commands does not need

    compaction = Compaction(controller, path, keep)
    doing = "summarizing the oldest turns"
    busy_screen = BusyScreen(controller.settings, live)
    with busy_screen.open(compaction.cancellation, doing):
        if live:
            busy_screen.show(compaction.parts())
        else:
            console.note(doing)
            for _ in compaction.parts():
                pass
    if compaction.interrupted or not compaction.text:
        console.note("nothing changed")
        return False
    if compaction.n_skipped:
        omitted = plural(compaction.n_skipped, "message")
        console.warn(f"the summary omits the oldest {omitted}: they did not fit into the context")
    if live:
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
