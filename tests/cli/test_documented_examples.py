"""The examples of the pages about structured output and tasks, run as they stand."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import Run

DOCS = Path(__file__).parents[2] / "docs"


def examples_of(page: str) -> list[str]:
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("$ llmcli ") for line in lines if line.startswith("$ llmcli ")]


@pytest.mark.model
@pytest.mark.parametrize("example", examples_of("structured-output.md"))
@pytest.mark.usefixtures("with_tiny")
def test_a_documented_example_succeeds_or_says_why(run: Run, example: str) -> None:
    ran = run(*shlex.split(example), "--seed", "1", "-t", "1")
    assert ran.status in (0, 9), ran.stderr
    if ran.status:
        assert re.match(r"(?:.*\n)?error: the answer (ended before it matched|does not match) ", ran.stderr)
    elif "--json-schema" in example:
        json.loads(ran.text)


@pytest.mark.parametrize("example", examples_of("tasks.md"))
@pytest.mark.usefixtures("with_tiny")
def test_an_example_with_a_task_succeeds_or_says_why(
    run: Run, example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("The library opens at nine.\nOn Sundays it is closed.\n")
    (tmp_path / "people.csv").write_text("id,name\n1,Ada\n2,Alan\n")
    asks = example.startswith(("generate", "tasks test"))
    ran = run(*shlex.split(example), *(("--seed", "1", "-t", "1", "-n", "40", "-q") if asks else ()))
    assert ran.text.strip() or ran.status == 9
    if example.startswith("tasks test"):  # the tiny model talks noise
        assert ran.status in (0, 1), ran.stderr
    elif ran.status:
        assert re.match(r"error: the answer ended before it matched", ran.stderr)


@pytest.mark.parametrize("page", ["structured-output.md", "tasks.md"])
def test_the_page_has_examples(page: str) -> None:
    assert len(examples_of(page)) > 8
