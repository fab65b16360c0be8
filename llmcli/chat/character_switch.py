"""Change the character that answers in a running chat."""

from llmcli.chat.controller import Dialogue
from llmcli.chat.sessions.session import Session
from llmcli.config.characters import Character, layer


def use_character(dialogue: Dialogue, character: Character | None) -> str:
    """Answer as this character from now on (None = no character); its settings replace those of the one before.

    Returns the greeting to show. It is empty if the conversation has begun, which then continues as it is.
    """
    session = dialogue.session
    session.remove_character()
    if character:
        values = layer(character).values
        for key, value in values.items():
            session.set(key, value)
        session.set_character(character.name, values)
    dialogue.drop_character()
    return greet(session, character)


def greet(session: Session, character: Character | None) -> str:
    """Begin the conversation with the examples and the greeting of a character; returns the greeting to show.

    A conversation that has begun stays as it is; a greeting that nobody answered is replaced.
    """
    path = session.conversation.path()
    if path and path[-1].finish_reason != "greeting":
        return ""
    if path:
        session.move(None)
    if not character:
        return ""
    add = session.say if session.saved else session.prepare
    for question, answer in character.examples:
        add("user", question)
        add("assistant", answer, finish_reason="greeting")
    if character.greeting:
        add("assistant", character.greeting, model=character.name, finish_reason="greeting")
    return character.greeting
