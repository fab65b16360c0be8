"""The configuration file: its errors are reported, and a change keeps what the user wrote."""

import os
import stat
import sys
import tomllib
from pathlib import Path

import pytest

from llmcli import files
from llmcli.config.config_file import config_layer, edit, ensure_file, set_value, unset_value
from llmcli.errors import DiskError, UsageError
from llmcli.files import cache_dir, config_dir, config_path, data_dir, make_private
from llmcli.params.policies.policy import Entropy, Fixed
from llmcli.params.settings import Settings, fields, resolve
from tests.params.samples import legal_values

WINDOWS = sys.platform == "win32"


def write(text: str | bytes) -> Path:
    path = config_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


# Texts that TOML must quote with care.
HARD = ('a """ b', "it's # no comment", "a\r\nb\n", "\x1b\x01\x7f", "C:\\new\\u00e9", "'''")


@pytest.mark.slow
@pytest.mark.parametrize("key", fields())
def test_every_value_is_read_from_the_file_as_it_was_set(key: str) -> None:
    field = fields()[key]
    values = [value for value in legal_values(field) if value is not None]
    for value in [
        *values,
        *(
            HARD
            if field.kind is str
            and key not in ("temp_policy_file", "encoding", "tensor_split", "rating", "extract")
            and not field.choices
            and not field.repeated
            else ()
        ),
    ]:
        set_value(key, value)
        assert config_layer().values == {key: value}
        assert type(config_layer().values[key]) is type(value)
    assert unset_value(key)
    assert config_layer().values == {}


@pytest.mark.slow
def test_all_settings_fit_in_one_file() -> None:
    values = {key: [value for value in legal_values(field) if value is not None][-1] for key, field in fields().items()}
    for key, value in values.items():
        set_value(key, value)
    layer = config_layer()
    assert layer.name == "config"
    assert layer.values == values
    assert resolve([layer]).settings == Settings(**values)


def test_an_absent_or_empty_file_has_no_settings() -> None:
    assert config_layer().values == {}
    write("")
    assert config_layer().values == {}


def test_a_file_written_by_hand_is_read() -> None:
    write('\ufeff# mine\ntop-p = 0.5\nTEMP = "0.3..1.3"\nstop = "END"\nn_predict = 5\nseed = "7"\r\n')
    assert config_layer().values == {
        "top_p": 0.5,
        "temperature": Entropy(0.3, 1.3),
        "stop": ("END",),
        "max_tokens": 5,
        "seed": 7,
    }


@pytest.mark.parametrize(
    ("text", "telling", "hint"),
    [
        ("top_q = 0.5", "unknown setting 'top_q'", "did you mean 'top_p'?"),
        ("xyzzy = 0.5", "unknown setting 'xyzzy'", ""),
        ("top_p = 1.5", "top_p must be between 0 and 1, got 1.5", ""),
        ("top_p = nan", "top_p must be between 0 and 1", ""),
        ("top_k = 3.7", "top_k must be an integer", ""),
        ("raw = 1", "raw must be true or false", ""),
        ("[sets.a]\ntop_p = 0.5", "unknown setting 'sets'", ""),
        ("a = 1\ntop_p = \n", r"not valid TOML: .*line 2", "config edit"),
        ("top_p = 0.5\ntop_p = 0.6\n", "not valid TOML: Cannot overwrite", "config edit"),
        (b"system = '\xff'", "not valid TOML", "config edit"),
        ("x=" + "[" * 20_000, "not valid TOML: it is nested too deeply", "config edit"),
    ],
)
def test_an_error_in_the_file_names_the_file(text: str | bytes, telling: str, hint: str) -> None:
    path = write(text)
    with pytest.raises(UsageError, match=telling) as caught:
        config_layer()
    assert str(caught.value).startswith(str(path))
    assert hint in caught.value.hint


def test_a_file_that_cannot_be_read_is_a_disk_error() -> None:
    config_path().mkdir(parents=True)
    with pytest.raises(DiskError, match="cannot read"):
        config_layer()


def test_comments_and_order_survive_changes() -> None:
    write("# top\nseed = 1 # mine\n\n# quiet\ntop_p = 0.5\ntop_k = 3\n")
    set_value("top_p", 0.9)
    set_value("min_p", 0.1)
    assert config_path().read_text() == "# top\nseed = 1 # mine\n\n# quiet\ntop_p = 0.9\ntop_k = 3\nmin_p = 0.1\n"
    assert unset_value("top-k")
    assert config_path().read_text() == "# top\nseed = 1 # mine\n\n# quiet\ntop_p = 0.9\nmin_p = 0.1\n"


def test_a_setting_under_another_name_is_changed_in_place() -> None:
    write("temp = 0.5 # warm\nTop-K = 3\ntemperature = 0.6\n")
    set_value("temperature", Fixed(0.7))
    assert config_path().read_text() == "temp = 0.7 # warm\nTop-K = 3\n"
    assert unset_value("top_k")
    assert unset_value("temperature")
    assert tomllib.loads(config_path().read_text()) == {}


def test_setting_a_value_to_none_removes_it() -> None:
    set_value("seed", None)
    assert config_layer().values == {}
    set_value("seed", 3)
    set_value("seed", None)
    assert config_layer().values == {}


def test_a_setting_that_is_not_there_is_not_unset() -> None:
    assert not unset_value("seed")
    assert not config_path().exists()
    with pytest.raises(UsageError):
        unset_value("sead")


def test_a_file_that_is_not_valid_stays_as_it_is() -> None:
    path = write("top_p = \n")
    for change in (lambda: set_value("seed", 1), lambda: unset_value("seed")):
        with pytest.raises(UsageError, match="line 1"):
            change()
    assert path.read_text() == "top_p = \n"


def test_a_file_that_cannot_take_a_change_stays_as_it_is() -> None:
    path = write("seed = 1\n")
    with pytest.raises(UsageError, match="cannot change") as caught:
        edit(lambda document: document.add("seed", 2))
    assert "llmcli config edit" in caught.value.hint
    assert path.read_text() == "seed = 1\n"


def test_an_unknown_name_in_the_file_stays_when_another_is_set() -> None:
    write("from_the_future = 1\n")
    set_value("seed", 1)
    assert config_path().read_text() == "from_the_future = 1\nseed = 1\n"


def test_ensure_file_creates_the_file_once() -> None:
    path = ensure_file()
    assert config_layer().values == {}
    path.write_text("seed = 1\n")
    assert ensure_file().read_text() == "seed = 1\n"


@pytest.mark.skipif(WINDOWS, reason="Windows has no such modes")
def test_the_file_and_new_folders_are_private_with_any_umask(home: Path) -> None:
    before = os.umask(0)
    try:
        path = set_value("seed", 1)
        path.chmod(0o644)
        set_value("seed", 2)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (path.parent, home)] == [0o700, 0o700]
    assert [item.name for item in path.parent.iterdir()] == ["config.toml"]


@pytest.mark.skipif(WINDOWS, reason="links need a privilege there")
def test_a_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.toml"
    real.write_text("seed = 1\n")
    write("")
    config_path().unlink()
    config_path().symlink_to(real)
    set_value("seed", 2)
    assert config_path().is_symlink()
    assert real.read_text() == "seed = 2\n"


def test_a_folder_that_cannot_be_created_is_a_disk_error(home: Path) -> None:
    home.parent.mkdir()
    home.write_text("a file where the folder should be")
    with pytest.raises(DiskError, match="cannot"):
        set_value("seed", 1)
    with pytest.raises(DiskError, match="cannot create") as caught:
        make_private(config_dir())
    assert "LLMCLI_HOME" in caught.value.hint


def test_a_full_disk_is_a_disk_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llmcli.config.config_file.replace_private", full)
    with pytest.raises(DiskError, match=r"cannot write .*No space left"):
        set_value("seed", 1)


@pytest.mark.usefixtures("ordinary_user")
def test_a_read_only_folder_is_a_disk_error() -> None:
    config_dir().mkdir(parents=True, mode=0o500)
    with pytest.raises(DiskError, match="cannot write"):
        set_value("seed", 1)


def test_llmcli_home_moves_every_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [config_path(), data_dir(), cache_dir()] == [home / "config" / "config.toml", home / "data", home / "cache"]
    monkeypatch.setenv("LLMCLI_HOME", "~/x")
    assert config_dir() == Path.home() / "x" / "config"
    monkeypatch.setenv("LLMCLI_HOME", "~nobody-has-this-name/x")
    assert config_dir() == Path("~nobody-has-this-name/x/config")


@pytest.mark.parametrize("unset", [None, ""])
def test_without_llmcli_home_the_folders_are_those_of_the_system(
    unset: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLMCLI_HOME") if unset is None else monkeypatch.setenv("LLMCLI_HOME", unset)
    import platformdirs

    assert files.config_dir() == Path(platformdirs.user_config_dir("llmcli", appauthor=False))
    assert len({files.config_dir(), files.data_dir(), files.cache_dir()}) >= 2


@pytest.mark.parametrize("base", [None, "", " ", "/elsewhere", "/elsewhere/", "not/absolute", "~/x"])
def test_the_folders_are_those_of_platformdirs(base: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    import platformdirs

    monkeypatch.delenv("LLMCLI_HOME", raising=False)
    for kind in ("config", "data", "cache"):
        name = f"XDG_{kind.upper()}_HOME"
        monkeypatch.delenv(name, raising=False) if base is None else monkeypatch.setenv(name, base)
        theirs = getattr(platformdirs, f"user_{kind}_dir")("llmcli", appauthor=False)
        assert getattr(files, f"{kind}_dir")() == Path(theirs)


@pytest.mark.skipif(WINDOWS, reason="no /dev/zero")
def test_a_configuration_file_without_an_end_is_refused() -> None:
    config_path().parent.mkdir(parents=True, exist_ok=True)
    config_path().symlink_to("/dev/zero")
    with pytest.raises(DiskError, match="larger than 64 MiB"):
        config_layer()
