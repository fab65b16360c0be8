"""One request to an endpoint on its way: a thread reads the answer, and what it reads becomes events."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, suppress
from queue import Full, Queue
from threading import Lock, Thread
from typing import TypeAlias

from llmcli.engine.events import FinishReason, GenerationRecord, Request, TokenEvent, TokenTrace, now_ms
from llmcli.errors import LlmcliError, NetworkError, UsageError
from llmcli.inference.endpoint_answer import Delta, no_choices, read_delta
from llmcli.inference.endpoint_client import (
    LOOK_SECONDS,
    TICK,
    ConnectionPool,
    with_retries,
)
from llmcli.inference.endpoint_errors import as_network_error, error_of, raise_for_error
from llmcli.inference.endpoint_tokens import NO_TOKEN, EndpointVocab
from llmcli.inference.replay_manifest import ReplayManifest
from llmcli.models.download.http import TransientError
from llmcli.params.param import is_number

LINGER_MS = 5000.0  # after the end of an answer, for the counts and [DONE], which some servers leave out
_PATIENCE_MS = 2000.0  # for the rest of an answer that is ended, and how it was generated
_MAX_TEXT = 16 << 20  # characters of an answer: more is that of a server which does not stop
Item: TypeAlias = Delta | LlmcliError | None  # what comes; an error and None end the answer


class Exchange:
    """One request on its way: a thread reads what comes, and `event` makes it a part of the answer."""

    def __init__(
        self,
        request: Request,
        index: int,
        n_parallel: int,
        asked: tuple[str, Mapping[str, object]],
        pool: ConnectionPool,
        vocab: EndpointVocab,
        inbox: Queue[tuple["Exchange", Item]],
        control: str = "",
    ) -> None:
        """`asked` is a URL and a body; `inbox` gets what the thread has read, for `events`.

        `control` is the URL at which a server of llmcli moves the temperature of its answers, and ends them.
        """
        self.request, self.connection = request, pool.take()
        self._index, self._body, self._pool, self._vocab, self._inbox = index, asked, pool, vocab, inbox
        self._record = GenerationRecord(beside=n_parallel - 1)
        self._begin, self._first, self._complete = now_ms(), 0.0, 0.0
        self._finish_reason: FinishReason | None = None
        self._has_text = False
        self._n_answer: int | None = None
        self._n_prefill = len(str(asked[1].get("prefill", "")))  # characters of the answer that are here already
        self._streamed, self._n_text = list[str](), 0  # what came, and how many characters of it were passed on
        self._is_traced = False
        self._lock, self._has_connection, self._is_aborted = Lock(), True, False
        self._control, self._id = control, ""  # that the server gave it
        self._shift = 0.0  # that the server has
        self._is_telling = False  # the server something, in a thread
        self._is_ended = False  # the server was told to end it
        self._give_up_at = 0.0  # when the connection is closed, if the server does not end the answer
        Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        """Read the answer, in a thread of its own; the last item says how it ended."""
        end: LlmcliError | None = None
        try:
            with_retries(self.connection, self._pool.notify, self._read, self._pool.attempts)
        except LlmcliError as error:
            end = error
        except KeyboardInterrupt:  # it was ended while it waited
            end = NetworkError("the connection was closed")
        except Exception as error:  # a fault of the program must not leave others waiting
            end = LlmcliError(f"{type(error).__name__}: {error}", "this is a bug; report it")
        with self._lock:  # from here on the connection may be that of another request
            self._has_connection = False
        self._pool.release(self.connection)
        self._put(end)

    def _put(self, item: Item) -> None:
        """Wait until there is room for it, or nobody reads any more."""
        while not self._is_aborted:
            with suppress(Full):
                self._inbox.put((self, item), timeout=TICK)
                return

    def abort(self) -> None:
        """End it; what the thread still reads goes nowhere."""
        with self._lock:
            self._is_aborted = True
            if self._has_connection:
                self.connection.abort()

    def _read(self) -> None:
        has_choice, size = False, 0
        try:
            with closing(self._deltas()) as deltas:
                for delta in deltas:
                    if self._is_aborted:  # a server that never stops must not keep the thread
                        return
                    has_choice |= delta.has_choice
                    size += len(delta.text) + len(delta.reasoning)
                    if size > _MAX_TEXT:
                        raise NetworkError(
                            f"{self.connection.endpoint.host} sent an answer of more than {_MAX_TEXT >> 20} MiB",
                            "limit it with --max-tokens, or check the server",
                        )
                    self._has_text |= bool(delta.text or delta.reasoning or delta.traces)
                    self._finish_reason = delta.finish_reason or self._finish_reason
                    self._put(delta)
        except TransientError as error:
            if self._has_text:
                raise as_network_error(error) from None
            raise
        if not self._finish_reason and not self.connection.is_done:
            problem = TransientError(f"{self.connection.endpoint.host} ended the connection in the middle")
            raise as_network_error(problem) if self._has_text else problem
        if not has_choice:
            raise no_choices(self.connection.endpoint.host)

    def _deltas(self) -> Generator[Delta, None, None]:
        url, body = self._body
        endpoint = self.connection.endpoint
        with closing(self._objects(url, body)) as objects:
            for data in objects:
                if error := error_of(data) if "error" in data else {}:
                    code = error.get("code")
                    raise_for_error(endpoint, code if isinstance(code, int) else 500, error)
                yield read_delta(data, self._vocab, endpoint.host)

    def _objects(self, url: str, body: Mapping[str, object]) -> Generator[Mapping[str, object], None, None]:
        """The objects of the stream; a server that does not know `stream_options` is asked again without them."""
        without = {key: value for key, value in body.items() if key != "stream_options"}
        sent = body if self._pool.takes_options else without
        try:
            yield from self.connection.events(url, sent)
        except UsageError as error:
            if "stream_options" not in str(error) or sent is without:
                raise
            self._pool.takes_options = False
            yield from self.connection.events(url, without)

    # In the thread of the reader of the events

    @property
    def lingers(self) -> bool:
        """Whether the server said that the answer is complete, and keeps the connection open without a word."""
        return bool(self._complete) and now_ms() - self._complete > LINGER_MS

    def steer(self) -> None:
        """Tell the server how the temperature was moved, or that the answer is to end."""
        is_over, shift = self.request.cancellation.is_set(), self.request.live_shift
        if not (self._control and self._id):
            return
        if is_over and not self._give_up_at:
            self._give_up_at = now_ms() + _PATIENCE_MS
        if self._is_telling or self._is_ended:
            return
        self._is_ended = is_over
        if is_over:
            self._tell({"stop": True})
        elif shift and shift.shift != self._shift:
            self._tell({"shift": shift.shift})

    def _tell(self, what: Mapping[str, object]) -> None:
        self._is_telling = True
        Thread(target=self._send, args=[what], daemon=True).start()

    def _send(self, what: Mapping[str, object]) -> None:
        shift, wanted = self.request.live_shift, what.get("shift")
        try:
            data = self._pool.post(self._control, {"id": self._id, **what}, seconds=LOOK_SECONDS)
        except LlmcliError:  # the answer has ended
            self._give_up_at = self._give_up_at and now_ms()
            data = {}
        if shift and is_number(wanted):
            found = data.get("shift") if isinstance(data, dict) else None
            self._shift = float(found) if is_number(found) else float(wanted)
            shift.shift += self._shift - wanted  # the server has a limit; a key may have been pressed since
        self._is_telling = False

    @property
    def is_to_abort(self) -> bool:
        """Whether it is cancelled, and nobody waits for what the server still has to say."""
        return self.request.cancellation.is_set() and now_ms() >= self._give_up_at

    def events(self, item: Item) -> Sequence[TokenEvent]:
        """The events for what the thread has read: none without a text."""
        if isinstance(item, LlmcliError):
            self._record.failure = item
            return [*self._rest(), self.end("error")]
        if item is None:
            return [*self._rest(), self.end(self._finish_reason or "stop")]
        self._count(item)
        if item.finish_reason:
            self._complete = now_ms()
        if not item.traces:
            return [] if self.request.trace is not None and self._is_traced else self._piece(item.reasoning, item.text)
        self._is_traced = True
        return [event for trace in item.traces for event in self._token(trace)]

    def _count(self, delta: Delta) -> None:
        """Note what is beside the text."""
        self._id = delta.id or self._id
        if delta.replay:
            self._record.replay = delta.replay
            if self.request.live_shift:
                self.request.live_shift.moves = list(ReplayManifest.from_data(delta.replay).moves)
        timings = self._record.timings
        if self.request.trace is not None:
            self._streamed.append(delta.text)
        if (delta.text or delta.reasoning) and not self._first:
            self._first = now_ms()
            timings.ttft_ms = timings.prompt_ms = self._first - self._begin
        self._record.logprobs += delta.logprobs
        timings.prompt_n = timings.prompt_n if delta.n_prompt is None else delta.n_prompt
        self._n_answer = self._n_answer if delta.n_answer is None else delta.n_answer
        if delta.prompt_ms is not None and delta.answer_ms is not None:
            timings.prompt_ms, timings.predicted_ms = delta.prompt_ms, delta.answer_ms

    def _piece(self, reasoning: str, text: str) -> Sequence[TokenEvent]:
        """The event of a text without a trace, which counts as a token."""
        text = self._without_prefill(text)
        if not reasoning + text:
            return []
        # Only the answers of a server of llmcli are looked at token by token; of others, a batch would keep every text.
        self._record.tokens.append(self._vocab.number_of((reasoning + text).encode()) if self._control else NO_TOKEN)
        return [self._event(reasoning, text, self._record.tokens[-1])]

    def _token(self, trace: TokenTrace) -> Sequence[TokenEvent]:
        text = self._without_prefill(trace.text)
        if trace.id is not None:
            self._record.tokens.append(trace.id)
            self._record.traces.append(trace)
            self._vocab.show(trace.id, trace.text or trace.reasoning)
        elif not trace.reasoning + text:
            return []
        return [self._event(trace.reasoning, text, trace.id)]

    def _event(self, reasoning: str, text: str, token: int | None) -> TokenEvent:
        record, n = self._record, len(self._record.traces)
        if self._first:
            record.timings.predicted_n, record.timings.predicted_ms = len(record.tokens), now_ms() - self._first
        return TokenEvent(text, token, None, record, self._index, n, n, reasoning)

    def _without_prefill(self, text: str) -> str:
        """A text of the answer without what of it is here already."""
        self._n_text += len(text)
        return text[max(len(text) - max(self._n_text - self._n_prefill, 0), 0) :]

    def _rest(self) -> Sequence[TokenEvent]:
        """The text that came without its traces, as in an answer that broke off."""
        rest = "".join(self._streamed)[self._n_text :] if self._is_traced else ""
        return [self._event("", self._without_prefill(rest), None)] if rest else []

    def cut(self) -> TokenEvent:
        """The last event of an answer whose connection is ended here."""
        cancellation = self.request.cancellation
        return self.end(cancellation.reason if cancellation.is_set() else self._finish_reason or "stop")

    def end(self, reason: FinishReason) -> TokenEvent:
        """The last event."""
        if self._n_answer is not None:
            self._record.timings.predicted_n = self._n_answer
        if self.request.cancellation.is_set() and reason != "error":
            reason = self.request.cancellation.reason
        self._record.finish_reason = reason
        return TokenEvent("", None, reason, self._record, self._index)
