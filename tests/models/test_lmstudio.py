"""LM Studio's folders: the default ones, a moved home, and the folder of its settings."""

import json
from pathlib import Path

import pytest

from llmcli.models.sources.lmstudio import LmStudio


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a user of LM Studio."""
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    return tmp_path


def make_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def set_downloads_folder(home: Path, folder: str) -> None:
    home.mkdir(parents=True, exist_ok=True)
    (home / "settings.json").write_text(json.dumps({"downloadsFolder": folder}), encoding="utf-8")


def test_no_lm_studio_gives_no_folders() -> None:
    assert LmStudio().folders() == []


def test_new_lm_studio_folder_comes_before_the_old_one(user: Path) -> None:
    old = make_folder(user / ".cache/lm-studio/models")
    new = make_folder(user / ".lmstudio/models")
    assert LmStudio().folders() == [new, old]


@pytest.mark.parametrize("ending", ["", "\n", " \r\n"])
def test_moved_lm_studio_home_is_followed(user: Path, ending: str) -> None:
    moved = make_folder(user / "disk two/studio/models")
    (user / ".lmstudio-home-pointer").write_bytes((str(moved.parent) + ending).encode())
    assert LmStudio().folders() == [moved]


def test_the_folder_from_the_settings_comes_first(user: Path) -> None:
    usual, chosen = make_folder(user / ".lmstudio/models"), make_folder(user / "big disk")
    set_downloads_folder(user / ".lmstudio", str(chosen))
    assert LmStudio().folders() == [chosen, usual]


def test_settings_of_a_moved_home_choose_the_folder(user: Path) -> None:
    chosen = make_folder(user / "big disk")
    set_downloads_folder(user / "moved", str(chosen))
    (user / ".lmstudio-home-pointer").write_text(str(user / "moved"))
    assert LmStudio().folders() == [chosen]


def test_lm_studio_settings_choose_the_folder(user: Path) -> None:
    chosen = make_folder(user / "big disk")
    set_downloads_folder(user / ".config/LM Studio", str(chosen))
    assert LmStudio().folders() == [chosen]


def test_tilde_in_lm_studio_settings_is_the_home(user: Path) -> None:
    chosen = make_folder(user / "gguf")
    set_downloads_folder(user / ".lmstudio", "~/gguf")
    assert LmStudio().folders() == [chosen]


def test_same_store_by_two_paths_is_listed_once(user: Path) -> None:
    usual = make_folder(user / ".lmstudio/models")
    set_downloads_folder(user / ".lmstudio", str(usual))
    (user / ".lmstudio-home-pointer").write_text(str(user / ".lmstudio"))
    assert LmStudio().folders() == [usual]


NO_SETTINGS = [b"", b"{", b"[]", b"\xff\xfe", b'{"downloadsFolder": 1}', b'{"downloadsFolder": ""}', b"[" * 100_000]
NO_SETTINGS += [
    rb'{"downloadsFolder": "a\u0000b"}',
    rb'{"downloadsFolder": "/a\u0000b"}',
    b'{"downloadsFolder": "models"}',
]
NO_SETTINGS += [b" " * (1 << 20) + b"{}"]


@pytest.mark.parametrize("data", NO_SETTINGS)
def test_useless_lm_studio_settings_are_ignored(user: Path, data: bytes) -> None:
    usual = make_folder(user / ".lmstudio/models")
    (user / ".lmstudio/settings.json").write_bytes(data)
    assert LmStudio().folders() == [usual]


@pytest.mark.parametrize("data", [b"", b"\n", b"\xff", b"relative", b"/nowhere/at all", b"/a\0b"])
def test_lm_studio_pointer_to_nowhere_is_ignored(user: Path, data: bytes) -> None:
    usual = make_folder(user / ".lmstudio/models")
    (user / ".lmstudio-home-pointer").write_bytes(data)
    assert LmStudio().folders() == [usual]


def test_user_without_home_has_no_lm_studio_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    assert LmStudio().folders() == []
