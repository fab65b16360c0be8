"""What the input line does while nobody types."""

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from llmcli.params.settings import Settings
from llmcli.ui.input import reader as reader_module
from llmcli.ui.input.reader import TerminalReader


def test_an_idle_line_calls_once_and_goes_on(tmp_path: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "IDLE_SECONDS", 0.0)
    calls: list[str] = []
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        reader = TerminalReader(lambda _: [], lambda: "", lambda: "", tmp_path / "history", Settings())  # type: ignore

        def on_idle() -> None:
            calls.append(reader.buffer.text)
            keys.send_text("hello\r")

        reader.on_idle = on_idle
        assert reader.read("draft ") == "draft hello"
    assert calls == ["draft "]
