"""What a server serves: its models, what they may cost, and what it counts."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request

from llmcli.server.errors import UnknownError
from llmcli.server.metrics import Metrics
from llmcli.server.served_model import ServedModel


@dataclass(frozen=True)
class ServerOptions:
    """How requests are accepted."""

    n_parallel: int = 0  # answers at a time; 0 = as many as are fast
    n_queued: int = 64  # answers that wait
    grace: float = 10.0  # seconds that answers have at the end
    has_metrics: bool = True  # at /metrics
    has_slots: bool = True  # at /slots
    is_verbose: bool = False  # every response has __verbose


class Service:
    """The models of a server."""

    def __init__(self, models: Sequence[ServedModel], options: ServerOptions) -> None:
        self.models, self.options = models, options
        self.started_at = time.time()

    async def model(self, name: str, _request: Request) -> ServedModel:
        """The model that a request names; without a name the first one. Raises UnknownError."""
        for one in self.models:
            if name in ("", one.name, *one.aliases):
                return one
        known = ", ".join(one.name for one in self.models)
        raise UnknownError(f"model {name[:80]!r} is not served here", f"use one of: {known}")

    async def start(self) -> None:
        """Let each model generate a token, so that its context exists. Raises LlmcliError if it does not fit."""
        for one in self.models:
            request = one.make_request("Hello", one.settings({"max_tokens": 1, "raw": True}))
            await one.start([request]).end()
            one.worker.metrics = Metrics()

    def close(self) -> None:
        """End all answers within the grace, and free the models."""
        for one in self.models:
            one.worker.close(self.options.grace)


def service_of(request: Request) -> Service:
    """The service of the app that got a request."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service
