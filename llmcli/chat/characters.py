"""Characters: a system prompt, a first message and settings out of one file (TOML, Markdown, text, or a card)."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmcli.chat.compose import read_text
from llmcli.chat.paths import config_dir
from llmcli.chat.presets import checked
from llmcli.chat.records import NEVER_SET
from llmcli.errors import DiskError, UsageError
from llmcli.params.layers import Layer
from llmcli.params.suggest import did_you_mean

_SUFFIXES = (".toml", ".md", ".txt", ".json")  # in this order where a name has several files
_KEYS = ("name", "system", "greeting", "settings", "examples")
_LARGEST = 1 << 20  # characters


@dataclass(frozen=True)
class Character:
    """Who answers. `greeting` is its first message; `examples` are pairs of what is said to it and what it says."""

    name: str
    system: str = ""
    greeting: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    examples: tuple[tuple[str, str], ...] = ()


def load_character(reference: str) -> Character:
    """The character in a file, or of that name in the folder `characters` beside the configuration.

    Raises:
        UsageError: when there is none, or the file says what cannot be, naming the file and the place.
        DiskError: when the file cannot be read.
    """
    path = _find(reference)
    text = _read(path)
    try:
        if path.suffix.lower() == ".toml":
            return _from_table(tomllib.loads(text), path)
        if path.suffix.lower() == ".json":
            return _from_json(text, path)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid {path.suffix[1:].upper()}: {_line(error)}") from None
    if path.suffix.lower() in (".md", ".markdown"):
        from llmcli.chat.front_matter import split

        table, body = split(text, str(path))
        return _from_table(table, path, body)
    return Character(path.stem, text.strip())


def character_names() -> list[str]:
    """The names of the characters in the folder `characters` beside the configuration."""
    try:
        found = [path for path in (config_dir() / "characters").iterdir() if path.suffix in _SUFFIXES]
    except OSError:
        return []
    return sorted({path.stem for path in found if not path.name.startswith(".")})


def layer(character: Character) -> Layer:
    """The settings of a character, its system prompt among them."""
    system = character.system
    if system.startswith("@"):
        system = f" {system}"  # at the start it would name a file to be read
    return Layer("character", {**character.settings, **({"system": system} if system else {})})


def _find(reference: str) -> Path:
    place, folder = os.path.expanduser(reference), config_dir() / "characters"
    is_name = Path(place).name == reference and reference.strip(".")
    if os.path.isfile(place) and not (is_name and not Path(place).suffix):
        return Path(place)
    names = [reference + suffix for suffix in ("", *_SUFFIXES)] if is_name else []
    found = next((folder / name for name in names if os.path.isfile(folder / name)), None)
    if found:
        return found
    if os.path.exists(place):
        return Path(place)  # reading it tells what is wrong
    hint = did_you_mean(reference, character_names()) or f"put a file with this name into {folder}, or give a path"
    raise UsageError(f"there is no character {reference[:80]!r}", hint)


def _read(path: Path) -> str:
    text = read_text(str(path))
    if len(text) > _LARGEST:
        raise DiskError(f"{path} has more than {_LARGEST} characters", "give a smaller file")
    return text


def _from_json(text: str, path: Path) -> Character:
    import json

    from llmcli.chat.character_card import is_card, read_card

    data = json.loads(text)
    if not isinstance(data, dict):
        raise UsageError(f"{path} is no character: it must be an object")
    if not is_card(data):
        return _from_table(data, path)
    name, system, greeting, examples = read_card(data, str(path))
    return Character(name or path.stem, system, greeting, {}, examples)


def _from_table(table: Mapping[str, Any], path: Path, body: str = "") -> Character:
    """The character of a TOML table or what equals one; `body` is the system prompt of a Markdown file."""
    for key in table:
        if key not in _KEYS:
            hint = did_you_mean(key, _KEYS) or "settings belong into the table [settings]"
            raise UsageError(f"{path}: a character has no {key!r}", hint)
    texts = {key: table.get(key, "") for key in ("name", "system", "greeting")}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise UsageError(f"{path}: {key} must be a text")
    if texts["system"] and body.strip():
        raise UsageError(f"{path}: the system prompt is there twice", "keep `system` or the text below")
    return Character(
        " ".join(texts["name"].split()) or path.stem,
        texts["system"].strip() or body.strip(),
        texts["greeting"].strip(),
        _settings(table.get("settings", {}), path),
        _examples(table.get("examples", []), path),
    )


def _settings(table: Any, path: Path) -> Mapping[str, Any]:
    if not isinstance(table, dict):
        raise UsageError(f"{path}: settings must be a table")
    values = checked(table, f"{path}: settings")
    if "system" in values:
        raise UsageError(f"{path}: system is no part of settings", "write it above them")
    if code := values.keys() & NEVER_SET:
        raise UsageError(f"{path}: {min(code)} names code, which no character may", "give it as a flag if you trust it")
    return values


def _examples(items: Any, path: Path) -> tuple[tuple[str, str], ...]:
    fault = UsageError(f"{path}: examples must be a list of {{user = ..., assistant = ...}}")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise fault
    pairs = tuple((item.get("user"), item.get("assistant")) for item in items)
    if not all(isinstance(text, str) for pair in pairs for text in pair):
        raise fault
    return pairs


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] if isinstance(error, ValueError) else "it is nested too deep"
