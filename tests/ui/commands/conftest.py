"""A chat without a model: what commands and completion need of one."""

from pathlib import Path

import pytest

from llmcli.chat.controller import ChatController
from llmcli.chat.sessions.session import Session
from llmcli.config.presets import layers_of
from llmcli.params.settings import Layer
from llmcli.ui.chat.app import ChatApp
from llmcli.ui.input.piped import LineReader


@pytest.fixture
def chat(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ChatApp:
    """A chat in which nothing was said, in an empty folder; its model cannot be loaded."""
    monkeypatch.chdir(tmp_path)

    def no_model(*_: object) -> None:
        raise AssertionError("a model was wanted")

    made = ChatApp(ChatController(Session(), layers_of(Layer("flag", {})), no_model))  # type: ignore[arg-type]
    made.reader = LineReader(None)  # type: ignore[arg-type]
    made.model_names = lambda: ["starter", "owner/repo:Q4_K_M"]
    return made
