"""Trace files: they are read as they were written, and errors name the file and the line."""

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.engine.events import Alternative, TokenTrace
from llmcli.errors import DiskError, UsageError
from llmcli.inference.trace_file import TraceWriter, from_data, parse_trace, read_trace, to_data

PLAIN = TokenTrace(0, 42, " é日\n", 0.5, 1, 1.25, 0.7, 12, (), "0.3..1.3", 0, 8.5)
KEYS = ["i", "id", "text", "p", "rank", "entropy", "temperature", "candidates", "top", "policy", "sentence", "time"]


def write_trace(path: Path, *tokens: TokenTrace) -> Path:
    writer = TraceWriter(path)
    for token in tokens:
        writer.write(token)
    writer.close()
    return path


def test_a_trace_is_read_as_it_was_written(tmp_path: Path) -> None:
    held = TokenTrace(1, None, "", None, None, None, None, None, (), "", 0, 0.0, reasoning="hm", thinking=True)
    rich = PLAIN._replace(i=2, top=(Alternative(1, " a", 0.5, 0.25), Alternative(2, "\x1b\u2028", 0.25, 0.0)))
    path = write_trace(tmp_path / "a.jsonl", PLAIN, held, rich)
    assert read_trace(path) == [PLAIN, held, rich]


def test_a_line_has_the_documented_keys_and_no_empty_ones(tmp_path: Path) -> None:
    thinking = PLAIN._replace(reasoning="x", thinking=True)
    lines = write_trace(tmp_path / "a.jsonl", PLAIN, thinking).read_text(encoding="utf-8").split("\n")
    assert list(json.loads(lines[0])) == KEYS
    assert list(json.loads(lines[1])) == [*KEYS, "reasoning", "thinking"]
    assert " é日" in lines[0]


def test_numbers_have_six_significant_digits() -> None:
    top = (Alternative(1, "a", 1 / 3, 2 / 3),)
    data = to_data(PLAIN._replace(p=1 / 3, entropy=1e-9 / 3, temperature=2 / 3, time=100 / 3, top=top))
    assert (data["p"], data["entropy"], data["temperature"], data["time"]) == (0.333333, 3.33333e-10, 0.666667, 33.333)
    assert data["top"] == [{"id": 1, "text": "a", "before": 0.333333, "p": 0.666667}]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_a_trace_is_for_its_owner_only(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        assert write_trace(tmp_path / "a.jsonl", PLAIN).stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(old)


def test_a_trace_overwrites_the_file_and_may_close_twice(tmp_path: Path) -> None:
    write_trace(tmp_path / "a.jsonl", *[PLAIN] * 50)
    writer = TraceWriter(tmp_path / "a.jsonl")
    writer.write(PLAIN)
    writer.close()
    writer.close()
    assert read_trace(tmp_path / "a.jsonl") == [PLAIN]


def test_half_a_character_is_written_as_a_mark(tmp_path: Path) -> None:
    assert read_trace(write_trace(tmp_path / "a.jsonl", PLAIN._replace(text="a\ud800")))[0].text == "a\ufffd"


def test_a_path_that_is_not_writable_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path / "no" / "a.jsonl", tmp_path, Path("a\0b")):
        with pytest.raises(DiskError, match="cannot write"):
            TraceWriter(path)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_a_full_disk_is_an_error_at_each_write() -> None:
    writer = TraceWriter(Path("/dev/full"))
    long = PLAIN._replace(text="x" * 10**6)
    for _ in range(2):
        with pytest.raises(DiskError, match="No space left"):
            writer.write(long)
    writer.close()
    writer = TraceWriter(Path("/dev/full"))
    writer.write(PLAIN)  # waits in memory
    with pytest.raises(DiskError, match="No space left"):
        writer.close()
    writer.close()


def test_an_incomplete_last_line_is_skipped_with_a_note(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "a.jsonl", PLAIN, PLAIN)
    whole = path.read_bytes()
    notes: list[str] = []
    path.write_bytes(whole + whole[:30])
    assert read_trace(path, notes) == [PLAIN, PLAIN]
    assert notes == ["a.jsonl, line 3: skipped, the line is incomplete"]
    assert read_trace(path) == [PLAIN, PLAIN]
    path.write_bytes(whole[:-1])  # only its line feed is missing
    assert read_trace(path) == [PLAIN, PLAIN]


def test_an_error_names_the_file_and_the_line(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "a.jsonl", PLAIN, PLAIN)
    first, second, _ = path.read_bytes().split(b"\n")
    path.write_bytes(first + b"\n" + second[:40] + b"\n" + second + b"\n")
    with pytest.raises(UsageError, match=r"a\.jsonl, line 2 is not a token of a trace: not valid JSON"):
        read_trace(path)


@pytest.mark.parametrize("content", [b"GGUF\x03\x00", b"# a text\n", b"\xff\xfe{\n", b"[1]\n", b"7\n", b"[" * 10**5])
def test_a_file_of_another_kind_is_an_error(content: bytes) -> None:
    with pytest.raises(UsageError, match="x, line 1 is not a token of a trace") as caught:
        parse_trace(io.BytesIO(content), "x", [])
    assert "--trace" in caught.value.hint


def test_blank_lines_and_an_empty_file_are_valid(tmp_path: Path) -> None:
    line = json.dumps(to_data(PLAIN)).encode()
    assert parse_trace([b"\n", line, b"  \n"], "x", []) == [PLAIN]
    assert parse_trace([], "x", []) == []


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none.jsonl", "file not found"), (tmp_path, "cannot read")):
        with pytest.raises(DiskError, match=message):
            read_trace(path)


WRONG: list[tuple[str, Any]] = [
    ("i", None), ("i", -1), ("i", 1.0), ("i", True), ("i", 10**12), ("id", "1"), ("text", None), ("text", 1),
    ("text", "x" * (2 << 20)), ("p", "0.5"), ("p", 1.01), ("p", -0.1), ("p", float("nan")), ("p", True),
    ("rank", 1.5), ("entropy", float("inf")), ("entropy", [1]), ("temperature", -1), ("temperature", 10**400),
    ("candidates", -1), ("top", None), ("top", {}), ("top", [1]), ("top", [{"id": 1}]), ("policy", 0.7),
    ("top", [{"id": 1, "text": "", "before": 2, "p": 0}]), ("sentence", None), ("time", None), ("reasoning", 1),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), WRONG, ids=lambda one: repr(one)[:24])
def test_a_value_of_a_wrong_type_or_range_is_refused(key: str, value: Any) -> None:
    named = rf"^{key}(\[0\])? (must be|is not valid)|^top\[0\]\.(text|before) (must be|is missing)"
    with pytest.raises(ValueError, match=named):
        from_data(to_data(PLAIN) | {key: value})


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_required(key: str) -> None:
    data = to_data(PLAIN)
    del data[key]
    with pytest.raises(ValueError, match=f"^{key} is missing$"):
        from_data(data)


def test_a_key_of_a_later_version_is_ignored() -> None:
    assert from_data(to_data(PLAIN) | {"weather": "fine"}) == PLAIN


def test_a_value_beyond_its_range_by_rounding_is_clamped() -> None:
    token = from_data(to_data(PLAIN) | {"p": 1.0000001, "entropy": -1e-9})
    assert (token.p, token.entropy) == (1.0, 0.0)


_JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=3)


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from([*KEYS, "reasoning", "thinking"]), _JSON))
def test_every_line_is_a_token_or_an_error(changes: dict[str, Any]) -> None:
    try:
        token = from_data(to_data(PLAIN) | changes)
    except ValueError:
        return
    assert from_data(to_data(token)).text == token.text
