"""The chat as its commands see it: the conversation, the model, the terminal that shows both, and the status line."""

import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llmcli.chat.attachments import attach, find_mentions
from llmcli.chat.controller import ChatController, PromptFit
from llmcli.chat.conversation import Attachment, Message
from llmcli.chat.sessions.session import Session
from llmcli.engine.events import Cancellation
from llmcli.errors import LlmcliError, TimeLimitError
from llmcli.params.settings import Settings, fields
from llmcli.text import ellipsize, plural
from llmcli.ui.chat.busy_screen import BusyScreen, TemperatureKeys, display
from llmcli.ui.chat.context_overflow import resolve_overflow
from llmcli.ui.terminal.cells import first_that_fits
from llmcli.ui.terminal.console import console, is_terminal, wrapped
from llmcli.ui.terminal.output import print_line, to_stderr, warn_ineffective, warn_slow, write_trace

if TYPE_CHECKING:
    from llmcli.chat.background_load import BackgroundLoad
    from llmcli.chat.compare import CompareSession
    from llmcli.chat.controller import Turn
    from llmcli.inference.engine import Engine

_HINT = ("Ask anything", "/ for commands", "Ctrl-C stops", "Ctrl-D leaves")
_MARKER = 2  # columns of the `> ` before the text
_SHORTEST_NAME = 12  # characters of a session name, however narrow the window
_DATE = re.compile(r"\d{4}-\d\d-\d\d-(?=.)")  # at the start of names that llmcli makes


class Reader(Protocol):
    """The source of messages and commands."""

    multiline: bool

    def read(self, default: str = "") -> str: ...

    def refresh(self) -> None: ...


class ChatApp:
    """A chat; `live` if a user is at a terminal whose cursor can be moved, and can be asked."""

    def __init__(
        self,
        controller: ChatController,
        live: bool = False,
        names: Callable[[], Sequence[str]] = tuple,
        bring: Callable[[Settings], object] = lambda _settings: None,
    ) -> None:
        """`names` lists the downloaded models; `bring` downloads another one, if the user agrees."""
        self.live = live
        self.controller = controller
        self.ensure_model = bring
        self.model_names = names
        self.reader: Reader
        self.draft = ""  # the text in the input line at the next prompt
        self.refused_word = ""  # a command typed without its slash, which was not sent at once
        self.editing: int | None = None  # the number of the message that the next one replaces
        self.pending: list[Attachment] = []  # files that go with the next message
        self.turn: Turn | None = None  # the last answer
        self.n_prompt: int | None = None  # tokens in the context before the next message
        self.failure: LlmcliError | None = None  # the first error of a script
        self.compare_session: CompareSession | None = None  # the answers that were compared last
        self.traces: Path | None = None  # the folder for a trace of each answer
        # A token, and the candidates shown for it.
        self.listed_candidates: tuple[int, Sequence[tuple[str, str]]] | None = None
        self._greeted: Engine | None = None
        self._warned: set[str] = set()  # settings without effect, and why

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

    # Messages

    def send(self, text: str) -> None:
        """Send a message, and let the model answer."""
        if self.editing is not None:
            self.replace(self.editing, text)
            return
        self.draft = text  # in the input line again if it cannot be sent
        files = [attach(name) for name in find_mentions(text)]
        if not self.wait_for_model() or not self._add_message(text, (*self.pending, *files)):
            return
        self.draft, self.pending = "", []
        if files:
            console.note(f"attached: {', '.join(file.name for file in files)}")
        self._answer(self.path())

    def _add_message(self, text: str, attachments: tuple[Attachment, ...]) -> bool:
        """Add a message of the user if `resolve_overflow` finds room for it; False when the user cancels it."""
        session = self.controller.session
        draft = session.conversation.draft("user", text, attachments=attachments)
        if resolve_overflow(self.controller, self.live, self.path(), draft=draft) is None:
            return False
        session.add("user", text, attachments=attachments)
        return True

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
        added = False
        try:
            added = self._add_message(text, old.attachments)
        finally:
            if not added:
                session.conversation.move(head)
        if added:
            session.conversation.mark_edit(head)
            self.draft, self.editing = "", None
            self._note_left_messages(head, number + 2)
            self._answer(self.path())

    def _note_left_messages(self, head: int | None, first: int) -> None:
        """Say where the messages up to `head` are, if there is a message `first`."""
        conversation = self.controller.session.conversation
        left = conversation.path(head)
        paths = [conversation.path(leaf) for leaf in conversation.leaves()]
        branch = next((number for number, path in enumerate(paths, 1) if left[-1] in path), 0)
        if len(left) < first or not branch:
            return
        what = f"message {first} stays" if len(left) == first else f"messages {first} to {len(left)} stay"
        console.note(f"{what} in branch {branch}; /branch {branch} returns to {'it' if len(left) == first else 'them'}")

    def stop_editing(self) -> bool:
        """Stop editing a message, which stays as it is; whether one was edited."""
        number, self.editing = self.editing, None
        return number is not None

    def answer(
        self, path: Sequence[Message], extra: Mapping[str, Any] | None = None, begun: Message | None = None
    ) -> None:
        """Let the model answer `path`, or continue its answer `begun`, if `resolve_overflow` finds room for it."""
        if not self.wait_for_model():
            return
        fitting = resolve_overflow(self.controller, self.live, path, begun)
        if fitting is not None:
            self._answer(fitting, extra, begun)

    def _answer(
        self, path: Sequence[Message], extra: Mapping[str, Any] | None = None, begun: Message | None = None
    ) -> None:
        """Generate the answer, show it while it streams, and save it, whatever ends it."""
        busy_screen = BusyScreen(self.controller.settings, self.live)
        last_turn = self.turn
        self.turn = turn = self.controller.answer(path, extra, begun, busy_screen.spinner.reading)
        warn_ineffective(turn.resolved, self._warned)
        if self.live:
            print_line("")  # between question and answer
        temperature_keys = TemperatureKeys(turn)
        trace = f"{self.session.name or 'chat'}-{self.session.conversation.next_id}.jsonl"  # one for each answer
        with (
            write_trace(turn.answer, str(self.traces / trace) if self.traces else None, kept=True),
            to_stderr(False),
            busy_screen.open(
                turn.answer.request.cancellation, "reading the prompt", temperature_keys, turn.resolved.settings.timeout
            ),
        ):
            with closing(turn.parts()) as parts:  # the text so far is kept before the session is closed
                busy_screen.show(parts, begun.content if begun else "")
            if self.live and turn.message:
                print_line("")  # between one turn and the next
        if moved := temperature_keys.note():
            console.note(moved)
        if begun and not turn.message:  # nothing was added: the answer is still the last one
            self.turn = last_turn
        self._note_end(turn, busy_screen.repetition.found)

    def _note_end(self, turn: "Turn", repeats: bool) -> None:
        warn_slow(turn.answer)
        settings = turn.resolved.settings
        reason, on = turn.answer.finish_reason, "; /continue resumes" if turn.message else ""
        if reason == "interrupt":
            console.note(f"stopped{on}, /retry answers again" if on else "stopped; /retry tries again")
            self.after_interrupt()
        elif reason == "timeout":
            text = f"stopped after {settings.timeout:g} s (timeout)"
            console.note(text + on)
            self.failure = self.failure or TimeLimitError(text)
        elif reason == "length":
            limit = settings.max_tokens
            reached = 0 <= limit <= turn.answer.timings()["predicted_n"]
            why = f"max_tokens is {limit}" if reached else "the context is full; /compact or /undo makes room"
            console.note(f"cut off: {why}" + (on if reached else ""))
        if not turn.answer.record.is_complete:
            console.warn("the answer ended before it was complete (JSON or grammar)")
        if repeats:
            free = "" if settings.dry_multiplier else "dry_multiplier=0.8"  # a remedy that is not in use
            free = "repeat_penalty=1.1" if settings.repeat_penalty == 1 else free
            console.note("the answer repeats itself" + (f"; /retry {free} may help" if free else ""))

    def after_interrupt(self) -> None:
        """End a script; on a terminal, put what was typed during the answer into the input line, where it is seen."""
        if not is_terminal(sys.stdin):
            raise KeyboardInterrupt
        if self.live:
            from llmcli.ui.input.live_keys import take_typed_text

            self.draft = take_typed_text()

    def render(self, text: str) -> None:
        """Show an earlier answer as it was shown first."""
        if not self.live:
            self.say(text.rstrip("\n"))
            return
        shown = display(self.controller.settings, self.live)
        shown.answer([("answer", text)])
        shown.finish()

    def warn_if_full(self) -> None:
        """Count the tokens in the context, and warn when it is full for the next message."""
        before, fit = self.n_prompt, self.count()
        if fit and fit.is_over and before != self.n_prompt:
            console.warn(
                f"the context is full: {fit.n_prompt} of {fit.n_ctx} tokens", "make room with /compact or /undo"
            )

    def count(self) -> PromptFit | None:
        """How full the context is; None while the model is loading, or without a status line."""
        self.n_prompt = None
        with suppress(LlmcliError):
            if self.live and self.controller.engine:
                fit = self.controller.fit(self.path())
                self.n_prompt = fit.n_prompt
                return fit
        return None

    # The model

    def wait_for_model(self) -> "Engine | None":
        """The model, after waiting for it if it is still loading; None when the user stops waiting."""
        loading = self.controller.load_model()
        local = loading.engine or self._wait(loading)
        if not local or local is self._greeted:
            return local
        self._greeted = local
        settings = self.controller.settings  # adds a note for each default of the model that cannot be used
        for note in local.notes:
            console.warn(note)
        local.notes.clear()
        if not self.controller.prompt_builder.has_own_template(settings):
            console.note(f"{local.name} has no chat template: a plain one is used (see /chat_template)")
        return local

    def _wait(self, loading: "BackgroundLoad") -> "Engine | None":
        """The model, once it is loaded; None when the user stops waiting."""
        busy_screen, flag = BusyScreen(self.controller.settings, self.live), Cancellation()

        def tick(doing: str) -> bool:
            busy_screen.spinner.text = doing
            return not flag.is_set()

        try:
            with busy_screen.open(flag, loading.status):
                local = loading.wait(tick)
        except BaseException:
            self.controller.close_model()  # the next message tries again
            raise
        if not local:
            console.note("not sent: the model is still loading")
            if not is_terminal(sys.stdin):
                raise KeyboardInterrupt
        return local


def status_line(chat: "ChatApp") -> str:
    """The state of the chat before the next message: as much as fits the window, the most important first."""
    if chat.editing is not None:
        return _fitting(f"editing message {chat.editing}", "Enter saves it", "Ctrl-C cancels")
    controller = chat.controller
    local, settings = controller.engine, controller.settings
    # Of a path the end, which distinguishes models.
    parts = [local.name if local else Path(str(settings.model)).name, chat.session.character]
    if local is None and controller.loading:
        parts.append("cannot be loaded" if controller.loading.error else controller.loading.status)
    if local:
        if chat.n_prompt is None:  # the model was loaded during this prompt
            chat.count()
        parts.append(f"context {_short(chat.n_prompt or 0)}/{_short(local.n_ctx)}")
    parts.append(f"temp {fields()['temperature'].format(settings.temperature)}")
    turn = chat.turn
    if turn and turn.answer.started and turn.message and chat.path()[-1:] == [turn.message]:  # nothing came after it
        speed = round(turn.answer.timings()["predicted_per_second"])
        parts.append(f"{plural(speed, 'token')}/s" if speed else "")
    if chat.pending:
        parts.append(plural(len(chat.pending), "file"))
    if name := chat.session.name:  # at most a third of the row; the date, which tells the least, is dropped first
        longest = max(shutil.get_terminal_size().columns // 3, _SHORTEST_NAME)
        if len(name) > longest and _DATE.match(name):
            name = "…" + _DATE.sub("", name)
        parts.append(ellipsize(name, longest))
    return _fitting(*parts)


def input_hint(chat: "ChatApp") -> str:
    """What the user can do, for the empty line of a chat without an answer; empty after the first answer."""
    answered = any(message.role == "assistant" and message.finish_reason != "greeting" for message in chat.path())
    if chat.turn or answered or chat.editing is not None:
        return ""
    hint = _fitting(*_HINT, less=_MARKER)
    return hint if len(hint) < shutil.get_terminal_size().columns - _MARKER else ""


def _fitting(*parts: str, less: int = 0) -> str:
    """As many of the parts as fit the window without its last column and `less` others; the first one always."""
    return first_that_fits(*(parts[:number] for number in range(len(parts), 0, -1)), less=less)


def _short(tokens: int) -> str:
    """1234 -> 1.2k, 131072 -> 131k."""
    if tokens < 1000:
        return str(tokens)
    return f"{tokens / 1000:.1f}k" if tokens < 10_000 else f"{tokens // 1000}k"
