"""`llmcli trace`: a trace as a table, a heatmap, JSON and a plot."""

import io
import json
import math
from pathlib import Path

import pytest

from llmcli.cli import trace
from llmcli.engine.events import Alternative, TokenTrace
from llmcli.errors import DiskError, UsageError
from llmcli.inference.trace_file import TraceWriter, from_data
from llmcli.ui.charts.trace_table import print_trace, summary, summary_line
from tests.conftest import Run

TOP = (Alternative(1, " Paris", 0.5, 0.8), Alternative(2, " Rome", 0.125, 0.0))
TOKENS = [
    TokenTrace(0, None, "Sure", None, None, None, None, None, (), "", 0, 0.0),
    TokenTrace(1, 5, " Paris", 0.8, 1, 0.5, 0.7, 2, TOP, "0.3..1.3", 0, 8.0),
    TokenTrace(2, 6, ".\n\n", 0.2, 2, 1.5, 0.9, 7, (), "0.3..1.3", 1, 16.0),
]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def written(path: Path, tokens: list[TokenTrace]) -> str:
    writer = TraceWriter(path)
    for token in tokens:
        writer.write(token)
    writer.close()
    return str(path)


@pytest.fixture
def file(tmp_path: Path) -> str:
    return written(tmp_path / "answer.jsonl", TOKENS)


def on_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> Terminal:
    """From here on stdout is a terminal of this width, without color."""
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    return stream


def test_a_trace_of_generate_can_be_shown_and_plotted(run: Run, file: str) -> None:
    """Once as a user runs it; what follows calls the commands themselves."""
    shown = run("trace", "show", "-", "--heat", "p", stdin=Path(file).read_bytes()[:-9], env={"FORCE_COLOR": "1"})
    assert (shown.status, shown.text.split("\n")[:2]) == (0, ["Sure Paris", "     ▇····"])
    assert "stdin, line 3: skipped, the line is incomplete" in shown.stderr
    assert b"\x1b" not in shown.stdout
    wrong = run("trace", "plot", file, "-o", file)
    assert (wrong.status, wrong.stdout) == (2, b"")
    assert wrong.stderr.endswith(
        "answer.jsonl already exists\n  hint: choose another name, or replace it with --force\n"
    )


def test_a_table_has_a_row_for_each_token_and_its_alternatives(file: str, capfd: pytest.CaptureFixture[str]) -> None:
    trace.show_trace(file)
    assert capfd.readouterr().out.splitlines() == [
        "#  TEXT         P  RANK  TEMP  ENTROPY  CANDIDATES  SENTENCE  POLICY",
        "0  Sure                                                    0",
        "1  ␣Paris  0.8000     1  0.70     0.50           2         0  0.3..1.3",
        "  ␣Paris 0.500→0.800, ␣Rome 0.125→out",
        "2  .↵↵     0.2000     2  0.90     1.50           7         1  0.3..1.3",
        "",
        "2 tokens, mean temperature 0.80, mean probability 0.50, mean entropy 1.00 nats, perplexity 2.50",
    ]


def test_a_narrow_terminal_keeps_the_main_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    long = TokenTrace(12345, 7, "x" * 99, 0.5, 1, 1.0, 0.7, 9, TOP * 2, "a policy", 0, 9.0)
    terminal = on_terminal(monkeypatch, 40)
    print_trace([long])
    assert terminal.getvalue().splitlines() == [
        "    #  TEXT             P  TEMP  ENTROPY",
        "12345  xxxxxxxxx…  0.5000  0.70     1.00",
        "  ␣Paris 0.500→0.800, ␣Rome 0.125→out,",
        "  ␣Paris 0.500→0.800, ␣Rome 0.125→out",
        "",
        "1 token, mean temperature 0.70, mean",
        "probability 0.50, mean entropy 1.00",
        "nats, perplexity 2.00",
    ]


def test_a_table_marks_reasoning_and_escapes_controls(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch, 100)
    print_trace(
        [TokenTrace(0, 1, "", 0.5, 1, 1.0, 0.7, 9, (), "1", 0, 0.0, reasoning="\x1b[2Jhm\u202e", thinking=True)]
    )
    row = terminal.getvalue().splitlines()[1]
    assert "␛[2Jhm" in row
    assert row.endswith("1 (thinking)")
    assert "\x1b" not in terminal.getvalue()


def test_a_policy_of_a_trace_cannot_drive_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    alternatives = (Alternative(1, "\x1b[2J", 0.5, 0.5),)
    print_trace([TokenTrace(0, 1, "\x9b31m", 0.5, 1, 1.0, 0.7, 9, alternatives, "\x1b]0;x\x07", 0, 0.0)])
    table = capfd.readouterr().out
    assert "␛]0;x␇" in table
    assert not set(table) & {"\x1b", "\x07", "\x9b"}


def test_the_perplexity_uses_the_sampled_distribution() -> None:
    facts = summary(TOKENS)
    assert facts["perplexity"] == pytest.approx(1 / math.sqrt(0.8 * 0.2))
    even = [TokenTrace(0, 1, "a", 0.25, 1, 1.0, 1.0, 4, (), "1", 0, 0.0)] * 3
    assert summary(even)["perplexity"] == pytest.approx(4)


def test_a_trace_without_values_has_a_summary() -> None:
    assert summary_line(TOKENS[:1]) == "0 tokens"
    impossible = TokenTrace(0, 1, "a", 0.0, 1, None, None, 4, (), "1", 0, 0.0)
    assert math.isfinite(summary([impossible])["perplexity"] or math.inf)


def test_json_has_the_summary_and_every_token(file: str, capfd: pytest.CaptureFixture[str]) -> None:
    trace.show_trace(file, as_json=True)
    data = json.loads(capfd.readouterr().out)
    assert [from_data(one) for one in data["tokens"]] == TOKENS
    assert list(data["summary"]) == ["tokens", "mean_temperature", "mean_p", "mean_entropy", "perplexity"]
    assert data["summary"]["tokens"] == 2
    with pytest.raises(UsageError, match="cannot be used together"):
        trace.show_trace(file, "p", as_json=True)


def test_a_plot_is_written_once_and_replaced_on_demand(
    file: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "out.svg"
    trace.plot_trace(file, str(picture))
    drawn = picture.read_text(encoding="utf-8")
    assert drawn.startswith("<svg")
    assert "<title>answer.jsonl</title>" in drawn
    trace.plot_trace(file, "-")
    assert capfd.readouterr().out == drawn
    picture.write_text("mine")
    with pytest.raises(UsageError, match="already exists"):
        trace.plot_trace(file, str(picture))
    assert picture.read_text() == "mine"
    trace.plot_trace(file, str(picture), force=True)
    assert picture.read_text(encoding="utf-8") == drawn
    with pytest.raises(DiskError, match="cannot write"):
        trace.plot_trace(file, str(tmp_path / "no folder" / "out.svg"))


def test_a_plot_is_refused_under_a_suffix_that_is_not_svg(file: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown format of a plot: 'out.png'"):
        trace.plot_trace(file, str(tmp_path / "out.png"))
    assert not (tmp_path / "out.png").exists()
    for name in ("OUT.SVG", "out"):
        trace.plot_trace(file, str(tmp_path / name))
        assert (tmp_path / name).exists()


def test_input_that_is_not_a_trace_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="contains no tokens"):
        trace.show_trace(written(tmp_path / "empty.jsonl", []))
    with pytest.raises(DiskError, match="file not found"):
        trace.show_trace(str(tmp_path / "none.jsonl"))
    for stdin in (None, Terminal()):
        monkeypatch.setattr("sys.stdin", stdin)
        with pytest.raises(UsageError, match="stdin is empty"):
            trace.show_trace("-")
