"""resolve: paths, the starter, and help for everything else."""

import os
from pathlib import Path

import pytest

from llmcli.errors import ModelNotFoundError
from llmcli.models import reference
from llmcli.models.reference import resolve
from llmcli.models.starter import Progress
from tests.models.gguf_writer import write_gguf


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder that holds two models, one of them split."""
    for name in ("qwen-0.5b.gguf", "big-00001-of-00002.gguf", "big-00002-of-00002.gguf"):
        write_gguf(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no model")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fault(text: str, cache: Path) -> tuple[str, str]:
    with pytest.raises(ModelNotFoundError) as caught:
        resolve(text, cache)
    assert "\n" not in str(caught.value)
    return str(caught.value), caught.value.hint


@pytest.mark.parametrize("form", ["qwen-0.5b.gguf", "./qwen-0.5b.gguf", "sub/../qwen-0.5b.gguf"])
def test_a_path_names_its_file(folder: Path, form: str) -> None:
    model = resolve(form, folder)
    assert model.path == folder / "qwen-0.5b.gguf"
    assert (model.parts, model.name, model.trusted) == ((model.path,), "qwen-0.5b", False)


def test_a_tilde_is_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    assert resolve("~/qwen-0.5b.gguf", folder).path == folder / "qwen-0.5b.gguf"


def test_a_later_part_leads_to_the_whole_model(folder: Path) -> None:
    model = resolve("big-00002-of-00002.gguf", folder)
    assert model.path.name == "big-00001-of-00002.gguf"
    assert (len(model.parts), model.name) == (2, "big")


def test_a_link_keeps_its_own_name_as_the_hub_cache_needs(folder: Path) -> None:
    (folder / "blob").write_bytes((folder / "qwen-0.5b.gguf").read_bytes())
    link = folder / "sub" / "linked.gguf"
    try:
        link.symlink_to(folder / "blob")
    except OSError:
        pytest.skip("this system does not allow links")
    assert resolve(str(link), folder).path == link


def test_a_file_without_the_ending_is_left_to_the_header_reader(folder: Path) -> None:
    assert resolve("notes.txt", folder).path == folder / "notes.txt"


def test_a_folder_tells_which_models_it_holds(folder: Path) -> None:
    message, hint = fault(str(folder), folder)
    assert "is a folder, not a model" in message
    assert "big-00001-of-00002.gguf, qwen-0.5b.gguf." in hint


def test_a_folder_with_many_models_tells_the_first_and_a_number(folder: Path) -> None:
    for number in range(7):
        write_gguf(folder / "sub" / f"m{number}.gguf")
    assert fault("sub", folder)[1].endswith("m4.gguf and 2 more.")


def test_a_folder_without_models_says_so(folder: Path) -> None:
    assert "a folder without a .gguf file" in fault("sub", folder)[0]


@pytest.mark.parametrize("typo", ["qwen-0.5.gguf", "./QWEN-0.5b.gguf", "qwen-0.5b", "qwen0.5b.guff"])
def test_a_typo_in_a_path_is_answered_with_the_nearest_name(folder: Path, typo: str) -> None:
    if (folder / typo).exists():
        pytest.skip("this file system does not tell capitals apart")
    assert fault(typo, folder)[1] == "Did you mean qwen-0.5b.gguf?"


def test_a_typo_of_starter_is_answered(folder: Path) -> None:
    assert fault("startr", folder)[1] == "Did you mean starter?"


def test_a_missing_folder_is_named(folder: Path) -> None:
    message, hint = fault("none/x.gguf", folder)
    assert f"nor a folder {folder / 'none'}" in message
    assert "starter" in hint


@pytest.mark.parametrize("form", ["owner/repo", "owner/repo:Q4_K_M", "hf.co/a/b", "https://x.org/y.gguf", "ollama:phi"])
def test_other_references_are_told_what_works_now(folder: Path, form: str) -> None:
    message, hint = fault(form, folder)
    assert "hub cannot be named yet" in message
    assert "path of a .gguf file, or `starter`" in hint


@pytest.mark.parametrize("form", ["", "   ", "a\0b"])
def test_an_empty_reference_is_refused(folder: Path, form: str) -> None:
    assert "empty" in fault(form, folder)[0]


def test_an_endless_reference_is_refused_in_one_line(folder: Path) -> None:
    assert "longer than" in fault("x" * 100_000, folder)[0]


def test_the_word_starter_fetches_it_into_the_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Path, Progress | None]] = []

    def fetch(cache_dir: Path, progress: Progress | None = None) -> Path:
        seen.append((cache_dir, progress))
        return cache_dir / "starter.gguf"

    def report(done: int, total: int) -> None:
        raise AssertionError(f"{done} of {total}")

    monkeypatch.setattr(reference, "ensure_starter", fetch)
    model = resolve("starter", folder / "cache", report)
    assert seen == [(folder / "cache", report)]
    assert (model.name, model.trusted, model.parts) == ("starter", True, (folder / "cache" / "starter.gguf",))


def test_a_file_called_starter_is_reached_by_its_path(folder: Path) -> None:
    write_gguf(folder / "starter")
    assert resolve(f".{os.sep}starter", folder).path == folder / "starter"
