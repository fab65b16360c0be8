"""The lines of an input: formats told apart, blank lines and line breaks, encodings, and what is not valid."""

import io
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from llmcli.engine.events import Cancellation
from llmcli.errors import DiskError, UsageError
from llmcli.pipelines import batch_input
from llmcli.pipelines.batch_input import BatchLine, BatchReader, Format, IdTable, LineSource, count_lines
from tests.waiting import wait_until

OPENAI = b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {}}\n'


def read(data: bytes, name: str = "in", encoding: str = "utf-8", form: Format | None = None) -> list[BatchLine]:
    return list(BatchReader(io.BytesIO(data), name, encoding, form))


def values(lines: Sequence[BatchLine]) -> list[tuple[int, dict[str, object]]]:
    assert [str(line.error) for line in lines if line.error] == []
    return [(line.number, dict(line.values)) for line in lines]


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("in.jsonl", b'{"prompt": "a"}\n', "jsonl"),
        ("in.ndjson", b'{"prompt": "a"}\n', "jsonl"),
        ("in.JSONL", b"\n{bad\n", "jsonl"),
        ("stdin", b' {"prompt": "a"}\n', "jsonl"),
        ("stdin", OPENAI, "openai"),
        ("in.jsonl", OPENAI, "openai"),
        ("in.csv", b"input\na\n", "csv"),
        ("in.tsv", b"input\na\n", "csv"),
        ("in.txt", b"a prompt\n", "text"),
        ("stdin", b"input,other\n", "text"),
        ("stdin", b"{word} is what?\n", "text"),
        ("stdin", b"[1, 2] is a list\n", "text"),
    ],
)
def test_formats_are_told_apart_by_name_and_content(name: str, data: bytes, expected: str) -> None:
    reader = BatchReader(io.BytesIO(data), name)
    assert len(list(reader)) + (expected == "csv") == 1 + (name.endswith((".csv", ".tsv")))
    assert reader.format == expected


def test_a_given_format_counts_more_than_the_name() -> None:
    assert values(read(b"a;b\n1;2\n", "in.txt", form="csv")) == [(2, {"a": "1", "b": "2"})]
    assert values(read(b'{"a": 1}\n', "in.jsonl", form="text")) == [(1, {"input": '{"a": 1}'})]


def test_blank_lines_are_skipped_and_counted() -> None:
    assert values(read(b"\na\r\n  \n\nb")) == [(2, {"input": "a"}), (5, {"input": "b"})]
    assert values(read(b'\n{"prompt": "a"}\n\n{"prompt": "b"}', "x.jsonl")) == [
        (2, {"prompt": "a"}),
        (4, {"prompt": "b"}),
    ]
    assert read(b"\n \n") == read(b"") == []


def test_an_id_is_a_text_or_an_integer() -> None:
    lines = read(b'{"id": "a"}\n{"id": 5}\n{}\n{"id": 1.5}\n{"id": ""}\n{"id": true}\n{"id": null}\n', "in.jsonl")
    assert [line.id for line in lines] == ["a", 5, 3, 4, 5, 6, 7]
    assert [bool(line.error) for line in lines] == [False] * 3 + [True] * 4
    assert str(lines[3].error) == "id must be an integer, or a string that is not empty"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{bad}", "the line is not valid JSON: object keys must be strings (byte 1)"),
        (b'{"a": NaN}', "the line is not valid JSON: invalid character (byte 6)"),
        (b'{"a": 1', "the line is not valid JSON: Input data was truncated"),
        (b'"text"', "the line is not a JSON object"),
        (b'{"a": "\xff"}', "the line is not UTF-8 (at byte 8)"),
        (b"[" * 200_000, "the line is not valid JSON: too deep"),
    ],
)
def test_a_bad_line_of_json_is_an_error_of_that_line(line: bytes, message: str) -> None:
    first, bad, last = read(b'{"prompt": "a"}\n' + line + b'\n{"prompt": "b"}\n', "in.jsonl")
    assert str(bad.error) == message
    assert (first.error, last.error, bad.number) == (None, None, 2)


def test_a_json_array_is_refused_with_a_way_out() -> None:
    with pytest.raises(UsageError, match=r"in\.json is one JSON array") as caught:
        read(b'[{"prompt": "a"},\n{"prompt": "b"}]', "in.json")
    assert "jq -c '.[]' in.json" in caught.value.hint


def test_a_line_that_is_too_long_is_an_error_of_that_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_input, "_MAX_LINE", 10)
    lines = read(b"short\n" + b"x" * 55 + b"\n0123456789\nend")
    assert [str(line.error or line.values["input"]) for line in lines] == [
        *("short", "the line is longer than 0 MiB", "0123456789", "end"),
    ]
    assert [line.number for line in lines] == [1, 2, 3, 4]


# CSV


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_csv_file_has_any_usual_delimiter(delimiter: str) -> None:
    data = delimiter.join(["id", "input"]) + "\n" + delimiter.join(["a", "b"]) + "\n"
    (line,) = read(data.encode(), "in.csv")
    assert (line.id, line.number, line.values) == ("a", 2, {"id": "a", "input": "b"})


def test_csv_has_quotes_line_breaks_and_a_mark() -> None:
    data = b'\xef\xbb\xbf"word, the";input\r\n"a ""b""";"two\r\nlines; quoted"\r\n\r\nc;d\r\n'
    assert values(read(data, "in.csv")) == [
        (2, {"word, the": 'a "b"', "input": "two\r\nlines; quoted"}),
        (5, {"word, the": "c", "input": "d"}),
    ]


def test_a_single_column_needs_no_delimiter() -> None:
    assert values(read(b"text\nhello\nworld\n", "in.csv")) == [(2, {"text": "hello"}), (3, {"text": "world"})]


def test_a_bad_row_is_an_error_of_that_row() -> None:
    lines = read(b'input,b\n1,2\n1,2,3\n"a"b,2\n3\n\xff,2\na\rb,2\n4,5\n', "in.csv")
    assert [str(line.error) for line in lines] == [
        "None",
        "the row has 3 cells, and the header has 2",
        "the row is not valid CSV: ',' expected after '\"'",
        "the row has 1 cells, and the header has 2",
        "the row is not UTF-8",
        "the row is not valid CSV: new-line character seen in unquoted field",
        "None",
    ]
    assert [line.number for line in lines] == [2, 3, 4, 5, 6, 7, 8]


def test_an_id_that_is_not_valid_text_names_no_row() -> None:
    """The output could not have it as it is, and a resumed batch would not find it again."""
    lines = read(b"input,id\na,\xff\nb,\xff,c\n", "in.csv")
    assert [(str(line.error), line.id) for line in lines] == [("the row is not UTF-8", 2), ("the row is not UTF-8", 3)]


def test_two_columns_with_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="two columns with the name 'a'"):
        read(b"a,b,a\n1,2,3\n", "in.csv")


def test_a_column_without_a_name_is_left_out() -> None:
    assert values(read(b"input,,\na,b,c\n", "in.csv")) == [(2, {"input": "a"})]


def test_the_columns_are_checked_before_the_first_row() -> None:
    def refuse(columns: Sequence[str]) -> None:
        raise UsageError(f"not {', '.join(columns)}")

    with pytest.raises(UsageError, match="not a, b"):
        list(BatchReader(io.BytesIO(b" a ,b,\n1,2,3\n"), "in.csv", check_columns=refuse))


# Encodings


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_names_the_encoding(encoding: str) -> None:
    assert values(read("größe\nein Wort\n".encode(encoding))) == [(1, {"input": "größe"}), (2, {"input": "ein Wort"})]


def test_another_encoding_is_read_when_it_is_given() -> None:
    assert values(read("é\n".encode("latin-1"), encoding="latin-1")) == [(1, {"input": "é"})]
    lines = read(b"a\0\0\xd8b\0\n\0c\0\n\0", encoding="utf-16-le")
    assert str(lines[0].error).startswith("the line is not UTF-16-LE")
    assert lines[1].values == {"input": "c"}


@pytest.mark.parametrize(("data", "name"), [(b"GG\0\0", "in"), (b"text\nGG\0\0", "in"), (b"i\0n\0", "in.csv")])
def test_a_binary_file_is_refused(data: bytes, name: str) -> None:
    with pytest.raises(DiskError, match=f"{name} is not a text file"):
        read(data, name)


def test_a_nul_character_spoils_its_line_of_json_only() -> None:
    first, bad, last = read(b'{"prompt": "a"}\n{"prompt": "\0"}\n{"prompt": "b"}\n', "in.jsonl")
    assert str(bad.error) == "the line is not valid JSON: invalid character (byte 12)"
    assert (first.error, last.error) == (None, None)
    assert values(read(b"input\na\nb\0\n", "in.csv")) == [(2, {"input": "a"}), (3, {"input": "b\0"})]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "u16"])
def test_wide_encodings_need_no_mark(encoding: str) -> None:
    data = "ä\nb\n".encode("utf-32-le" if "32" in encoding else "utf-16-le")
    assert values(read(data, encoding=encoding)) == [(1, {"input": "ä"}), (2, {"input": "b"})]


# Sources


class Slow:
    """Lines that come when they are let through."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.gate = threading.Semaphore(0)
        self._fault = fault

    def __iter__(self) -> Iterator[BatchLine]:
        for number in (1, 2):
            self.gate.acquire()
            yield BatchLine(number)
        if self._fault:
            raise self._fault


def take_soon(source: LineSource) -> BatchLine:
    lines: list[BatchLine] = []

    def has_come() -> bool:
        lines.extend(filter(None, [source.take(False)]))
        return bool(lines)

    wait_until(has_come)
    return lines[0]


def test_a_slow_input_is_not_waited_for_while_answers_run() -> None:
    lines = Slow()
    source = LineSource(lines, True, Cancellation())
    assert source.take(False) is None
    lines.gate.release()
    assert take_soon(source) == BatchLine(1)
    assert source.take(False) is None
    threading.Timer(0.05, lines.gate.release).start()
    assert source.take(True) == BatchLine(2)
    assert source.take(True) is None
    assert source.take(True) is None


def test_a_wait_for_input_ends_with_a_cancellation() -> None:
    cancellation = Cancellation()
    source = LineSource(Slow(), True, cancellation)
    threading.Timer(0.05, cancellation.set).start()
    assert source.take(True) is None


def test_a_fault_of_a_slow_input_is_raised_where_it_is_read() -> None:
    lines = Slow(UsageError("a fault"))
    source = LineSource(lines, True, Cancellation())
    lines.gate.release(2)
    assert [source.take(True), source.take(True)] == [BatchLine(1), BatchLine(2)]
    with pytest.raises(UsageError, match="a fault"):
        source.take(True)


def test_a_slow_input_is_read_ahead_only_a_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_input, "_AHEAD", 3)
    count = 0

    def lines() -> Iterator[BatchLine]:
        nonlocal count
        for number in range(1, 50):
            count = number
            yield BatchLine(number)

    source = LineSource(lines(), True, Cancellation())
    wait_until(lambda: count >= 4)
    time.sleep(0.05)  # it would go on
    assert count == 4  # three in the queue, and one that waits for a place
    assert [line.number for line in iter(lambda: source.take(True), None)] == [*range(1, 50)]


def test_a_pipe_is_read_as_its_lines_arrive() -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as file, os.fdopen(write_end, "wb", buffering=0) as writer:
        source = LineSource(BatchReader(file, "stdin"), True, Cancellation())
        writer.write(b"one\ntw")
        assert source.take(True) == BatchLine(1, {"input": "one"})
        assert source.take(False) is None
        writer.write(b"o\n")
        assert source.take(True) == BatchLine(2, {"input": "two"})
        writer.close()
        assert source.take(True) is None


# Ids and counts


def test_an_id_is_found_again_with_its_line() -> None:
    table = IdTable()
    for number in range(1, 5000):
        assert table.add(f"id {number}", number) is None
        assert table.add(number, number + 5000) is None  # a number is not its text
    assert table.add("4000", 9) is None
    assert table.add("id 4000", 10**6) == 4000
    assert table.add(4999, 10**6) == 9999
    assert table.add("of a line without end", 2**40) is None


def test_lines_are_counted_as_they_are_read(tmp_path: Path) -> None:
    text, rows = tmp_path / "a.txt", tmp_path / "a.csv"
    text.write_bytes(b"a\n\n \nb")
    rows.write_bytes(b'a,b\n1,"x\ny"\n\n2,3\n')
    assert count_lines(str(text)) == 2
    assert count_lines(str(rows)) == 2
    assert count_lines(str(text), most=3) is None
    assert count_lines(str(tmp_path / "missing")) is None
