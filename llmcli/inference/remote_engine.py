"""The engine of a warm process, as a command sees it: the same answers, from a model that is loaded already."""

from collections.abc import Callable, Generator, Iterable, Sequence
from functools import cached_property
from threading import RLock
from typing import Any

import msgspec

from llmcli.engine.events import (
    Cancellation,
    Message,
    Progress,
    Prompt,
    Request,
    ScoredPrompt,
    TokenEvent,
    TokenInspection,
)
from llmcli.engine.llama.model import Vocab
from llmcli.inference import engine_messages as messages
from llmcli.inference.engine import Capabilities, EngineIdentity, RequestSource, TemplateOptions
from llmcli.inference.remote_channel import Channel, Connect
from llmcli.inference.remote_channel import EngineGoneError as EngineGoneError
from llmcli.params.settings import Layer, Settings, parse_data

_Ask = Callable[..., Any]  # the name of a call and its arguments -> its result


class RemoteEngine:
    """A model in a warm process. Answers and scores have one connection, what is quick another one."""

    capabilities = Capabilities()

    def __init__(
        self,
        connect: Connect,
        settings: Settings,
        notes: list[str],
        cancellation: Cancellation | None = None,
        progress: Callable[[float], object] | None = None,
        gone: Callable[[], EngineGoneError] = EngineGoneError,
    ) -> None:
        """`progress` gets the share that is loaded, where the model is still loading; `gone` makes the error of an end.

        Raises OSError or EngineGoneError when the process has ended, and what the start of an engine raises.
        """
        self._connect, self._settings, self._gone = connect, settings, gone
        self._cancellation, self._progress = cancellation, progress
        self._lock, self.notes = RLock(), notes
        self.load_ms, self.waited_ms = 0.0, 0.0
        self._open()

    def _open(self) -> None:
        """Open a session, and take what it says of the model. Raises as `__init__`."""
        self._quick = Channel(self._connect(), self._gone)
        self._working: Channel | None = None
        try:
            data = messages.settings_data(self._settings)
            facts = self._quick.call("open", data, cancellation=self._cancellation, progress=self._progress)
        except BaseException:
            self._quick.connection.close()
            raise
        self.name, self.chat_template, self.n_ctx_train = facts["name"], facts["chat_template"], facts["n_ctx_train"]
        self.defaults = Layer("model", parse_data(facts["defaults"], "the model"))
        self.facts: Sequence[str] = facts["facts"]
        self.remark, self.placement = str(facts["remark"]), str(facts["placement"])
        self._quick.notes, self.n_ctx = self.notes, 0
        self._session = facts["session"]
        self.tokenizer = RemoteVocab(self._ask, *facts["vocab"])

    def _ask(self, name: str, *arguments: object, **watched: Any) -> Any:
        with self._lock:
            return self._quick.call(name, *arguments, **watched)

    @property
    def _work(self) -> Channel:
        """The connection of what takes long."""
        if not self._working:
            channel = Channel(self._connect(), self._gone)
            channel.call("join", self._session)
            channel.notes, self._working = self.notes, channel
        return self._working

    @property
    def has_ended(self) -> bool:
        """Whether its process has ended."""
        return any(one.has_ended for one in (self._working, self._quick) if one)

    def close(self) -> None:
        for channel in (self._working, self._quick):
            if channel:
                channel.connection.close()

    # What is quick

    def identity(self, patience: float = 0.0) -> EngineIdentity:
        return EngineIdentity(*self._ask("identity", patience))

    def identify(self, progress: Progress, cancellation: Cancellation) -> None:
        self._ask("identify", progress=progress, cancellation=cancellation)

    def count_tokens(self, text: str) -> int:
        return int(self._ask("count_tokens", text))

    def prompt_text(self, prompt: Prompt) -> str:
        return prompt.text

    def count_prompt(self, prompt: Prompt) -> int:
        return len(prompt.tokens)

    def context_size(self, settings: Settings) -> int:
        return int(self._ask("context_size", messages.settings_data(settings)))

    def render(self, request: Sequence[Message] | str, options: TemplateOptions) -> Prompt:
        given = [options.source, options.origin, options.is_given, options.prefill, options.arguments, options.time]
        data = self._ask("render", request, given, cancellation=self._cancellation)
        return messages.read_prompt({**data, "request": request, "arguments": options.arguments})

    def n_evaluated(self, tokens: Sequence[int]) -> int:
        return int(self._ask("n_evaluated", tokens))

    # What takes long

    def _do(self, name: str, *arguments: object, **watched: Any) -> Any:
        result = self._work.call(name, *arguments, **watched)
        self.n_ctx = int(self._work.call("n_ctx"))
        return result

    def keep_context(self, session: str = "") -> Sequence[str]:
        if not session and not self._working:  # nothing was evaluated
            return ()
        try:
            return list(self._work.call("keep_context", session))
        except (EngineGoneError, OSError):  # nothing is left to keep
            return ()

    def open_context(self, settings: Settings) -> None:
        self._do("open_context", messages.settings_data(settings))

    def warm(self, tokens: Sequence[int], cancellation: Cancellation | None = None) -> None:
        self._do("warm", tokens, cancellation=cancellation)

    def score(
        self, prefix: Sequence[int], continuations: Sequence[Sequence[int]], cancellation: Cancellation | None = None
    ) -> list[list[float]]:
        found: list[list[float]] = self._do("score", prefix, continuations, cancellation=cancellation)
        return found

    def score_prompt(self, tokens: Sequence[int], n_top: int, cancellation: Cancellation | None = None) -> ScoredPrompt:
        return msgspec.convert(self._do("score_prompt", tokens, n_top, cancellation=cancellation), ScoredPrompt)

    def inspector(self, request: Request, tokens: Sequence[int]) -> "RemoteInspector":
        return RemoteInspector(self._do, request, tokens)

    def generate(self, requests: Sequence[Request]) -> Generator[TokenEvent, None, None]:
        # Before the first event is asked for: what is not valid is refused by now.
        work = self._work
        work.call("check", [messages.request_data(one) for one in requests])
        return self._events("generate", lambda _is_idle: None, requests)

    def repeat(self, request: Request) -> Generator[TokenEvent | None, None, None]:
        yield from self.generate([request])

    def generate_batch(self, requests: RequestSource, n_parallel: int = 0) -> Generator[TokenEvent, None, None]:
        return self._events("generate_batch", requests, (), n_parallel)

    def _events(
        self, name: str, source: RequestSource, requests: Sequence[Request], *arguments: object
    ) -> Generator[TokenEvent, None, None]:
        work = self._work
        watched = [_Watched(work, index, one) for index, one in enumerate(requests)]
        running = dict(enumerate(watched))
        work.send({"call": name, "arguments": [[messages.request_data(one) for one in requests], *arguments]})
        is_ended = False
        try:
            while True:
                while not work.is_there():
                    for one in running.values():
                        one.forward()
                reply = work.receive()
                if "event" in reply:
                    one = running[reply["event"]["index"]]
                    event = one.record.add(reply["event"])
                    self.n_ctx = one.record.n_ctx or self.n_ctx
                    if event.finish_reason:
                        del running[event.index]
                    yield event
                    for one in running.values():
                        one.forward()
                elif "progress" in reply:
                    at, done, total = reply["progress"]
                    if at in running and (progress := running[at].request.progress):
                        progress(done, total)
                elif "next" in reply:
                    request = source(reply["next"])
                    if request:
                        one = _Watched(work, len(watched), request)
                        running[len(watched)] = one
                        watched.append(one)
                    work.send({"request": request and messages.request_data(request)})
                else:
                    is_ended = True
                    work.result(reply)
                    if running:  # the other side ends, and has left them
                        raise work.end()
                    return
        except EngineGoneError as error:
            is_ended = True
            for index, one in running.items():  # what is generated so far is kept
                one.record.failure, one.record.finish_reason = error, "error"
                yield TokenEvent("", None, "error", one.record, index)
            if not requests and source(True):  # more is wanted than has failed
                raise
        finally:
            if not is_ended:
                self._leave(work)

    def _leave(self, work: Channel) -> None:
        """Nobody wants the other events of a call."""
        try:
            work.send({"leave": True})
            while "done" not in (reply := work.receive()):
                if "next" in reply:
                    work.send({"request": None})
        except EngineGoneError:
            return


class _Watched:
    """A request that another process answers: what moves it here is sent there."""

    def __init__(self, channel: Channel, index: int, request: Request) -> None:
        self.request, self.record = request, messages.ReceivedRecord(request)
        self._channel, self._index = channel, index
        self._shift, self._is_cancelled = 0.0, False

    def forward(self) -> None:
        shift, cancellation = self.request.live_shift, self.request.cancellation
        if shift and shift.shift != self._shift:
            self._shift = shift.shift
            self._channel.send({"shift": self._index, "by": shift.shift})
        if cancellation.is_set() and not self._is_cancelled:
            self._is_cancelled = True
            self._channel.send({"cancel": self._index, "reason": cancellation.reason})


class RemoteInspector:
    """As `TokenInspector`."""

    def __init__(self, do: _Ask, request: Request, tokens: Sequence[int]) -> None:
        self._do, self._request = do, request
        self._asked = [messages.request_data(request), tokens]

    @property
    def stateful_steps(self) -> list[str]:
        from llmcli.engine.token_inspection import stateful_steps

        return stateful_steps(self._request)

    def inspect(self, at: int, count: int, cancellation: Cancellation, progress: Progress) -> TokenInspection | None:
        data = self._call("inspect", cancellation, progress, at, count)
        return None if data is None else msgspec.convert(data, TokenInspection)

    def entropies(self, cancellation: Cancellation, progress: Progress) -> list[float] | None:
        found: list[float] | None = self._call("entropies", cancellation, progress)
        return found

    def token_at_rank(self, at: int, rank: int, cancellation: Cancellation, progress: Progress) -> int | None:
        found: int | None = self._call("token_at_rank", cancellation, progress, at, rank)
        return found

    def _call(self, name: str, cancellation: Cancellation, progress: Progress, *arguments: int) -> Any:
        return self._do("inspector", *self._asked, name, arguments, cancellation=cancellation, progress=progress)


class RemoteVocab(Vocab):
    """The vocabulary of a model in another process, which is asked once for each token or text."""

    def __init__(self, ask: _Ask, n_tokens: int, bos: int | None, eos: int | None, adds_bos: bool) -> None:
        self._ask, self.n_tokens, self.bos, self.eos, self.adds_bos = ask, n_tokens, bos, eos, adds_bos
        self.abort: Cancellation | None = None
        self._thread = None
        self._known: dict[tuple[str, int], Any] = {}

    def _of(self, name: str, token: int) -> Any:
        key = (name, token)
        if key not in self._known:
            self._known[key] = self._ask("vocab", name, [token], {})
        return self._known[key]

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        options = {"add_special": add_special, "parse_special": parse_special}
        found: list[int] = self._ask("vocab", "tokenize", [text], options, cancellation=self.abort)
        return found

    def tokenize_exactly(self, data: bytes) -> list[int]:
        found: list[int] = self._ask("vocab", "tokenize_exactly", [data], {})
        return found

    def piece(self, token: int, special: bool = False) -> bytes:
        found: bytes = self._ask("vocab", "piece", [token, True], {}) if special else self._of("piece", token)
        return found

    def label(self, token: int) -> str:
        return str(self._of("label", token))

    def detokenize(self, tokens: list[int]) -> str:
        return str(self._ask("vocab", "detokenize", [tokens], {}))

    def show_control(self, texts: Iterable[str]) -> None:
        self._known.clear()
        self._ask("vocab", "show_control", [[*texts]], {})

    def ends(self, token: int) -> bool:
        return bool(self._of("ends", token))

    def is_control(self, token: int) -> bool:
        return bool(self._of("is_control", token))

    def strips_left(self, token: int) -> bool:
        return bool(self._of("strips_left", token))

    @cached_property
    def all_pieces(self) -> list[bytes]:
        found: list[bytes] = self._ask("vocab", "all_pieces", [], {})
        return found

    @cached_property
    def end_tokens(self) -> list[int]:
        found: list[int] = self._ask("vocab", "end_tokens", [], {})
        return found

    @cached_property
    def special(self) -> dict[int, bytes]:
        return dict(self._ask("vocab", "special", [], {}))

    @cached_property
    def suppressed(self) -> list[int]:
        found: list[int] = self._ask("vocab", "suppressed", [], {})
        return found
