"""Progress: a bar and a passing line for people, plain lines or nothing elsewhere, silence when asked for."""

import io
import itertools

import pytest

from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.progress import BatchProgress, Downloads, ProgressLine
from tests.ui.markdown import emulator


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """From here on stderr is a terminal (a fixture would come before pytest's own capture)."""
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    return stream


def test_a_download_in_a_pipe_prints_a_line_every_5_seconds(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 101.0, 104.9, 105.1])
    monkeypatch.setattr("llmcli.ui.terminal.progress.monotonic", lambda: next(clock))
    with Downloads() as downloads:
        bar = downloads.bar("fetching")
        for done in (0, 10, 20, 30):
            bar(done * 10**6, 40 * 10**6)
    assert capfd.readouterr().err.splitlines() == [
        "fetching: 0 of 40 MB",
        "fetching: 30 of 40 MB, 5.9 MB/s, 0:00:02 left",
    ]


def test_a_download_on_a_terminal_is_a_bar_with_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    with Downloads() as downloads:
        bar = downloads.bar("fetching")
        bar(0, 1 << 20)
        bar(1 << 20, 1 << 20)
    assert "fetching" in terminal.getvalue()
    assert "MB" in terminal.getvalue()


@pytest.mark.parametrize("columns", [80, 40, 20])
def test_bars_of_several_files_fit_every_window(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = on_terminal(monkeypatch)
    clock = itertools.count(100.0, 0.01)
    monkeypatch.setattr("llmcli.ui.terminal.progress.monotonic", lambda: next(clock))
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_, **__: (columns, 5))
    names = [f"model-of-a-long-name-0000{number}-of-00008.gguf" for number in range(8)]
    with Downloads() as downloads:
        bars = [downloads.bar(name) for name in names]
        for done in range(101):
            for bar in bars:
                bar(done << 20, 100 << 20)
            if done == 50:
                downloads.say("half of it")
    terminal = emulator.Terminal(columns, 5)
    terminal.write(stream.getvalue())
    assert terminal.lines()[0] == "half of it"
    assert [line[:5] for line in terminal.lines()[1:]] == ["model"] * 8
    assert all("100%" in line and len(line) < columns for line in terminal.lines()[1:])


def test_quiet_silences_a_download(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "quiet", True)
    with Downloads() as downloads:
        bar = downloads.bar("fetching")
        bar(0, 1)
    assert capfd.readouterr().err == ""


def test_the_line_of_long_work_is_erased_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, clock = on_terminal(monkeypatch), Clock()
    monkeypatch.setattr("llmcli.ui.terminal.progress.monotonic", clock)
    status = ProgressLine()
    clock.now = 0.2
    status.loading(0.1)
    assert terminal.getvalue() == ""  # short work is not worth a word
    clock.now = 0.4
    status.reading(40, 100)
    assert terminal.getvalue() == "\r\x1b[Kreading the prompt 40%"
    status.clear()
    assert terminal.getvalue().endswith("\r\x1b[K")
    length = len(terminal.getvalue())
    status.clear()
    assert len(terminal.getvalue()) == length


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_a_pipe_or_a_dumb_terminal_gets_no_progress_line(
    term: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", term)
    stream = Terminal() if term == "dumb" else io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    status = ProgressLine()
    status._next = 0.0
    status.loading(0.5)
    status.clear()
    assert stream.getvalue() == ""


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_batch_in_a_pipe_prints_a_line_every_ten_seconds(capfd: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    progress = BatchProgress(100, clock)
    for second in range(1, 31):
        clock.now = float(second)
        progress.update(second, 0, second // 20, 50 * second)
    progress.clear()
    assert capfd.readouterr().err.splitlines() == [
        "10 of 100 lines, 50 tokens/s, 0:01:30 left",
        "20 of 100 lines, 50 tokens/s, 0:01:20 left, 1 failed",
        "30 of 100 lines, 50 tokens/s, 0:01:10 left, 1 failed",
    ]


def test_decisions_have_lines_a_second(capfd: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    progress = BatchProgress(100, clock)
    clock.now = 20.0
    progress.update(32, 2, 0, 0)
    assert capfd.readouterr().err == "32 of 100 lines, 1.5 lines/s, 0:00:45 left\n"


def test_a_quiet_batch_prints_no_progress(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "quiet", True)
    clock = Clock()
    progress = BatchProgress(100, clock)
    clock.now = 60.0
    progress.update(5, 0, 0, 5)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("total", "columns", "text"),
    [
        (None, 80, "12 lines, 5 tokens/s, 2 failed"),
        (40, 80, "12 of 40 lines, 5 tokens/s, 0:00:28 left, 2 failed"),
        (40, 45, "12 of 40 lines, 5 tokens/s, 0:00:28 left"),
        (40, 30, "12 of 40 lines, 5 tokens/s"),
        (40, 10, "12 of 40 "),
        (10, 80, "12 lines, 5 tokens/s, 2 failed"),  # the count was too low
    ],
)
def test_the_line_of_a_batch_fits_the_window(
    monkeypatch: pytest.MonkeyPatch, total: int | None, columns: int, text: str
) -> None:
    """Lines of an earlier run do not count for the time that is left."""
    terminal, clock = on_terminal(monkeypatch), Clock()
    monkeypatch.setattr("llmcli.ui.terminal.progress.shutil.get_terminal_size", lambda: Size(columns))
    progress = BatchProgress(total, clock)
    clock.now = 10.0
    progress.update(12, 2, 2, 50)
    progress.update(13, 2, 2, 50)  # too soon
    assert terminal.getvalue() == f"\r\x1b[K{text}"
    progress.clear()
    assert terminal.getvalue().endswith("\r\x1b[K")


class Size:
    """What the system says of a window."""

    def __init__(self, columns: int) -> None:
        self.columns, self.lines = columns, 5
