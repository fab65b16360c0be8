"""What all tests of this folder need."""

import pytest

from llmcli.pipelines import extract


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may need long to start the process of a search."""
    monkeypatch.setattr(extract, "_SEARCH_SECONDS", 60.0)
