"""A chat without a terminal: the settings in force, the messages that the model reads, and the next answer."""

import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from time import perf_counter
from typing import TYPE_CHECKING, Any

from llmcli.chat.conversation import Message, sliding_window
from llmcli.chat.sessions.session import Session, Turn
from llmcli.config.presets import LayerStack
from llmcli.engine.events import Cancellation, Prompt, TemperatureShift
from llmcli.errors import ContextOverflowError, UsageError
from llmcli.inference.constraints import read_constraint
from llmcli.inference.request import system_text
from llmcli.params.decision import DecisionParams
from llmcli.params.generation import GenerationParams
from llmcli.params.model import ModelParams
from llmcli.params.param import fields_of
from llmcli.params.result import ResultParams
from llmcli.params.sampler_chain import SamplingParams
from llmcli.params.settings import ResolvedSettings, Settings, fields, find, resolve

if TYPE_CHECKING:
    from llmcli.chat.prompting import PromptBuilder
    from llmcli.config.characters import Character
    from llmcli.inference.engine import Engine

ReadAhead = Callable[["Engine", Cancellation], None]
# Gets what stops it and a function to report progress to; returns a model that is ready to answer.
Load = Callable[[Cancellation, Callable[[str], None]], "Engine"]
CHECKING = "checking the file"  # the first status of a load
_TICK = 0.02  # seconds; a Ctrl-C waits for the next one
RELOAD_KEYS = fields_of(ModelParams)  # a change of one of these settings needs a reload of the model
# Settings that a running chat cannot change, each with what to do instead.
_NOT_IN_CHAT = {
    "prompt": "type the message",
    "file": "add a file to the next message with /file PATH",
    "logprobs": "use `llmcli generate --json`, or /why in the chat",
    **dict.fromkeys([*fields_of(DecisionParams), *fields_of(ResultParams)], "use `llmcli generate`"),
    "character": "use /character NAME",
    "endpoint": "start with `llmcli chat --endpoint`",
    "editing_mode": "start with --editing-mode, or set it with `llmcli config set editing_mode`",
}
_ANSWER_RESERVE = 256  # tokens to leave free for an answer of unknown length
_LONG_TOKEN = 16  # characters; few texts have longer tokens on average
_FILL_AFTER_DROPPING = 0.75  # share of the context; dropping less would evaluate the whole prompt again each turn


@dataclass(frozen=True)
class PromptFit:
    """Whether the next answer has room, in tokens: of the prompt, of the context, and reserved for the answer."""

    n_prompt: int
    n_ctx: int  # 0 = not known
    reserve: int

    @property
    def is_over(self) -> bool:
        return self.n_ctx > 0 and self.n_prompt + self.reserve > self.n_ctx


class ChatController:
    """A session with a model."""

    def __init__(
        self, session: Session, layers: LayerStack, load: Callable[[Settings, ReadAhead], "BackgroundLoad"]
    ) -> None:
        """`load` starts to load a model; before it ends, it calls its second argument with the model."""
        self.session = session
        self.layers = layers  # the settings below the session
        self.window_start: int | None = None  # the oldest message that the model reads (None = all)
        self._start_loading = load
        self._resolved: ResolvedSettings | None = None
        self._resolved_for: Engine | None = None
        self._prompt_builder: PromptBuilder | None = None
        self.loading: BackgroundLoad | None = None
        self._loaded_with = Settings()  # the settings of that load

    # The model

    def load_model(self) -> "BackgroundLoad":
        """Start to load the model of the settings, unless it is loaded already."""
        if self.loading is None or self.needs_reload:
            self.close_model()
            settings, path = self.settings, self.window(self.session.conversation.path())

            def read_ahead(engine: "Engine", cancellation: Cancellation) -> None:
                from llmcli.chat.prompting import PromptBuilder

                PromptBuilder(engine).read_ahead(path, system_text(settings), settings, cancellation)

            self._loaded_with = settings
            self.loading = self._start_loading(settings, read_ahead)
        return self.loading

    @property
    def needs_reload(self) -> bool:
        """Whether the next answer loads the model again: a setting of it has changed, or its process has ended."""
        before, now = self._loaded_with, self.settings
        if self.engine and self.engine.has_ended:
            return True
        return self.loading is not None and any(getattr(before, key) != getattr(now, key) for key in RELOAD_KEYS)

    @property
    def engine(self) -> "Engine | None":
        return self.loading.engine if self.loading else None

    @property
    def prompt_builder(self) -> "PromptBuilder":
        """How this model reads a conversation; a model must be loaded."""
        from llmcli.chat.prompting import PromptBuilder

        engine = self.engine
        assert engine
        if self._prompt_builder is None or self._prompt_builder.engine is not engine:
            self._prompt_builder = PromptBuilder(engine)
        return self._prompt_builder

    def keep_context(self) -> Sequence[str]:
        """Store the evaluated conversation on disk, if the session is there too; returns what was done."""
        if self.engine and self.session.is_saved and self.settings.kv_cache:
            return self.engine.keep_context(self.session.name)
        return ()

    def close_model(self) -> Sequence[str]:
        """Store the context and free the model, which the next `load_model` loads again; returns what was done."""
        done = self.keep_context()
        if self.loading:
            self.loading.close()
        self.loading = self._resolved = self._prompt_builder = None
        return done

    # The settings

    def resolved(self, once: Mapping[str, Any] | None = None) -> ResolvedSettings:
        """The settings in force, with those in `once` above them, and the layer of each; the seed is not drawn yet."""
        engine = self.engine
        if self._resolved and engine is self._resolved_for and not once:
            return self._resolved
        layers = self.layers.above(self.session.overrides, once)
        resolved = resolve([engine.defaults, *layers] if engine else layers)
        if not once:
            self._resolved, self._resolved_for = resolved, engine
        return resolved

    @property
    def settings(self) -> Settings:
        return self.resolved().settings

    def is_of_server(self, key: str) -> bool:
        """Whether a setting of the sampling has a value that only the server behind the engine knows."""
        engine, is_sampling = self.engine, key in fields_of(SamplingParams) and key not in self.settings.given
        return bool(engine and is_sampling and not engine.capabilities.tells_defaults)

    def parse(self, name: str, text: str) -> tuple[str, Any]:
        """The key and the typed value of the text after `/set`. Raises UsageError for one that is not valid here."""
        field = find(name)
        if field.key in _NOT_IN_CHAT:
            raise UsageError(f"{field.key} cannot be set in a running chat", _NOT_IN_CHAT[field.key])
        if field.kind is bool and not text:
            raise UsageError(f"{field.key} must be on or off, got nothing")
        if field.default is None and text.strip().lower() == "none":  # "none" is what the chat shows for no value
            return field.key, None
        value = field.parse_text(text)
        if field.key == "temperature":  # which may contain the function of the policy file that it replaces otherwise
            self.resolved({field.key: value})
        return field.key, value

    def set(self, key: str, value: Any) -> None:
        """Give a setting a typed value for the rest of the session. Raises UsageError for an unknown preset."""
        self.layers.above({**self.session.overrides, key: value})
        if key == "preset" and value:  # the later command wins
            chosen = self.layers.above({key: value})[-2].values
            for other in chosen.keys() & self.session.overrides.keys():
                self.session.unset(other)
        self.session.set(key, value)
        self._resolved = None

    def reset(self, key: str | None = None) -> list[str]:
        """Unset what was set in the session: one setting, or (None) all; returns the keys."""
        keys = [one for one in list(self.session.overrides) if key in (None, one)]
        for one in keys:
            self.session.unset(one)
        self._resolved = None
        return keys

    def use_character(self, character: "Character | None") -> str:
        """Answer as this character from now on (None = no character), also in place of one of the command line.

        Returns the greeting to show. It is empty if the conversation has started, which then continues as it is.
        """
        from llmcli.config.characters import character_layer

        self.session.remove_character()
        if character:
            values = character_layer(character).values
            for key, value in values.items():
                self.session.set(key, value)
            self.session.set_character(character.name, values)
        self.layers, self._resolved = self.layers.without("character"), None
        return self.session.greet(character)

    def switch_session(self, session: Session) -> None:
        """Continue with another session; a character of the command line stays with the first one."""
        if session.character != self.session.character:
            self.layers = self.layers.without("character")
        self.keep_context()
        self.session.close()
        self.session, self.window_start, self._resolved = session, None, None

    # What the model reads

    def window(self, path: Sequence[Message]) -> list[Message]:
        """The part of a path that the model reads: all of it, or what is left after the oldest turns were dropped."""
        return sliding_window(path, self.window_start)

    def unread(self, path: Sequence[Message]) -> list[int]:
        """The numbers of the dropped messages, from 1."""
        read = {message.id for message in self.window(path)}
        return [number for number, message in enumerate(path, 1) if message.id not in read]

    def prompt(
        self, path: Sequence[Message], continued: Message | None = None, settings: Settings | None = None
    ) -> "Prompt":
        """The prompt for an answer to `path` that continues `continued`; without `settings`, with those in force.

        Raises LlmcliError if the template fails.
        """
        used = settings or self.settings
        return self.prompt_builder.prompt(self.window(path), system_text(used), used, continued)

    def fit(self, path: Sequence[Message], continued: Message | None = None) -> PromptFit:
        """How the prompt for the next answer fits the context."""
        assert self.engine
        n_ctx, limit = self.engine.n_ctx, self.settings.max_tokens
        reserve = min(_ANSWER_RESERVE if limit < 0 else limit, n_ctx // 4)
        return PromptFit(self.engine.count_prompt(self.prompt(path, continued)), n_ctx, max(reserve, 1))

    def fit_of_last(self, path: Sequence[Message], continued: Message | None = None) -> PromptFit:
        """How the prompt fits once everything that can be dropped is dropped."""
        before, self.window_start = self.window_start, _last_question(path)
        try:
            return self.fit(path, continued)
        finally:
            self.window_start = before

    def droppable(self, path: Sequence[Message]) -> list[Message]:
        """What the model reads before the last question, without summaries, which are never dropped."""
        last = _last_question(path)
        read = [] if last is None else takewhile(lambda message: message.id != last, self.window(path))
        return [message for message in read if message.role != "summary"]

    def check_length(self, draft: Message) -> None:
        """Refuse a message far too long for the context at once: to count its tokens would take many seconds.

        Raises ContextOverflowError if its beginning alone does not fit.
        """
        assert self.engine
        n_ctx, text = self.engine.n_ctx, draft.text
        most = n_ctx * _LONG_TOKEN
        if 0 < most < len(text) and (n_tokens := self.engine.count_tokens(text[:most])) > n_ctx:
            message = f"the message has more than {n_tokens} tokens, the context has {n_ctx}"
            raise ContextOverflowError(message, _shorter_hint([draft]))

    def drop_oldest(self, path: Sequence[Message], continued: Message | None = None) -> int:
        """Drop the fewest whole turns, the oldest first, that make room; returns the number of dropped messages.

        There is room when the prompt fills at most three quarters of the context and leaves the reserve of the answer;
        where the last turn is too long for that, the reserve or, in the end, one token is enough. Raises
        ContextOverflowError if the last question does not fit alone.
        """
        last = self.fit_of_last(path, continued)
        if last.n_prompt >= last.n_ctx:
            raise self.overflow_error(path, continued)
        before, most = len(self.droppable(path)), last.n_ctx - last.reserve
        starts = [message.id for message in self.window(path) if message.role == "user"]

        def fits(start: int, limit: int) -> bool:
            self.window_start = start
            return self.fit(path, continued).n_prompt <= limit

        for limit in (min(int(_FILL_AFTER_DROPPING * last.n_ctx), most), most):
            # A turn has a token or more. The search reads a half of the turns, a quarter, ...: it takes linear time.
            begin = min(max(len(starts) - limit, 1), len(starts))
            index = bisect_left(starts, True, begin, key=partial(fits, limit=limit))
            if index < len(starts):
                break
        self.window_start = [*starts[index:], _last_question(path)][0]
        return before - len(self.droppable(path))

    def overflow_error(self, path: Sequence[Message], continued: Message | None = None) -> ContextOverflowError:
        """The error for a conversation that does not fit; its hint has only what helps."""
        last = self.fit_of_last(path, continued)
        if last.n_prompt < last.n_ctx:
            message = f"the conversation has {self.fit(path, continued).n_prompt} tokens, the context has {last.n_ctx}"
            hint = "make room with /compact, /undo or /overflow oldest, or use a larger /n_ctx"
            return ContextOverflowError(message, hint)
        what = "the question with its answer" if continued else "the last message"
        what += " and the system prompt have" if system_text(self.settings) else " alone has"
        message = f"{what} {last.n_prompt} tokens, the context has {last.n_ctx}"
        return ContextOverflowError(message, _shorter_hint([] if continued else path))

    # The next answer

    def answer(
        self, path: Sequence[Message], extra: Mapping[str, Any] | None = None, continued: Message | None = None
    ) -> Turn:
        """An answer to `path` with the settings in force, and those in `extra` above them.

        Raises ContextOverflowError without room for a token, UsageError for a constraint that is not valid.
        """
        from llmcli.engine.events import Request
        from llmcli.inference.answer import Answer

        engine = self.engine
        assert engine
        resolved = self.resolved(extra).with_seed()
        resolved = replace(resolved, settings=self.prompt_builder.with_plain_stop(resolved.settings))
        prompt = self.prompt(path, continued, resolved.settings)
        if 0 < engine.n_ctx <= engine.count_prompt(prompt):
            raise self.overflow_error(path, continued)
        request = Request(prompt, resolved.settings, read_constraint(resolved.settings))
        request.live_shift = TemperatureShift() if engine.capabilities.live_temperature else None
        request.trace = 0 if engine.capabilities.traces else None
        if continued:
            request.continue_from(continued.reasoning, continued.content)
        parent = path[-1].id if path else None
        first = self.window_start if len(self.window(path)) < len(path) else None
        return Turn(self.session, Answer(engine, request), resolved, parent, continued, first)


class BackgroundLoad:
    """One load; `on_end` is called in its thread at the end, also after an error.

    `status` is the first one, of what nobody has to wait for: it runs elsewhere.
    """

    def __init__(self, load: Load, on_end: Callable[[], None] = lambda: None, status: str = CHECKING) -> None:
        self.status = self._first_status = status  # its progress
        self._load, self._on_end = load, on_end
        self._cancellation = Cancellation()
        self.engine: Engine | None = None  # the model, once it is loaded
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            engine = self._load(self._cancellation, partial(setattr, self, "status"))
            engine.waited_ms = 0.0  # the user typed meanwhile
            self.engine = engine
        except BaseException as error:  # raised in the main thread, by `wait`
            self.error = error
        self._on_end()

    def wait(self, tick: Callable[[str], bool]) -> "Engine | None":
        """The model, once it is loaded. Raises the error of the load.

        `tick(status)` is called meanwhile; if it returns False, the result is None.
        """
        begin = perf_counter()
        while self._thread.is_alive():
            self._thread.join(_TICK)
            if self._thread.is_alive() and not tick(self.status):
                return None
        if self.error:
            raise self.error
        if self.engine:
            self.engine.waited_ms += (perf_counter() - begin) * 1e3
        return self.engine

    def close(self) -> None:
        """Stop the load, or free the model. A second call does nothing."""
        self._cancellation.set()
        while self._thread.is_alive() and self.status != self._first_status:  # which may take long
            self._thread.join(_TICK)
        engine, self.engine = self.engine, None
        if engine:
            engine.close()


def _last_question(path: Sequence[Message]) -> int | None:
    return next((message.id for message in reversed(path) if message.role == "user"), None)


def _shorter_hint(path: Sequence[Message]) -> str:
    """What to do when the end of `path` does not fit alone."""
    hint = "send a shorter message, or use a larger /n_ctx" if path else "use a larger /n_ctx"
    return hint + ("; /file none removes attached files" if path and path[-1].attachments else "")


def chat_setting_keys() -> list[str]:
    """The settings that have a command in the chat, the most used ones first."""
    first = [*fields_of(SamplingParams), *fields_of(GenerationParams)]
    return [key for key in dict.fromkeys([*first, *fields()]) if key not in _NOT_IN_CHAT]
