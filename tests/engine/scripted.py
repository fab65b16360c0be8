"""A generation without a model: its vocabulary and its preferred tokens are given."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from llmcli.engine.events import Prompt, Request, TokenEvent
from llmcli.engine.generation import Generation
from llmcli.engine.sampling.chain import ConstrainedTokenSampler, TokenSampler
from llmcli.errors import ConstraintError
from llmcli.params.settings import Settings

Wishes = Callable[[Sequence[int]], Sequence[int]]  # tokens so far -> tokens wished for next, the best first
END = -1


class Pieces:
    """A vocabulary: token i is the bytes at i, and END ends the answer."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self.n_tokens = len(pieces)

    def piece(self, token: int) -> bytes:
        return self._pieces[token]

    def show_control(self, texts: Iterable[str]) -> None: ...

    def ends(self, token: int) -> bool:
        return token == END


@dataclass(eq=False)
class Snapshot:
    """The tokens that were drawn before."""

    drawn: list[int]


class Script(ConstrainedTokenSampler):
    """Draws the first preferred token that is not forbidden, and records its snapshots."""

    def __init__(self, wishes: Wishes) -> None:
        self.temperature = None
        self.matcher = None
        self.gate = None
        self.forbidden = set()
        self.open: WeakSet[Snapshot] = WeakSet()  # snapshots that are still kept
        self._wishes = wishes
        self._drawn: list[int] = []

    def accept(self, tokens: Sequence[int]) -> None: ...

    def sample(self, ctx: Any, row: int) -> int:  # noqa: ARG002
        token = next((wish for wish in self._wishes(self._drawn) if wish not in self.forbidden), None)
        if token is None:
            raise ConstraintError("no wish is left")
        self._drawn.append(token)
        return token

    def snapshot(self) -> Any:
        snapshot = Snapshot(list(self._drawn))
        self.open.add(snapshot)
        return snapshot

    def restore(self, snapshot: Any) -> None:
        self._drawn = snapshot.drawn

    def close(self) -> None:
        pass


class ScriptedGeneration(Generation):
    """A generation that draws from a script."""

    wishes: Wishes

    def _make_sampler(self) -> TokenSampler:
        self.script = Script(self.wishes)
        return self.script


def script_generation(pieces: Sequence[bytes], wishes: Wishes, **settings: Any) -> ScriptedGeneration:
    """A generation for a one-token prompt that draws the tokens of `wishes`."""
    made: type[ScriptedGeneration] = type("Made", (ScriptedGeneration,), {"wishes": staticmethod(wishes)})
    vocab: Any = Pieces(pieces)
    return made(vocab, Request(Prompt.of_tokens("", [0]), Settings(seed=1, **settings)))


def script_pieces(pieces: Sequence[bytes], **settings: Any) -> ScriptedGeneration:
    """A generation that draws one piece after the other and ends."""
    return script_generation(pieces, lambda drawn: [len(drawn) if len(drawn) < len(pieces) else END], **settings)


def run_to_end(generation: Generation, n_ctx: int = 2**20) -> list[TokenEvent]:
    """The records up to the end, without a context."""
    records = []
    try:
        while not generation.finish_reason:
            records.append(generation.advance(0, 0, n_ctx))
            generation.needs_evaluation = False
    finally:
        generation.close()
    return records


def text_of(records: Sequence[TokenEvent]) -> str:
    return "".join(record.text for record in records)
