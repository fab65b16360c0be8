"""The servers of a batch: looked at side by side, compared, and looked at again after a failure."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import PurePosixPath, PureWindowsPath
from urllib.parse import urlsplit

from llmcli.config.endpoints import endpoint_names
from llmcli.engine.events import Cancellation
from llmcli.errors import LlmcliError, NetworkError, TimeLimitError, UsageError
from llmcli.inference.endpoint import EndpointEngine
from llmcli.inference.endpoint_server import ServedEndpoint, open_endpoint
from llmcli.inference.engine import UnsupportedError, dropped_settings, unsupported_settings
from llmcli.params.settings import Layer, Settings, resolve

_LOOK_SECONDS = 20.0  # for all that a server says of itself
_ATTEMPTS = 2  # of an answer, before another server gets the line


class ServerConnection:
    """One endpoint of the list."""

    def __init__(self, text: str, settings: Settings, cancellation: Cancellation) -> None:
        """`text` is a URL or a profile; `cancellation` ends what waits for the server."""
        self._settings, self._cancellation = replace(settings, endpoint=text), cancellation
        self.name = urlsplit(text).netloc or text  # its host; that of a profile, once it has answered
        self.served: ServedEndpoint | None = None
        self.engine: EndpointEngine | None = None
        self.error: LlmcliError | None = None  # why it did not answer at first
        self.model = ""  # that it must have; empty = any

    def connect(self) -> EndpointEngine:
        """The engine, if the server answers and has the model. Raises LlmcliError."""
        try:
            served = open_endpoint(self._settings, cancellation=self._cancellation, seconds=_LOOK_SECONDS)
        except TimeLimitError:
            raise NetworkError(f"{self.name} does not say what it has", "check the URL and the server") from None
        served.check_model()
        if self.model and _base_name(served.model) != self.model:
            message = f"{served.host} has another model now: {served.model}"
            raise NetworkError(message, f"start it with {self.model}, or allow all models with --any-model")
        if self.engine is None:
            self.name, self.served = served.host, served
            self.engine = EndpointEngine(served, lambda _text: None, self._cancellation, _ATTEMPTS)
        return self.engine

    def try_connect(self) -> None:
        """Connect, or keep the reason why that is not possible now. Raises LlmcliError for what will not pass."""
        try:
            self.connect()
        except NetworkError as error:
            self.error = error


def connect_servers(
    settings: Settings, layers: Sequence[Layer], any_model: bool, cancellation: Cancellation
) -> list[ServerConnection]:
    """The connections to all endpoints of the settings; one that does not answer yet has an `error`.

    Raises NetworkError if none answers, UsageError if their models differ (unless `any_model`) or one of them does not
    support a setting, and what a wrong URL, key or model raises.
    """
    found = [ServerConnection(one, settings, cancellation) for one in endpoint_names(settings.endpoint or "")]
    with ThreadPoolExecutor(len(found)) as pool:
        list(pool.map(ServerConnection.try_connect, found))
    if all(one.error for one in found):
        raise NetworkError("; ".join(str(one.error) for one in found), "check that the servers run")
    models = {one.name: one.served.model for one in found if one.served}
    names = {*map(_base_name, models.values())}
    if len(names) > 1 and not any_model:
        told = ", ".join(f"{host} has {model}" for host, model in models.items())
        raise UsageError(
            f"the servers have different models: {told}", "choose one with -m, or allow all of them with --any-model"
        )
    for one in found:
        one.model = "" if any_model else next(iter(names))
        _check_settings(one, layers)
    return found


def lost_settings(connection: ServerConnection, layers: Sequence[Layer]) -> list[str]:
    """The settings of all lines that a server leaves out because they say so."""
    if not connection.engine or not connection.served:
        return []
    return dropped_settings(connection.engine, resolve(layers).over(connection.served.layer).settings)


def _check_settings(connection: ServerConnection, layers: Sequence[Layer]) -> None:
    if not connection.engine or not connection.served:
        return
    settings = resolve(layers).over(connection.served.layer).settings
    dropped = dropped_settings(connection.engine, settings)
    missing = [one for one in unsupported_settings(connection.engine, settings) if one not in dropped]
    missing += ["decisions"] if settings.is_decision and not connection.engine.capabilities.scores else []
    if missing:
        hint = "remove it or this server, or let --drop-unsupported leave it out"
        raise UnsupportedError(f"{connection.name} does not support {', '.join(missing)}", hint)


def _base_name(model: str) -> str:
    """The name of a model without the folders that a server has it in."""
    return PureWindowsPath(PurePosixPath(model).name).name if model.endswith(".gguf") else model
