"""What a session saves of its command line."""

from pathlib import Path
from typing import Any

import pytest

from llmcli.chat.sessions.session import Session
from llmcli.cli.chat import _print_opening, character_of, is_model_name, open_session, save_overrides
from llmcli.cli.completion import complete_character
from llmcli.config.characters import character_layer, load_character
from llmcli.config.config_file import set_alias, set_value
from llmcli.params.policies.policy import Fixed, PolicyCall
from llmcli.params.policies.rules import Policy
from llmcli.params.settings import Layer
from llmcli.ui.chat.app import ChatApp
from tests.chat.controllers import controller_with
from tests.inference.fake_engine import FakeEngine

SCHEMA = '{"type": "object", "description": "' + "x" * 400 + '"}'


def saved_settings(flags: dict[str, Any]) -> dict[str, Any]:
    """The settings in force after the session is opened again."""
    session = Session("talk")
    save_overrides(session, Layer("flag", flags))
    session.add("user", "hi")
    session.close()
    return Session.read("talk").overrides


@pytest.mark.parametrize("text", [SCHEMA, "{}"])
def test_a_text_that_is_not_a_file_name_is_saved_unchanged(text: str) -> None:
    assert saved_settings({"json_schema": text}) == {"json_schema": text}


def test_a_session_has_the_texts_of_files_and_not_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.gbnf", "system.txt", "a.json"):
        (tmp_path / name).write_text("{ once }\n")
    flags = {"grammar_file": "a.gbnf", "system": "@system.txt", "json_schema": "a.json", "chat_template": "gone.jinja"}
    assert saved_settings(flags) == {"grammar": "{ once }\n", "system": "{ once }", "json_schema": "{ once }\n"}


def test_a_grammar_file_replaces_the_grammar_of_a_session(tmp_path: Path) -> None:
    path = tmp_path / "a.gbnf"
    path.write_text("root ::= [a-z]")
    session = Session("talk", keep=False)
    session.set("grammar", "root ::= [0-9]")
    save_overrides(session, Layer("flag", {"grammar_file": str(path)}))
    assert session.overrides == {}


@pytest.mark.parametrize(("temperature", "kept"), [(Fixed(0.5), False), (PolicyCall("wave", (1.0,)), True)])
def test_a_policy_file_replaces_the_temperature_of_a_session(temperature: Policy, kept: bool) -> None:
    session = Session("talk", keep=False)
    session.set("temperature", temperature)
    save_overrides(session, Layer("flag", {"temp_policy_file": "a.py:wave"}))
    assert ("temperature" in session.overrides) == kept


def test_settings_of_the_screen_and_the_machine_are_not_saved() -> None:
    assert saved_settings({"theme": "light", "n_threads": 1, "seed": 5}) == {"seed": 5}


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmcli.cli.chat.can_ask", lambda: True)


@pytest.mark.usefixtures("on_terminal")
def test_a_new_session_is_reported_with_a_similar_name(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ghost = Session("ghost")
    ghost.add("user", "hi")
    ghost.close()
    before = sorted(home.rglob("*"))
    session = open_session(go_on=False, name="gost", keep=True)
    note = capfd.readouterr().err
    assert note.startswith("new session 'gost'; did you mean")
    assert "ghost" in note
    session.close()
    assert sorted(home.rglob("*")) == before  # nothing is written before the first message
    open_session(go_on=False, name="whale", keep=True).close()
    assert capfd.readouterr().err == "new session 'whale'\n"


@pytest.mark.usefixtures("on_terminal")
def test_a_session_with_a_date_is_suggested_by_its_end(capfd: pytest.CaptureFixture[str]) -> None:
    dated = Session("2026-11-28-help")
    dated.add("user", "help")
    dated.close()
    assert open_session(go_on=False, name="help", keep=True).name == "help"
    assert capfd.readouterr().err == "new session 'help'; did you mean '2026-11-28-help'?\n"


@pytest.mark.usefixtures("on_terminal")
def test_a_known_session_is_opened_without_a_note(capfd: pytest.CaptureFixture[str]) -> None:
    ghost = Session("ghost-story")
    ghost.add("user", "hi")
    ghost.close()
    opened = open_session(go_on=False, name="ghost story", keep=True)
    assert (opened.name, capfd.readouterr().err) == ("ghost-story", "")
    opened.close()


def test_an_empty_session_file_is_opened_as_a_new_session(home: Path) -> None:
    file = home / "data" / "sessions" / "talk.jsonl"
    file.parent.mkdir(parents=True)
    file.touch()
    session = open_session(go_on=False, name="talk", keep=True)
    assert (session.name, session.conversation.messages) == ("talk", {})
    session.close()


def test_a_script_gets_a_note_only_if_a_name_is_similar(capfd: pytest.CaptureFixture[str]) -> None:
    assert open_session(go_on=False, name="gost", keep=True).name == "gost"
    assert capfd.readouterr().err == ""
    mine = Session("my-story")
    mine.add("user", "hi")
    mine.close()
    for name in ("my", "story", "my-stori"):
        assert open_session(go_on=False, name=name, keep=True).name == name
        assert capfd.readouterr().err == f"new session {name!r}; did you mean 'my-story'?\n"


@pytest.mark.parametrize("text", ["mine", "MINE", "starter"])
def test_a_message_that_is_the_name_of_a_model_is_noticed(text: str, home: Path) -> None:
    add_alias()
    assert is_model_name(text, Layer("flag", {}))
    assert is_model_name(text, Layer("flag", {"prompt": text, "max_tokens": 1}))


@pytest.mark.parametrize(
    ("text", "flags"),
    [("mine", {"model": "mine"}), ("min", {}), ("a mine", {}), ("", {})],
)
def test_any_other_message_is_only_a_message(text: str, flags: dict[str, Any]) -> None:
    add_alias()
    assert not is_model_name(text, Layer("flag", flags))


def add_alias() -> None:
    set_alias("mine", "starter")


@pytest.mark.parametrize(("typed", "names"), [("", {"editor", "pirate", "tutor", "roles/"}), ("pi", {"pirate"})])
def test_character_completes_names_and_files(
    typed: str, names: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "roles").mkdir()
    (tmp_path / "roles" / "ahab.toml").touch()
    (tmp_path / "roles" / "ahab.gguf").touch()
    monkeypatch.chdir(tmp_path)
    assert {name for name, _ in complete_character(typed)} == names
    assert complete_character("roles/") == [("roles/ahab.toml", "")]
    assert dict(complete_character("pi"))["pirate"].endswith("captain.")


def test_the_character_none_removes_the_character_of_a_session() -> None:
    session = Session("talk")
    session.set("system", "You are a pirate.")
    session.set_character("Captain Redbeard", ["system"])
    session.add("user", "hi")
    assert character_of(Layer("flag", {}), session) == (None, [])
    assert session.character == "Captain Redbeard"
    assert character_of(Layer("flag", {"character": "none"}), session) == (None, [])
    session.close()
    assert (Session.read("talk").character, Session.read("talk").overrides) == ("", {})


def test_another_character_at_the_start_replaces_the_settings_of_the_first() -> None:
    session = Session("talk")
    session.set("top_k", 5)
    session.set_character("Ahab", ["top_k"])
    session.add("user", "hi")
    character, _ = character_of(Layer("flag", {"character": "pirate"}), session)
    assert (character, session.overrides) == (load_character("pirate"), {})
    session.close()


def test_a_configured_character_answers_in_a_new_session_only() -> None:
    set_value("character", "pirate")
    chosen, layers = character_of(Layer("flag", {}), Session("talk"))
    assert chosen == load_character("pirate")
    assert layers == [character_layer(load_character("pirate"))]
    assert character_of(Layer("flag", {"character": "none"}), Session("talk")) == (None, [])
    session = Session("talk", keep=False)
    session.add("user", "hi")
    assert character_of(Layer("flag", {}), session) == (None, [])


def test_a_session_without_a_readable_message_opens_with_a_warning(capfd: pytest.CaptureFixture[str]) -> None:
    session = Session("talk")
    session.notes.append("talk.jsonl: skipped line 2, which is not valid")
    _print_opening(ChatApp(controller_with(FakeEngine(), session=session)), None)
    assert capfd.readouterr().err.startswith("warning: talk.jsonl: skipped line 2, which is not valid\n")
