"""What a session saves of its command line."""

from pathlib import Path
from typing import Any

import pytest

from llmcli.chat.session import Session
from llmcli.cli.chat_session import remember
from llmcli.params.layers import Layer

SCHEMA = '{"type": "object", "description": "' + "x" * 400 + '"}'


def saved_settings(flags: dict[str, Any]) -> dict[str, Any]:
    """The settings in force after the session is opened again."""
    session = Session("talk")
    remember(session, Layer("flag", flags))
    session.say("user", "hi")
    session.close()
    return Session.read("talk").overrides


@pytest.mark.parametrize("text", [SCHEMA, "{}", "gone.json", "~nobody/x.json"])
def test_a_text_that_is_not_a_file_name_is_saved_unchanged(text: str) -> None:
    assert saved_settings({"json_schema": text}) == {"json_schema": text}


def test_a_file_is_found_again_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.gbnf", "system.txt"):
        (tmp_path / name).write_text("once\n")
    flags = {"grammar_file": "a.gbnf", "system": "@system.txt"}
    assert saved_settings(flags) == {"grammar_file": str(tmp_path / "a.gbnf"), "system": "once"}


def test_settings_of_the_screen_and_the_machine_are_not_saved() -> None:
    assert saved_settings({"theme": "light", "n_threads": 1, "seed": 5}) == {"seed": 5}
