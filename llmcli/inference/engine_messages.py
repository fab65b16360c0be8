"""The messages between a command and the warm process whose model answers it: requests, events, errors, as msgpack."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from llmcli.engine.events import (
    Batches,
    Constraint,
    FinishReason,
    GenerationRecord,
    Move,
    Prompt,
    Request,
    TemperatureShift,
    Timings,
    TokenChunk,
    TokenEvent,
    TokenLogprob,
    TokenTrace,
    common_prefix,
)
from llmcli.errors import ExitStatus, LlmcliError
from llmcli.params.policies.policy import names_in
from llmcli.params.policies.rules import BUILTIN
from llmcli.params.settings import Settings, parse_data, to_data

if TYPE_CHECKING:
    from llmcli.inference.embedding import Evaluation

_ENCODER = msgspec.msgpack.Encoder()  # unlike JSON it has NaN and infinity
_DECODER = msgspec.msgpack.Decoder()
Message = dict[str, Any]


class Wire(Protocol):
    """A connection of `multiprocessing`: messages of bytes, in both directions."""

    def send_bytes(self, data: bytes, /) -> None: ...
    def recv_bytes(self) -> bytes: ...
    def poll(self, timeout: float, /) -> bool: ...
    def close(self) -> None: ...


def send(connection: Wire, message: Mapping[str, object]) -> None:
    """Send a message. Raises OSError when the other side has ended."""
    try:
        data = _ENCODER.encode(message)
    except UnicodeEncodeError:
        data = _ENCODER.encode(_valid(message))
    connection.send_bytes(data)


def receive(connection: Wire) -> Message:
    """The next message. Raises EOFError or OSError when the other side has ended, ValueError for a damaged one."""
    message = _DECODER.decode(connection.recv_bytes())
    if not isinstance(message, dict):
        raise ValueError("not a message")
    return message


def _valid(value: object) -> object:
    """The value with texts that UTF-8 can encode, as the tokenizer sees them."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_valid(key): _valid(one) for key, one in value.items()}
    return [*map(_valid, value)] if isinstance(value, (list, tuple)) else value


def can_be_sent(settings: Settings) -> bool:
    """Whether another process can apply these settings: it does not load the functions of a user."""
    return not settings.temp_policy_file and all(name in BUILTIN for name in names_in(settings.temperature))


def settings_data(settings: Settings) -> Message:
    """Settings as plain data."""
    return {"values": to_data(settings), "given": dict(settings.given)}


def read_settings(data: Message) -> Settings:
    """The settings of `settings_data`. Raises UsageError."""
    values: dict[str, Any] = parse_data(data["values"], "the settings of a command")
    return Settings(**values, given=data["given"])


def prompt_data(prompt: Prompt) -> Message:
    """A prompt as plain data."""
    return {
        "text": prompt.text,
        "tokens": prompt.tokens,
        "request": prompt.request,
        "template": prompt.template,
        "arguments": prompt.arguments,
        "time": prompt.time,
    }


def read_prompt(data: Message) -> Prompt:
    """The prompt of `prompt_data`."""
    tokens = TokenChunk(data.pop("tokens"))
    return Prompt(chunks=(tokens,), **data)


def request_data(request: Request) -> Message:
    """A request as plain data; its progress, cancellation and later moves are messages of their own."""
    shift, constraint = request.live_shift, request.constraint
    return {
        "prompt": prompt_data(request.prompt),
        "settings": settings_data(request.settings),
        "constraint": constraint and [constraint.kind, constraint.text, [*constraint.unenforced]],
        "reasoning": request.reasoning,
        "moves": shift and shift.replayed,
        "trace": request.trace,
        "label": request.label,
        "max_drawn": request.max_drawn,
        "replay": request.replay,
    }


def read_request(data: Message) -> Request:
    """The request of `request_data`. Raises UsageError."""
    constraint, moves = data["constraint"], data["moves"]
    return Request(
        read_prompt(data["prompt"]),
        read_settings(data["settings"]),
        constraint and Constraint(*constraint),
        reasoning=data["reasoning"],
        live_shift=None if moves is None else TemperatureShift([(at, shift) for at, shift in moves]),
        trace=data["trace"],
        label=data["label"],
        max_drawn=data["max_drawn"],
        replay=data["replay"],
    )


@dataclass
class EventMessage:
    """A `TokenEvent`, with what its record has since the last one."""

    index: int
    text: str
    id: int | None
    finish_reason: FinishReason | None
    n_traces: int
    n_final: int
    reasoning: str
    n_tokens: int
    is_followed: bool
    n_kept: tuple[int, int, int]  # tokens, log-probabilities and traces of those sent before; the others were removed
    tokens: list[int]
    logprobs: list[TokenLogprob]
    traces: list[TokenTrace]
    timings: Timings
    moves: list[Move] | None  # of its `TemperatureShift`, if there are new ones
    temperature: float | None  # that it has seen last
    rest: "RecordRest | None"  # at the first event and at the last one


@dataclass
class RecordRest:
    """What a record has that does not grow with each token."""

    stop_string: str
    layout: Batches
    n_ctx: int
    n_threads: tuple[int, int]
    beside: int
    is_complete: bool
    policy_ms: float
    failure: Message | None


@dataclass
class SentRecord:
    """How much of a record was sent."""

    request: Request
    n_sent: list[int] = field(default_factory=lambda: [0, 0, 0])
    n_moves: int = 0
    is_begun: bool = False
    _tokens: list[int] = field(default_factory=list)  # that were sent, where some may be removed

    @property
    def _is_banned(self) -> bool:
        return bool(self.request.settings.banned_strings)

    def message(self, event: TokenEvent) -> EventMessage:
        """The message of the next event of this record."""
        record, shift = event.record, self.request.live_shift
        if not self.is_begun:
            self.n_sent[0], self._tokens = len(self.request.prompt.tokens), [*self.request.prompt.tokens]
        # An event comes for each token that is added, and for each removal: so what was sent and is there is the same.
        lists: tuple[list[Any], ...] = (record.tokens, record.logprobs, record.traces)
        kept = [min(n, len(values)) for n, values in zip(self.n_sent, lists, strict=True)]
        if self._is_banned:  # of the tokens of one step, some can be removed and replaced before its first event
            removed = kept[0] - common_prefix(self._tokens, record.tokens[: kept[0]])
            kept = [n - min(removed, n) for n in kept]
            self._tokens = [*record.tokens]
        tokens, logprobs, traces = (values[n:] for n, values in zip(kept, lists, strict=True))
        self.n_sent = [len(values) for values in lists]
        moves = None
        if shift and len(shift.moves) != self.n_moves:
            moves, self.n_moves = shift.moves, len(shift.moves)
        has_rest, self.is_begun = not self.is_begun or event.finish_reason is not None, True
        return EventMessage(
            event.index,
            event.text,
            event.id,
            event.finish_reason,
            event.n_traces,
            event.n_final,
            event.reasoning,
            event.n_tokens,
            event.is_followed,
            (kept[0], kept[1], kept[2]),
            tokens,
            logprobs,
            traces,
            record.timings,
            moves,
            shift.last_temperature if shift else None,
            _rest(record) if has_rest else None,
        )


def _rest(record: GenerationRecord) -> RecordRest:
    failure = error_data(record.failure) if record.failure else None
    return RecordRest(
        record.stop_string,
        record.layout,
        record.n_ctx,
        record.n_threads,
        record.beside,
        record.is_complete,
        record.policy_ms,
        failure,
    )


class ReceivedRecord(GenerationRecord):
    """The record of an answer that another process generates."""

    def __init__(self, request: Request) -> None:
        super().__init__(tokens=[*request.prompt.tokens])
        self._request = request

    def add(self, data: Message) -> TokenEvent:
        """The event of a message."""
        one = msgspec.convert(data, EventMessage)
        lists: tuple[tuple[list[Any], Sequence[Any]], ...] = (
            (self.tokens, one.tokens),
            (self.logprobs, one.logprobs),
            (self.traces, one.traces),
        )
        for n, (values, new) in zip(one.n_kept, lists, strict=True):
            del values[n:]
            values.extend(new)
        self.timings, self.finish_reason = one.timings, one.finish_reason
        if one.rest:
            for key in ("stop_string", "layout", "n_ctx", "n_threads", "beside", "is_complete", "policy_ms"):
                setattr(self, key, getattr(one.rest, key))
            self.failure = read_error(one.rest.failure) if one.rest.failure else None
        if shift := self._request.live_shift:
            shift.moves = one.moves or shift.moves
            if one.temperature is not None:
                shift.observe(one.temperature)
        return TokenEvent(
            one.text,
            one.id,
            one.finish_reason,
            self,
            one.index,
            one.n_traces,
            one.n_final,
            one.reasoning,
            one.n_tokens,
            one.is_followed,
        )


def evaluation_data(one: "Evaluation") -> Message:
    """What became of a text, as plain data."""
    vector = one.vector
    return {
        "n_tokens": one.n_tokens,
        "vector": None if vector is None else vector.tobytes(),
        "shape": None if vector is None else vector.shape,
        "score": one.score,
        "error": error_data(one.error) if one.error else None,
        "is_truncated": one.is_truncated,
    }


def error_data(error: LlmcliError) -> Message:
    """An error as plain data."""
    return {"class": type(error).__name__, "status": error.status.name, "message": str(error), "hint": error.hint}


def read_error(data: Message) -> LlmcliError:
    """The error of `error_data`: of the same class where it is known here, always with the same exit status."""
    kinds = [LlmcliError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    kind = next((one for one in kinds if one.__name__ == data["class"]), LlmcliError)
    error = LlmcliError.__new__(kind)  # some have arguments of their own
    LlmcliError.__init__(error, data["message"], data["hint"])
    error.status = ExitStatus[data["status"]]
    return error
