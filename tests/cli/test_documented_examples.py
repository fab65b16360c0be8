"""The examples of the pages about structured output, decisions and scores, run as they stand."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import Run

DOCS = Path(__file__).parents[2] / "docs"


def examples_of(page: str) -> list[tuple[str, str]]:
    """The calls of llmcli in a page, each with the file that is its stdin."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.findall(r"^\$ (?:cat (\S+) \| )?llmcli (.*)$", text, re.MULTILINE)
    return [(call, file) for file, call in found]


STRUCTURED, DECISIONS = examples_of("structured-output.md"), examples_of("decisions.md")


@pytest.mark.model
@pytest.mark.parametrize("example", [call for call, _ in STRUCTURED])
@pytest.mark.usefixtures("with_tiny")
def test_a_documented_example_succeeds_or_says_why(run: Run, example: str) -> None:
    ran = run(*shlex.split(example), "--seed", "1", "-t", "1")
    assert ran.status in (0, 9), ran.stderr
    if ran.status:
        assert re.match(r"(?:.*\n)?error: the answer (ended before it matched|does not match) ", ran.stderr)
    elif "--json-schema" in example:
        json.loads(ran.text)


@pytest.mark.parametrize(("example", "file"), DECISIONS)
@pytest.mark.usefixtures("with_tiny")
def test_a_documented_decision_or_score_succeeds(
    inside: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, example: str, file: str
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = {name: f"a line of {name}\nan other one\n" for name in ("mail.txt", "book.txt", "sentences.txt")}
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    ran = inside(*shlex.split(example), "-t", "1", stdin=texts.get(file))
    assert (ran.status, ran.stderr) == (0, "")
    assert ran.text.endswith("\n")
    if "--json" in example:
        assert [json.loads(line) for line in ran.text.splitlines()]


def test_the_pages_have_examples() -> None:
    assert len(STRUCTURED) > 8
    assert len(DECISIONS) > 8
