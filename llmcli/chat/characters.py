"""Who answers in a chat: the settings of a character, its examples and its greeting."""

from typing import Any

from llmcli.chat.controller import ChatController
from llmcli.chat.sessions.session import Session
from llmcli.config.characters import Character, character_layer


def use_character(controller: ChatController, character: Character | None) -> str:
    """Answer as this character from now on (None = no character); its settings replace those of the one before.

    Returns the greeting to show. It is empty if the conversation has started, which then continues as it is.
    """
    session = controller.session
    session.remove_character()
    if character:
        values = character_layer(character).values
        for key, value in values.items():
            session.set(key, value)
        session.set_character(character.name, values)
    controller.drop_character()
    return greet(session, character)


def greet(session: Session, character: Character | None) -> str:
    """Start the conversation with the examples and the greeting of a character; returns the greeting to show.

    A conversation that has started stays as it is; a greeting that nobody answered is replaced.
    """
    path = session.conversation.path()
    if path and path[-1].finish_reason != "greeting":
        return ""
    if path:
        session.conversation.move(None)
    if not character:
        return ""

    def add(role: str, content: str, **more: Any) -> None:
        if session.is_saved:
            session.add(role, content, **more)
        else:  # it is written with the first message of the user
            session.conversation.add(session.conversation.draft(role, content, **more))

    for question, answer in character.examples:
        add("user", question)
        add("assistant", answer, finish_reason="greeting")
    if character.greeting:
        add("assistant", character.greeting, model=character.name, finish_reason="greeting")
    return character.greeting
