"""A session: what is said and set is on disk at once, and survives what happens to its file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmcli.chat import session_files
from llmcli.chat.attachments import Attachment
from llmcli.chat.session import Session
from llmcli.errors import UsageError


def talked(name: str = "talk", turns: int = 2) -> Session:
    session = Session(name)
    for turn in range(1, turns + 1):
        session.say("user", f"question {turn}")
        session.begin_answer(session.conversation.head, model="m", params={"seed": 7})
        session.grow("answer", f"answer {turn}")
        session.end_answer(f"answer {turn}", finish_reason="stop")
    return session


def texts(session: Session) -> list[str]:
    return [message.content for message in session.conversation.path()]


def lines(name: str = "talk") -> list[str]:
    return session_files.path_of(name).read_text().splitlines()


def rewritten(change: Callable[[list[str]], Any], turns: int = 2) -> Session:
    """A session whose file was changed by hand, opened again."""
    talked(turns=turns).close()
    kept = lines()
    change(kept)
    session_files.path_of("talk").write_text("\n".join(kept) + "\n")
    return Session.load("talk")


def test_every_turn_and_setting_is_on_disk_at_once_and_comes_back() -> None:
    session = Session("talk")
    session.set("top_k", 3)
    session.set("top_p", 0.5)
    assert not session_files.path_of("talk").exists()
    session.say("user", "look", attachments=(Attachment("a.txt", "A"),))
    assert json.loads(lines()[0]) == {"type": "session", "version": 1}
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
    again.say("user", "more")
    assert texts(again) == ["look", "because", "more"]
    assert again.notes == []
    again.close()


def test_a_session_without_words_makes_no_file_and_no_save_never_does(home: Path) -> None:
    Session("talk").close()
    session = Session(keep=False)
    session.say("user", "secret")
    session.begin_answer(1)
    session.grow("answer", "secret")
    session.end_answer("secret")
    session.set("top_k", 3)
    session.undo(1)
    for forbidden in (session.rename, session.copy):
        with pytest.raises(UsageError, match="--no-save"):
            forbidden("kept")
    session.close()
    assert not home.exists()


def test_an_answer_in_which_nothing_came_is_not_kept() -> None:
    session = talked(turns=1)
    session.begin_answer(2)
    assert session.end_answer("") is None
    assert texts(session) == ["question 1", "answer 1"]
    session.close()


def test_a_greeting_waits_for_the_first_word_of_the_user() -> None:
    session = Session("talk")
    session.prepare("assistant", "Ahoy", finish_reason="greeting")
    assert session_files.names() == []
    session.say("user", "hi")
    assert texts(Session.read("talk")) == ["Ahoy", "hi"]
    session.close()


def test_an_answer_that_a_kill_cut_off_is_taken_in_once() -> None:
    session = talked(turns=1)
    session.say("user", "go on")
    session.begin_answer(3, model="m", params={"seed": 9})
    session.grow("think", "hm")
    session.grow("answer", "half an ")
    session.grow("answer", "answ\ud800")
    partial = session_files.partial_of(session_files.path_of("talk"))
    left = partial.read_bytes() + b'{"answer":"cut'
    session.end_answer("")
    session.close()
    assert not partial.exists()
    partial.write_bytes(left)  # as a kill leaves it
    assert texts(Session.read("talk"))[-1] == "half an answ\ufffd"
    for notes in (["the last answer was cut off; /continue goes on with it"], []):
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
def test_a_damaged_unfinished_answer_does_not_keep_a_session_shut(junk: bytes) -> None:
    talked().close()
    partial = session_files.partial_of(session_files.path_of("talk"))
    partial.write_bytes(junk)
    session = Session.load("talk")
    assert len(texts(session)) == 4
    session.close()
    assert not partial.exists()


def test_the_unfinished_answer_of_a_removed_session_is_not_taken_in_by_a_new_one() -> None:
    talked(turns=1).close()
    path = session_files.path_of("talk")
    path.unlink()
    session_files.partial_of(path).write_text(
        '{"type":"message","id":2,"parent":1,"role":"assistant"}\n{"answer":"old"}\n'
    )
    session = Session("talk")
    session.say("user", "new")
    session.close()
    assert texts(Session.load("talk")) == ["new"]


def test_an_unfinished_answer_to_nothing_stays_one() -> None:
    talked().close()
    partial = session_files.partial_of(session_files.path_of("talk"))
    partial.write_text('{"type":"message","id":5,"parent":null,"role":"assistant"}\n{"answer":"first"}\n')
    assert texts(Session.read("talk")) == ["first"]


@pytest.mark.parametrize("place", range(5))
def test_a_line_that_is_lost_in_any_place_costs_itself_alone(place: int) -> None:
    session = rewritten(lambda kept: kept.__setitem__(place, kept[place][: len(kept[place]) // 2]))
    expected = ["question 1", "answer 1", "question 2", "answer 2"]
    if place:
        del expected[place - 1]
    assert texts(session) == expected
    assert session.notes[0] == f"talk.jsonl: line {place + 1} cannot be read and was left out"
    assert len(session.notes) == (2 if 0 < place < 4 else 1)
    session.say("user", "more")
    session.close()
    assert texts(Session.load("talk")) == [*expected, "more"]


def test_a_file_cut_anywhere_opens_and_goes_on() -> None:
    session = talked(turns=1)
    session.set("top_k", 3)
    session.close()
    path = session_files.path_of("talk")
    whole = path.read_bytes()
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        session = Session.load("talk")
        before = texts(session)
        assert before == ["question 1", "answer 1"][: len(before)]
        assert len(before) >= whole[:cut].count(b"\n") - 1
        session.say("user", "more")
        session.close()
        again = Session.load("talk")
        assert texts(again) == [*before, "more"]
        assert b'"type":"session"' in path.read_bytes() or cut
        again.close()


@pytest.mark.parametrize(
    ("line", "telling"),
    [
        ('{"type":"message","id":9,"parent":9,"role":"user","content":"x"}', "message 9 follows 9"),
        ('{"type":"message","id":9,"parent":77,"role":"user","content":"x"}', "message 9 follows 77"),
        ('{"type":"message","id":4,"parent":1,"role":"user","content":"x"}', "two messages 4"),
        ('{"type":"message","id":1e400,"parent":1,"role":"user","content":"x"}', "no number"),
        ('{"type":"head","id":77}', "no message 77"),
        ('{"type":"head","id":true}', "no number"),
        ('{"type":"head","id":1.0}', "no number"),
        ('{"type":"head","id":[1]}', "no number"),
        ('{"type":"head","id":NaN}', "no number"),
        ('{"type":"set","key":"top_p","value":7}', "top_p must be between 0 and 1"),
        ('{"type":"set","key":"top_p","value":NaN}', "top_p must be"),
        ('{"type":"set","key":"top_k","value":1e400}', "top_k must be"),
        ('{"type":"set","key":["top_k"]}', "unknown setting"),
        ('{"type":"set","key":"from_the_future","value":1}', "unknown setting 'from_the_future'"),
    ],
)
def test_a_line_that_makes_no_sense_is_told_and_what_follows_can_be_read(line: str, telling: str) -> None:
    session = rewritten(lambda kept: kept.append(line))
    assert len(session.notes) == 1
    assert telling in session.notes[0]
    assert session.overrides == {}
    assert texts(session)[:4] == ["question 1", "answer 1", "question 2", "answer 2"]
    session.say("user", "more")
    session.close()
    assert texts(Session.load("talk"))[-1] == "more"


def test_lines_of_others_are_passed_over_and_doubled_ones_do_no_harm() -> None:
    session = rewritten(lambda kept: kept.extend([*kept, '{"foreign":1}', '{"type":"from the future"}', "{}"]))
    assert session.notes == []
    assert len(session.conversation.messages) == 4
    session.close()


def test_many_faults_are_told_in_few_words() -> None:
    session = rewritten(lambda kept: kept.extend(["junk"] * 1000))
    assert len(session.notes) == 4
    assert session.notes[-1] == "talk.jsonl: 997 more faults like these"
    session.close()


def test_a_newer_file_is_refused_untouched_and_left_free() -> None:
    with pytest.raises(UsageError, match="newer"):
        rewritten(lambda kept: kept.__setitem__(0, '{"type":"session","version":2}'))
    with pytest.raises(UsageError, match="newer"):
        Session.load("talk")  # and not: another chat has it open
    with pytest.raises(UsageError, match="newer"):
        Session.read("talk")
    assert len(lines()) == 5
