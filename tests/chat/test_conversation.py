"""The tree of a conversation: no step loses a message, and the file has the same tree."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.chat.conversation import Conversation, Message
from llmcli.chat.sessions.session import Session
from llmcli.errors import UsageError

STEPS = st.one_of(
    st.tuples(st.just("say"), st.sampled_from(["user", "assistant", "summary"])),
    st.tuples(st.just("answer"), st.text(max_size=5)),
    st.tuples(st.just("undo"), st.integers(-1, 4)),
    st.tuples(st.just("redo"), st.none()),
    st.tuples(st.just("clear"), st.none()),
    st.tuples(st.just("move"), st.one_of(st.none(), st.integers(-1, 12))),
    st.tuples(st.just("copy"), st.integers(0, 11)),
    st.tuples(st.just("set"), st.integers(0, 100)),
    st.tuples(st.just("unset"), st.none()),
    st.tuples(st.just("character"), st.sampled_from([["top_k"], []])),
    st.tuples(st.just("no character"), st.none()),
    st.tuples(st.just("reopen"), st.none()),
)


def tree(*parents: int | None) -> Conversation:
    """A conversation whose n-th message follows parents[n - 1]; odd ones are of the user."""
    conversation = Conversation()
    for number, parent in enumerate(parents, 1):
        conversation.add(Message(number, parent, "user" if number % 2 else "assistant", f"m{number}"))
    return conversation


def ids(messages: list[Message]) -> list[int]:
    return [message.id for message in messages]


def test_a_path_leads_from_the_first_message_to_any_other() -> None:
    conversation = tree(None, 1, 2, 3, 2)
    assert ids(conversation.path()) == [1, 2, 5]
    assert ids(conversation.path(4)) == [1, 2, 3, 4]
    assert conversation.leaves() == [4, 5]
    assert Conversation().path() == []


def test_an_edited_answer_that_was_continued_is_no_branch() -> None:
    conversation = tree(None, 1)
    conversation.move(1)
    conversation.add(Message(3, 1, "assistant", "m", finish_reason="edited"))
    assert conversation.leaves() == [2, 3]
    conversation.add(Message(4, 1, "assistant", "more", finish_reason="stop"))
    assert conversation.leaves() == [2, 4]
    conversation.move(3)
    assert conversation.leaves() == [2, 3, 4]


def test_undo_goes_back_to_before_a_user_message() -> None:
    conversation = tree(None, 1, 2, 3, 4, 5)
    assert ids(conversation.undo(2)) == [3, 4, 5, 6]
    assert ids(conversation.path()) == [1, 2]
    assert ids(conversation.undo(1)) == [1, 2]
    assert conversation.path() == []
    conversation.redo()
    assert ids(conversation.path()) == [1, 2]
    conversation.redo()
    assert ids(conversation.path()) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(UsageError, match="nothing to redo"):
        conversation.redo()


@pytest.mark.parametrize(
    ("turns", "message"),
    [(0, "at least 1, got '0'"), (-1, "at least 1"), (3, "cannot undo 3 turns: the conversation has 2")],
)
def test_more_turns_than_there_are_cannot_be_undone(turns: int, message: str) -> None:
    conversation = tree(None, 1, 2, 3)
    with pytest.raises(UsageError, match=message):
        conversation.undo(turns)
    assert conversation.head == 4
    with pytest.raises(UsageError, match="nothing to undo"):
        Conversation().undo(1)


def test_undo_after_an_edit_returns_to_the_branch_before() -> None:
    conversation = tree(None, 1, 2, 3)
    conversation.move(None)
    conversation.add(Message(5, None, "user", "edited"))
    conversation.mark_edit(4)
    conversation.add(Message(6, 5, "assistant", "answer"))
    assert ids(conversation.undo(1)) == [5, 6]
    assert conversation.head == 4
    conversation.redo()
    conversation.add(Message(7, 6, "user", "more"))
    assert ids(conversation.undo(1)) == [7]
    conversation.redo()
    assert ids(conversation.undo(2)) == [5, 6, 7]
    assert conversation.head == 4


def test_undo_after_an_edited_answer_returns_to_the_answer_before() -> None:
    conversation = tree(None, 1)
    conversation.move(1)
    conversation.add(Message(3, 1, "assistant", "edited", finish_reason="edited"))
    conversation.mark_edit(2)
    assert ids(conversation.undo(1)) == [3]
    assert conversation.head == 2
    conversation.redo()
    assert ids(conversation.undo(2)) == [1, 3]
    assert conversation.head is None


def test_a_message_after_an_undo_ends_the_redo() -> None:
    conversation = tree(None, 1)
    conversation.undo(1)
    conversation.add(Message(3, None, "user", "else"))
    with pytest.raises(UsageError, match="nothing to redo"):
        conversation.redo()


def test_redo_reverts_clear() -> None:
    conversation = tree(None, 1)
    conversation.clear()
    conversation.clear()  # of nothing
    assert conversation.path() == []
    conversation.redo()
    assert conversation.head == 2


@pytest.mark.parametrize(
    "message", [Message(1, None, "user", "again"), Message(3, 3, "user", "ring"), Message(3, 9, "user", "")]
)
def test_a_message_that_would_break_the_tree_is_refused(message: Message) -> None:
    conversation = tree(None, 1)
    with pytest.raises(UsageError):
        conversation.add(message)
    assert (conversation.head, len(conversation.messages)) == (2, 2)


def test_the_next_id_is_free_if_others_are_missing() -> None:
    conversation = tree(None)
    conversation.add(Message(3, 1, "user", "in a file with gaps"))
    assert conversation.next_id == 4
    conversation.add(Message(10**9, 3, "user", "in a file that was edited"))
    assert conversation.next_id == 4


def do(session: Session, step: str, value: Any) -> Session:
    """One step of a chat; a refused step changes nothing."""
    conversation = session.conversation
    if step == "say":
        session.add(value, f"{value} {conversation.next_id}")
    elif step == "answer":
        session.begin_answer(conversation.head, model="m")
        session.add_piece("answer", value)
        session.end_answer(value, finish_reason="stop")
    elif step == "copy" and conversation.messages:
        messages = list(conversation.messages.values())
        copied = messages[value % len(messages)]
        session.append(replace(copied, id=conversation.next_id, parent=conversation.head))
    elif step == "set":
        session.set("top_k", value)
    elif step == "unset":
        session.unset("top_k")
    elif step == "character":
        session.set_character("Flint", value)
    elif step == "no character":
        session.remove_character()
    elif step == "reopen" and session.name:
        session.close()
        return Session.load(session.name)
    elif step in ("undo", "redo", "clear", "move"):
        getattr(conversation, step)(*([] if step in ("redo", "clear") else [value]))
    return session


def check(conversation: Conversation) -> None:
    for number, message in conversation.messages.items():
        path = conversation.path(number)
        assert path[-1] is message
        assert [one.parent for one in path] == [None, *ids(path[:-1])]
    assert conversation.head is None or conversation.head in conversation.messages
    on_the_way = {one.id for leaf in conversation.leaves() for one in conversation.path(leaf)}
    assert on_the_way == set(conversation.messages)


def untimed(session: Session) -> list[Message]:
    return [replace(message, time=0.0) for message in session.conversation.messages.values()]


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=14))
def test_any_sequence_of_steps_keeps_the_tree_whole_on_disk(steps: list[tuple[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as home, mock.patch.dict(os.environ, LLMCLI_HOME=home):
        session = Session()
        kept: dict[int, Message] = {}
        for step, value in steps:
            try:
                session = do(session, step, value)
            except UsageError:
                assert step in ("undo", "redo", "move")
            check(session.conversation)
            now = {message.id: message for message in untimed(session)}
            assert kept.items() <= now.items()  # nothing is lost, and nothing changes
            kept = now
        session.close()
        if kept:
            again = Session.load(session.name)
            assert untimed(again) == list(kept.values())
            assert again.conversation.head == session.conversation.head
            assert (again.overrides, again.character) == (session.overrides, session.character)
            assert again.notes == []
            assert Path(home, "data", "sessions", f"{again.name}.jsonl").is_file()
            again.close()
