"""Completion of commands and of their arguments."""

import subprocess
import sys
from pathlib import Path

import pytest

from llmcli.chat.controller import chat_setting_keys
from llmcli.chat.sessions.session import Session
from llmcli.params.settings import fields
from llmcli.ui.chat.app import ChatApp
from llmcli.ui.commands.registry import commands, suggest


def completions(chat: ChatApp, text: str) -> list[str]:
    """The lines that `text` would become."""
    return [text[: len(text) - back] + value for value, back, _ in suggest(chat, text)]


def test_a_slash_completes_every_command_and_every_setting(chat: ChatApp) -> None:
    assert {line.strip() for line in completions(chat, "/")} == {
        f"/{name}" for name in (*commands(), *chat_setting_keys())
    }


def test_the_start_of_a_name_completes_the_names_with_it(chat: ChatApp) -> None:
    assert [line.strip() for line in completions(chat, "/bran")] == ["/branches", "/branch"]


def test_the_menu_shows_a_command_with_its_slash(chat: ChatApp) -> None:
    assert [text for text, _, _ in suggest(chat, "/bran")] == ["/branches", "/branch "]
    assert [text for text, _, _ in suggest(chat, "/top_p")] == ["/top_p "]


def test_a_setting_is_completed_with_its_value_and_range(chat: ChatApp) -> None:
    chat.controller.set("top_p", 0.5)
    (note,) = [note for text, _, note in suggest(chat, "/set top_p") if text == "top_p "]
    assert "0.5" in note
    assert "1" in note


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("/set temp", "/set temperature"),
        ("/set overflow o", "/set overflow oldest"),
        ("/overflow o", "/overflow oldest"),
        ("/ignore_eos o", "/ignore_eos on"),
        ("/retry min", "/retry min_p="),
        ("/retry seed=1 min", "/retry seed=1 min_p="),
        ("/model own", "/model owner/repo:Q4_K_M"),
        ("/preset cre", "/preset creative"),
        ("/help und", "/help undo"),
        ("/think o", "/think off"),
        ("/json o", "/json on"),
        ("/theme l", "/theme light"),
        ("/copy c", "/copy code"),
        ("/system e", "/system edit"),
    ],
)
def test_an_argument_is_completed(chat: ChatApp, text: str, line: str) -> None:
    assert line in [one.rstrip() for one in completions(chat, text)]


def test_a_command_with_an_argument_ends_in_a_space(chat: ChatApp) -> None:
    assert completions(chat, "/und") == ["/undo "]
    assert completions(chat, "/exi") == ["/exit"]
    assert completions(chat, "/top_p") == ["/top_p "]


@pytest.mark.parametrize("key", chat_setting_keys())
def test_a_setting_with_choices_offers_them(chat: ChatApp, key: str) -> None:
    found = list(suggest(chat, f"/set {key} "))
    if fields()[key].choices or fields()[key].suggest:
        assert found


def test_load_offers_sessions_with_their_first_message(chat: ChatApp) -> None:
    session = Session("novel")
    session.add("user", "Call me Ishmael.")
    session.close()
    assert list(suggest(chat, "/load no")) == [("novel", len("no"), "Call me Ishmael.")]


def test_an_at_sign_offers_files_and_quotes_spaces(chat: ChatApp, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "a file.txt").touch()
    (tmp_path / ".hidden").touch()
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "in.py").touch()
    assert completions(chat, "see @no") == ["see @notes.txt"]
    assert completions(chat, "@a") == ['@"a file.txt"']
    assert completions(chat, "@dir/") == ["@dir/in.py"]
    assert "@.hidden" not in completions(chat, "@")
    assert completions(chat, "/file a") == completions(chat, '/file "a') == ['/file "a file.txt"']
    assert completions(chat, "mail me@no") == []


def test_a_file_with_control_characters_is_not_offered(chat: ChatApp, tmp_path: Path) -> None:
    (tmp_path / "evil\x1b[2J.txt").touch()
    assert completions(chat, "@evil") == []


def test_a_message_gets_no_completions(chat: ChatApp) -> None:
    assert completions(chat, "hello") == []
    assert completions(chat, "what is /help") == []
    assert completions(chat, "/nonsense arg") == []


@pytest.mark.slow
def test_a_chat_in_a_pipe_does_without_prompt_toolkit() -> None:
    code = "import sys, llmcli.ui.chat.loop, llmcli.ui.input.piped; print('prompt_toolkit' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n"
