"""What a session keeps of the command line that began it."""

from pathlib import Path
from typing import Any

import pytest

from llmcli.chat.session import Session
from llmcli.cli.chat_session import remember
from llmcli.params.layers import Layer

SCHEMA = '{"type": "object", "description": "' + "x" * 400 + '"}'


def kept(home: Path, flags: dict[str, Any]) -> dict[str, Any]:
    """What counts when the session is opened again."""
    session = Session("talk")
    remember(session, Layer("flag", flags))
    session.say("user", "hi")
    session.close()
    return Session.read("talk").overrides


@pytest.mark.parametrize("text", [SCHEMA, "{}", "gone.json", "~nobody/x.json"])
def test_a_text_that_names_no_file_is_kept_as_it_stands(home: Path, text: str) -> None:
    assert kept(home, {"json_schema": text}) == {"json_schema": text}


def test_a_file_is_found_again_from_another_folder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.gbnf", "system.txt"):
        (tmp_path / name).write_text("once\n")
    flags = {"grammar_file": "a.gbnf", "system": "@system.txt"}
    assert kept(home, flags) == {"grammar_file": str(tmp_path / "a.gbnf"), "system": "once"}


def test_how_it_is_shown_and_where_it_is_computed_is_not_kept(home: Path) -> None:
    assert kept(home, {"theme": "light", "n_threads": 1, "seed": 5}) == {"seed": 5}
