"""The input history: private, shared by several chats, and harmless when its file is broken."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from llmcli.files import replace_private
from llmcli.ui.input import reader
from llmcli.ui.input.reader import MAX_ENTRY, PrivateHistory


def entries(path: Path) -> list[str]:
    return list(PrivateHistory(path).load_history_strings())


def written(path: Path) -> list[str]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def test_the_next_chat_has_the_entries_newest_first(tmp_path: Path) -> None:
    path = tmp_path / "data" / "history.jsonl"
    first = PrivateHistory(path)
    for text in ("one", "two\nlines", 'naïve "🙂"'):
        first.append_string(text)
    assert entries(path) == ['naïve "🙂"', "two\nlines", "one"]
    assert first.get_strings() == entries(path)[::-1]
    assert "naïve" in path.read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other permissions")
def test_file_and_folder_are_private_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "data" / "history.jsonl"
    old = os.umask(0)
    try:
        PrivateHistory(path).append_string("secret")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_an_entry_repeated_at_once_is_kept_once(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    for text in ("one", "one", "two", "one"):
        PrivateHistory(path).append_string(text)  # each in a chat of its own
    assert written(path) == ["one", "two", "one"]


def test_long_entries_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    kept = PrivateHistory(path)
    kept.append_string("ü" * (MAX_ENTRY // 2))
    kept.append_string("ü" * (MAX_ENTRY // 2) + "x")
    assert [len(text) for text in entries(path)] == [MAX_ENTRY // 2]
    assert len(kept.get_strings()) == 1


def test_damaged_and_foreign_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    deep = b"[" * 100_000
    path.write_bytes(b'"one"\n{"a": 1}\n17\nplain text\n\xff\xfe\n\n' + deep + b'\n""\n"two"\n"cut in the mid')
    assert entries(path) == ["two", "one"]
    PrivateHistory(path).append_string("three")
    assert entries(path) == ["three", "two", "one"]


def test_an_unusable_file_is_an_empty_history(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "file" / "history.jsonl"):
        kept = PrivateHistory(path)
        kept.append_string("one")
        assert kept.get_strings() == ["one"]  # for this chat
        assert entries(path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs a named pipe")
def test_a_named_pipe_does_not_block_the_chat(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    PrivateHistory(tmp_path / "pipe").append_string("one")
    assert entries(tmp_path / "pipe") == []


def test_a_long_file_is_trimmed_to_the_newest_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "KEPT_ENTRIES", 10)
    path = tmp_path / "history.jsonl"
    path.write_text("".join(f'"{number}"\n' for number in range(19)))
    assert entries(path) == [str(number) for number in range(18, 8, -1)]
    assert len(written(path)) == 19
    PrivateHistory(path).append_string("19")
    assert entries(path)[0] == "19"
    assert written(path) == [str(number) for number in range(10, 20)]
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_trimming_keeps_what_another_chat_adds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text("".join(f'"{number}"\n' for number in range(20)))

    def slow_replace(path: Path, data: bytes) -> None:
        PrivateHistory(path).store_string("late")
        replace_private(path, data)

    monkeypatch.setattr(reader, "KEPT_ENTRIES", 10)
    monkeypatch.setattr("llmcli.ui.input.reader.replace_private", slow_replace)
    entries(path)
    assert written(path) == [*(str(number) for number in range(10, 20)), "late"]


@pytest.mark.slow
def test_two_chats_at_once_never_tear_a_line(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    code = (
        "import sys; from pathlib import Path; from llmcli.ui.input.reader import PrivateHistory as H\n"
        "h = H(Path(sys.argv[1]))\n"
        "for n in range(300): h.append_string(f'{sys.argv[2]} {n} ' + sys.argv[2] * 5000)"
    )
    chats = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "ab"]
    assert [chat.wait(60) for chat in chats] == [0, 0]
    found = written(path)  # every line is whole
    for name in "ab":
        mine = [text for text in found if text[0] == name]
        assert mine == [f"{name} {number} {name * 5000}" for number in range(300)]


def test_a_long_entry_is_shown_folded_and_kept_whole(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    kept = PrivateHistory(path, lambda text: text[:3])
    kept.append_string("abcdef")
    kept.append_string("abcdef")
    assert kept.get_strings() == ["abc"]
    assert written(path) == ["abcdef"]
