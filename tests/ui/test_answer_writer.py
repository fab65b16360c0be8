"""The answer's writer: exact text, one newline at the end."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import AnswerWriter, stream_answer
from llmcli.ui.terminal.progress import ProgressLine


def written(capfdbinary: pytest.CaptureFixture[bytes], pieces: list[str]) -> bytes:
    writer = AnswerWriter()
    for piece in pieces:
        writer.write(piece)
    writer.end()
    return capfdbinary.readouterr().out


@pytest.mark.parametrize(
    ("pieces", "out"),
    [
        (["a"], b"a\n"),
        (["a\n"], b"a\n"),
        (["a\n", "\n", "\n"], b"a\n"),
        (["a\n", "\n", "b"], b"a\n\nb\n"),
        (["\n\na"], b"\n\na\n"),
        ([], b"\n"),
        (["\x1b[31m\r\n"], b"\x1b[31m\r\n"),
        (["naïve 🙂"], "naïve 🙂\n".encode()),
    ],
)
def test_the_text_is_verbatim_and_ends_in_one_newline(
    capfdbinary: pytest.CaptureFixture[bytes], pieces: list[str], out: bytes
) -> None:
    assert written(capfdbinary, pieces) == out


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.text(st.characters(codec="utf-8"))))
def test_pieces_of_any_size_give_the_same_text(capfdbinary: pytest.CaptureFixture[bytes], pieces: list[str]) -> None:
    text = "".join(pieces)
    assert written(capfdbinary, pieces) == text.rstrip("\n").encode() + b"\n"


def test_reasoning_goes_to_stderr_and_only_when_shown(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    parts = [("think", "hm"), ("answer", "yes")]
    stream_answer(parts, AnswerWriter(), ProgressLine(), live=True, think="show")
    shown = capfdbinary.readouterr()
    assert shown.out == b"yes"
    assert shown.err == b"hm\n\n"
    stream_answer(parts, AnswerWriter(), ProgressLine(), live=True, think="hide")
    assert capfdbinary.readouterr().err == b""


def test_reasoning_that_is_stopped_ends_its_line(capfd: pytest.CaptureFixture[str]) -> None:
    stream_answer([("think", "hm, bu")], AnswerWriter(), ProgressLine(), live=True, think="show")
    console.note("stopped")
    assert capfd.readouterr().err == "hm, bu\nstopped\n"


def test_an_error_in_an_answer_ends_its_line(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    def parts() -> Iterator[tuple[str, str]]:
        yield "answer", "half"
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError):
        stream_answer(parts(), AnswerWriter(), ProgressLine(), live=True, think="show")
    assert capfdbinary.readouterr().out == b"half\n"


def test_a_short_write_is_continued(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:3]))
    AnswerWriter().write("abcdefgh")
    assert capfdbinary.readouterr().out == b"abcdefgh"
