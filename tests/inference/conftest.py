"""The starter model for the tests of `inference` and `chat`, loaded once for each."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmcli.engine.llama.bindings import AbortFlag
from llmcli.inference.local import LocalModel, ResolvedModel
from llmcli.models.locations import ModelFile
from llmcli.params.settings import Settings


@pytest.fixture(scope="session")
def target(starter: Path) -> ResolvedModel:
    return ResolvedModel(ModelFile(starter, (starter,), "starter", trusted=True))


@pytest.fixture(scope="session")
def local(target: ResolvedModel) -> Iterator[LocalModel]:
    """The starter with a small context."""
    model = LocalModel(target, Settings(n_ctx=512), AbortFlag())
    yield model
    model.close()


@pytest.fixture
def settings() -> Settings:
    """A short, greedy answer; one thread, because two wait for each other on a busy machine."""
    return Settings(n_ctx=512, n_threads=1, max_tokens=8, seed=1, samplers=("top_k",), top_k=1)
