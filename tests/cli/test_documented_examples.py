"""The examples of the pages about structured output, decisions, scores, tasks and batches, run as they stand."""

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
TASKS = examples_of("tasks.md")
_ELSEWHERE = re.compile("--endpoint|--ray")  # run by tests with servers, and by those with Ray
BATCHES = [call for call, file in examples_of("batches.md") if not file and not _ELSEWHERE.search(call)]


@pytest.mark.model
@pytest.mark.parametrize("example", [call for call, _ in STRUCTURED])
@pytest.mark.usefixtures("with_tiny")
def test_a_documented_example_succeeds_or_says_why(inside: Run, example: str) -> None:
    ran = inside(*shlex.split(example), "--seed", "1", "-t", "1")
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


@pytest.mark.slow
@pytest.mark.parametrize("example", [call for call, _ in TASKS])
@pytest.mark.usefixtures("with_tiny")
def test_an_example_with_a_task_succeeds_or_says_why(
    inside: Run, example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("The library opens at nine.\nOn Sundays it is closed.\n")
    (tmp_path / "people.csv").write_text("id,name\n1,Ada\n2,Alan\n")
    asks = example.startswith(("generate", "tasks test"))
    ran = inside(*shlex.split(example), *(("--seed", "1", "-t", "1", "-n", "40", "-q") if asks else ()))
    assert ran.text.strip() or ran.status == 9
    if example.startswith("tasks test"):  # the tiny model talks noise
        assert ran.status in (0, 1), ran.stderr
    elif ran.status:
        assert re.match(r"error: the answer ended before it matched", ran.stderr)


@pytest.mark.parametrize("example", BATCHES)
@pytest.mark.usefixtures("with_tiny")
def test_a_documented_batch_answers_its_lines(
    inside: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, example: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("prompts.txt", "reviews.txt"):
        (tmp_path / name).write_text("One.\nTwo.\n")
    (tmp_path / "words.csv").write_text("word\ncat\ndog\n")
    (tmp_path / "tickets.csv").write_text("subject,comment\nHelp,It is slow.\nHi,I like it.\n")
    for name in ("prompts.jsonl", "reviews.jsonl"):
        key = "input" if "-T" in example else "prompt"
        (tmp_path / name).write_text(json.dumps({key: "One."}) + "\n" + json.dumps({key: "Two."}) + "\n")
    words = shlex.split(example, comments=True)
    ran = inside(*words, "-t", "1", "-n", "8", "-q")
    assert ran.status in ((0, 10) if "-T" in words else (0,)), ran.stderr  # 10: the tiny model talks noise
    output = tmp_path / words[words.index("-o") + 1]
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    ids = [2, 3] if words[1].endswith(".csv") else [1, 2]  # the header is line 1
    assert [line["id"] for line in lines] == (ids[:1] if "--shard" in words else ids)


def test_the_pages_have_examples() -> None:
    assert len(BATCHES) > 6
    assert len(STRUCTURED) > 8
    assert len(DECISIONS) > 8
    assert len(TASKS) > 8
