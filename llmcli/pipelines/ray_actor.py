"""What runs on the machines of a Ray cluster: an actor that has the model, and answers blocks of lines with it."""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llmcli import __version__
from llmcli.engine.events import Cancellation
from llmcli.errors import LlmcliError, UsageError
from llmcli.inference.engine import Engine
from llmcli.params.settings import Layer, Settings, resolve
from llmcli.pipelines.batch import OneEngine
from llmcli.pipelines.batch_input import BatchLine, Format
from llmcli.pipelines.batch_output import WrittenLine
from llmcli.pipelines.line_worker import BatchOptions, LineAnswer, LineWorker


@dataclass(frozen=True)
class ActorPlan:
    """What an actor needs to know. It travels to other machines, which have the same release of llmcli."""

    layers: Sequence[Layer]
    options: BatchOptions
    connect: Callable[[Settings], Engine]
    version: str = __version__


@dataclass
class Block:
    """Some lines of the input, in order, and how they came."""

    lines: Sequence[BatchLine]
    format: Format | None


@dataclass
class BlockAnswers:
    """The answers to the lines of a block, in order; with an error, nothing of it can be used."""

    answers: list[LineAnswer] = field(default_factory=list)
    n_tokens: int = 0
    notes: Sequence[str] = ()
    restart: str = ""  # names the start of the actor, if it is not the first one
    error: LlmcliError | None = None


def open_engine(settings: Settings) -> Engine:
    """The endpoint of the settings, or their model, which this machine must have. Raises LlmcliError."""
    if settings.endpoint:
        from llmcli.inference.endpoint import EndpointEngine
        from llmcli.inference.endpoint_server import open_endpoint

        return EndpointEngine(open_endpoint(settings))
    from llmcli.inference.local import LocalEngine
    from llmcli.inference.resolved_model import resolve_model
    from llmcli.models.locations import model_locations

    return LocalEngine(resolve_model(settings.model, model_locations(settings), for_text=True), settings)


class BatchActor:
    """The actor. Ray makes it once on its machine, calls it with one block after the other, and makes it again if its
    process ends: the block that it had is answered again.
    """

    def __init__(self, plan: bytes) -> None:
        """Load the model of an `ActorPlan`. An error is kept for the first call: Ray would try again for ever."""
        self._error: LlmcliError | None = None
        self.restart = ""
        try:
            self._backend = self._open(pickle.loads(plan))
        except LlmcliError as error:
            self._error = error

    def _open(self, plan: ActorPlan) -> OneEngine:
        if plan.version != __version__:
            raise UsageError(
                f"a machine of the cluster has llmcli {__version__}, and this one {plan.version}",
                "install the same release on all machines",
            )
        cancellation = Cancellation()  # Ray ends the process
        engine = plan.connect(resolve(plan.layers).settings)
        worker = LineWorker(engine, plan.layers, plan.options, cancellation)
        return OneEngine(worker, plan.options.n_parallel, cancellation)

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        """The `BlockAnswers` for the `Block` of a row."""
        found = self._answer(pickle.loads(row["block"])) if self._error is None else BlockAnswers(error=self._error)
        return {"answers": pickle.dumps(found)}

    def _answer(self, block: Block) -> BlockAnswers:
        feed = _BlockFeed(block)
        try:
            self._backend.run(feed)
        except LlmcliError as error:
            return BlockAnswers(error=error)
        return BlockAnswers(feed.answers, self._backend.n_tokens, self._backend.notes(), self.restart)


class _BlockFeed:
    """The lines of a block as those of a batch."""

    def __init__(self, block: Block) -> None:
        self.format, self._lines = block.format, iter(block.lines)
        self.answers: list[LineAnswer] = []

    def take(self, may_wait: bool) -> BatchLine | None:  # noqa: ARG002
        return next(self._lines, None)

    def emit(self, answer: LineAnswer | WrittenLine) -> None:
        assert isinstance(answer, LineAnswer)
        self.answers.append(answer)

    def on_event(self) -> None:
        """Nobody looks."""

    def notify(self, text: str) -> None:
        """Nobody listens."""
