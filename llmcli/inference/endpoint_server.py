"""What is at an endpoint: its models, which kind of server it is, and which of its models is asked."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field

from llmcli.config.endpoints import Endpoint, find_endpoint
from llmcli.engine.events import Cancellation
from llmcli.errors import LlmcliError, ModelNotFoundError, NetworkError, TimeLimitError, UsageError
from llmcli.inference.endpoint_client import Connection, wait_for, with_retries
from llmcli.inference.endpoint_dialect import DIALECTS, Dialect, kind_of_owner
from llmcli.models.download.http import TransientError
from llmcli.params.param import SettingValue, fields_of, is_int
from llmcli.params.sampler_chain import SamplingParams
from llmcli.params.settings import Layer, Settings
from llmcli.text import did_you_mean, plural

Json = Mapping[str, object]
Notify = Callable[[str], None]
MAX_LOOK_SECONDS = 60.0  # for all that a server says of itself: three attempts, and some bytes at a time
_MAX_MODELS = 10_000
_MAX_NAME = 300  # characters


@dataclass(frozen=True)
class ServedModel:
    """A model of a server; 0 and "" where it does not tell."""

    name: str
    owner: str = ""
    n_ctx: int = 0  # tokens that one answer and its prompt can have


@dataclass
class ServedEndpoint:
    """An endpoint that answers, and the model that is asked there; `notes` are for the user."""

    endpoint: Endpoint
    dialect: Dialect
    models: Sequence[ServedModel]
    version: str = ""
    layer: Layer = field(default_factory=lambda: Layer("server", {}))  # its defaults, as far as it tells them
    tells_defaults: bool = False
    chat_template: str = ""
    n_slots: int = 0  # answers at a time; 0 = not known
    model: str = ""
    n_ctx: int = 0
    remark: str = ""  # which model was chosen
    notes: list[str] = field(default_factory=list)

    @property
    def host(self) -> str:
        return self.endpoint.host

    def check_model(self) -> None:
        """Raise ModelNotFoundError if the server lists its models, and the one that is asked is not among them."""
        names = [one.name for one in self.models]
        if names and self.model not in names and f"{self.model}:latest" not in names:
            see = f"see its models: llmcli models list {self.endpoint.option}"
            hint = did_you_mean(self.model, names) or see
            raise ModelNotFoundError(f"{self.host} does not have the model {self.model}", hint)


def open_endpoint(
    settings: Settings,
    notify: Notify = lambda _text: None,
    cancellation: Cancellation | None = None,
    seconds: float = 0.0,
) -> ServedEndpoint:
    """The endpoint of the settings with the model that they name, or its first one.

    Raises LlmcliError, TimeLimitError after so many seconds (0 = never), and KeyboardInterrupt when it is cancelled.
    """
    assert settings.endpoint
    endpoint = reachable(settings.endpoint, settings.offline)
    try:
        served = look_at(endpoint, notify, cancellation, min(seconds or MAX_LOOK_SECONDS, MAX_LOOK_SECONDS))
    except TimeoutError:
        message = f"stopped by --timeout after {seconds:g} s: {endpoint.host} does not say yet what it has"
        raise TimeLimitError(message, "raise --timeout") from None
    _choose(served, settings)
    return served


def reachable(text: str, offline: bool) -> Endpoint:
    """The endpoint of a URL or a profile. Raises LlmcliError as `find_endpoint`, and if it is not to be asked."""
    endpoint = find_endpoint(text)
    if offline and not endpoint.is_loopback:
        raise NetworkError(f"{endpoint.host} needs the network, but --offline is set", "remove --offline to allow it")
    return endpoint


def look_at(
    endpoint: Endpoint,
    notify: Notify = lambda _text: None,
    cancellation: Cancellation | None = None,
    seconds: float = MAX_LOOK_SECONDS,
) -> ServedEndpoint:
    """What a server says of itself, with retries. Raises LlmcliError if it does not answer, or not as a server.

    Raises KeyboardInterrupt and TimeoutError as `wait_for`.
    """
    connection = Connection(endpoint)

    def run() -> ServedEndpoint:
        with closing(connection):
            return with_retries(connection, notify, lambda: _look(connection), attempts=3)

    try:
        found = wait_for(run, connection, cancellation, seconds)
    except TimeoutError:
        if seconds < MAX_LOOK_SECONDS:
            raise
        problem = f"{endpoint.host} does not say what it has within {seconds:g} seconds"
        raise NetworkError(problem, "check the URL and the server") from None
    found.notes += endpoint.warnings
    return found


def names_at(text: str, seconds: float, offline: bool = False) -> list[str]:
    """The names of the models at an endpoint, for completion: empty if they do not come within so many seconds."""
    with suppress(LlmcliError, TransientError, TimeoutError):
        endpoint = reachable(text, offline)
        connection = Connection(endpoint)

        def run() -> list[str]:
            with closing(connection):
                return [one.name for one in _models(connection.get(f"{endpoint.base}/models"), endpoint.host)]

        return wait_for(run, connection, seconds=seconds)
    return []


def _look(connection: Connection) -> ServedEndpoint:
    endpoint = connection.endpoint
    try:
        models = _models(connection.get(f"{endpoint.base}/models"), endpoint.host)
    except NetworkError as error:
        if "has no such address" not in str(error):
            raise
        models = []
    owner = models[0].owner if models else ""
    kind = endpoint.kind or kind_of_owner(owner, endpoint.host) or _ask_kind(connection)
    served = ServedEndpoint(endpoint, DIALECTS[kind or "other"], models)
    if kind in ("llama-server", "llmcli"):
        _read_props(served, _try_get(connection, "/props"))
    elif kind in ("vllm", "ollama"):
        data = _try_get(connection, "/version" if kind == "vllm" else "/api/version")
        served.version = _version(data.get("version"))
    return served


def _models(data: object, host: str) -> list[ServedModel]:
    """The models of /v1/models: OpenAI's object, or a list alone."""
    listed = data.get("data", data.get("models")) if isinstance(data, dict) else data
    if not isinstance(listed, list):
        raise NetworkError(f"{host} answered /v1/models with something else", "check the URL and the port")
    found = []
    for one in listed[:_MAX_MODELS]:
        if isinstance(one, dict) and isinstance(name := one.get("id", one.get("name")), str) and name:
            meta = one.get("meta")
            sizes = [
                one.get("max_model_len"),
                one.get("context_length"),
                meta.get("n_ctx") if isinstance(meta, dict) else 0,
            ]
            n_ctx = next(filter(None, map(_size, sizes)), 0)
            found.append(ServedModel(name[:_MAX_NAME], str(one.get("owned_by") or "")[:40], n_ctx))
    return found


def _size(value: object) -> int:
    return value if is_int(value) and 0 < value < 1 << 31 else 0


def _version(value: object) -> str:
    return value[:40] if isinstance(value, str) else ""


def _ask_kind(connection: Connection) -> str:
    """The kind of a server whose models do not tell, by a route that only it has."""
    if connection.endpoint.base.startswith("https://") and not connection.endpoint.is_loopback:
        return ""  # a service, whose other addresses are a site
    if _try_get(connection, "/props").get("default_generation_settings"):
        return "llama-server"
    if _try_get(connection, "/api/version").get("version"):
        return "ollama"
    return "vllm" if _try_get(connection, "/version").get("version") else ""


def _try_get(connection: Connection, route: str) -> Json:
    """The object at a route of the server's own; empty if it has none."""
    with suppress(LlmcliError, TransientError):
        data = connection.get(connection.endpoint.root + route)
        return data if isinstance(data, dict) else {}
    return {}


def _read_props(served: ServedEndpoint, data: Json) -> None:
    """llama-server's /props: context, slots, template and defaults."""
    found = data.get("default_generation_settings")
    defaults: Json = found if isinstance(found, dict) else {}
    n_ctx, n_slots, template = defaults.get("n_ctx"), data.get("total_slots"), data.get("chat_template")
    served.n_ctx, served.n_slots = _size(n_ctx), _size(n_slots)
    served.chat_template = template if isinstance(template, str) else ""
    served.version = _version(data.get("build_info"))
    params = defaults.get("params")
    if isinstance(params, dict):
        served.layer = Layer("server", _defaults(params, served.dialect))
        served.tells_defaults = True


def _defaults(params: Json, dialect: Dialect) -> dict[str, SettingValue]:
    """The defaults of a server where they are not those of llmcli, which has them from llama.cpp as well."""
    values: dict[str, SettingValue] = {}
    for key, one in fields_of(SamplingParams).items():
        if key not in params or key not in dialect.names or key in ("seed", "samplers"):
            continue
        value = params[key]
        if isinstance(value, float):
            value = float(f"{value:.6g}")  # 0.1 comes as 0.10000000149011612
        with suppress(UsageError):  # a value that llmcli does not know
            parsed = one.parse_data(value)
            if parsed != one.default:
                values[key] = parsed
    return values


def _choose(served: ServedEndpoint, settings: Settings) -> None:
    """The model that is asked: that of the settings, of the profile, or the first one."""
    host, names = served.host, [one.name for one in served.models]
    asked = settings.model if "model" in settings.given else served.endpoint.model
    if not asked and not names:
        raise UsageError(f"{host} does not list its models", "name the model with -m")
    served.model = asked or names[0]
    if not asked:
        others = f", the first of {plural(len(names), 'model')}; choose another with -m" if len(names) > 1 else ""
        served.remark = f"the model at {host} is {served.model}{others}"
    elif served.dialect.kind == "llama-server" and len(names) == 1 and asked not in names:
        served.notes.append(f"{host} has the model {names[0]}, which answers in place of {asked}")
        served.model = names[0]
    known = {one.name: one.n_ctx for one in served.models}
    served.n_ctx = settings.n_ctx or served.n_ctx or known.get(served.model, 0)
