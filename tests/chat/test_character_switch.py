"""A character that is changed in a running chat, and one that comes back with its session."""

import json

import pytest

from llmcli.chat.controller import BackgroundLoad, ChatController
from llmcli.chat.sessions import store
from llmcli.chat.sessions.session import Session
from llmcli.config.characters import Character, character_layer
from llmcli.config.presets import LayerStack
from llmcli.params.policies.policy import Fixed
from llmcli.params.settings import Layer, Settings

AHAB = Character("Ahab", "You hunt a whale.", "Hast thou seen it?", {"temperature": Fixed(1.2), "top_k": 5})
EVE = Character("Eve", "You are Eve.", "Hello.", {"temperature": Fixed(0.5)}, (("Who?", "Eve."),))


def new_controller(session: Session, *below: Layer) -> ChatController:
    def load(_settings: Settings, _ahead: object) -> BackgroundLoad:
        raise AssertionError("no test loads a model")

    return ChatController(session, LayerStack(below), load)


def started_with(character: Character, session: Session) -> ChatController:
    """A chat as `llmcli chat --character` starts it."""
    values = character_layer(character).values
    session.save_flags(values)
    session.set_character(character.name, values)
    return new_controller(session, character_layer(character), Layer("flag", {"character": "ahab", "seed": 3}))


def settings_of(controller: ChatController) -> tuple[str, str | None, object, int]:
    settings = controller.settings
    return controller.session.character, settings.system, settings.temperature, settings.top_k


DEFAULTS = ("", None, Settings().temperature, Settings().top_k)


@pytest.mark.parametrize("from_command_line", [True, False])
def test_a_character_replaces_the_one_before_it(from_command_line: bool) -> None:
    session = Session("talk")
    controller = started_with(AHAB, session) if from_command_line else new_controller(session)
    if not from_command_line:
        controller.use_character(AHAB)
    assert settings_of(controller) == ("Ahab", "You hunt a whale.", Fixed(1.2), 5)
    controller.use_character(EVE)
    assert settings_of(controller) == (
        "Eve",
        "You are Eve.",
        Fixed(0.5),
        Settings().top_k,
    )
    controller.use_character(None)
    assert settings_of(controller) == DEFAULTS


def test_a_character_wins_over_the_flags_of_the_start() -> None:
    controller = new_controller(Session(keep=False), Layer("flag", {"system": "Be brief.", "character": "eve"}))
    controller.use_character(AHAB)
    assert controller.settings.system == "You hunt a whale."
    assert controller.settings.character is None
    controller.use_character(None)
    assert controller.settings.system == "Be brief."


def test_a_setting_of_the_user_stays_when_the_character_leaves() -> None:
    controller = new_controller(Session(keep=False))
    controller.use_character(AHAB)
    controller.set("top_k", 9)
    controller.use_character(None)
    assert settings_of(controller) == ("", None, Settings().temperature, 9)


@pytest.mark.parametrize("from_command_line", [True, False])
def test_a_session_is_opened_with_its_character(from_command_line: bool) -> None:
    session = Session("talk")
    controller = started_with(AHAB, session) if from_command_line else new_controller(session)
    if not from_command_line:
        controller.use_character(AHAB)
    session.add("user", "hi")
    session.copy("copy").close()
    session.close()
    for name in ("talk", "copy"):
        controller = new_controller(Session.load(name))
        assert controller.session.character == "Ahab"
        assert settings_of(controller) == ("Ahab", "You hunt a whale.", Fixed(1.2), 5)
        controller.use_character(None)
        controller.session.close()
        assert (Session.read(name).character, Session.read(name).overrides) == ("", {})


def test_another_session_does_not_get_the_character_of_the_start() -> None:
    other = Session("other")
    other.add("user", "hi")
    controller = started_with(AHAB, Session("talk"))
    controller.session.add("user", "hi")
    controller.switch_session(controller.session.copy("fork"))
    assert settings_of(controller) == ("Ahab", "You hunt a whale.", Fixed(1.2), 5)
    controller.switch_session(other)
    assert settings_of(controller) == DEFAULTS
    assert controller.settings.seed == 3
    other.close()


def contents(session: Session) -> list[str]:
    return [message.content for message in session.conversation.path()]


def test_a_greeting_starts_an_empty_conversation_only() -> None:
    session = Session("talk")
    controller = new_controller(session)
    assert controller.use_character(AHAB) == "Hast thou seen it?"
    assert controller.use_character(EVE) == "Hello."
    assert contents(session) == ["Who?", "Eve.", "Hello."]
    assert session.conversation.path()[-1].model == "Eve"
    assert not session.is_saved
    session.add("user", "Hi.")
    assert controller.use_character(AHAB) == ""
    assert contents(session) == ["Who?", "Eve.", "Hello.", "Hi."]
    session.close()


def test_a_greeting_after_a_clear_is_on_disk() -> None:
    session = Session("talk")
    session.add("user", "Hi.")
    session.conversation.clear()
    assert session.greet(AHAB) == "Hast thou seen it?"
    session.close()
    assert contents(Session.read("talk")) == ["Hast thou seen it?"]


@pytest.mark.parametrize(
    "event", [{"name": 3, "keys": []}, {"name": "x", "keys": "ab"}, {}, {"name": "x", "keys": [[]]}]
)
def test_a_damaged_character_event_is_skipped(event: dict[str, object]) -> None:
    session = Session("talk")
    session.set("top_k", 3)
    session.add("user", "Hi.")
    session.close()
    with store.path_of("talk").open("a") as file:
        file.write(json.dumps({"type": "character", **event}) + "\n")
    read = Session.read("talk")
    assert contents(read) == ["Hi."]
    read.remove_character()
    assert read.overrides == {"top_k": 3}
    assert len(read.notes) == 1
