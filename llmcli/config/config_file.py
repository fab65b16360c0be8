"""The configuration file: its settings are read, and changed with the user's comments kept."""

import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmcli.errors import DiskError, UsageError, error_text
from llmcli.files import config_path, make_private, read_limited, replace_private
from llmcli.params.param import Field, SettingValue
from llmcli.params.settings import Layer, find, parse_data, to_datum

ALIASES, PRESETS, ENDPOINTS = "aliases", "presets", "endpoints"
_TABLES = (ALIASES, PRESETS, ENDPOINTS)  # beside the settings
_FIX = "fix it with `llmcli config edit`"


def config_layer() -> Layer:
    """The settings of the configuration file, if there is one. Raises UsageError or DiskError, with its path."""
    path = config_path()
    values = {name: value for name, value in _read().items() if name not in _TABLES}
    for name in values:
        try:
            find(name)
        except UsageError as error:
            remedy = f"remove it with `llmcli config unset {shlex.quote(name)}`, or {_FIX}"
            raise UsageError(f"{path}: {error}", f"{error.hint} {remedy}".lstrip()) from None
    return Layer("config", parse_data(values, str(path)), str(path))


def aliases() -> dict[str, str]:
    """The aliases of models: the table `[aliases]` of the file. Raises UsageError when one of them is not a text."""
    return table(ALIASES, str, "a model")


def table(name: str, kind: type, what: str) -> dict[str, Any]:
    """A table of the file; a missing one is empty. Raises UsageError if its values are not of this kind (`what`)."""
    values = _read().get(name, {})
    if not isinstance(values, dict) or not all(isinstance(value, kind) for value in values.values()):
        raise UsageError(f"{config_path()}: [{name}] must give {what} for each name", _FIX)
    return values


def set_alias(name: str, reference: str | None) -> None:
    """Write an alias of a model into the file, or remove it (None)."""
    aliases()  # refuses a file that is not valid

    def change(document: Any) -> None:
        if reference is None:
            document.get(ALIASES, {}).pop(name, None)
        else:
            document.setdefault(ALIASES, {})[name] = reference

    edit(change)


def _read() -> dict[str, Any]:
    path = config_path()
    try:
        data = read_limited(path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DiskError(f"cannot read {path}: {error_text(error)}") from None
    import tomllib  # takes 10 ms, and many users have no file

    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # from TOML or from UTF-8
        reason = error if isinstance(error, ValueError) else "it is nested too deeply"
        raise UsageError(f"{path} is not valid TOML: {reason}", _FIX) from None


def set_value(name: str, value: SettingValue) -> Path:
    """Write one valid setting into the file, under whichever of its names the file has, or remove it (None)."""
    field = find(name)
    datum, names = to_datum(field, value), _spellings(field)

    def change(document: Any) -> None:
        if datum is not None:
            document[names.pop(0) if names else field.key] = datum
        for name in names:
            del document[name]

    return edit(change)


def unset_value(name: str) -> bool:
    """Remove one setting from the file, or a key that is not a setting; False when it is not there."""
    names = [name] if name in _read().keys() - {*_TABLES} else _spellings(find(name))
    if names:
        edit(lambda document: [document.pop(one) for one in names])
    return bool(names)


def ensure_file() -> Path:
    """The configuration file; a new one begins with a comment that explains it."""
    path = config_path()
    if not path.exists():
        text = "# Settings of llmcli, one on each line, as in: top_p = 0.9\n# `llmcli config list --all` lists them.\n"
        _replace(path, text)
    return path


def edit(change: Callable[[Any], object]) -> Path:
    """Change the file as a tomlkit document, with its comments and order. Raises UsageError when that fails."""
    import tomllib

    import tomlkit

    path = config_path()
    try:
        document = tomlkit.parse(path.read_text(encoding="utf-8-sig")) if path.exists() else tomlkit.document()
        change(document)
        text = tomlkit.dumps(document)
        tomllib.loads(text)
    except (ValueError, tomlkit.exceptions.TOMLKitError) as error:
        raise UsageError(f"cannot change {path}: {error}", "edit the file with `llmcli config edit`") from None
    _replace(path, text)
    return path


def _spellings(field: Field) -> list[str]:
    """The names in the file that mean this setting: `temp` is `temperature`."""
    found = []
    for name in _read():
        with suppress(UsageError):  # not a setting
            if find(name) is field:
                found.append(name)
    return found


def _replace(path: Path, text: str) -> None:
    make_private(path.parent)
    try:
        replace_private(path.resolve(), text.encode())  # a symlink stays a symlink
    except UnicodeEncodeError:
        message = "the configuration file cannot have a text or a name that is not UTF-8"
        raise UsageError(message, "rename the file or the folder") from None
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error_text(error)}") from None
