"""The configuration file: reading its settings, and changing one without losing the user's comments."""

import tomllib
from pathlib import Path
from typing import Any

from llmcli.chat.paths import config_file, make_private
from llmcli.errors import DiskError, UsageError
from llmcli.models.private_files import replace_private
from llmcli.params.layers import Layer
from llmcli.params.settings import find, parse_data, to_datum

ALIASES = "aliases"  # a table beside the settings


def config_layer() -> Layer:
    """The settings of the configuration file; an absent file has none.

    Raises:
        UsageError: when it is no TOML or holds a value that cannot be, naming the file.
        DiskError: when it cannot be read.
    """
    path = config_file()
    table = {name: value for name, value in _read(path).items() if name != ALIASES}
    return Layer("config", parse_data(table, str(path)))


def aliases() -> dict[str, str]:
    """The user's own names for models: the table `[aliases]` of the file.

    Raises:
        UsageError: when one of them is no text.
    """
    table = _read(config_file()).get(ALIASES, {})
    if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
        fault = f"{config_file()}: [{ALIASES}] must give a model for each name"
        raise UsageError(fault, "mend it with `llmcli config edit`")
    return table


def set_alias(name: str, reference: str | None) -> None:
    """Keep a name for a model in the file, or take it out (None)."""
    import tomlkit

    known = aliases()  # a broken file is refused here
    path = config_file()
    document = tomlkit.parse(path.read_text(encoding="utf-8-sig")) if path.exists() else tomlkit.document()
    if not known and ALIASES not in document:
        document[ALIASES] = tomlkit.table()
    table: Any = document[ALIASES]
    if reference is None:
        table.pop(name, None)
    else:
        table[name] = reference
    _replace(path, tomlkit.dumps(document))


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DiskError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}", "mend it with `llmcli config edit`") from None


def set_value(name: str, value: Any) -> Path:
    """Write one setting (already checked) into the file, keeping everything else as it is."""
    field = find(name)
    return _change(field.key, to_datum(field, value))


def unset_value(name: str) -> bool:
    """Take one setting out of the file; False when it was not there."""
    key = find(name).key
    if not _spellings(key):
        return False
    _change(key, None)
    return True


def ensure_file() -> Path:
    """The configuration file, made with a line on what goes into it if it is not there."""
    path = config_file()
    if not path.exists():
        _replace(path, "# Settings of llmcli, one a line, as in: top_p = 0.9. `llmcli config list` shows them all.\n")
    return path


def _change(key: str, value: Any) -> Path:
    """Write or (for None) take out one setting, whichever of its names the file has it under."""
    import tomlkit  # keeps comments and order, which the standard library's reader does not

    path = config_file()
    names = _spellings(key)  # a broken file is refused here, with its line, before anything is written
    document = tomlkit.parse(path.read_text(encoding="utf-8-sig")) if path.exists() else tomlkit.document()
    if value is not None:
        document[names.pop(0) if names else key] = value
    for name in names:
        del document[name]
    _replace(path, tomlkit.dumps(document))
    return path


def _spellings(key: str) -> list[str]:
    """The names in the file that mean this setting: `temp` is `temperature`."""
    return [name for name in _read(config_file()) if _meaning(name) == key]


def _meaning(name: str) -> str | None:
    try:
        return find(name).key
    except UsageError:
        return None


def _replace(path: Path, text: str) -> None:
    make_private(path.parent)
    try:
        replace_private(path.resolve(), text.encode("utf-8", "replace"))  # a link stays one
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error.strerror}") from None
