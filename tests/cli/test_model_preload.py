"""The preload: a cheap guess at the model, harmless when it is wrong."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llmcli.cli import model_preload
from llmcli.engine.llama import hardware
from llmcli.engine.llama.model import Model


class Loaded:
    """A fake model that records whether it was freed."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Loaded]:
    """The fake models that were loaded."""
    made: list[Loaded] = []

    def load(parts: Sequence[Path], *_: Any, **__: Any) -> Loaded:
        made.append(Loaded())
        return made[-1]

    monkeypatch.setattr(Model, "load", load)
    monkeypatch.setattr(hardware, "has_gpu", lambda: False)
    return made


@pytest.mark.parametrize(
    ("arguments", "guess"),
    [
        (["generate", "hi"], "starter"),
        (["generate", "-m", "a.gguf", "hi"], "a.gguf"),
        (["generate", "hi", "--model", "a.gguf"], "a.gguf"),
        (["generate", "--model=a.gguf"], "a.gguf"),
        (["generate", "-m"], ""),
    ],
)
def test_the_model_is_guessed_from_the_arguments(arguments: list[str], guess: str) -> None:
    assert model_preload._guess(arguments) == guess


def test_the_environment_overrides_the_configuration_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "config").mkdir(parents=True)
    (home / "config" / "config.toml").write_text('model = "kept.gguf"\n')
    assert model_preload._guess(["generate"]) == "kept.gguf"
    monkeypatch.setenv("LLMCLI_MODEL", "set.gguf")
    assert model_preload._guess(["generate"]) == "set.gguf"
    monkeypatch.delenv("LLMCLI_MODEL")
    (home / "config" / "config.toml").write_text("model = = 3\n")
    assert model_preload._guess(["generate"]) == ""


def test_the_right_model_is_given_to_the_command(with_starter: Path, loads: list[Loaded]) -> None:
    model_preload.start(["generate", "hi"])
    model: Any = model_preload.claim([with_starter])
    model_preload.cancel()
    assert model is loads[0]
    assert not model.closed


def test_preload_of_another_model_is_freed(with_starter: Path, loads: list[Loaded]) -> None:
    model_preload.start(["generate", "hi"])
    assert model_preload.claim([Path("other.gguf")]) is None
    model_preload.cancel()
    assert [model.closed for model in loads] == [True]


def test_unused_preload_is_freed(with_starter: Path, loads: list[Loaded]) -> None:
    model_preload.start(["generate", "--no-such-flag"])
    model_preload.cancel()
    assert [model.closed for model in loads] == [True]


def test_ctrl_c_while_a_command_waits_leaves_no_preload(
    with_starter: Path, loads: list[Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(_preload: object) -> None:
        raise KeyboardInterrupt

    model_preload.start(["generate", "hi"])
    with monkeypatch.context() as patch:
        patch.setattr(model_preload.ModelPreload, "join", press)
        with pytest.raises(KeyboardInterrupt):
            model_preload.claim([with_starter])
    model_preload.cancel()
    assert [model.closed for model in loads] == [True]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["doctor"],
        ["generate", "--help"],
        ["chat", "--help-all"],
        ["generate", "-vv"],
        ["generate", "--verbose", "--verbose"],
        ["generate", "-m", "new.gguf"],
        ["generate", "--rpc", "tower:50052", "hi"],
        ["generate", "--rpc=tower:50052", "hi"],
        ["batch", "in.txt", "--ray"],
    ],
)
def test_unneeded_or_unprobed_model_is_not_preloaded(
    with_starter: Path, loads: list[Loaded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("new.gguf").write_bytes(b"GGUF")
    model_preload.start(arguments)
    model_preload.cancel()
    assert loads == []


def test_a_gpu_build_does_not_preload(with_starter: Path, loads: list[Loaded], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "has_gpu", lambda: True)
    model_preload.start(["generate", "hi"])
    model_preload.cancel()
    assert loads == []


def test_verbose_once_does_not_stop_the_preload(with_starter: Path, loads: list[Loaded]) -> None:
    model_preload.start(["generate", "--verbose", "hi"])
    model_preload.cancel()
    assert len(loads) == 1
