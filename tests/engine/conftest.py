"""The starter model, loaded once, and contexts for it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from llmcli.engine.llama.context import Context
from llmcli.engine.llama.model import Model, Vocab
from llmcli.params.model import ModelParams

settings.register_profile("no deadline", deadline=None)  # on a busy machine an example can take long
settings.load_profile("no deadline")

MakeContext = Callable[..., Context]


@pytest.fixture(scope="session")
def model(starter: Path) -> Iterator[Model]:
    """The starter on the CPU; tests do not change it."""
    loaded = Model.load([starter], n_gpu_layers=0)
    yield loaded
    loaded.close()


@pytest.fixture(scope="session")
def short_model(short_starter: Path) -> Iterator[Model]:
    """The first layers of the starter, for tests that compare two ways to the same answer, whatever it says."""
    loaded = Model.load([short_starter], n_gpu_layers=0)
    yield loaded
    loaded.close()


@pytest.fixture(scope="session")
def vocab(model: Model) -> Vocab:
    return model.vocab


@pytest.fixture
def fresh(model: Model) -> Iterator[MakeContext]:
    """Makes empty contexts: `fresh(n_ctx=256)`."""
    yield from _contexts(model)


@pytest.fixture
def short_fresh(short_model: Model) -> Iterator[MakeContext]:
    yield from _contexts(short_model)


def _contexts(model: Model) -> Iterator[MakeContext]:
    made: list[Context] = []

    def make(n_ctx: int = 256, n_seq_max: int = 1, n_batch: int = 2048) -> Context:
        # One thread: on busy cores a second one is waited for at each operation.
        made.append(Context(model, ModelParams(n_ctx=n_ctx, n_threads=1, n_batch=n_batch), n_seq_max))
        return made[-1]

    yield make
    for context in made:
        context.close()


@pytest.fixture(scope="session")
def context(model: Model) -> Iterator[Context]:
    """One context that many tests reuse, as a chat does."""
    made = Context(model, ModelParams(n_ctx=512, n_threads=1))
    yield made
    made.close()


@pytest.fixture(scope="session")
def short_context(short_model: Model) -> Iterator[Context]:
    made = Context(short_model, ModelParams(n_ctx=512, n_threads=1))
    yield made
    made.close()
