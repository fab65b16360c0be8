"""The folder of sessions: names, who may write, lists and search."""

import multiprocessing
import os
import stat
import sys
import time
from pathlib import Path

import pytest

from llmcli.chat import session_files as files
from llmcli.chat.session import Session
from llmcli.errors import DiskError, UsageError

WINDOWS = sys.platform == "win32"


def begun(name: str = "talk", text: str = "hello") -> Session:
    session = Session(name)
    session.say("user", text)
    return session


def turn(session: Session, number: int) -> None:
    session.say("user", f"question {number}")
    session.begin_answer(session.conversation.head)
    session.grow("answer", "a")
    session.end_answer(f"answer {number}")


def texts(session: Session) -> list[str]:
    return [message.content for message in session.conversation.path()]


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        "/etc/x",
        ".hidden",
        "CON",
        "nul.txt",
        "com1",
        "x.",
        "a b",
        "é",
        "a\0b",
        "x" * 65,
        "-x",
    ],
)
def test_a_name_that_could_leave_the_folder_or_mean_a_device_is_refused(name: str, home: Path) -> None:
    for use in (files.path_of, files.existing, files.remove, Session.load, Session.read, Session().rename):
        with pytest.raises(UsageError, match="is not a valid name for a session"):
            use(name)
    assert not home.exists()


def test_a_session_that_is_not_there_is_told_with_the_nearest_name() -> None:
    begun("novel").close()
    with pytest.raises(UsageError, match="no session called navel") as caught:
        Session.load("navel")
    assert caught.value.hint == "did you mean 'novel'?"
    assert not files.path_of("navel").exists()


def test_two_chats_that_begin_with_the_same_words_get_a_file_each() -> None:
    sessions = [begun("", "Why is the sky blue?") for _ in range(3)]
    names = [session.name for session in sessions]
    assert names[0].endswith("-why-is-the-sky-blue")
    assert names[1:] == [f"{names[0]}-2", f"{names[0]}-3"]
    assert not any(session.named for session in sessions)
    for session in sessions:
        session.close()
    for text in ("日本語", "", "-- ++", "x" * 300):
        with_odd_words = begun("", text)
        assert with_odd_words.name[10:].startswith("-chat")
        with_odd_words.close()


def _begin_at_once(home: str, gate: str, count: int) -> None:
    os.environ["LLMCLI_HOME"] = home
    while not os.path.exists(gate):
        time.sleep(0.0005)
    for number in range(count):
        begun("", f"same words {number}").close()


def test_processes_that_begin_at_the_same_moment_get_a_file_each(home: Path, tmp_path: Path) -> None:
    context, gate = multiprocessing.get_context("spawn"), tmp_path / "gate"
    others = [context.Process(target=_begin_at_once, args=[str(home), str(gate), 20]) for _ in range(2)]
    for other in others:
        other.start()
    gate.touch()
    _begin_at_once(str(home), str(gate), 20)
    for other in others:
        other.join(30)
        assert other.exitcode == 0
    assert len(files.listed()) == 60
    assert {one.n_messages for one in files.listed()} == {1}


def test_a_second_chat_on_a_session_is_refused_by_name_until_the_first_is_gone() -> None:
    first = begun()
    for refused in (lambda: Session.load("talk"), lambda: files.remove("talk"), lambda: files.rename("talk", "new")):
        with pytest.raises(UsageError, match="another chat has the session talk open"):
            refused()
    assert files.is_open("talk")
    assert texts(Session.read("talk")) == ["hello"]  # looking is free
    first.say("user", "still mine")
    first.close()
    first.close()
    assert not files.is_open("talk")
    second = Session.load("talk")
    assert texts(second) == ["hello", "still mine"]
    second.close()


def test_two_chats_with_one_new_name_do_not_mix() -> None:
    first, second = Session("talk"), Session("talk")
    first.say("user", "first")
    for _ in range(2):
        with pytest.raises(UsageError, match=r"called talk already|session talk open"):
            second.say("user", "second")
    assert second.conversation.messages == {}
    second.rename("other")
    second.say("user", "second")
    assert [texts(Session.read(name)) for name in ("talk", "other")] == [["first"], ["second"]]
    first.close()
    second.close()


def test_a_session_is_renamed_with_its_unfinished_answer_and_goes_on() -> None:
    session = begun()
    begun("taken").close()
    for name, telling in (("taken", "called taken already"), ("talk", "called talk already"), ("../x", "cannot be")):
        with pytest.raises(UsageError, match=telling):
            session.rename(name)
    session.rename("novel")
    session.say("user", "more")
    assert session.named
    assert files.is_open("novel")
    assert not files.is_open("talk")
    session.close()
    files.partial_of(files.path_of("novel")).write_text(
        '{"type":"message","id":3,"parent":2,"role":"assistant"}\n{"answer":"x"}\n'
    )
    files.rename("novel", "story")
    for name, telling in (("taken", "called taken already"), ("story", "called story already")):
        with pytest.raises(UsageError, match=telling):
            files.rename("story", name)
    assert texts(Session.read("story")) == ["hello", "more", "x"]
    assert sorted(files.names()) == ["story", "taken"]
    assert not files.is_open("story")


def test_a_copy_is_a_session_of_its_own() -> None:
    session = begun()
    turn(session, 1)
    session.undo(1)
    session.set("top_k", 3)
    copy = session.copy("copy")
    with pytest.raises(UsageError, match="called copy already"):
        session.copy("copy")
    session.say("user", "here")
    copy.say("user", "there")
    session.close()
    copy.close()
    assert [texts(Session.read(name)) for name in ("talk", "copy")] == [["hello", "here"], ["hello", "there"]]
    assert Session.read("copy").overrides == {"top_k": 3}
    assert len(Session.read("copy").conversation.messages) == 4


def test_removing_leaves_nothing_behind() -> None:
    begun().close()
    files.partial_of(files.path_of("talk")).touch()
    files.remove("talk")
    assert [path for path in files.folder().rglob("*") if path.is_file()] == []
    with pytest.raises(UsageError, match="no session called talk"):
        files.remove("talk")


@pytest.mark.skipif(WINDOWS, reason="Windows has no such modes and no such files")
def test_everything_is_private_and_no_planted_link_or_pipe_is_touched(home: Path, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        session = begun()
        session.begin_answer(1)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (home / "data").rglob("*")}
        session.end_answer("x")
        session.close()
    finally:
        os.umask(before)
    assert modes == {"sessions": 0o700, "talk.jsonl": 0o600, ".open": 0o700, "talk.lock": 0o600, "talk.partial": 0o600}
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("talk.partial", "new.lock"):
        (files.folder() / ".open" / name).symlink_to(victim)
    session = Session.load("talk")
    turn(session, 1)
    session.close()
    with pytest.raises(DiskError, match="cannot lock"):
        files.hold("new")
    os.mkfifo(files.folder() / "pipe.jsonl")
    (files.folder() / "folder.jsonl").mkdir()
    (files.folder() / "no name.jsonl").write_text("{}")
    (files.folder() / "empty.jsonl").touch()
    assert files.names() == ["talk"]
    with pytest.raises(UsageError, match="no session called pipe"):
        Session.load("pipe")
    assert victim.read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ('say "hi" to C:\\new\\table', 'say "hi" to C:\\new\\table'),
        ("two\n\tlines\x1b[31m é 🙂", "two lines\x1b[31m é 🙂"),
        ('{"role":"user","content":"no"}', '{"role":"user","content":"no"}'),
        ("x" * 500_000, "x" * 200),
        ("\ud800", "\ufffd"),
    ],
)
def test_the_title_is_how_the_first_message_of_the_user_begins(text: str, title: str) -> None:
    session = Session("talk")
    session.prepare("assistant", "A greeting")
    session.say("user", text)
    session.say("user", "more")
    session.close()
    (one,) = files.listed()
    assert (one.name, one.title, one.n_messages, one.size) == ("talk", title, 3, files.path_of("talk").stat().st_size)


def test_five_hundred_sessions_are_listed_and_searched_in_no_time() -> None:
    session = begun()
    for number in range(10):
        session.say("assistant", f"{number} " + "lorem ipsum " * 100)
    session.close()
    data = files.path_of("talk").read_bytes()
    for number in range(500):
        path = files.path_of(f"s{number}")
        path.write_bytes(data)
        os.utime(path, (number, number))
    begin = time.process_time()
    listed = files.listed()
    took = time.process_time() - begin
    assert [one.name for one in listed[:3]] == ["talk", "s499", "s498"]
    assert took < 0.5  # 40 ms where it was written
    begin = time.process_time()
    assert len(list(files.search("9 LOREM"))) == 501
    assert time.process_time() - begin < 1.5


def test_a_search_ignores_case_and_shows_the_words_around() -> None:
    begun("a", "İ" * 50 + " Die STRASSE war lang, und niemand ging auf ihr. " + "x" * 90).close()
    begun("b", "nothing here").close()
    (hit,) = files.search("straße war")
    assert (hit.session, hit.id, hit.role) == ("a", 1, "user")
    assert hit.excerpt == "…" + "İ" * 25 + " Die STRASSE war lang, und niemand ging auf ihr. " + "x" * 17
    files.path_of("broken").write_bytes(b'\xff\n{"type":"message"}\n{"type":"message","id":[],"content":"strasse"}\n')
    files.path_of("newer").write_text('{"type":"session","version":9}\n{"type":"message","id":1,"content":"strasse"}\n')
    assert len(list(files.search("strasse"))) == 1
