"""Models that nobody named at the start: a request names them as `llmcli models list` does, and never by a path."""

import importlib.util
from pathlib import Path

import pytest

from llmcli.cli.serve import _find_other
from llmcli.errors import LlmcliError
from llmcli.params.settings import Layer
from llmcli.server.service import ServerOptions
from tests.in_process import run_in_process
from tests.models.tiny_models import full_attention


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "models"
    path.mkdir()
    whole = full_attention(path / "good.gguf").read_bytes()
    (path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    full_attention(tmp_path / "outside.gguf")
    return path


def found(folder: Path, name: str) -> str | None:
    entry = _find_other(Layer("flag", {"model_folders": (str(folder),)}), ServerOptions(), name)
    return entry.name if entry else None


def test_a_model_of_the_list_is_found(folder: Path) -> None:
    assert found(folder, "good") == "good"


@pytest.mark.parametrize(
    "name",
    [
        *("../outside", "../outside.gguf", "../models/good", "./good", "good.gguf", "good/", "..", "/etc/passwd"),
        *("%2e%2e/outside", "..\\outside", "C:\\good", "\\\\host\\good", "~/good", "file:///etc/passwd"),
        *("hf:org/repo", "org/repo", "https://127.0.0.1:1/good.gguf", "ollama:good", "-", "@good", "good\0", "con"),
        "a" * 100_000,
    ],
)
def test_a_path_and_a_reference_name_no_model(folder: Path, name: str) -> None:
    """Nothing is read outside of the folders, and nothing is downloaded."""
    assert found(folder, name) is None
    assert found(folder, str(folder / name)) is None


def test_a_download_that_stopped_is_an_error_that_says_so(folder: Path) -> None:
    with pytest.raises(LlmcliError, match=r"cut\.gguf: the file is truncated"):
        found(folder, "cut")


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
def test_without_its_packages_the_server_says_what_to_install(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("llmcli.cli.serve.find_spec", lambda name: None if name == missing else find(name))
    result = run_in_process("serve")
    assert result.status == 2
    assert "error: serve needs the packages starlette and uvicorn" in result.stderr
    assert "hint: install them: pip install " in result.stderr
