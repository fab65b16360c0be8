"""What a chat survives: kill -9 at any moment, a full disk, and a home that is not writable."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from llmcli.chat.sessions import store as files
from llmcli.chat.sessions.session import Session
from llmcli.errors import DiskError
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and kill -9")

KILLS, PER_SESSION = 100, 10
MOST, LONGEST = 40, 0.002  # acknowledgements and seconds before a kill
TEXT = "The quick brown fox jumps over the lazy dog. "


def texts(session: Session) -> list[str]:
    return [message.content for message in session.conversation.path()]


def run_children() -> None:
    """In a separate process: for each name on stdin, start a child that chats in that session until it is killed."""
    files.is_open("nobody")  # imports all that a child needs
    for line in sys.stdin:
        child = os.fork()
        if not child:
            acknowledge(f"child {os.getpid()}")
            chat_until_killed(line.strip())
        os.waitpid(child, 0)
        acknowledge("gone")


def acknowledge(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def chat_until_killed(name: str) -> None:
    """Chat with a model that answers at once; what is acknowledged must never be lost."""
    session = Session.load(name) if files.path_of(name).exists() else Session(name)
    turn = len(session.conversation.messages)
    while True:
        turn += 1
        session.set("top_k", turn)
        acknowledge(f"set {turn}")
        session.add("user", f"{turn}?")
        acknowledge(f"said {turn}?")
        session.begin_answer(session.conversation.head, model="fake")
        answer = ""
        for word in TEXT.split() * (200 if turn % 7 == 0 else 1):  # some lines are longer than a page of the disk
            session.add_piece("answer", f"{turn}{word} ")
            answer += f"{turn}{word} "
            acknowledge(f"grown {turn}{word} ")
        session.end_answer(answer, finish_reason="stop")
        acknowledge(f"said {answer}")


def check(name: str, acknowledged: list[str], before: list[str]) -> list[str]:
    """The messages of a session after a kill: those `before`, then all that were acknowledged, and at most one more."""
    said, grown, top_k = list(before), "", 0
    for kind, _, text in (line.removesuffix("\n").partition(" ") for line in acknowledged):
        if kind == "said":
            said, grown = [*said, text], ""
        elif kind == "grown":
            grown += text
        elif kind == "set":
            top_k = int(text)
    session = Session.read(name)
    found = texts(session)
    assert found[: len(said)] == said
    assert len(found) <= len(said) + 1  # the one that was being written
    if grown:
        assert found[len(said)].startswith(grown)
    if len(said) > len(before):
        assert session.overrides["top_k"] in (top_k, top_k + 1)
    assert not files.is_open(name)
    return found


@pytest.mark.slow
def test_a_hundred_kills_lose_nothing_that_was_acknowledged() -> None:
    seed = random.randrange(10**6)
    generator = random.Random(seed)
    print("seed", seed)
    process = subprocess.Popen(
        [sys.executable, "-c", "from tests.cli.test_chat_kills import run_children; run_children()"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    )  # fmt: skip
    assert process.stdin
    assert process.stdout
    messages: list[str] = []
    n_said = 0
    for kill in range(KILLS):
        name = f"talk{kill // PER_SESSION}"
        messages = messages if kill % PER_SESSION else []
        process.stdin.write(f"{name}\n")
        word, child = process.stdout.readline().split()
        assert word == "child"
        acknowledged = [process.stdout.readline() for _ in range(generator.randrange(MOST))]
        time.sleep(generator.uniform(0, LONGEST))
        os.kill(int(child), signal.SIGKILL)
        acknowledged += iter(process.stdout.readline, "gone\n")
        n_said += sum(line.startswith("said") for line in acknowledged)
        if files.path_of(name).exists():
            messages = check(name, acknowledged, messages)
        else:
            assert not any(line.startswith("said") for line in acknowledged)
    process.stdin.close()
    assert process.wait(60) == 0
    process.stdout.close()
    assert n_said > KILLS  # the children did chat
    for name in files.names():
        session = Session.load(name)
        session.add("user", "still here")
        session.close()
        assert texts(Session.read(name))[-1] == "still here"


CHAT = [sys.executable, "-m", "llmcli", "chat", "-c", "512", "-t", "1", "--temp", "0"]


@pytest.mark.usefixtures("with_starter")
def test_a_killed_chat_keeps_every_word_that_it_showed() -> None:
    shown: list[str] = []
    for number in range(1, 4):
        process = subprocess.Popen(
            [*CHAT, "--session", "talk", "--ignore-eos", "-c", "4096", "-n", "3000"],  # not complete before the kill
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin
        assert process.stdout
        process.stdin.write(f"Tell me story {number}.\n".encode())
        process.stdin.flush()
        seen = process.stdout.read(40 * number)
        process.kill()
        rest, errors = process.communicate()
        shown += [f"Tell me story {number}.", (seen + rest).decode("utf-8", "ignore")]
        assert b"Traceback" not in errors
        assert (b"the last answer is not complete" in errors) == (number > 1)
        saved = texts(Session.read("talk"))
        assert len(saved) == len(shown)
        assert all(text.startswith(start) for text, start in zip(saved, shown, strict=True))
        assert not files.is_open("talk")


@pytest.mark.usefixtures("with_starter")
def test_a_chat_on_a_full_disk_answers_and_reports_it_once() -> None:
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 0; exec "$@"', "bash", *CHAT, "-n", "4"],
        input=b"One?\nTwo?\nThree?\n", capture_output=True, timeout=120,
    )  # fmt: skip
    errors = done.stderr.decode()
    assert done.returncode == 6
    assert errors.count("error: ") == 1
    assert errors.count("the chat continues, but it is not saved") == 1
    assert "Traceback" not in errors
    assert len(done.stdout.splitlines()) >= 3
    assert files.names() == []


def turn(session: Session, number: int) -> None:
    session.add("user", f"question {number}")
    session.begin_answer(session.conversation.head)
    session.add_piece("answer", "a")
    session.end_answer(f"answer {number}")


class Disk:
    """A disk that can be full, and that counts the calls of fsync."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full, self.synced, self._write = True, 0, os.write
        monkeypatch.setattr(os, "write", self.write)
        monkeypatch.setattr(os, "fsync", self.fsync)

    def write(self, descriptor: int, data: bytes) -> int:
        if self.full and not os.isatty(descriptor):
            raise OSError(28, "No space left on device")
        return self._write(descriptor, data)

    def fsync(self, _descriptor: int) -> None:
        self.synced += 1


@pytest.mark.parametrize("before", [0, 1])
def test_all_is_written_as_soon_as_a_full_disk_has_room(before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session("talk")
    if before:
        session.add("user", "question 0")
    disk = Disk(monkeypatch)
    session.set("top_k", 5)
    with pytest.raises(DiskError, match="No space left") as caught:
        turn(session, before + 1)
    assert "the chat continues" in caught.value.hint
    turn(session, before + 2)
    session.conversation.undo(1)
    session.conversation.redo()
    assert len(texts(session)) == before + 4
    disk.full = False
    turn(session, before + 3)
    expected = texts(session)
    session.close()
    again = Session.load("talk")
    assert texts(again) == expected
    assert (again.overrides, again.notes) == ({"top_k": 5}, [])
    disk.full = True
    with pytest.raises(DiskError):  # the second full disk is reported again
        turn(again, 9)
    disk.full = False
    again.close()  # tries to write once more
    assert texts(Session.read("talk"))[-1] == "answer 9"


@contextmanager
def end_answer_at_exit(session: Session) -> Iterator[None]:
    try:
        yield
    finally:
        session.end_answer("part")


def test_a_full_disk_does_not_hide_why_an_answer_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session("talk")
    Disk(monkeypatch)
    session.add("user", "hi")
    session.begin_answer(1)
    with suppress(KeyboardInterrupt), end_answer_at_exit(session):
        raise KeyboardInterrupt
    with pytest.raises(DiskError):
        turn(session, 2)
    session.close()
    assert list(files.folder().glob("*.jsonl")) == []


def test_a_home_that_is_not_writable_does_not_end_the_chat(home: Path) -> None:
    home.parent.mkdir(exist_ok=True)
    home.write_text("a file where the folder should be")
    session = Session()
    with pytest.raises(DiskError, match="cannot create"):
        turn(session, 1)
    turn(session, 2)
    assert len(texts(session)) == 4
    home.unlink()
    turn(session, 3)
    session.close()
    assert len(texts(Session.read(session.name))) == 6


def test_a_turn_costs_two_calls_of_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    disk.full = False
    session = Session("talk")
    session.add("user", "hi")
    session.begin_answer(1)
    for _ in range(100):
        session.add_piece("answer", "x")
    assert disk.synced == 1
    session.end_answer("x" * 100)
    session.set("top_k", 3)
    session.conversation.undo(1)
    assert disk.synced == 2
    session.close()
