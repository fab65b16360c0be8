"""Characters: built in, from a TOML or Markdown file, or from a character card."""

import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from llmcli.config.presets import validate_preset
from llmcli.errors import DiskError, LlmcliError, UsageError
from llmcli.files import config_dir, read_text
from llmcli.params.settings import CODE_KEYS, Layer
from llmcli.text import did_you_mean

SUFFIXES = (".toml", ".md", ".txt", ".json")  # in this order if a name has several files
_BUILT_IN = Path(__file__).parent / "built_in_characters"
_TEXT_KEYS = ("name", "purpose", "system", "greeting")
_KEYS = (*_TEXT_KEYS, "settings", "examples")
_MAX_LENGTH = 1 << 20  # characters of a file
_TOML = re.compile(r"\s*(\[|[\w.\"'-]+\s*=)")
# The keys of a character card: those of version 1, which only cards have, and all that are read.
_V1_KEYS = ("first_mes", "description", "personality", "scenario", "mes_example")
_CARD_KEYS = ("name", "system_prompt", *_V1_KEYS)
_PLACEHOLDER = re.compile(r"\{\{(char|user|original)\}\}|<(BOT|CHAR|USER)>", re.IGNORECASE)
_SPEAKER = re.compile(r"^(?:\{\{(user|char)\}\}|<(user|bot|char)>)\s*:[ \t]*", re.IGNORECASE | re.MULTILINE)
_START = re.compile(r"<START>", re.IGNORECASE)


@dataclass(frozen=True)
class Character:
    """Who answers. `greeting` is its first message, `examples` are pairs of a question and the answer to it."""

    name: str
    system: str = ""
    greeting: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    examples: tuple[tuple[str, str], ...] = ()
    purpose: str = ""  # one sentence, for lists


def load_character(reference: str) -> Character:
    """The character in a file, of that name in the folder `characters` beside the configuration, or built in.

    Raises UsageError if there is none, or for a file with an invalid value (the message names the file and the place),
    and DiskError if the file cannot be read.
    """
    path = _find(reference)
    suffix, text = path.suffix.lower(), read_text(str(path))
    if len(text) > _MAX_LENGTH:
        raise DiskError(f"{path} has more than {_MAX_LENGTH} characters", "use a smaller file")
    try:
        if suffix == ".toml":
            return _from_table(tomllib.loads(text), path)
        if suffix == ".json":
            return _from_table(_table_of_json(json.loads(text), path), path)
        if suffix in (".md", ".markdown"):
            table, body = _split_front_matter(text, path)
            return _from_table(table, path, body)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:160] if isinstance(error, ValueError) else "it is nested too deeply"
        raise UsageError(f"{path} is not valid {'JSON' if suffix == '.json' else 'TOML'}: {reason}") from None
    return Character(path.stem, text.strip())


def character_names() -> list[str]:
    """The names that `load_character` takes: the user's characters and the built-in ones."""
    names: set[str] = set()
    for folder in (_user_folder(), _BUILT_IN):
        with suppress(OSError):
            names |= {path.stem for path in folder.iterdir() if path.suffix in SUFFIXES and path.name[0] != "."}
    return sorted(names - {"none"})  # `none` removes a character


def character_purposes() -> dict[str, str]:
    """Each of the names with its purpose in one sentence; empty if the file has none or is not valid."""
    purposes = dict.fromkeys(character_names(), "")
    for name in purposes:
        with suppress(LlmcliError):
            purposes[name] = load_character(name).purpose
    return purposes


def character_layer(character: Character) -> Layer:
    """The settings of a character, its system prompt among them."""
    system = character.system
    if system == "-" or system.startswith("@"):
        system = f" {system}"  # at the start it would name a file to be read
    values = {**character.settings, **({"system": system} if system else {})}
    return Layer("character", values, f"character {character.name}")


def _user_folder() -> Path:
    return config_dir() / "characters"


def _find(reference: str) -> Path:
    path = os.path.expanduser(reference)
    is_name = Path(path).name == reference and reference.strip(".") != ""
    if os.path.isfile(path) and not (is_name and not Path(path).suffix):
        return Path(path)
    candidates = [_user_folder() / f"{reference}{suffix}" for suffix in ("", *SUFFIXES)]
    candidates.append(_BUILT_IN / f"{reference}.toml")
    found = next(filter(os.path.isfile, candidates), None) if is_name else None
    if found or os.path.exists(path):
        return found or Path(path)  # reading it tells what is wrong
    names = character_names()
    choices = f"use one of {', '.join(names)}"
    if not is_name:
        raise UsageError(f"character file not found: {reference[:200]!r}", choices)
    stem = reference if Path(reference).suffix in SUFFIXES else f"{reference}.toml"
    hint = f"{did_you_mean(reference, names)} {choices}, or create {_user_folder() / stem[:80]}"
    raise UsageError(f"unknown character {reference[:80]!r}", hint.lstrip())


def _from_table(table: Mapping[str, Any], path: Path, body: str = "") -> Character:
    """The character of a TOML table or its equal; `body` is the system prompt of a Markdown file."""
    for key in table:
        if key not in _KEYS:
            hint = did_you_mean(key, _KEYS) or "put settings into the table [settings]"
            raise UsageError(f"{path}: unknown key {key!r}", hint)
    texts = _texts(table, _TEXT_KEYS, path)
    if texts["system"] and body.strip():
        hint = "keep `system` or the text below the front matter"
        raise UsageError(f"{path}: the system prompt is given twice", hint)
    settings = table.get("settings", {})
    if not isinstance(settings, dict):
        raise UsageError(f"{path}: settings must be a table")
    settings = validate_preset(settings, f"{path}: settings")
    if "system" in settings:
        raise UsageError(f"{path}: `system` cannot be in settings", "write `system` above the table [settings]")
    if code := settings.keys() & {*CODE_KEYS, "rpc"}:
        raise UsageError(
            f"{path}: a character cannot set {min(code)} (it runs code)", "if you trust the code, give it as a flag"
        )
    examples = table.get("examples", [])
    is_valid = isinstance(examples, list) and all(isinstance(example, dict) for example in examples)
    pairs = tuple((example.get("user"), example.get("assistant")) for example in examples) if is_valid else ()
    if not is_valid or not all(isinstance(text, str) for pair in pairs for text in pair):
        raise UsageError(f"{path}: examples must be a list of {{user = ..., assistant = ...}}")
    return Character(
        " ".join(texts["name"].split()) or path.stem,
        texts["system"].strip() or body.strip(),
        texts["greeting"].strip(),
        settings,
        pairs,
        " ".join(texts["purpose"].split()),
    )


def _texts(table: Mapping[str, Any], keys: Sequence[str], path: Path) -> dict[str, str]:
    """The values of these keys; "" for one that is not there."""
    texts = {key: table.get(key, "") for key in keys}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise UsageError(f"{path}: {key} must be a string")
    return texts


def _split_front_matter(text: str, path: Path) -> tuple[dict[str, Any], str]:
    """The table of the front matter, if there is one, and the rest of the text. Raises ValueError for invalid TOML."""
    lines = text.split("\n")
    if lines[0].rstrip() != "---":
        return {}, text
    end = next((number for number, line in enumerate(lines) if number and line.rstrip() == "---"), None)
    if end is None:
        raise UsageError(f"{path}: the front matter of line 1 is not closed", "end it with a line of ---")
    head = lines[1:end]
    first = next((line for line in head if line.strip() and not line.lstrip().startswith("#")), "")
    # The empty line stands for `---`, so that errors have the line numbers of the file.
    table = tomllib.loads("\n".join(["", *head, ""])) if _TOML.match(first) else _simple_table(head, path)
    return table, "\n".join(lines[end + 1 :])


def _simple_table(head: list[str], path: Path) -> dict[str, Any]:
    """The table of lines `key: value`; a key that is not of a character is a setting."""
    table: dict[str, Any] = {"settings": {}}
    value: Any
    for number, line in enumerate(head, 2):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, colon, value = (part.strip() for part in line.partition(":"))
        if not colon or not key:
            raise UsageError(f"{path}, line {number}: expected `key: value`")
        if key == "settings" and not value:
            continue  # the settings follow, indented or not
        if value in ("", "|", ">", "|-", ">-"):
            hint = 'for text of several lines, write TOML: key = """text"""'
            raise UsageError(f"{path}, line {number}: {key} has no value", hint)
        if value.startswith("["):
            with suppress(ValueError, RecursionError):  # not a list: a text
                value = json.loads(value)
        elif len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        (table if key in _TEXT_KEYS else table["settings"])[key] = value
    return table


def _table_of_json(data: Any, path: Path) -> dict[str, Any]:
    """The table of a JSON object; a character card becomes the table that has the same meaning."""
    if not isinstance(data, dict):
        raise UsageError(f"{path} is not a character: it must be a JSON object")
    if not str(data.get("spec", "")).startswith("chara_card") and not any(key in data for key in _V1_KEYS):
        return data
    inner = data.get("data", data)
    if not isinstance(inner, dict):
        raise UsageError(f"{path}: `data` of the card must be a JSON object")
    card = _texts({key: value for key, value in inner.items() if value}, _CARD_KEYS, path)
    name = " ".join(card["name"].split())
    examples = _card_examples(card["mes_example"], name)
    system = [
        card["system_prompt"] or "You are {{char}}, and answer as {{char}} would.",
        card["description"],
        f"Personality: {card['personality']}" if card["personality"] else "",
        f"Scenario: {card['scenario']}" if card["scenario"] else "",
        "" if examples else _START.sub("", card["mes_example"]),
    ]
    return {
        "name": name,
        "system": _fill_placeholders("\n\n".join(part.strip() for part in system if part.strip()), name),
        "greeting": _fill_placeholders(card["first_mes"], name),
        "examples": examples,
    }


def _fill_placeholders(text: str, name: str) -> str:
    words = {"user": "User", "original": ""}
    filled = _PLACEHOLDER.sub(lambda match: words.get((match[1] or match[2]).lower(), name or "the character"), text)
    return filled.strip()


def _card_examples(text: str, name: str) -> list[dict[str, str]]:
    """Pairs of a question and the answer of the character; empty if the text has another form."""
    examples = []
    for block in _START.split(text):
        _, *turns = _SPEAKER.split(block)  # two groups for the speaker, then what is said, and so on
        said = [(one or other, words) for one, other, words in zip(turns[::3], turns[1::3], turns[2::3], strict=True)]
        for (speaker, question), (next_speaker, answer) in pairwise(said):
            if speaker.lower() == "user" and next_speaker.lower() != "user":
                pair = {"user": _fill_placeholders(question, name), "assistant": _fill_placeholders(answer, name)}
                examples.append(pair)
    return examples
