"""Warm processes with a tiny model, which end with their test."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmcli.inference import warm
from llmcli.inference.warm import WarmModel
from llmcli.models.locations import ModelFile
from llmcli.params.settings import Settings
from tests.inference.warm_processes import SETTINGS
from tests.models.tiny_models import full_attention


@pytest.fixture
def file(tmp_path: Path) -> ModelFile:
    path = full_attention(tmp_path / "tiny.gguf")
    return ModelFile(path, (path,), "tiny", trusted=True)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that a busy machine stops for some seconds lives, and is waited for."""
    monkeypatch.setattr(warm, "_PATIENCE", 60.0)
    monkeypatch.setattr(warm, "_START", 120.0)


@pytest.fixture
def started(home: Path, file: ModelFile, patient: None) -> Iterator[Callable[..., WarmModel]]:
    """Starts processes, which end with the test."""
    all_of_them: list[WarmModel] = []

    def start(settings: Settings = SETTINGS, seconds: float = 600.0) -> WarmModel:
        all_of_them.append(warm.start(file, settings, seconds))
        return all_of_them[-1]

    yield start
    for one in all_of_them:
        if warm.is_running(one.pid):
            os.kill(one.pid, signal.SIGTERM)
