"""The one-liners of the page about pipelines, run by a shell as they stand there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from llmcli.errors import ExitStatus

PAGE = (Path(__file__).parents[2] / "docs/pipelines.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## One-liners")[2].partition("\n## ")[0]
ONE_LINERS = re.findall(r"^\*\*(.*?)\*\*.*?^```sh\n(.*?)\n```$", SECTION, re.MULTILINE | re.DOTALL)
FILES = {
    "report.txt": "The lighthouse was built in 1871. Its keeper kept a diary of every ship that passed.\n",
    "ticket.txt": "The program ends when I press Enter.\n",
    "mail.txt": "You have won a boat! Send us your address.\n",
    "review.txt": "The phone is good, but it is slow.\n",
    "notes/a.md": "The boat came back in March.\n",
    "notes/b.md": "The library opens at nine.\n",
    "reviews.csv": "id,review\n1,I like it.\n2,It broke.\n",
    "lines.txt": "The library opens at nine.\nThe boat came back.\nThe lamp was out.\n",
    "words.txt": "boat\n\nlamp\n",
    "draft.txt": "The libary opens at nine.\n",
}
LABELS = "bug", "feature", "question"
# Some answers of a model as small as the starter do not have the form that a one-liner asks for.
MAY_FAIL = ("Ask five times",)
CUT = "error: the answer ended before it matched the constraint"  # of an outline: after 24 tokens, on some processors


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the page, a repository with a change, and llmcli on the PATH."""
    folder, tools = tmp_path / "work", tmp_path / "bin"
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "spam").mkdir()
    tools.mkdir()
    (tools / "llmcli").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m llmcli "$@"\n')
    (tools / "llmcli").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    for key, value in {"N_THREADS": "1", "SEED": "1", "MAX_TOKENS": "24"}.items():
        monkeypatch.setenv(f"LLMCLI_{key}", value)
    if shutil.which("git"):
        for command in ("git init -q", "git add review.txt"):
            subprocess.run(command, shell=True, cwd=folder, check=True)
    return folder


def one_liner(title: str, command: str) -> ParameterSet:
    """A one-liner as a parameter, that is skipped where a program is missing that comes with no system."""
    missing = [name for name in ("git", "jq") if re.search(rf"\b{name} ", command) and not shutil.which(name)]
    return pytest.param(title, command, id=title, marks=[pytest.mark.skip(reason=f"needs {one}") for one in missing])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the one-liners are those of a POSIX shell")
@pytest.mark.parametrize(("title", "command"), [one_liner(*one) for one in ONE_LINERS])
@pytest.mark.usefixtures("with_starter")
def test_a_one_liner_runs_as_it_stands(folder: Path, title: str, command: str) -> None:
    ran = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, timeout=300)
    if title.startswith(MAY_FAIL):
        assert ran.returncode in (0, 9)
        assert ran.stdout.strip().isdecimal() == (ran.returncode == 0)
        return
    assert ran.returncode == 0, ran.stderr
    assert "error: " not in ran.stderr.replace(CUT, "")
    check_effect(title, ran.stdout, folder)


def check_effect(title: str, output: str, folder: Path) -> None:
    """What a one-liner promises beside a text."""
    lines = output.splitlines()
    match title.removesuffix("."):
        case "Classify a text":
            assert output.strip() in LABELS
        case "Decide in an `if`":
            assert (folder / "spam/mail.txt").exists() != (folder / "mail.txt").exists()
        case "Extract data":
            assert output.strip() in "12345"
        case "One file for each file":
            assert {one.name for one in (folder / "notes").glob("*.title")} == {"a.md.title", "b.md.title"}
        case "Write a commit message":
            assert output == (folder / "message.txt").read_text() != ""
        case "Classify each row of a table, and count the labels":
            assert sum(int(line.split()[0]) for line in lines) == 2
            assert {line.split()[1] for line in lines} <= {"good", "bad"}
        case "Rate each row from 1 to 5":
            assert [line.split("\t")[0] for line in lines] == ["1", "2"]
            assert all(1 <= float(line.split("\t")[1]) <= 5 for line in lines)
        case "Extract data from many files":
            assert [json.loads(line)["id"] for line in lines] == ["notes/a.md", "notes/b.md"]
            assert all(json.loads(line)["about"] in ("boat", "library", "other") for line in lines)
        case "Translate a file line by line":
            first, blank, second = (folder / "french.txt").read_text().splitlines()
            assert (bool(first), blank, bool(second)) == (True, "", True)
        case "Map over lines":
            assert len(lines) >= 2
        case "Find the likelier of two sentences":
            right, wrong = (line.split("\t") for line in lines)
            assert (right[1], wrong[1]) == ("The cats sleep.", "The cats sleeps.")
            assert float(wrong[0]) < float(right[0]) < 0
        case "Search by meaning":
            assert len([line for line in FILES["lines.txt"].splitlines() if line in output]) == 2
        case "Proofread a text":
            assert output == "" or "-The libary opens at nine." in lines  # the starter may see no mistake
        case _:
            assert output.strip()


def test_the_page_has_twelve_one_liners_of_one_line() -> None:
    assert len(ONE_LINERS) >= 12
    assert [command for _, command in ONE_LINERS if "\n" in command] == []


def test_the_table_of_statuses_has_documented_numbers() -> None:
    table = PAGE.partition("## Statuses")[2]
    numbers = [int(number) for number in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)]
    assert {*numbers} <= {int(one) for one in ExitStatus}
    assert numbers == sorted(numbers)
