"""The folder of states: found by tokens, limited, shared by processes, and never an error."""

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmcli.errors import DiskError
from llmcli.inference.state_store import StateStore, is_of_session, remove_session, rename_session

ONE, TWO = {"model": "one"}, {"model": "two"}
TOKENS = list(range(300))
DATA = bytearray(100_000)
SIZE = len(DATA) + 8 * len(TOKENS) + 4096
Add = Callable[..., bool]


@pytest.fixture
def store(home: Path) -> StateStore:
    return StateStore(10 * SIZE)


def write(path: Path) -> None:
    path.write_bytes(DATA)


def add(store: StateStore, first: int = 0, seconds: float = 1.0, session: str = "") -> bool:
    tokens = [*TOKENS[:-1], first]
    return store.add(ONE, tokens, [(300, 300, 1)], seconds, len(DATA), write, session)


def firsts(store: StateStore) -> list[int]:
    return sorted(stored.tokens[-1] for stored in store.find(ONE, TOKENS))


def test_a_state_is_found_by_its_beginning_and_its_model(store: StateStore) -> None:
    assert add(store)
    (stored,) = store.find(ONE, [*TOKENS[:100], 9999])
    assert stored.tokens == [*TOKENS[:-1], 0]
    assert [*store.find({**ONE, "name": "an alias"}, TOKENS)] == [stored]
    assert not [*store.find(TWO, TOKENS)]
    assert [*store.find_others(TWO, TOKENS)] == [stored]
    assert not [*store.find_others(ONE, TOKENS)]
    assert not [*store.find(ONE, [7, *TOKENS])]


def test_the_least_valuable_states_are_removed_first(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_limit", 3 * SIZE)
    for number, seconds in ((1, 5.0), (2, 1.0), (3, 4.0)):
        assert add(store, number, seconds)
    assert add(store, 4)
    assert firsts(store) == [1, 3, 4]
    (old,) = [stored for stored in store.find(ONE, TOKENS) if stored.tokens[-1] == 1]
    month = time.time() - 30 * 24 * 3600
    os.utime(old.path, (month, month))
    assert add(store, 5)
    assert firsts(store) == [3, 4, 5]  # 5 s that nobody asked for in a month are less than 1 s of today


def test_a_used_state_counts_as_new(store: StateStore) -> None:
    add(store)
    (stored,) = store.find(ONE, TOKENS)
    os.utime(stored.path, (0, 0))
    store.touch(stored)
    (entry,) = store.entries()
    assert entry.used > time.time() - 60


def test_a_state_larger_than_the_limit_is_not_stored(home: Path) -> None:
    assert not add(StateStore(SIZE - 1))
    assert StateStore().entries() == []


def test_a_tenth_of_the_free_disk_is_the_limit(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type(shutil.disk_usage("."))
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10**9, 0, 9 * SIZE))
    assert not add(store)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10**9, 0, 11 * SIZE))
    assert add(store)
    assert store.capacity() < 2 * SIZE


def test_a_session_has_one_state(store: StateStore) -> None:
    for number in (1, 2):
        add(store, number, session="novel")
    add(store, 3)
    assert firsts(store) == [2, 3]
    rename_session("novel", "story")
    remove_session("novel")
    assert firsts(store) == [2, 3]
    assert [is_of_session(entry.path, "story") for entry in store.entries()].count(True) == 1
    remove_session("story")
    assert firsts(store) == [3]


def test_clear_removes_all_states_and_what_was_left_over(store: StateStore) -> None:
    add(store, 1)
    add(store, 2, session="novel")
    folder = store.entries()[0].path.parent
    (folder / ".a-b-c-d.state.0123").write_bytes(b"x")
    (folder / "notes.txt").write_bytes(b"of somebody else")
    tomorrow = time.time() + 86400  # the clock was set back
    os.utime(folder / ".a-b-c-d.state.0123", (tomorrow, tomorrow))
    assert store.clear() == 2
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_a_full_disk_leaves_nothing_behind(store: StateStore) -> None:
    add(store, 1)

    def full(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        store.add(ONE, [*TOKENS, 2], [(301, 301, 1)], 1.0, len(DATA), full)
    folder = store.entries()[0].path.parent
    assert len([*folder.iterdir()]) == 1
    assert firsts(store) == [1]


@pytest.mark.skipif(os.name != "posix", reason="needs links and pipes")
def test_what_is_not_a_file_is_passed_over(store: StateStore) -> None:
    """A pipe would let the reader wait for ever."""
    add(store, 1)
    (entry,) = store.entries()
    start = entry.path.name.rpartition("-")[0]
    os.mkfifo(entry.path.with_name(f"{start}-1.state"))
    entry.path.with_name(f"{start}-2.state").symlink_to(entry.path)
    entry.path.with_name(f"{start}-3.state").mkdir()
    entry.path.with_name(f"{start}-4.state").symlink_to("nowhere")
    assert firsts(store) == [1]
    assert add(store, 2)
    assert store.entries() != [entry]
    assert store.clear() == 2


def test_a_state_that_is_removed_while_it_is_written_is_not_kept(store: StateStore) -> None:
    def write_and_clear(path: Path) -> None:
        path.write_bytes(DATA)
        store.clear()  # in another process

    with pytest.raises(FileNotFoundError):
        store.add(ONE, TOKENS, [(300, 300, 1)], 1.0, len(DATA), write_and_clear)
    assert add(store)


@pytest.mark.usefixtures("ordinary_user")
def test_a_folder_that_cannot_be_written_is_passed_over(store: StateStore) -> None:
    add(store, 1, session="novel")
    folder = store.entries()[0].path.parent
    folder.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            add(store, 2)
        assert firsts(store) == [1]
        remove_session("another")
        with pytest.raises(DiskError, match="cannot delete 1 stored context in"):
            remove_session("novel")
        with pytest.raises(DiskError, match="cannot delete 1 stored context in"):
            store.clear()
        folder.chmod(0)
        with pytest.raises(DiskError, match="cannot read"):
            store.check()
    finally:
        folder.chmod(0o700)


def test_processes_that_store_the_same_state_do_not_disturb_each_other(store: StateStore) -> None:
    barrier, done = threading.Barrier(4), []

    def run() -> None:
        barrier.wait()
        done.append(all(add(StateStore(10 * SIZE), number) for number in range(5)))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [True] * 4
    assert firsts(store) == list(range(5))
    assert all(stored.is_sound() for stored in store.find(ONE, TOKENS))
