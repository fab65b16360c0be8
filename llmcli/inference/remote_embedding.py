"""The vectors of a model in a warm process, as a command sees them: the same numbers, without a load."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from llmcli.engine.events import Cancellation, Progress
from llmcli.inference import engine_messages as messages
from llmcli.inference.embedding import Evaluation
from llmcli.inference.remote_channel import Channel, Connect
from llmcli.params.settings import Settings


class RemoteEmbeddingModel:
    """As `EmbeddingModel`. Every call can raise EngineGoneError, when the process has ended."""

    def __init__(
        self,
        connect: Connect,
        settings: Settings,
        pooling: str,
        notes: list[str],
        cancellation: Cancellation | None = None,
        progress: Callable[[float], object] | None = None,
    ) -> None:
        """Raises OSError or EngineGoneError when the process has ended, and as `EmbeddingModel`."""
        self._channel, self.cancellation = Channel(connect()), cancellation or Cancellation()
        self._channel.notes = notes
        try:
            given = messages.settings_data(settings), pooling
            facts = self._channel.call("open_vectors", *given, cancellation=cancellation, progress=progress)
        except BaseException:
            self._channel.connection.close()
            raise
        self.name, self.pooling, self.notes = facts["name"], facts["pooling"], notes
        self.n_dims, self.n_ctx = facts["n_dims"], facts["n_ctx"]
        self.facts: Sequence[str] = facts["facts"]

    def sha256(self, progress: Progress) -> str:
        return str(self._channel.call("sha256", cancellation=self.cancellation, progress=progress))

    def embed(self, texts: Iterable[str], normalize: bool = True, truncate: bool = False) -> Iterator[Evaluation]:
        return self._evaluations("embed", "", texts, {"normalize": normalize, "truncate": truncate})

    def rank(self, query: str, documents: Iterable[str], truncate: bool = False) -> Iterator[Evaluation]:
        return self._evaluations("rank", query, documents, {"truncate": truncate})

    def close(self) -> None:
        self._channel.connection.close()

    def _evaluations(
        self, name: str, query: str, texts: Iterable[str], options: dict[str, bool]
    ) -> Iterator[Evaluation]:
        channel, waiting, is_cancelled = self._channel, iter(texts), False
        channel.send({"call": "evaluate", "arguments": [name, query, options]})
        while True:
            while not is_cancelled and not channel.is_there():
                if self.cancellation.is_set():
                    channel.send({"cancel": None, "reason": self.cancellation.reason})
                    is_cancelled = True
            reply = channel.receive()
            if "next" in reply:
                channel.send({"text": next(waiting, None)})
            elif "evaluation" in reply:
                yield _evaluation(reply["evaluation"])
            else:
                channel.result(reply)
                return


def _evaluation(data: messages.Message) -> Evaluation:
    import numpy  # its user has it loaded

    vector, error = None, data["error"]
    if data["vector"] is not None:
        vector = numpy.frombuffer(data["vector"], numpy.float32).reshape(data["shape"]).copy()
    failure = messages.read_error(error) if error else None
    return Evaluation(data["n_tokens"], vector, data["score"], failure, data["is_truncated"])
