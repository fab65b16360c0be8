"""The chat as its commands see it: the conversation, the model, and the terminal that shows both."""

import sys
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llmcli.chat.controller import ChatController, PromptFit
from llmcli.chat.conversation import Attachment, Message, attach, find_mentions, missing_mentions
from llmcli.chat.sessions.session import Session
from llmcli.engine.events import Cancellation, Progress
from llmcli.errors import ContextOverflowError, LlmcliError, TimeLimitError, UsageError
from llmcli.inference.request import needs_plain_template
from llmcli.params.settings import Settings
from llmcli.text import plural
from llmcli.ui.chat.busy_screen import BusyScreen, TemperatureKeys, display
from llmcli.ui.terminal.console import choose, console, edit, is_terminal, wrapped
from llmcli.ui.terminal.output import (
    print_line,
    to_stderr,
    warn_dropped,
    warn_ineffective,
    warn_slow,
    warn_unread_arguments,
    write_trace,
)

if TYPE_CHECKING:
    from llmcli.chat.compare import CompareSession
    from llmcli.chat.controller import BackgroundLoad
    from llmcli.chat.sessions.session import Turn
    from llmcli.inference.engine import Engine
    from llmcli.ui.input.piped import LineReader
    from llmcli.ui.input.reader import TerminalReader

_T = TypeVar("_T")


@dataclass(eq=False, repr=False)
class ChatApp:
    """A chat; `live` if a user is at a terminal whose cursor can be moved, and can be asked."""

    controller: ChatController
    live: bool = False
    model_names: Callable[[], Sequence[str]] = tuple  # the downloaded models
    ensure_model: Callable[[Settings], object] = lambda _settings: None  # downloads it, if the user agrees
    reader: "TerminalReader | LineReader" = field(init=False)
    draft: str = ""  # the text in the input line at the next prompt
    refused_word: str = ""  # a command typed without its slash, which was not sent at once
    editing: int | None = None  # the number of the message that the next one replaces
    pending: list[Attachment] = field(default_factory=list)  # files that go with the next message
    turn: "Turn | None" = None  # the last answer
    fit: PromptFit | None = None  # how full the context is before the next message
    failure: LlmcliError | None = None  # the first error of a script
    compare_session: "CompareSession | None" = None  # the answers that were compared last
    traces: Path | None = None  # the folder for a trace of each answer
    listed_candidates: tuple[int, Sequence[tuple[str, str]]] | None = None  # of which token, and what
    _greeted: "Engine | None" = field(init=False, default=None)
    _warned: set[str] = field(init=False, default_factory=set)  # settings without effect, and why

    @property
    def session(self) -> Session:
        return self.controller.session

    def path(self) -> list[Message]:
        """The messages of the current branch."""
        return self.controller.session.conversation.path()

    def say(self, text: str, style: str = "") -> None:
        """Print one line or several: to the terminal, else to stderr."""
        with to_stderr(not self.live):
            print_line("\n".join(map(wrapped, text.split("\n"))) if self.live else text, style)

    def warn_of_session(self) -> None:
        """Show what is wrong with the file of the session."""
        for note in self.session.notes:
            console.warn(note)
        self.session.notes.clear()

    # Messages

    def send(self, text: str) -> None:
        """Send a message, and let the model answer."""
        if self.editing is not None:
            self.replace(self.editing, text)
            return
        self.draft = text  # in the input line again if it cannot be sent
        files = [attach(name, self.controller.settings.encoding) for name in find_mentions(text)]
        draft = self.session.conversation.draft("user", text, attachments=(*self.pending, *files))
        path = self.resolve_overflow(self.path(), draft=draft) if self.wait_for_model() else None
        if not path:
            return
        self.session.append(path[-1])
        self.warn_of_session()
        self.draft, self.pending = "", []
        if files:
            console.note(f"attached: {', '.join(file.name for file in files)}")
        self.note_missing_files(text)
        self._answer(path)

    def note_missing_files(self, text: str) -> None:
        """Say which files are mentioned in a message and do not exist."""
        if missing := missing_mentions(text):
            console.note(f"not attached, no such file: {', '.join(missing)}")

    def replace(self, number: int, text: str) -> None:
        """Replace message `number` (from 1) in a new branch; a question is answered again."""
        self.editing = None
        session, old = self.controller.session, self.path()[number - 1]
        head = session.conversation.head
        if text == old.content:
            console.note(f"message {number} is unchanged")
            return
        if old.role != "user":
            session.conversation.move(old.parent)
            session.add(old.role, text, model=old.model, finish_reason="edited" if old.role == "assistant" else "")
            session.conversation.mark_edit(head)
            console.note(f"message {number} is changed; /continue lets the model extend it")
            self._note_left_messages(head, number + 1)
            return
        self.draft, self.editing = text, number  # for the next prompt, if it cannot be sent
        if not self.wait_for_model():
            return
        session.conversation.move(old.parent)
        draft = session.conversation.draft("user", text, attachments=old.attachments)
        path = None
        try:
            path = self.resolve_overflow(self.path(), draft=draft)
        finally:
            if not path:
                session.conversation.move(head)
        if path:
            session.append(path[-1])
            session.conversation.mark_edit(head)
            self.draft, self.editing = "", None
            self._note_left_messages(head, number + 2)
            self._answer(path)

    def _note_left_messages(self, head: int | None, first: int) -> None:
        """Say where the messages up to `head` are, if there is a message `first`."""
        conversation = self.session.conversation
        left, leaves = conversation.path(head), conversation.leaves()
        branch = next((number for number, leaf in enumerate(leaves, 1) if left[-1] in conversation.path(leaf)), 0)
        if len(left) < first or not branch:
            return
        what = f"message {first} stays" if len(left) == first else f"messages {first} to {len(left)} stay"
        console.note(f"{what} in branch {branch}; /branch {branch} returns to {'it' if len(left) == first else 'them'}")

    def stop_editing(self) -> int | None:
        """Stop editing a message, which stays as it is; its number, or None if none was edited."""
        number, self.editing = self.editing, None
        return number

    def answer(self, path: list[Message], extra: dict[str, Any] | None = None, begun: Message | None = None) -> None:
        """Let the model answer `path`, or continue its answer `begun`, if `resolve_overflow` finds room for it."""
        if not self.wait_for_model():
            return
        fitting = self.resolve_overflow(path, begun)
        if fitting is not None:  # an empty one has room too
            self._answer(fitting, extra, begun)

    def _answer(self, path: list[Message], extra: dict[str, Any] | None = None, begun: Message | None = None) -> None:
        """Generate the answer, show it while it streams, and save it, whatever ends it."""
        settings, last_turn = self.controller.settings, self.turn
        self.turn = turn = self.controller.answer(path, extra, begun)
        request, temperature_keys = turn.answer.request, TemperatureKeys(turn)
        busy_screen = BusyScreen(settings, self.live, "reading the prompt", request.cancellation, temperature_keys)
        request.progress = busy_screen.progress
        warn_ineffective(turn.resolved, self._warned)
        warn_unread_arguments(request.prompt, turn.resolved.settings, self._warned)
        warn_dropped(turn.answer.engine, turn.resolved.settings, self._warned)
        if self.live:
            print_line("")  # between question and answer
        trace = f"{self.session.name or 'chat'}-{self.session.conversation.next_id}.jsonl"  # one for each answer
        with (
            write_trace(turn.answer, str(self.traces / trace)) if self.traces else nullcontext(),
            to_stderr(False),
            busy_screen.open(turn.resolved.settings.timeout),
            closing(turn.parts()) as parts,  # the text so far is kept before the session is closed
        ):
            so_far = begun.content if begun else ""
            # A pipe has the text of an answer already, but not what the user made of it with /edit or /branch N K.
            is_new = begun is not None and not self.live and begun.finish_reason == "edited"
            busy_screen.show(chain([("answer", so_far)] if is_new else [], parts), so_far)
            if self.live and turn.message:
                print_line("")  # between one turn and the next
        if moved := temperature_keys.note():
            console.note(moved)
        if begun and not turn.message:  # nothing was added: the answer is still the last one
            self.turn = last_turn
        self._note_end(turn, busy_screen.repetition.found)

    def _note_end(self, turn: "Turn", repeats: bool) -> None:
        warn_slow(turn.answer)
        console.warn_all(turn.answer.engine.notes)
        settings, reason = turn.resolved.settings, turn.answer.finish_reason
        on = "; /continue resumes" if turn.message else ""
        if reason == "interrupt":
            console.note(f"stopped{on}, /retry answers again" if on else "stopped; /retry tries again")
            self.after_interrupt()
        elif reason == "timeout":
            self.note_timeout(settings.timeout, on)
        elif reason == "length":
            limit = settings.max_tokens
            reached = 0 <= limit <= turn.answer.timings()["predicted_n"] and not turn.answer.fills_context
            why = f"max_tokens is {limit}" if reached else "the context is full; /compact or /undo makes room"
            is_of_server = limit < 0 and turn.answer.engine.capabilities.own_defaults
            why = "the server has a limit of its own; set a larger one with /max_tokens" if is_of_server else why
            console.note(f"cut off: {why}" + (on if reached else ""))
        if failure := turn.answer.constraint_failure():
            console.warn(str(failure))
        elif only := turn.answer.reasoning_only():
            console.warn(only, "end the reasoning earlier with /think_budget 500, or do without it: /think off")
        if repeats:
            free = "" if settings.dry_multiplier else "dry_multiplier=0.8"  # a remedy that is not in use
            free = "repeat_penalty=1.1" if settings.repeat_penalty == 1 else free
            console.note("the answer repeats itself" + (f"; /retry {free} may help" if free else ""))

    def note_timeout(self, seconds: float, on: str = "") -> None:
        """Say that the time limit stopped an answer; a script returns its status."""
        text = f"stopped after {seconds:g} s (timeout)"
        console.note(text + on)
        self.failure = self.failure or TimeLimitError(text)

    def after_interrupt(self) -> None:
        """End a script; on a terminal, put what was typed meanwhile into the input line, where it is seen."""
        if not is_terminal(sys.stdin):
            raise KeyboardInterrupt
        if self.live:
            from llmcli.ui.input.live_keys import keep_typed_lines

            keep_typed_lines(bool(self.draft))

    def render(self, text: str) -> None:
        """Show an earlier answer as it was shown first."""
        if not self.live:
            self.say(text.rstrip("\n"))
            return
        shown = display(self.controller.settings, self.live)
        shown.answer([("answer", text)])
        shown.finish()

    def work(self, doing: str, run: Callable[[Cancellation, Progress], _T | None]) -> _T | None:
        """What `run` returns, with a spinner meanwhile; None, with a note, if the user stops it."""
        with BusyScreen(self.controller.settings, self.live, doing).open() as busy_screen:
            result = run(busy_screen.cancellation, busy_screen.progress)
        if result is None:
            console.note("stopped")
            self.after_interrupt()
        return result

    # The model

    def wait_for_model(self) -> "Engine | None":
        """The model, after waiting for it if it is still loading; None when the user stops waiting."""
        loading = self.controller.load_model()
        engine = loading.engine or self._wait(loading)
        if not engine or engine is self._greeted:
            return engine
        self._greeted = engine
        settings = self.controller.settings  # adds a note for each default of the model that cannot be used
        console.warn_all(engine.notes, engine.remark)
        if needs_plain_template(engine, settings):
            console.note(f"{engine.name} has no chat template: a plain one is used (see /chat_template)")
        return engine

    def _wait(self, loading: "BackgroundLoad") -> "Engine | None":
        busy_screen = BusyScreen(self.controller.settings, self.live, loading.status)

        def tick(doing: str) -> bool:
            busy_screen.spinner.text = doing
            return not busy_screen.cancellation.is_set()

        try:
            with busy_screen.open():
                engine = loading.wait(tick)
        except BaseException:
            self.controller.close_model()  # the next message tries again
            raise
        if not engine:
            console.note(f"not sent: still {loading.status}")
            self.after_interrupt()
        return engine

    # The context

    def resolve_overflow(
        self, path: list[Message], begun: Message | None = None, draft: Message | None = None
    ) -> list[Message] | None:
        """The path to answer, with `draft` (not sent yet) at its end, once the context has room; None: do not send it.

        The setting `overflow` decides how. Raises ContextOverflowError if it says so, or if nothing helps.
        """
        controller = self.controller
        if draft:
            controller.check_length(draft)
        whole = [*path, draft] if draft else path
        fit = controller.fit(whole, begun)
        if not fit.is_over:
            return whole
        last = controller.fit_of_last(whole, begun)
        if last.n_prompt >= last.n_ctx:
            raise controller.overflow_error(whole, begun)
        if not controller.droppable(whole):  # the answer gets what is left
            return whole
        policy = controller.settings.overflow
        if policy == "ask" and self.live:
            from llmcli.chat.compaction import n_summarized  # imports the engine, which completion does not need

            policy = _ask_policy(fit, can_summarize=n_summarized(path) > 1)
        if policy in ("ask", "error"):
            raise controller.overflow_error(whole, begun)
        if policy == "back":
            return None
        compacted = False
        if policy == "compact" and len(whole) > 2:
            with suppress(UsageError, ContextOverflowError):  # too few turns, or one that is too long
                compacted = self.compact(path)
        if compacted:
            conversation = self.session.conversation
            draft = conversation.draft(draft.role, draft.content, attachments=draft.attachments) if draft else None
            whole = [*self.path(), draft] if draft else self.path()
            if not controller.fit(whole, begun).is_over:
                return whole
        if controller.drop_oldest(whole, begun):
            dropped = describe_numbers(controller.unread(whole))
            console.warn(f"the model no longer reads {dropped}: the context of {fit.n_ctx} tokens is full")
        return whole

    def compact(self, path: list[Message], keep: int | None = None) -> bool:
        """Summarize `path`, show the summary, ask the user if possible, and continue from it; whether that was done.

        Raises UsageError when there is too little to summarize.
        """
        from llmcli.chat.compaction import Compaction  # imports the engine, which completion does not need

        compaction = Compaction(self.controller, path, keep)
        answer = compaction.answer
        doing = "summarizing the oldest turns"
        parts = (part for part in answer.parts() if part[0] == "answer")  # some models reason about everything
        with BusyScreen(self.controller.settings, self.live, doing, answer.request.cancellation).open() as busy_screen:
            if self.live:
                busy_screen.show(parts)
            else:
                console.note(doing)
                for _ in parts:
                    pass
        summary, interrupted = answer.text.strip(), answer.finish_reason == "interrupt"
        choice = "no" if interrupted or not summary else "yes"
        if choice == "yes" and compaction.n_skipped:
            omitted = describe_numbers(range(1, compaction.n_skipped + 1))
            console.warn(f"the summary omits {omitted}, for which the context has no room")
        if choice == "yes" and self.live:
            choices = {"yes": "use it", "edit": "change it first", "no": "change nothing"}
            choice = choose("continue with this summary?", choices, "yes")
        if choice == "no":
            console.note("nothing changed")
            if interrupted and not self.draft:  # otherwise a message is on its way
                self.after_interrupt()
            return False
        if choice == "edit":
            summary = edit(summary).strip() or summary
        number = compaction.use(summary)
        console.note(f"the summary replaces {plural(number, 'message')} (/branches lists the full conversation)")
        return True

    def warn_if_full(self) -> None:
        """Count the tokens in the context, and warn when it is full for the next message."""
        before = self.fit
        self.count()
        if self.fit and self.fit.is_over and self.fit.n_prompt != (before and before.n_prompt):
            full = f"the context is full: {self.fit.n_prompt} of {self.fit.n_ctx} tokens"
            console.warn(full, "make room with /compact or /undo")

    def count(self) -> None:
        """Count the tokens in the context, unless the model is loading or no status line is shown."""
        self.fit = None
        with suppress(LlmcliError):
            if self.live and self.controller.engine:
                self.fit = self.controller.fit(self.path())


def describe_numbers(numbers: Sequence[int]) -> str:
    """Messages by the numbers of the first and the last, as in `messages 1 to 4`."""
    first, last = numbers[0], numbers[-1]
    return f"message {first}" if first == last else f"messages {first} to {last}"


def _ask_policy(fit: PromptFit, can_summarize: bool) -> str:
    needed = f"{fit.n_prompt} tokens, and {fit.reserve} for an answer"
    console.warn(f"the conversation does not fit: {needed}, in a context of {fit.n_ctx}")
    choices = {"oldest": "drop the oldest turns from what the model reads"}
    if can_summarize:
        choices["compact"] = "let the model summarize the oldest turns"
    choices["back"] = "do not send the message"
    return choose("how to continue?", choices, "back")
