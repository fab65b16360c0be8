"""A question in a session: `generate --session NAME` and `--continue`, with the files and the rules of the chat."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from llmcli.cli.command_line import Option
from llmcli.cli.completion import complete_session
from llmcli.config.presets import layers_of
from llmcli.errors import ContextOverflowError, UsageError
from llmcli.params.settings import Layer, Settings
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.progress import ProgressLine

if TYPE_CHECKING:
    from llmcli.chat.controller import BackgroundLoad, ChatController, ReadAhead
    from llmcli.chat.conversation import Message
    from llmcli.chat.sessions.session import Session, Turn
    from llmcli.engine.events import Cancellation
    from llmcli.inference.engine import Engine

SessionName = Annotated[
    str | None,
    Option(
        "--session",
        "-S",
        metavar="NAME",
        help="Session of the chat that the prompt and the answer join; a new name creates one.",
        autocompletion=complete_session,
    ),
]
GoOn = Annotated[bool, Option("--continue", "-C", help="Continue the last session.")]
_OF_THIS_COMMAND = ("prompt", "file", "logprobs", "trace_top", "overflow")  # not of the conversation


@dataclass(frozen=True)
class SessionAnswer:
    """An open session, and the settings of the command line for it."""

    session: "Session"
    controller: "ChatController"

    @property
    def settings(self) -> Settings:
        """The settings in force: those of the session above the configuration, those of the command line above both."""
        return self.controller.settings

    def close(self) -> None:
        """Close and unlock the session."""
        self.session.close()

    def read_prompt(self, engine: "Engine", text: str, cancellation: "Cancellation") -> "list[Message]":
        """The conversation with the text as its next question, which is not saved yet, as far as the context has room.

        Raises ContextOverflowError, as the setting `overflow` says.
        """
        from llmcli.chat.controller import BackgroundLoad

        controller, conversation = self.controller, self.session.conversation
        load_ms, waited_ms = engine.load_ms, engine.waited_ms
        controller.loading = BackgroundLoad(lambda *_: engine)  # which is loaded already
        controller.loading.wait(lambda _status: True)
        engine.load_ms, engine.waited_ms = load_ms, waited_ms
        engine.open_context(self.settings)
        draft = conversation.draft("user", text)
        controller.check_length(draft)
        path = conversation.path()
        try:
            return self._resolve_overflow(path, draft, cancellation)
        except ContextOverflowError as error:  # its hint is one of the chat
            error.hint = "use --overflow oldest, a larger --ctx-size, or a shorter prompt"
            raise

    def _resolve_overflow(
        self, path: "list[Message]", draft: "Message", cancellation: "Cancellation"
    ) -> "list[Message]":
        controller, whole = self.controller, [*path, draft]
        fit, last = controller.fit(whole), controller.fit_of_last(whole)
        if not fit.is_over:
            return whole
        if last.n_prompt >= last.n_ctx:
            raise controller.overflow_error(whole)
        if not controller.droppable(whole):
            return whole
        policy = self.settings.overflow
        if policy in ("ask", "error"):
            raise controller.overflow_error(whole)
        if policy == "compact":
            with suppress(UsageError, ContextOverflowError):  # too few turns, or one that is too long
                self._summarize(path, cancellation)
                conversation = self.session.conversation
                whole = [*conversation.path(), conversation.draft("user", draft.content)]
        if controller.fit(whole).is_over and controller.drop_oldest(whole):
            numbers = controller.unread(whole)
            dropped = f"messages {numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else f"message {numbers[0]}"
            console.warn(f"the model no longer reads {dropped}: the context of {fit.n_ctx} tokens is full")
        return whole

    def _summarize(self, path: "list[Message]", cancellation: "Cancellation") -> None:
        """Replace the oldest turns by a summary, in a new branch. Raises KeyboardInterrupt if it is stopped."""
        from llmcli.chat.compaction import Compaction

        compaction = Compaction(self.controller, path)
        answer = compaction.answer
        answer.request.cancellation = cancellation
        console.note("summarizing the oldest turns")
        for _ in answer.parts():
            pass
        if cancellation.is_set():
            raise KeyboardInterrupt
        if summary := answer.text.strip():
            compaction.use(summary)

    def ask(self, path: "list[Message]", cancellation: "Cancellation", status: ProgressLine) -> "Turn":
        """The next answer, which is saved while its parts come."""
        turn = self.controller.answer(path)
        turn.answer.request.cancellation, turn.answer.request.progress = cancellation, status.reading
        self.session.append(path[-1])
        return turn

    def keep_context(self, engine: "Engine") -> None:
        """Store the evaluated conversation, for the next question."""
        if self.session.is_saved:
            for line in engine.keep_context(self.session.name):
                console.detail(line)

    def end(self, turn: "Turn") -> None:
        """After the answer: a question without one is taken back, so that the command can be repeated."""
        if not turn.message and self.session.conversation.head == turn.parent:
            self.session.conversation.undo(1)
        if not self.session.is_named and self.session.is_saved:
            console.note(f"saved as {self.session.name!r}; `llmcli chat --continue` resumes it")


def open_session_answer(flags: Layer, go_on: bool, name: str | None, refused: Mapping[str, object]) -> SessionAnswer:
    """Open the session of the command line, or a new one, and save the settings of the command line with it.

    `refused` are the options that a session has no place for, with their values. Raises UsageError.
    """
    from llmcli.chat.controller import ChatController
    from llmcli.cli.chat import open_session, save_overrides

    if wrong := next((option for option, value in refused.items() if value), ""):
        option = "--continue" if go_on else "--session"
        raise UsageError(f"{option} and {wrong} cannot be used together", "remove one of them")
    session = open_session(go_on, name, keep=True)
    session.is_name_exact = name is not None
    try:
        for note in session.notes:
            console.warn(note)
        session.notes.clear()
        given = replace(flags, values={key: one for key, one in flags.values.items() if key not in _OF_THIS_COMMAND})
        save_overrides(session, given)
        own = {key: one for key, one in flags.values.items() if key in ("logprobs", "trace_top", "overflow")}
        layers = layers_of(replace(flags, values={**given.values, **own}))
        return SessionAnswer(session, ChatController(session, layers, _refuse_to_load))
    except BaseException:
        session.close()
        raise


def _refuse_to_load(_settings: Settings, _ahead: "ReadAhead") -> "BackgroundLoad":
    raise AssertionError("the command loads the model itself")
