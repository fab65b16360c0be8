"""How the tokens of an answer were drawn at an endpoint: a server of llmcli inspects them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from llmcli.engine.events import Cancellation, Progress, Request, TokenInspection
from llmcli.errors import NetworkError
from llmcli.files import convert
from llmcli.params.param import is_int, is_number

Ask = Callable[[Mapping[str, object], Cancellation], object]  # a body, what ends it -> JSON data
_NOT_OF_THIS = ("stream", "stream_options", "logprobs", "top_logprobs", "llmcli")


@dataclass(frozen=True)
class EndpointInspector:
    """As `TokenInspector`; `body` is that of the answer to a request, and `host` is for errors."""

    ask: Ask
    request: Request
    body: Mapping[str, object]
    tokens: Sequence[int]
    host: str

    @property
    def stateful_steps(self) -> list[str]:
        from llmcli.engine.token_inspection import stateful_steps  # a chat imports it only for this

        return stateful_steps(self.request)

    def inspect(self, at: int, count: int, cancellation: Cancellation, progress: Progress) -> TokenInspection | None:
        data = self._ask({"at": at, "count": count}, cancellation, progress)
        if data is None:
            return None
        try:
            return convert(data.get("inspection"), TokenInspection, "inspection")
        except ValueError as error:
            raise NetworkError(f"{self.host} sent an inspection that is not valid: {error}") from None

    def entropies(self, cancellation: Cancellation, progress: Progress) -> list[float] | None:
        data = self._ask({}, cancellation, progress)
        found = data and data.get("entropies")
        if data is None:
            return None
        if not isinstance(found, list) or len(found) != len(self.tokens) or not all(map(is_number, found)):
            raise NetworkError(f"{self.host} sent entropies that are not valid")
        return found

    def token_at_rank(self, at: int, rank: int, cancellation: Cancellation, progress: Progress) -> int | None:
        data = self._ask({"at": at, "rank": rank}, cancellation, progress)
        token = data and data.get("token")
        if data is not None and not is_int(token):
            raise NetworkError(f"{self.host} sent a token that is not valid")
        return token if is_int(token) else None

    def _ask(
        self, asked: Mapping[str, object], cancellation: Cancellation, progress: Progress
    ) -> Mapping[str, object] | None:
        """What the server says; None when it is cancelled."""
        progress(0, 1)
        body = {key: value for key, value in self.body.items() if key not in _NOT_OF_THIS}
        try:
            data = self.ask({**body, "tokens": [*self.tokens], **asked}, cancellation)
        except KeyboardInterrupt:
            return None
        return data if isinstance(data, dict) else {}
