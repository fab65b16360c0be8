"""A session that talks with a model: the settings in force, what the model reads of the past, and the next answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmcli.chat.compose import grammar_text, system_text
from llmcli.chat.layering import Layers
from llmcli.chat.session import Session
from llmcli.chat.tree import Message
from llmcli.errors import ContextOverflowError, UsageError
from llmcli.params.generation import GenerationParams
from llmcli.params.layers import Resolved, resolve
from llmcli.params.model import ModelParams
from llmcli.params.param import describe
from llmcli.params.settings import SamplingParams, Settings, fields, find

if TYPE_CHECKING:  # the engine and all that stands on it are imported where the model is loaded, behind the prompt
    from llmcli.chat.local import LocalModel, Prompt
    from llmcli.chat.opening import Opening
    from llmcli.chat.transcript import Transcript
    from llmcli.chat.turn import Turn

Ahead = Callable[["Transcript"], None]
# A change of these needs the model to be opened anew.
_OPENING = frozenset(describe(ModelParams))
# What makes no sense for one message of a conversation.
_NOT_HERE = {
    "prompt": "type the message itself",
    "file": "/file PATH adds a file to the next message",
    "logprobs": "it needs `llmcli generate --json`",
    "character": "start with `llmcli chat --character NAME`",
    "editing_mode": "start with --editing-mode, or keep it with `llmcli config set`",
}
_ANSWER_ROOM = 256  # tokens that should be left for an answer of unknown length
_LONG_TOKEN = 16  # characters; few texts have so long ones on average
_AFTER_DROPPING = 0.75  # share of the context: dropping a little each turn would read everything anew each time


@dataclass(frozen=True)
class Fit:
    """Whether the next answer has room: tokens of the prompt, of the context, and those an answer should have."""

    n_prompt: int
    n_ctx: int
    reserve: int

    @property
    def over(self) -> bool:
        return self.n_prompt + self.reserve > self.n_ctx


class Dialogue:
    """`opening` is the model as it is being loaded; `first` the message from which on the model reads."""

    def __init__(self, session: Session, layers: Layers, load: Callable[[Settings, Ahead], "Opening"]) -> None:
        """`load` begins to load a model; it calls what it is given with the transcript before it is done."""
        self.session = session
        self.layers = layers
        self.first: int | None = None
        self._load = load
        self._resolved: Resolved | None = None
        self._resolved_for: LocalModel | None = None
        self.opening: Opening | None = None
        self._opened: tuple[Any, ...] = ()  # the settings that the model was opened with

    # The model

    def open(self) -> "Opening":
        """Begin to load the model of the settings, or go on with the one that is loaded."""
        if self.opening is None or self.stale:
            self.close_model()
            settings, path = self.settings, self.window(self.session.conversation.path())

            def ahead(transcript: "Transcript") -> None:
                transcript.read_ahead(path, system_text(settings), settings)

            self._opened = _for_opening(settings)
            self.opening = self._load(settings, ahead)
        return self.opening

    @property
    def stale(self) -> bool:
        """Whether a setting of the model was changed: it is opened again before the next answer."""
        return self.opening is not None and self._opened != _for_opening(self.settings)

    @property
    def local(self) -> "LocalModel | None":
        return self.opening.local if self.opening else None

    @property
    def transcript(self) -> "Transcript":
        """How this model reads a conversation; there must be a model."""
        assert self.opening
        assert self.opening.transcript
        return self.opening.transcript

    def close_model(self) -> None:
        """Free the model; the next `open` loads one again."""
        if self.opening:
            self.opening.close()
        self.opening = self._resolved = None

    # The settings

    def resolved(self) -> Resolved:
        """The settings in force and where each comes from; the seed is not drawn yet."""
        local = self.local
        if self._resolved is None or local is not self._resolved_for:
            layers = self.layers.above(self.session.overrides)
            self._resolved = resolve([local.target.layer, *layers] if local else layers)
            self._resolved_for = local  # whose own defaults are in it
        return self._resolved

    @property
    def settings(self) -> Settings:
        return self.resolved().settings

    def parse(self, name: str, text: str) -> tuple[str, Any]:
        """The key and the typed value of what somebody typed after `/set`.

        Raises:
            UsageError: naming the setting, the rule and the value.
        """
        field = find(name)
        if field.key in _NOT_HERE:
            raise UsageError(f"{field.key} cannot be set here", _NOT_HERE[field.key])
        if field.kind is bool and not text:
            raise UsageError(f"{field.key}: must be on or off, got nothing")
        if field.default is None and text.strip().lower() == "none":  # what is shown for no value is one to type
            return field.key, None
        return field.key, field.parse_text(text)

    def set(self, key: str, value: Any) -> None:
        """Give a setting a typed value for the rest of the session.

        Raises:
            UsageError: when it names something that is not there.
        """
        self.layers.above({**self.session.overrides, key: value})
        if key == "preset" and value:  # the later command wins
            chosen = self.layers.above({key: value})[-2].values
            for other in chosen.keys() & self.session.overrides.keys():
                self.session.unset(other)
        self.session.set(key, value)
        self._resolved = None

    def reset(self, key: str | None = None) -> list[str]:
        """Forget what was set in the session: one setting, or (None) all; returns the keys."""
        gone = [one for one in list(self.session.overrides) if key in (None, one)]
        for one in gone:
            self.session.unset(one)
        self._resolved = None
        return gone

    def take(self, session: Session) -> None:
        """Go on in another session."""
        self.session.close()
        self.session, self.first, self._resolved = session, None, None

    # What the model reads

    def window(self, path: Sequence[Message]) -> list[Message]:
        """The part of a path that the model reads: all, or what is left where the oldest turns were dropped."""
        return window(path, self.first)

    def prompt(
        self, path: Sequence[Message], begun: Message | None = None, settings: Settings | None = None
    ) -> "Prompt":
        """The prompt for an answer to `path`, which goes on with `begun`; with the settings in force if none are given.

        Raises:
            LlmcliError: when the template fails.
        """
        settings = settings or self.settings
        return self.transcript.prompt_for(self.window(path), system_text(settings), settings, begun)

    def fit(self, path: Sequence[Message], begun: Message | None = None) -> Fit:
        """How the prompt for the next answer fits the context."""
        assert self.local
        n_ctx, limit = self.local.n_ctx, self.settings.max_tokens
        reserve = min(_ANSWER_ROOM if limit < 0 else limit, n_ctx // 4)
        return Fit(len(self.prompt(path, begun).tokens), n_ctx, max(reserve, 1))

    def refuse_endless(self, message: Message) -> None:
        """Refuse at once a message far too long for the context: to count megabytes of it would take many seconds.

        Raises:
            ContextOverflowError: when its beginning alone does not fit.
        """
        assert self.local
        n_ctx, text = self.local.n_ctx, message.text
        most = n_ctx * _LONG_TOKEN
        if len(text) > most and (n_tokens := self.local.count_tokens(text[:most])) > n_ctx:
            raise ContextOverflowError(
                f"the conversation has more than {n_tokens} tokens and the context holds {n_ctx}",
                "send less of it; `/file none` takes files back",
            )

    def drop_oldest(self, path: Sequence[Message], begun: Message | None = None) -> int:
        """Leave out whole turns, the oldest first, until there is room; returns how many messages went.

        Raises:
            ContextOverflowError: when the last message alone is too long.
        """
        before = self.first
        window = [message for message in self.window(path) if message.role != "summary"]
        starts = [index for index, message in enumerate(window) if message.role == "user"]
        fit = self.fit(path, begun)
        for start in starts[1:]:
            gone = sum(self.transcript.count(message) for message in window[:start])
            if fit.n_prompt - gone > _AFTER_DROPPING * fit.n_ctx and start != starts[-1]:
                continue
            self.first = window[start].id
            if not self.fit(path, begun).over:
                return start
        self.first = None if not starts else window[starts[-1]].id
        fit = self.fit(path, begun)
        if fit.n_prompt < fit.n_ctx:
            return starts[-1] if starts else 0
        self.first = before
        raise too_long(fit)

    # The next answer

    def answer(
        self,
        path: Sequence[Message],
        extra: Mapping[str, Any] | None = None,
        begun: Message | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> "Turn":
        """An answer to `path` with the settings in force, those in `extra` over them.

        Raises:
            ContextOverflowError: when the prompt leaves no room for a single token.
            UsageError: for a grammar that does not parse.
        """
        from llmcli.chat.local import with_model
        from llmcli.chat.turn import Turn

        local = self.local
        assert local
        resolved = with_model(local.target, self.layers.above(self.session.overrides, extra or {}))
        settings = self.transcript.adjusted(resolved.settings)
        prompt = self.prompt(path, begun, settings)
        if len(prompt.tokens) >= local.n_ctx:
            raise too_long(Fit(len(prompt.tokens), local.n_ctx, 1))
        return Turn(
            self.session,
            local,
            prompt,
            Resolved(settings, resolved.origins),
            path[-1].id if path else None,
            grammar_text(settings),
            begun,
            progress,
            first=self.first if len(self.window(path)) < len(path) else None,
        )


def _for_opening(settings: Settings) -> tuple[Any, ...]:
    return tuple(getattr(settings, key) for key in _OPENING)


def reopens(key: str) -> bool:
    """Whether a change of this setting means that the model is opened again."""
    return key in _OPENING


def window(path: Sequence[Message], first: int | None) -> list[Message]:
    """The messages from number `first` on, and the summaries before it; all where there is no such message."""
    start = next((index for index, message in enumerate(path) if message.id == first), 0)
    return [message for index, message in enumerate(path) if index >= start or message.role == "summary"]


def too_long(fit: Fit) -> ContextOverflowError:
    """The error for a conversation that does not fit."""
    return ContextOverflowError(
        f"the conversation has {fit.n_prompt} tokens and the context holds {fit.n_ctx}",
        "/compact, /undo or --overflow oldest make room; a larger --ctx-size may too",
    )


def settable() -> list[str]:
    """The settings that have a command in the chat, those that are changed most first."""
    first = [*describe(SamplingParams), *describe(GenerationParams)]
    return [key for key in dict.fromkeys([*first, *fields()]) if key not in _NOT_HERE]
