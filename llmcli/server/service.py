"""The models of a server: loaded when they are asked for, and unloaded when nobody asks or memory is needed."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from starlette.requests import Request

from llmcli.errors import LlmcliError
from llmcli.inference import sizing
from llmcli.server.errors import BusyError, ForbiddenError, RateError, UnknownError
from llmcli.server.http import Values, take
from llmcli.server.keys import Key, TokenMeter
from llmcli.server.loading import ModelEntry
from llmcli.server.metrics import Metrics
from llmcli.server.request_log import RequestRecord, current_record
from llmcli.server.served_model import ServedModel
from llmcli.text import did_you_mean, format_size

_LOOK_S = 1.0  # between two looks for models that nobody has asked for


@dataclass(frozen=True)
class ServerOptions:
    """How requests are accepted."""

    n_parallel: int = 0  # answers at a time; 0 = as many as are fast
    n_queued: int = 64  # answers that wait
    grace: float = 10.0  # seconds that answers have at the end
    keep_alive: float = 600.0  # seconds after the last request that a model stays loaded, unless it is pinned
    has_metrics: bool = True  # at /metrics
    has_slots: bool = True  # at /slots
    is_verbose: bool = False  # every response has __verbose
    pooling: str = ""  # how the vectors of tokens become that of a text; empty = as the model says


class Service:
    """The models of a server, by name."""

    def __init__(
        self,
        pinned: Sequence[ServedModel],
        options: ServerOptions,
        entries: Sequence[ModelEntry] = (),
        find_other: Callable[[str], ModelEntry | None] = lambda _name: None,
    ) -> None:
        """`pinned` models stay loaded; those of `entries` are loaded when a request asks for them.

        `find_other` finds a model that is not among them by the name that a request gives; None without one.
        """
        self.pinned, self.options, self.entries, self._find_other = pinned, options, entries, find_other
        self.started_at = time.time()
        self.running: set[RequestRecord] = set()
        self.meter = TokenMeter()
        self.is_stopping = False  # no request is accepted any more
        self._loaded: dict[str, ServedModel] = {one.name: one for one in pinned}
        self._loading = asyncio.Lock()  # one model at a time
        self._watcher: asyncio.Task[None] | None = None
        self._ended: list[Metrics] = []  # of models that were unloaded

    @property
    def metrics(self) -> list[Metrics]:
        """What was counted, also of models that are unloaded by now."""
        return [*self._ended, *(one.worker.metrics for one in self.models)]

    @property
    def models(self) -> list[ServedModel]:
        """Those that are loaded now."""
        return list(self._loaded.values())

    @property
    def names(self) -> list[str]:
        """The names of all models that a request may ask for, the default first."""
        return [*(one.name for one in self.pinned), *(one.name for one in self.entries)]

    async def start(self) -> None:
        """Load the default model, and let those that are loaded generate a token. Raises LlmcliError."""
        for one in self.pinned:
            await _warm(one)
        if not self.pinned and self.entries:
            await self._load(self.entries[0])
        self._watcher = asyncio.create_task(self._watch())

    async def model(self, name: str, _request: Request) -> ServedModel:
        """The model that a request names, without a name the default; it is loaded if it is not.

        Raises UnknownError for one that is not served, BusyError where memory has no room for it, ForbiddenError for
        one that the key of the request may not use, RateError where the key is at its limit.
        """
        record = current_record()
        key = record.key if record else None
        if key:
            self._check_rate(key)
        wanted = name or next((one for one in self.names if key and one in key.models), self.names[0])
        found = await self.look_up(wanted)
        if isinstance(found, ModelEntry):
            async with self._loading:
                found = self._find_loaded(wanted) or await self._load(found)
        found.used_at = time.time()
        if record:
            record.model = found.name  # from now on it is in use
        return found

    async def look_up(self, name: str) -> ServedModel | ModelEntry:
        """The model with this name, as it is: loaded, or not. Raises UnknownError or ForbiddenError as `model`."""
        found = self._find_loaded(name) or await self._entry(name)
        record = current_record()
        _check_allowed(record.key if record else None, found)
        return found

    def _check_rate(self, key: Key) -> None:
        n_running = sum(one.n_prompt + one.n_generated for one in self.running if one.key == key)
        seconds = self.meter.wait(key, n_running)
        if seconds:
            message = f"the key {key.name!r} has used its {key.tokens_per_minute} tokens of this minute"
            raise RateError(message, "try again later", headers={"Retry-After": str(math.ceil(seconds))})

    def _find_loaded(self, wanted: str) -> ServedModel | None:
        return next((one for one in self.models if wanted in (one.name, *one.aliases)), None)

    def _is_used(self, model: ServedModel) -> bool:
        """Whether a request that runs has it: one that is still read, a score and a vector need it too."""
        return any(one.model == model.name for one in self.running)

    async def _entry(self, wanted: str) -> ModelEntry:
        entry = next((one for one in self.entries if wanted in (one.name, *one.aliases)), None)
        entry = entry or await asyncio.to_thread(self._find_other, wanted)  # it reads folders
        if entry is None:
            names = self.names
            hint = did_you_mean(wanted, names) or f"use one of: {', '.join(names[:10])}"
            raise UnknownError(f"model {wanted[:80]!r} is not served here", hint)
        return entry

    async def _load(self, entry: ModelEntry) -> ServedModel:
        await self._make_room(entry)
        model = await asyncio.to_thread(entry.load)
        try:
            await _warm(model)
        except LlmcliError:
            await asyncio.to_thread(model.close, 0.0)
            raise
        self._loaded[model.name] = model
        return model

    async def _make_room(self, entry: ModelEntry) -> None:
        """Unload the models that were not asked for the longest, until the memory has room. Raises BusyError."""
        while (free := sizing.memory_and_cores()[0]) and entry.n_bytes > free:
            idle = [one for one in self.models if one not in self.pinned and not self._is_used(one)]
            if not idle:
                need = f"{entry.name} needs {format_size(entry.n_bytes)} of memory, and {format_size(free)} are free"
                if len(self._loaded) > len(self.pinned):
                    raise BusyError(f"{need} while other models answer")
                raise LlmcliError(need, "use a smaller model or --ctx-size, or pin fewer models")
            await self._unload(min(idle, key=lambda one: one.used_at))

    async def _unload(self, model: ServedModel) -> None:
        del self._loaded[model.name]
        await asyncio.to_thread(model.close, self.options.grace)
        self._ended = [Metrics.of([*self._ended, model.worker.metrics])]

    async def _watch(self) -> None:
        """Unload what nobody has asked for in a while."""
        while True:
            await asyncio.sleep(_LOOK_S)
            async with self._loading:
                for one in self.models:
                    if self._is_used(one):
                        one.used_at = time.time()
                    elif one not in self.pinned and time.time() - one.used_at > self.options.keep_alive:
                        await self._unload(one)

    def end_answers(self) -> None:
        """End all that runs or waits with an error that says why."""
        for one in self.models:
            one.worker.end_all(BusyError("the server is shutting down: the answer is not complete"))

    async def close(self) -> None:
        """End all answers within the grace, and free the models."""
        if self._watcher:
            self._watcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._watcher
        await asyncio.gather(*(asyncio.to_thread(one.close, self.options.grace) for one in self.models))


async def _warm(model: ServedModel) -> None:
    """Let a model generate a token, so that its context exists. Raises LlmcliError if it does not fit."""
    if model.generates:
        # The answer has no limit, so that the context has room for usual ones.
        request = model.make_request("Hello", model.settings({"max_tokens": -1, "raw": True}))
        request.max_drawn = 1
        await model.start([request]).end()
        model.worker.metrics = Metrics()
    else:
        await model.worker.call(lambda _stop: model.vectors())


def is_allowed(key: Key | None, model: ServedModel | ModelEntry) -> bool:
    """Whether a key may use a model; without a key all are allowed."""
    return not key or not key.models or not {model.name, *model.aliases}.isdisjoint(key.models)


def _check_allowed(key: Key | None, model: ServedModel | ModelEntry) -> None:
    if key and not is_allowed(key, model):
        raise ForbiddenError(f"the key {key.name!r} may not use the model {model.name!r}", "use one of /v1/models")


async def take_model(request: Request, body: Values) -> ServedModel:
    """Remove the name of a model from a body, and return the model. Raises as `Service.model`."""
    return await service_of(request).model(take(body, "model", str, ""), request)


def service_of(request: Request) -> Service:
    """The service of the app that got a request."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service
