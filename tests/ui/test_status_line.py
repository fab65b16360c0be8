"""The texts of the input line: the status below it, and the hint in an empty one."""

from types import SimpleNamespace
from typing import Any

import pytest

from llmcli.chat.controller import PromptFit
from llmcli.chat.conversation import Message
from llmcli.params.settings import Settings
from llmcli.ui.chat.loop import input_hint, status_line
from llmcli.ui.terminal.cells import first_that_fits

QUESTION = Message(1, None, "user", "hi")
ANSWER = Message(2, 1, "assistant", "hello")
GREETING = Message(3, None, "assistant", "Ahoy!", finish_reason="greeting")


def turn(speed: float, message: Message | None = ANSWER) -> Any:
    """A turn whose answer was this fast."""
    answer = SimpleNamespace(started=True, timings=lambda: {"predicted_per_second": speed})
    return SimpleNamespace(answer=answer, message=message)


def fake_chat(path: tuple[Message, ...] = (), session: str = "", **more: Any) -> Any:
    """What the texts need of a chat."""
    controller = SimpleNamespace(
        engine=SimpleNamespace(name="starter", n_ctx=8192),
        settings=Settings(),
        loading=None,
        is_of_server=lambda _key: False,
    )
    named = SimpleNamespace(name=session, character=more.pop("character", ""))
    parts = {"editing": None, "turn": None, "pending": [], "fit": PromptFit(57, 8192, 1), **more}
    return SimpleNamespace(controller=controller, session=named, path=lambda: list(path), **parts)


@pytest.fixture(autouse=True)
def window(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A window of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    return monkeypatch


def test_the_status_names_its_numbers() -> None:
    assert status_line(fake_chat()) == "starter · context 57/8.2k · temp 0.8"


def test_the_status_says_which_device_has_which_layers() -> None:
    chat = fake_chat()
    chat.controller.settings = Settings(rpc=("tower:50052",))
    chat.controller.engine.placement = "11 on RPC0, 20 on RPC1"
    assert status_line(chat) == "starter · context 57/8.2k · 11 on RPC0, 20 on RPC1 · temp 0.8"


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        ("200", "starter · cannot be loaded: the RPC server tower:50052 is not reached: Connection refused · temp 0.8"),
        ("80", "starter · cannot be loaded: the RPC server tower:50052 is not reached: Connect…"),
        ("40", "starter · cannot be loaded: the RPC se…"),
    ],
)
def test_the_status_says_before_the_first_message_why_a_model_cannot_be_loaded(
    window: pytest.MonkeyPatch, columns: str, shown: str
) -> None:
    window.setenv("COLUMNS", columns)
    chat = fake_chat()
    chat.controller.engine = None
    error = "the RPC server tower:50052 is not reached: Connection refused"
    chat.controller.loading = SimpleNamespace(error=error, status="loading the model")
    assert status_line(chat) == shown


@pytest.mark.parametrize(("speed", "shown"), [(1.2, "1 token/s"), (41.7, "42 tokens/s")])
def test_the_status_has_the_speed_of_the_last_answer(speed: float, shown: str) -> None:
    assert status_line(fake_chat((QUESTION, ANSWER), turn=turn(speed))).endswith(f"temp 0.8 · {shown}")


@pytest.mark.parametrize("path", [(), (QUESTION,), (QUESTION, GREETING)])
def test_the_speed_goes_with_its_answer(path: tuple[Message, ...]) -> None:
    assert "/s" not in status_line(fake_chat(path, turn=turn(42)))
    assert "/s" not in status_line(fake_chat(path, turn=turn(42, message=None)))


def test_the_status_names_the_character() -> None:
    assert status_line(fake_chat(character="Captain")).startswith("starter · Captain · context 57/8.2k")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("novel", "novel"),
        ("2026-11-28-what-is-a-comet", "2026-11-28-what-is-a-comet"),
        ("2026-11-28-tell-me-a-long-story-about-a-cat", "…tell-me-a-long-story-abo…"),
        ("a-name-that-somebody-gave-it-and-that-is-long", "a-name-that-somebody-gave…"),
        ("2026-11-28-", "2026-11-28-"),
    ],
)
def test_a_session_name_fills_at_most_a_third_of_the_row(name: str, shown: str) -> None:
    assert status_line(fake_chat(session=name)).rpartition(" · ")[2] == shown
    assert len(shown) <= 80 // 3


def test_the_status_omits_parts_that_do_not_fit(window: pytest.MonkeyPatch) -> None:
    chat = fake_chat((QUESTION, ANSWER), "2026-11-28-what-is-a-comet", turn=turn(42))
    for columns in range(10, 120):
        window.setenv("COLUMNS", str(columns))
        shown = status_line(chat)
        assert len(shown) < max(columns, len("starter") + 1)
        assert not shown.endswith((" ", "·"))
    window.setenv("COLUMNS", "40")
    assert status_line(chat) == "starter · context 57/8.2k · temp 0.8"


def test_the_status_shows_that_a_message_is_edited() -> None:
    assert status_line(fake_chat(editing=3)) == "editing message 3 · Enter saves it · Ctrl-C cancels"


@pytest.mark.parametrize(
    ("columns", "hint"),
    [
        (80, "Ask anything · / for commands · Ctrl-C stops · Ctrl-D leaves"),
        (60, "Ask anything · / for commands · Ctrl-C stops"),
        (40, "Ask anything · / for commands"),
        (20, "Ask anything"),
        (15, "Ask anything"),
        (14, ""),
    ],
)
def test_an_empty_chat_has_a_hint_that_fits_the_window(columns: int, hint: str, window: pytest.MonkeyPatch) -> None:
    window.setenv("COLUMNS", str(columns))
    assert input_hint(fake_chat()) == hint
    assert input_hint(fake_chat((GREETING,))) == hint


def test_a_chat_with_an_answer_has_no_hint() -> None:
    assert input_hint(fake_chat((QUESTION, ANSWER))) == ""
    assert input_hint(fake_chat((), turn=turn(42))) == ""  # after /undo or /clear
    assert input_hint(fake_chat(editing=1)) == ""


def test_the_first_row_that_fits_is_used(window: pytest.MonkeyPatch) -> None:
    rows = ("one", "", "two", "three"), ("one", "two"), ("one",)
    assert first_that_fits(*rows) == "one · two · three"
    for columns, text in ((18, "one · two · three"), (17, "one · two"), (9, "one"), (2, "one")):
        window.setenv("COLUMNS", str(columns))
        assert first_that_fits(*rows) == text
