"""A session: messages and settings are on disk at once, and survive damage to the file."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmcli.chat.conversation import Attachment
from llmcli.chat.sessions import store
from llmcli.chat.sessions.session import Session
from llmcli.errors import UsageError


def saved_session(name: str = "talk", turns: int = 2) -> Session:
    session = Session(name)
    for turn in range(1, turns + 1):
        session.add("user", f"question {turn}")
        session.begin_answer(session.conversation.head, model="m", params={"seed": 7})
        session.add_piece("answer", f"answer {turn}")
        session.end_answer(f"answer {turn}", finish_reason="stop")
    return session


def texts(session: Session) -> list[str]:
    return [message.content for message in session.conversation.path()]


def file_lines(name: str = "talk") -> list[str]:
    return store.path_of(name).read_text().splitlines()


def reopen_edited(change: Callable[[list[str]], Any], turns: int = 2) -> Session:
    """A session that is opened again after a change of its file."""
    saved_session(turns=turns).close()
    kept = file_lines()
    change(kept)
    store.path_of("talk").write_text("\n".join(kept) + "\n")
    return Session.load("talk")


def test_messages_and_settings_are_on_disk_at_once() -> None:
    session = Session("talk")
    session.set("top_k", 3)
    session.set("top_p", 0.5)
    assert not store.path_of("talk").exists()
    session.add("user", "look", attachments=(Attachment("a.txt", "A"),))
    assert json.loads(file_lines()[0]) == {"type": "session", "version": 1}
    session.unset("top_p")
    session.begin_answer(1, model="m")
    answer = session.end_answer("because", "why", finish_reason="length", timings={"predicted_n": 2.0})
    read = Session.read("talk")  # another process may look at any time
    assert texts(read) == ["look", "because"]
    assert read.conversation.messages[2].reasoning == "why"
    assert answer
    assert read.conversation.messages[2].timings == answer.timings
    assert read.overrides == {"top_k": 3}
    session.close()
    again = Session.load("talk")
    again.add("user", "more")
    assert texts(again) == ["look", "because", "more"]
    assert again.notes == []
    again.close()


def test_neither_an_empty_session_nor_no_save_creates_a_file(home: Path) -> None:
    Session("talk").close()
    session = Session(keep=False)
    session.add("user", "secret")
    session.begin_answer(1)
    session.add_piece("answer", "secret")
    session.end_answer("secret")
    session.set("top_k", 3)
    session.conversation.undo(1)
    for forbidden in (session.rename, session.copy):
        with pytest.raises(UsageError, match="--no-save"):
            forbidden("kept")
    session.close()
    assert not home.exists()


def test_an_empty_answer_is_not_kept() -> None:
    session = saved_session(turns=1)
    session.begin_answer(2)
    assert session.end_answer("") is None
    assert texts(session) == ["question 1", "answer 1"]
    session.close()


def test_a_greeting_is_written_with_the_first_user_message() -> None:
    session = Session("talk")
    session.conversation.add(session.conversation.draft("assistant", "Ahoy", finish_reason="greeting"))
    assert store.names() == []
    session.add("user", "hi")
    assert texts(Session.read("talk")) == ["Ahoy", "hi"]
    session.close()


def test_the_answer_of_a_killed_chat_is_recovered_once() -> None:
    session = saved_session(turns=1)
    session.add("user", "go on")
    session.begin_answer(3, model="m", params={"seed": 9})
    session.add_piece("think", "hm")
    session.add_piece("answer", "half an ")
    session.add_piece("answer", "answ\ud800")
    partial = store.partial_path(store.path_of("talk"))
    left = partial.read_bytes() + b'{"answer":"cut'
    session.end_answer("")
    session.close()
    assert not partial.exists()
    partial.write_bytes(left)  # as a kill leaves it
    assert texts(Session.read("talk"))[-1] == "half an answ\ufffd"
    for notes in (["the last answer is not complete; /continue resumes it"], []):
        session = Session.load("talk")
        assert session.notes == notes
        message = session.conversation.path()[-1]
        assert (message.content, message.reasoning, message.parent) == ("half an answ\ufffd", "hm", 3)
        assert (message.finish_reason, message.params) == ("interrupt", {"seed": 9})
        session.close()
        assert not partial.exists()
        partial.write_bytes(left)  # the kill came before the file was removed


@pytest.mark.parametrize(
    "junk", [b"", b"junk", b'{"type":"session","version":9}\n', b'{"type":"message","attachments":3}\n{"answer":"x"}']
)
def test_a_damaged_unfinished_answer_does_not_stop_the_opening(junk: bytes) -> None:
    saved_session().close()
    partial = store.partial_path(store.path_of("talk"))
    partial.write_bytes(junk)
    session = Session.load("talk")
    assert len(texts(session)) == 4
    session.close()
    assert not partial.exists()


def test_a_new_session_ignores_the_unfinished_answer_of_another() -> None:
    saved_session(turns=1).close()
    path = store.path_of("talk")
    path.unlink()
    store.partial_path(path).write_text('{"type":"message","id":2,"parent":1,"role":"assistant"}\n{"answer":"old"}\n')
    session = Session("talk")
    session.add("user", "new")
    session.close()
    assert texts(Session.load("talk")) == ["new"]


def test_an_unfinished_first_answer_is_recovered() -> None:
    saved_session().close()
    partial = store.partial_path(store.path_of("talk"))
    partial.write_text('{"type":"message","id":5,"parent":null,"role":"assistant"}\n{"answer":"first"}\n')
    assert texts(Session.read("talk")) == ["first"]


@pytest.mark.parametrize("place", range(5))
def test_a_lost_line_in_any_place_loses_no_other(place: int) -> None:
    session = reopen_edited(lambda kept: kept.__setitem__(place, kept[place][: len(kept[place]) // 2]))
    expected = ["question 1", "answer 1", "question 2", "answer 2"]
    if place:
        del expected[place - 1]
    assert texts(session) == expected
    assert session.notes[0] == f"talk.jsonl: skipped line {place + 1}, which is not valid"
    assert len(session.notes) == (2 if 0 < place < 4 else 1)
    session.add("user", "more")
    session.close()
    assert texts(Session.load("talk")) == [*expected, "more"]


@pytest.mark.parametrize(("old", "new"), [(b"answer 2", b"\xff"), (b'"assistant"', b'"tool"'), (b'"id":4', b'"id":"x')])
def test_a_new_message_does_not_take_the_id_of_a_lost_one(old: bytes, new: bytes) -> None:
    saved_session().close()
    path = store.path_of("talk")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:-1], lines[-1].replace(old, new)]))
    session = Session.load("talk")
    assert len(session.notes) == 1
    assert session.add("user", "more").id > 4
    session.close()
    assert texts(Session.load("talk")) == ["question 1", "answer 1", "question 2", "more"]


def test_a_file_that_is_cut_anywhere_can_be_continued() -> None:
    session = saved_session(turns=1)
    session.set("top_k", 3)
    session.close()
    path = store.path_of("talk")
    whole = path.read_bytes()
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        session = Session.load("talk")
        before = texts(session)
        assert before == ["question 1", "answer 1"][: len(before)]
        assert len(before) >= whole[:cut].count(b"\n") - 1
        session.add("user", "more")
        session.close()
        again = Session.load("talk")
        assert texts(again) == [*before, "more"]
        assert b'"type":"session"' in path.read_bytes() or cut
        again.close()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"type":"message","id":9,"parent":9,"role":"user","content":"x"}', "message 9 follows message 9"),
        ('{"type":"message","id":9,"parent":77,"role":"user","content":"x"}', "message 9 follows message 77"),
        ('{"type":"message","id":4,"parent":1,"role":"user","content":"x"}', "two messages with the id 4"),
        ('{"type":"message","id":1e400,"parent":1,"role":"user","content":"x"}', "skipped line 6, which is not valid"),
        ('{"type":"head","id":77}', "message 77 does not exist"),
        ('{"type":"head","id":true}', "id must be an integer or null"),
        ('{"type":"head","id":1.0}', "id must be an integer or null"),
        ('{"type":"head","id":[1]}', "id must be an integer or null"),
        ('{"type":"head","id":0}', "id must be an integer >= 1"),
        ('{"type":"set","key":"top_p","value":7}', "top_p must be between 0 and 1"),
        ('{"type":"set","key":"top_p","value":"x"}', "top_p must be"),
        ('{"type":"set","key":"top_k","value":1e40}', "top_k must be"),
        ('{"type":"set","key":["top_k"]}', "key must be a string"),
        ('{"type":"set","key":"from_the_future","value":1}', "unknown setting 'from_the_future'"),
        ('{"type":"set","key":"temp_policy_file","value":"x.py:f"}', "cannot set temp_policy_file (it runs code)"),
        ('{"type":"set","key":"grammar_file","value":"/etc/hosts"}', "cannot set grammar_file to the name of a file"),
        ('{"type":"set","key":"system","value":"@/etc/hosts"}', "cannot set system to the name of a file"),
        ('{"type":"set","key":"json_schema","value":"/etc/hosts"}', "cannot set json_schema to the name of a file"),
        ('{"type":"set","key":"chat_template","value":"~/.ssh/id"}', "cannot set chat_template to the name of a file"),
        ('{"type":"set","key":"template_arg","value":["messages=1"]}', "the template gets messages from llmcli"),
        ('{"type":"set","key":"theme","value":"/dev/stdin"}', "cannot set theme to the name of a file"),
        ('{"type":"set","key":"file","value":["/etc/hosts"]}', "cannot set file to the name of a file"),
    ],
)
def test_a_line_that_is_not_valid_is_reported_and_skipped(line: str, message: str) -> None:
    session = reopen_edited(lambda kept: kept.append(line))
    assert len(session.notes) == 1
    assert message in session.notes[0]
    assert session.overrides == {}
    assert texts(session)[:4] == ["question 1", "answer 1", "question 2", "answer 2"]
    session.add("user", "more")
    session.close()
    assert texts(Session.load("talk"))[-1] == "more"


def test_the_template_of_a_session_can_be_a_name_of_llama_cpp() -> None:
    session = saved_session()
    session.set("chat_template", "chatml")
    session.set("template_arg", ('effort="low"',))
    session.close()
    again = Session.load("talk")
    assert (again.notes, again.overrides) == ([], {"chat_template": "chatml", "template_arg": ('effort="low"',)})
    again.close()


def test_a_setting_from_a_file_is_saved_as_its_text(tmp_path: Path) -> None:
    path = tmp_path / "a.gbnf"
    path.write_text("root ::= [a-z]")
    session = saved_session()
    session.set("grammar_file", str(path))
    session.set("theme", str(tmp_path / "my.theme"))
    session.set_character("Ahab", ["grammar_file"])
    session.copy("copy").close()
    session.close()
    for name in ("talk", "copy"):
        again = Session.load(name)
        assert (again.notes, again.overrides) == ([], {"grammar": "root ::= [a-z]"})
        again.remove_character()
        again.close()
        assert Session.read(name).overrides == {}


def test_a_grammar_file_replaces_and_removes_the_saved_text(tmp_path: Path) -> None:
    path = tmp_path / "a.gbnf"
    path.write_text("root ::= [a-z]")
    session = saved_session()
    session.set("grammar", "root ::= [0-9]")
    session.set("grammar_file", str(path))
    assert session.overrides == {"grammar_file": str(path)}
    assert Session.read("talk").overrides == {"grammar": "root ::= [a-z]"}
    session.set("grammar_file", str(tmp_path / "gone.gbnf"))
    assert Session.read("talk").overrides == {}
    session.unset("grammar_file")
    assert Session.read("talk").overrides == session.overrides == {}
    session.close()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
def test_a_pipe_is_left_to_the_answer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    session = saved_session()
    session.set("grammar_file", str(tmp_path / "pipe"))  # to read it would not end
    session.close()
    assert Session.read("talk").overrides == {}


def test_foreign_and_doubled_lines_are_ignored() -> None:
    session = reopen_edited(lambda kept: kept.extend([*kept, '{"foreign":1}', '{"type":"from the future"}', "{}"]))
    assert session.notes == []
    assert len(session.conversation.messages) == 4
    session.close()


def test_many_problems_are_reported_in_few_lines() -> None:
    session = reopen_edited(lambda kept: kept.extend(["junk"] * 1000))
    assert len(session.notes) == 4
    assert session.notes[-1] == "talk.jsonl: 997 other problems"
    session.close()


def test_a_file_of_a_newer_version_is_refused_and_not_changed() -> None:
    with pytest.raises(UsageError, match="newer"):
        reopen_edited(lambda kept: kept.__setitem__(0, '{"type":"session","version":2}'))
    with pytest.raises(UsageError, match="newer"):
        Session.load("talk")  # and not: another chat has it open
    with pytest.raises(UsageError, match="newer"):
        Session.read("talk")
    assert len(file_lines()) == 5


def test_a_copy_begins_with_the_version_and_ends_with_the_head() -> None:
    session = saved_session()
    session.set("top_k", 3)
    session.copy("all").close()
    session.conversation.clear()
    session.copy("cleared").close()
    session.close()
    kinds = ["session", "message", "message", "message", "message", "set"]
    assert [json.loads(line)["type"] for line in file_lines("all")] == kinds
    assert file_lines("cleared") == [*file_lines("all"), '{"type":"head","id":null}']
