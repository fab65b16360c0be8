"""What a server serves: its models, what they may cost, and what it counts."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request

from llmcli.server.errors import BusyError, ForbiddenError, RateError, UnknownError
from llmcli.server.keys import Key, TokenMeter
from llmcli.server.request_log import RequestRecord, current_record
from llmcli.server.served_model import ServedModel


@dataclass(frozen=True)
class ServerOptions:
    """How requests are accepted."""

    n_parallel: int = 0  # answers at a time; 0 = as many as are fast
    n_queued: int = 64  # answers that wait
    grace: float = 10.0  # seconds that answers have at the end


class Service:
    """The models of a server."""

    def __init__(self, models: Sequence[ServedModel], options: ServerOptions) -> None:
        self.models, self.options = models, options
        self.started_at = time.time()
        self.running: set[RequestRecord] = set()
        self.meter = TokenMeter()
        self.is_stopping = False  # no request is accepted any more

    async def model(self, name: str, _request: Request) -> ServedModel:
        """The model that a request names; without a name the first one that its key may use.

        Raises UnknownError, ForbiddenError for a model that the key may not use, or RateError for a key at its limit.
        """
        record = current_record()
        key = record.key if record else None
        for one in self.models if name else self.allowed_models():
            if name in ("", one.name, *one.aliases):
                if record:
                    record.model = one.name
                if key:
                    self._check_limits(key, one)
                return one
        known = ", ".join(one.name for one in self.allowed_models())
        raise UnknownError(f"model {name[:80]!r} is not served here", f"use one of: {known}")

    def allowed_models(self) -> Sequence[ServedModel]:
        """The models that the key of this request may use."""
        record = current_record()
        key = record.key if record else None
        return [one for one in self.models if not key or _is_allowed(key, one)]

    def _check_limits(self, key: Key, model: ServedModel) -> None:
        if not _is_allowed(key, model):
            raise ForbiddenError(f"the key {key.name!r} may not use the model {model.name!r}", "use one of /v1/models")
        n_running = sum(one.n_prompt + one.n_generated for one in self.running if one.key == key)
        seconds = self.meter.wait(key, n_running)
        if seconds:
            message = f"the key {key.name!r} has used its {key.tokens_per_minute} tokens of this minute"
            raise RateError(message, "try again later", headers={"Retry-After": str(math.ceil(seconds))})

    async def start(self) -> None:
        """Let each model generate a token, so that its context exists. Raises LlmcliError if it does not fit."""
        for one in self.models:
            request = one.make_request("Hello", one.settings({"max_tokens": 1, "raw": True}))
            await one.start([request]).end()

    def end_answers(self) -> None:
        """End all answers that run or wait with an error that says why."""
        for one in self.models:
            one.worker.end_answers(BusyError("the server is shutting down: the answer is not complete"))

    def close(self) -> None:
        """End all answers within the grace, and free the models."""
        for one in self.models:
            one.worker.close(self.options.grace)


def _is_allowed(key: Key, model: ServedModel) -> bool:
    return not key.models or not {model.name, *model.aliases}.isdisjoint(key.models)


def service_of(request: Request) -> Service:
    """The service of the app that got a request."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service
