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
    status = run_lines(FakeEngine(("a ",) * 1000, delay=0.02), line, timeout=0.1)
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


@pytest.mark.parametrize("text", ["// not a path", "//", "/etc/hosts is a file", "a \\"])
def test_a_message_is_the_text_that_was_typed(text: str) -> None:
    engine = FakeEngine()
    assert run_lines(engine, text) == 0
    assert engine.requests[0].prompt.text.startswith(f"user: {text}\n")


@pytest.mark.parametrize("text", ["/exit", "/help\nmore", "/undo 9", "exit", "/nothing"])
def test_what_is_in_a_block_is_a_message(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    assert run_lines(engine, '"""', text, '"""', "/undo 1", "next") == 0
    assert [one.prompt.text.partition("\nassistant")[0] for one in engine.requests] == [f"user: {text}", "user: next"]
    assert "is sent as a message" not in capfd.readouterr().err


def test_a_word_that_is_a_command_is_sent_with_a_note(capfd: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    assert run_lines(engine, "exit", "/exit", "never") == 0
    assert len(engine.requests) == 1
    assert "'exit' is sent as a message; /exit is the command\n" in capfd.readouterr().err


def test_a_mention_of_a_missing_file_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_lines(FakeEngine(), "what is in @typo.txt and @src/none?", "/compare see @./no temp=0,1") == 0
    err = capfd.readouterr().err
    assert "not attached, no such file: @typo.txt\n" in err
    assert "not attached, no such file: @./no\n" in err


@pytest.mark.parametrize("line", ["/top_k=9", "/top_k = 9", "/set top_k=9", "/set top_k = 9", "/set top_k 9"])
def test_a_setting_takes_an_equals_sign(line: str, capfd: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    assert run_lines(engine, line) == 0
    assert engine.requests == []
    assert "top_k = 9\n" in capfd.readouterr().err


@pytest.mark.parametrize(("line", "value"), [("/stop =", "="), ("/stop a=b", "a=b"), ("/set stop ==", "==")])
def test_an_equals_sign_in_a_value_stays(line: str, value: str) -> None:
    chat = ChatApp(controller_with(FakeEngine()))
    chat.reader = LineReader(io.BytesIO(line.encode()))
    assert run(chat) == 0
    assert chat.controller.settings.stop == (value,)


def test_a_continued_answer_in_a_pipe_is_only_its_continuation(capfd: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine(("Once",), (" upon",))
    assert run_lines(engine, "a story", "/continue") == 0
    assert capfd.readouterr().out == "Once\n upon\n"


def test_a_continued_edited_answer_is_whole_in_a_pipe(capfd: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine(("Once",), (" upon",))
    assert run_lines(engine, "a story", "/edit 2 Then", "/continue") == 0
    assert capfd.readouterr().out == "Once\nThen upon\n"


def test_a_chat_whose_name_was_taken_is_saved_under_another(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for answer in ("one", "two"):
        chat = ChatApp(controller_with(FakeEngine((answer,)), session=Session("same")))
        chat.reader = LineReader(io.BytesIO(answer.encode()))
        assert run(chat) == 0
        chat.session.close()
    assert "another chat has the name 'same': this one is saved as 'same-2'" in capfd.readouterr().err
    saved = [[message.content for message in Session.read(name).conversation.path()] for name in ("same", "same-2")]
    assert saved == [["one", "one"], ["two", "two"]]
