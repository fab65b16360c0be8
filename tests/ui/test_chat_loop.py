"""A chat from its input to its exit status, over an engine that is not llama.cpp."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmcli.chat.controller import BackgroundLoad, ChatController
from llmcli.chat.sessions.session import Session
from llmcli.config.presets import layers_of
from llmcli.errors import ExitStatus
from llmcli.params.settings import Layer
from llmcli.ui.chat import app
from llmcli.ui.chat.app import ChatApp
from llmcli.ui.chat.loop import run
from llmcli.ui.input import live_keys
from llmcli.ui.input.piped import LineReader
from tests.chat.controllers import controller_with
from tests.inference.fake_engine import FakeEngine, without
from tests.ui.input.keyboard import ENTER, Keyboard, keyboard


def run_lines(engine: FakeEngine, *lines: str, **flags: Any) -> int:
    """The exit status of a chat that reads these lines from a pipe."""
    chat = ChatApp(controller_with(engine, **flags))
    chat.reader = LineReader(io.BytesIO("\n".join(lines).encode()))
    return run(chat)


@pytest.mark.parametrize("line", ["one", "/compare one temp=0.2,0.8"])
def test_a_timeout_is_the_status_of_a_script(line: str, capfd: pytest.CaptureFixture[str]) -> None:
    status = run_lines(FakeEngine(("a ",) * 50, delay=0.02), line, timeout=0.1)
    assert status == ExitStatus.TIMEOUT
    assert "stopped after 0.1 s (timeout)" in capfd.readouterr().err


def test_an_engine_without_traces_answers_in_a_chat(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_lines(FakeEngine(("Hi.",), capabilities=without(traces=False)), "one") == 0
    assert capfd.readouterr().out == "Hi.\n"


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keyboard]:
    monkeypatch.setattr(live_keys, "echo_is_off", lambda: True)
    monkeypatch.setattr(app, "is_terminal", lambda _stream: True)
    with keyboard(tmp_path / "history") as one:
        yield one


def test_lines_typed_while_a_model_loads_do_not_run(board: Keyboard, home: Path) -> None:
    stopped: list[ChatApp] = []

    class Loading(BackgroundLoad):
        def wait(self, _tick: Any) -> None:  # as with Ctrl-C
            board.keys.send_text(f"tell me{ENTER}/clear{ENTER}")
            stopped.append(chat)

    layers = layers_of(Layer("flag", {"markdown": False}))
    chat = ChatApp(ChatController(Session(), layers, lambda *_: Loading(lambda *_: pytest.fail("loaded"))), live=True)
    chat.send("hi")
    assert stopped
    assert board("!", ENTER, default=chat.draft) == "hi\ntell me\n/clear!"
    assert chat.session.conversation.messages == {}
