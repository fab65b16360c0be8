"""What a chat offers, says and shows when a message does not fit the context."""

import io
from typing import Any

import pytest

from llmcli.errors import ContextOverflowError
from llmcli.ui.chat import app
from llmcli.ui.chat.app import ChatApp
from llmcli.ui.chat.loop import run
from llmcli.ui.commands.registry import dispatch
from llmcli.ui.input.piped import LineReader
from tests.chat.controllers import controller_with
from tests.inference.fake_engine import FakeEngine

N_CTX = 400  # letters, which are the tokens of the fake engine


def chat_with(*questions: str, live: bool = False, **flags: Any) -> ChatApp:
    """A chat in which the questions have an answer each."""
    chat = ChatApp(controller_with(FakeEngine(("no",), n_ctx=N_CTX), **flags), live)
    chat.reader = LineReader(io.BytesIO())
    for text in questions:
        chat.session.add("user", text)
        chat.session.add("assistant", "no")
    return chat


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The choices of each question to the user, who drops the oldest turns."""
    asked: list[list[str]] = []

    def choose(_question: str, choices: dict[str, str], _default: str) -> str:
        asked.append([*choices])
        return "oldest"

    monkeypatch.setattr(app, "choose", choose)
    return asked


@pytest.mark.parametrize("policy", ["ask", "error", "oldest", "compact"])
@pytest.mark.parametrize("before", [(), ("a", "b", "c")])
def test_a_message_that_never_fits_gets_no_useless_choice(
    policy: str, before: tuple[str, ...], offered: list[list[str]]
) -> None:
    chat = chat_with(*before, live=True, overflow=policy)
    with pytest.raises(
        ContextOverflowError, match=f"the last message alone has 5.. tokens, the context has {N_CTX}"
    ) as no:
        chat.send("x" * 500)
    assert no.value.hint == "send a shorter message, or use a larger /n_ctx"
    assert offered == []
    assert chat.draft == "x" * 500
    assert len(chat.path()) == 2 * len(before)


@pytest.mark.parametrize("policy", ["ask", "error", "oldest", "compact"])
def test_a_first_message_may_use_the_reserve_of_the_answer(policy: str, offered: list[list[str]]) -> None:
    chat = chat_with(live=True, overflow=policy)
    chat.send("x" * 350)
    assert [message.role for message in chat.path()] == ["user", "assistant"]
    assert offered == []


def test_a_summary_is_offered_only_where_it_is_possible(offered: list[list[str]]) -> None:
    chat_with("a" * 300, live=True).send("x" * 100)
    assert offered.pop() == ["oldest", "compact", "back"]
    chat = chat_with(live=True)
    chat.session.add("user", "a" * 300)
    chat.send("x" * 100)
    assert offered.pop() == ["oldest", "back"]


def test_a_refusal_names_older_turns_only_where_there_are_some() -> None:
    with pytest.raises(ContextOverflowError, match="the conversation has") as error:
        chat_with("a" * 300, overflow="error").send("x" * 100)
    assert error.value.hint == "make room with /compact, /undo or /overflow oldest, or use a larger /n_ctx"


def test_the_dropped_messages_are_named_and_stay_in_context(capfd: pytest.CaptureFixture[str]) -> None:
    chat = chat_with(*("a" * 60 for _ in range(4)), overflow="oldest")
    chat.send("bye")
    assert "the model no longer reads messages 1 to 2" in capfd.readouterr().err
    dispatch(chat, "context", "")
    _bar, _facts, _head, template, dropped, first, *_ = capfd.readouterr().err.splitlines()
    assert template.split()[0] == "template"
    assert dropped.split() == ["1-2", "dropped", "not", "read"]
    assert first.split()[:2] == ["3", "you"]


def test_a_message_too_long_to_summarize_is_dropped_instead(capfd: pytest.CaptureFixture[str]) -> None:
    chat = chat_with(overflow="compact")
    for role, text in (("user", "a"), ("assistant", "b" * 395), ("user", "c"), ("assistant", "no")):
        chat.session.add(role, text)
    chat.send("bye")
    assert "the model no longer reads messages 1 to 2" in capfd.readouterr().err


def test_a_file_that_never_fits_can_be_removed(tmp_path: Any) -> None:
    (tmp_path / "long.txt").write_text("x" * 500)
    chat = chat_with()
    dispatch(chat, "file", str(tmp_path / "long.txt"))
    with pytest.raises(ContextOverflowError) as error:
        chat.send("hi")
    assert error.value.hint.endswith("; /file none removes attached files")
    dispatch(chat, "file", "none")
    chat.reader = LineReader(io.BytesIO(b"hi\n"))
    assert run(chat) == 0
