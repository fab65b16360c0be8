"""What the shell completion prints."""

from pathlib import Path

import pytest

from llmcli.cli.completion import complete_character, complete_model
from llmcli.files import config_dir
from tests.conftest import Run


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))


@pytest.mark.usefixtures("in_folder")
def test_a_name_with_a_backslash_is_not_completed(tmp_path: Path) -> None:
    for name in (r"\$(touch x).gguf", "plain.gguf"):
        open(f"{tmp_path}/{name}", "wb").close()
    assert [word for word in complete_model("") if word.endswith(".gguf")] == ["plain.gguf"]


def test_a_purpose_reaches_the_shell_without_backslashes() -> None:
    folder = config_dir() / "characters"
    folder.mkdir(parents=True)
    (folder / "odd.toml").write_text("purpose = 'a \\$(touch x) b'\nsystem = 'x'\n", encoding="utf-8")
    assert dict(complete_character("odd"))["odd"] == "a /$(touch x) b"


def test_each_candidate_is_one_line_for_the_shell(inside: Run) -> None:
    variables = {
        "_LLMCLI_COMPLETE": "complete_fish",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_ARGS": "llmcli generate --preset ",
        "COLUMNS": "30",
    }
    lines = inside(env=variables).text.splitlines()
    assert len(lines) >= 4
    assert all("\t" in line for line in lines)


@pytest.mark.parametrize("option", ["--install-completion", "--show-completion"])
def test_the_completion_of_another_shell_is_refused(inside: Run, option: str) -> None:
    ran = inside(option, "nosuch")
    assert (ran.status, ran.text) == (2, "")
    assert (
        ran.stderr
        == f"error: unexpected extra argument 'nosuch'\n  hint: remove it: {option} is for the current shell\n"
    )
