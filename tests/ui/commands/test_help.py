"""/help, and command words without their slash."""

import io
import re

import pytest

from llmcli.chat.controller import chat_setting_keys
from llmcli.errors import UsageError
from llmcli.ui.chat.app import ChatApp
from llmcli.ui.chat.loop import run
from llmcli.ui.commands.registry import commands, commands_by_name, dispatch, require_command
from llmcli.ui.input.piped import LineReader

EVERYDAY = {
    *("retry", "continue", "edit", "undo", "clear", "compare", "temp", "preset", "character", "system", "model"),
    *("why", "file", "copy", "save", "sessions", "export"),
}


def help_lines(chat: ChatApp, capfd: pytest.CaptureFixture[str], argument: str = "") -> list[str]:
    """The lines of /help."""
    capfd.readouterr()
    dispatch(chat, "help", argument)
    out, err = capfd.readouterr()
    assert out == ""
    return err.splitlines()


def test_help_fits_one_screen_with_prompt_and_status(chat: ChatApp, capfd: pytest.CaptureFixture[str]) -> None:
    lines = help_lines(chat, capfd)
    assert len(lines) <= 24 - 3, "the typed /help, the next prompt and the status line need a row each"
    assert max(map(len, lines)) < 80
    assert {line.split()[0] for line in lines if line.startswith("  /")} == {f"/{name}" for name in EVERYDAY}
    assert "/help all" in lines[-3]
    assert "/help CMD" in lines[-3]
    assert lines[-2].startswith("keys: ")


def test_help_all_lists_commands_aliases_and_keys(chat: ChatApp, capfd: pytest.CaptureFixture[str]) -> None:
    lines = help_lines(chat, capfd, "all")
    text = "\n".join(lines)
    for entry in commands().values():
        assert any(line.startswith(f"  /{entry.name}") for line in lines), entry.name
        assert all(f"/{alias}" in text for alias in entry.aliases), entry.name
    assert {"/regen", "/bye", "/?", "/characters"} <= set(re.findall(r"/[\w?]+", text))
    assert all(any(line.startswith(f"  {key}") for line in lines) for key in ("Ctrl-C", "Ctrl-D", "Tab", "Up, Down"))


def test_help_of_temp_explains_its_values(chat: ChatApp, capfd: pytest.CaptureFixture[str]) -> None:
    text = " ".join(help_lines(chat, capfd, "temp"))
    assert "0 strict, 0.8 usual, 1.2 bold; above 1.5 mostly nonsense" in text
    assert help_lines(chat, capfd, "/TEMP") == help_lines(chat, capfd, "temp")
    assert help_lines(chat, capfd, "temperature") == help_lines(chat, capfd, "temp")


@pytest.mark.parametrize("key", [key for key in chat_setting_keys() if key not in commands_by_name()])
def test_help_of_a_setting_ends_with_three_examples(chat: ChatApp, capfd: pytest.CaptureFixture[str], key: str) -> None:
    lines = help_lines(chat, capfd, key)
    assert lines[-4] == "Examples:"
    assert lines[-1] == f"  /reset {key}"
    assert all(re.match(r"  /\w+", line) for line in lines[-3:])


@pytest.mark.parametrize("key", [key for key in chat_setting_keys() if key not in commands_by_name()])
def test_the_example_value_of_a_setting_is_valid(chat: ChatApp, capfd: pytest.CaptureFixture[str], key: str) -> None:
    value = help_lines(chat, capfd, key)[-3].removeprefix(f"  /{key} ")
    if value != "VALUE":
        assert chat.controller.parse(key, value)[0] == key


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("creativity", {"/temp"}),
        ("creative", {"/temp", "/preset"}),
        ("branch", {"/branch"}),
        ("persona", {"/character"}),
        ("clipboard", {"/copy", "/paste"}),
        ("speed", {"/stats"}),
        ("logprobs", {"/why", "/tokens"}),
        ("system prompt", {"/system"}),
    ],
)
def test_help_of_a_word_finds_commands(
    chat: ChatApp, capfd: pytest.CaptureFixture[str], word: str, wanted: set[str]
) -> None:
    lines = help_lines(chat, capfd, word)
    found = set(re.findall(r"^ *(/\w+)", "\n".join(lines), re.MULTILINE))
    assert wanted <= found
    assert "/help" not in found
    assert all(require_command(name[1:]) for name in found)


@pytest.mark.parametrize("word", ["zzzzzz", "zebra crossing", "!!", "hlep"])
def test_help_of_an_unknown_word_is_an_error(chat: ChatApp, word: str) -> None:
    with pytest.raises(UsageError) as caught:
        dispatch(chat, "help", word)
    assert str(caught.value) == f"the help does not contain '{word}'"
    assert caught.value.hint.endswith("see /help all")


def test_help_of_a_mistyped_word_suggests_the_nearest_command(chat: ChatApp) -> None:
    with pytest.raises(UsageError) as caught:
        dispatch(chat, "help", "brnaches")
    assert caught.value.hint == "did you mean '/branches'? see /help all"


class Keyboard(LineReader):
    """Types these messages and leaves; `lines` has the text that stood in the line before each."""

    def __init__(self, *texts: str) -> None:
        super().__init__(io.BytesIO())
        self._texts = list(texts)
        self.lines: list[str] = []

    def read(self, default: str = "") -> str:
        self.lines.append(default)
        if not self._texts:
            raise EOFError
        return self._texts.pop(0)


@pytest.fixture
def sent(chat: ChatApp, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The messages that reach the model; a person sits at the terminal."""
    messages: list[str] = []
    monkeypatch.setattr(chat, "send", messages.append)
    monkeypatch.setattr("llmcli.ui.chat.loop.can_ask", lambda: True)
    return messages


@pytest.mark.parametrize(("word", "name"), [("help", "help"), ("exit", "exit"), ("Quit", "exit"), ("exit()", "exit")])
def test_a_command_word_without_slash_is_not_sent(
    chat: ChatApp, sent: list[str], capfd: pytest.CaptureFixture[str], word: str, name: str
) -> None:
    chat.reader = keyboard = Keyboard(word)
    run(chat)
    assert sent == []
    assert keyboard.lines == ["", ""]
    assert f"type /{name} for the command, or" in capfd.readouterr().err


def test_a_command_word_typed_again_is_sent(chat: ChatApp, sent: list[str]) -> None:
    chat.reader = Keyboard("exit", "exit")
    run(chat)
    assert sent == ["exit"]


def test_a_sentence_with_a_command_word_is_sent_at_once(chat: ChatApp, sent: list[str]) -> None:
    chat.reader = Keyboard("exit the room", "help me", "bye", "exit", "hello", "exit")
    run(chat)
    assert sent == ["exit the room", "help me", "bye", "hello"]


def test_a_script_sends_a_command_word_at_once(chat: ChatApp, sent: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmcli.ui.chat.loop.can_ask", lambda: False)
    chat.reader = Keyboard("exit")
    run(chat)
    assert sent == ["exit"]
