"""The folder of sessions: names, who may write, lists and search."""

import multiprocessing
import os
import stat
import sys
import time
from pathlib import Path

import pytest

from llmcli.chat.sessions import listing, store
from llmcli.chat.sessions.session import Session
from llmcli.errors import DiskError, UsageError
from tests.waiting import wait_until

WINDOWS = sys.platform == "win32"


def new_session(name: str = "talk", text: str = "hello") -> Session:
    session = Session(name)
    session.add("user", text)
    return session


def turn(session: Session, number: int) -> None:
    session.add("user", f"question {number}")
    session.begin_answer(session.conversation.head)
    session.add_piece("answer", "a")
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
        "é",
        "a\0b",
        "x" * 65,
        "-x",
    ],
)
def test_a_name_that_is_not_a_plain_file_name_is_refused(name: str, home: Path) -> None:
    for use in (store.path_of, store.existing_path, store.remove, Session.load, Session.read, Session().rename):
        with pytest.raises(UsageError, match="is not a valid name for a session"):
            use(name)
    assert not home.exists()


def test_the_error_for_an_unknown_session_has_the_nearest_name() -> None:
    new_session("novel").close()
    with pytest.raises(UsageError, match="session not found: 'navel'") as caught:
        Session.load("navel")
    assert caught.value.hint.startswith("did you mean")
    assert "novel" in caught.value.hint
    assert not store.path_of("navel").exists()


def test_chats_with_the_same_first_words_get_a_file_each() -> None:
    sessions = [new_session("", "Why is the sky blue?") for _ in range(3)]
    names = [session.name for session in sessions]
    assert names[0].endswith("-why-is-the-sky-blue")
    assert names[1:] == [f"{names[0]}-2", f"{names[0]}-3"]
    assert not any(session.is_named for session in sessions)
    for session in sessions:
        session.close()
    for text in ("日本語", "", "-- ++", "x" * 300):
        session = new_session("", text)
        assert session.name[10:].startswith("-chat")
        session.close()


def _create_sessions(home: str, gate: str, count: int) -> None:
    os.environ["LLMCLI_HOME"] = home
    Path(f"{gate}-{os.getpid()}").touch()
    while not os.path.exists(gate):
        time.sleep(0.0005)
    for number in range(count):
        new_session("", f"same words {number}").close()


@pytest.mark.slow
def test_processes_that_start_at_the_same_time_get_a_file_each(home: Path, tmp_path: Path) -> None:
    context, gate = multiprocessing.get_context("spawn"), tmp_path / "gate"
    others = [context.Process(target=_create_sessions, args=[str(home), str(gate), 20]) for _ in range(2)]
    for other in others:
        other.start()
    wait_until(lambda: len(list(tmp_path.glob("gate-*"))) == 2)
    gate.touch()
    _create_sessions(str(home), str(gate), 20)
    for other in others:
        other.join(60)
        assert other.exitcode == 0
    assert len(listing.session_summaries()) == 60
    assert {one.n_messages for one in listing.session_summaries()} == {1}


def test_a_second_chat_on_a_session_is_refused_while_it_is_open() -> None:
    first = new_session()
    for refused in (lambda: Session.load("talk"), lambda: store.remove("talk"), lambda: store.rename("talk", "new")):
        with pytest.raises(UsageError, match="session 'talk' is open in another chat"):
            refused()
    assert store.is_open("talk")
    assert texts(Session.read("talk")) == ["hello"]  # looking is free
    first.add("user", "still mine")
    first.close()
    first.close()
    assert not store.is_open("talk")
    second = Session.load("talk")
    assert texts(second) == ["hello", "still mine"]
    second.close()


def test_two_chats_with_the_same_new_name_do_not_mix() -> None:
    first, second = Session("talk"), Session("talk")
    first.add("user", "first")
    second.add("user", "second")
    assert second.notes == ["another chat has the name 'talk': this one is saved as 'talk-2'"]
    assert [texts(Session.read(name)) for name in ("talk", "talk-2")] == [["first"], ["second"]]
    first.close()
    second.close()


def test_a_name_that_must_be_exact_is_not_changed() -> None:
    first, second = Session("talk"), Session("talk")
    second.is_name_exact = True
    first.add("user", "first")
    with pytest.raises(UsageError, match="session 'talk' is open in another chat"):
        second.add("user", "second")
    first.close()
    with pytest.raises(UsageError, match="session 'talk' already exists"):
        second.add("user", "second")
    assert store.names() == ["talk"]


def test_a_name_that_is_not_valid_is_refused_at_the_first_message() -> None:
    for name in ("../x", "x" * 200):
        with pytest.raises(UsageError, match="not a valid name"):
            Session(name).add("user", "hi")


def test_a_session_is_renamed_with_its_unfinished_answer() -> None:
    session = new_session()
    new_session("taken").close()
    for name, message in (
        ("taken", "'taken' already exists"),
        ("talk", "already 'talk'"),
        ("../x", "not a valid name"),
    ):
        with pytest.raises(UsageError, match=message):
            session.rename(name)
    session.rename("novel")
    session.add("user", "more")
    assert session.is_named
    assert store.is_open("novel")
    assert not store.is_open("talk")
    session.close()
    store.partial_path(store.path_of("novel")).write_text(
        '{"type":"message","id":3,"parent":2,"role":"assistant"}\n{"answer":"x"}\n'
    )
    store.rename("novel", "story")
    for name, message in (("taken", "'taken' already exists"), ("story", "already 'story'")):
        with pytest.raises(UsageError, match=message):
            store.rename("story", name)
    assert texts(Session.read("story")) == ["hello", "more", "x"]
    assert sorted(store.names()) == ["story", "taken"]
    assert not store.is_open("story")


def test_a_copy_is_a_separate_session() -> None:
    session = new_session()
    turn(session, 1)
    session.conversation.undo(1)
    session.set("top_k", 3)
    copy = session.copy("copy")
    with pytest.raises(UsageError, match="'copy' already exists"):
        session.copy("copy")
    session.add("user", "here")
    copy.add("user", "there")
    session.close()
    copy.close()
    assert [texts(Session.read(name)) for name in ("talk", "copy")] == [["hello", "here"], ["hello", "there"]]
    assert Session.read("copy").overrides == {"top_k": 3}
    assert len(Session.read("copy").conversation.messages) == 4


def test_a_removed_session_has_no_file_left() -> None:
    new_session().close()
    store.partial_path(store.path_of("talk")).touch()
    store.remove("talk")
    assert [path for path in store.folder().rglob("*") if path.is_file()] == []
    with pytest.raises(UsageError, match="session not found: 'talk'"):
        store.remove("talk")


@pytest.mark.skipif(WINDOWS, reason="Windows has no such modes and no such files")
def test_files_are_private_and_planted_links_are_not_followed(home: Path, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        session = new_session()
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
        (store.folder() / ".open" / name).symlink_to(victim)
    session = Session.load("talk")
    turn(session, 1)
    session.close()
    with pytest.raises(DiskError, match="cannot lock"):
        store.acquire_lock("new")
    os.mkfifo(store.folder() / "pipe.jsonl")
    (store.folder() / "folder.jsonl").mkdir()
    (store.folder() / "no name.jsonl").write_text("{}")
    (store.folder() / "empty.jsonl").touch()
    assert store.names() == ["talk"]
    with pytest.raises(UsageError, match="session not found: 'pipe'"):
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
def test_the_title_is_the_start_of_the_first_user_message(text: str, title: str) -> None:
    session = Session("talk")
    session.conversation.add(session.conversation.draft("assistant", "A greeting"))
    session.add("user", text)
    session.add("user", "more")
    session.close()
    (one,) = listing.session_summaries()
    assert (one.name, one.title, one.n_messages, one.size) == ("talk", title, 3, store.path_of("talk").stat().st_size)


def test_five_hundred_sessions_are_listed_in_half_a_second() -> None:
    session = new_session()
    for number in range(10):
        session.add("assistant", f"{number} " + "lorem ipsum " * 100)
    session.close()
    data = store.path_of("talk").read_bytes()
    for number in range(500):
        path = store.path_of(f"s{number}")
        path.write_bytes(data)
        os.utime(path, (number, number))
    begin = time.process_time()
    listed = listing.session_summaries()
    took = time.process_time() - begin
    assert [one.name for one in listed[:3]] == ["talk", "s499", "s498"]
    assert took < 0.5  # 40 ms where it was written
    begin = time.process_time()
    assert len(list(listing.search("9 LOREM"))) == 501
    assert time.process_time() - begin < 1.5


def test_a_search_ignores_case_and_shows_the_context() -> None:
    new_session("a", "İ" * 50 + " Die STRASSE war lang, und niemand ging auf ihr. " + "x" * 90).close()
    new_session("b", "nothing here").close()
    (hit,) = listing.search("straße war")
    assert (hit.session, hit.id, hit.role) == ("a", 1, "user")
    assert hit.excerpt == "…" + "İ" * 25 + " Die STRASSE war lang, und niemand ging auf ihr. " + "x" * 17
    store.path_of("broken").write_bytes(b'\xff\n{"type":"message"}\n{"type":"message","id":[],"content":"strasse"}\n')
    assert len(list(listing.search("strasse"))) == 1
    store.path_of("newer").write_text('{"type":"session","version":9}\n{"type":"message","id":1,"content":"strasse"}\n')
    assert [hit.session for hit in listing.search("strasse")] == ["newer", "a"]  # opening it is refused


def test_a_hit_has_the_number_that_the_history_shows() -> None:
    session = new_session()
    for number in (1, 2):
        turn(session, number)
    session.conversation.undo(1)
    turn(session, 3)
    session.close()
    hits = {hit.excerpt: (hit.id, hit.number) for hit in listing.search("answer")}
    assert hits == {"answer 1": (3, 3), "answer 2": (5, 5), "answer 3": (7, 5)}


def test_a_list_counts_the_messages_of_the_current_branch() -> None:
    session = new_session()
    turn(session, 1)
    turn(session, 2)
    session.conversation.undo(1)
    turn(session, 3)
    counts = [(one.n_messages, one.n_branches) for one in listing.session_summaries()]
    session.conversation.undo(2)
    session.conversation.clear()
    session.close()
    counts += [(one.n_messages, one.n_branches) for one in listing.session_summaries()]
    assert counts == [(5, 2), (0, 2)]


def test_a_list_counts_the_branches_that_the_chat_counts() -> None:
    session = new_session()
    turn(session, 1)
    conversation = session.conversation
    for text, reason in (("Once", "edited"), ("Once upon a time", "stop"), ("Never", "edited")):
        conversation.move(conversation.path()[-1].parent)
        session.add("assistant", text, finish_reason=reason)
        (one,) = listing.session_summaries()
        assert one.n_branches == len(conversation.leaves())
    assert one.n_branches == 3
    conversation.move(conversation.path()[-1].parent)
    session.add("assistant", "Never mind", replay={"seed": 1})  # a new answer that begins with the same word
    (one,) = listing.session_summaries()
    assert one.n_branches == len(conversation.leaves()) == 4
    session.close()


@pytest.mark.parametrize(
    "form",
    ["{}", '{{"content":"as another program writes it",{}', '{{"role":"user","content":"in the middle",{}', " {}"],
)
def test_the_messages_of_a_file_of_another_program_are_counted(form: str) -> None:
    new_session().close()
    lines = [f'"type":"message","id":{number},"parent":{parent or "null"},"role":"user"}}\n' for number, parent in
             ((1, 0), (2, 1), (3, 2), (4, 77), (5, 3), (5, 1))]  # fmt: skip
    text = "".join(form.format(line) if "content" in form else form.format("{" + line) for line in lines)
    store.path_of("talk").write_text(text + '{"type":"head","id":[]}\n{"type":"message","id":"x"}\n')
    (one,) = listing.session_summaries()
    read = Session.read("talk").conversation
    assert (one.n_messages, one.n_branches) == (len(read.path()), len(read.leaves())) == (4, 2)


def test_the_end_of_a_name_opens_the_one_session_that_has_it() -> None:
    for name in ("2026-11-28-help", "2026-11-27-sky", "2026-11-28-sky"):
        new_session(name).close()
    assert store.find_name("help") == "2026-11-28-help"
    assert texts(Session.read("help")) == ["hello"]
    session = Session.load("help")
    assert session.name == "2026-11-28-help"
    session.close()
    with pytest.raises(UsageError, match="session not found: 'sky'") as caught:
        store.find_name("sky")
    assert "'2026-11-28-sky'" in caught.value.hint
    assert "'2026-11-27-sky'" in caught.value.hint
    new_session("sky").close()
    assert store.find_name("sky") == "sky"


def test_the_case_of_a_session_name_does_not_matter() -> None:
    new_session("Old-Nan").close()
    assert store.find_name("old nan") == "Old-Nan"
    assert store.find_name("NAN") == "Old-Nan"


def test_the_end_of_a_name_does_not_remove_a_session() -> None:
    new_session("2026-11-28-help").close()
    with pytest.raises(UsageError, match="session not found: 'help'") as caught:
        store.remove("help")
    assert caught.value.hint == "did you mean '2026-11-28-help'?"
    with pytest.raises(UsageError, match="session not found: 'help'"):
        store.rename("help", "new")


def test_spaces_in_a_new_name_become_dashes() -> None:
    session = new_session()
    session.rename(" ghost  story ")
    assert session.name == "ghost-story"
    session.copy("ghost story 2").close()
    session.close()
    assert sorted(store.names()) == ["ghost-story", "ghost-story-2"]
    assert texts(Session.read("ghost story")) == ["hello"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ünï", "it contains 'ü'"),
        ("a/b", "it contains '/'"),
        ("con", "Windows reserves it for a device"),
        ("-x", "it starts with '-'"),
        ("x.", "it ends with a dot"),
        ("", "it is empty"),
        ("x" * 65, "it has more than 64 characters"),
    ],
)
def test_a_refused_name_is_explained(name: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        store.path_of(name)
    assert str(caught.value) == f"{name!r} is not a valid name for a session: {reason}"
    assert "letters from a to z" in caught.value.hint
