"""Characters from files of every form and built in, found by path or by name, and the errors of their files."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmcli.config.characters import Character, character_layer, character_names, character_purposes, load_character
from llmcli.errors import DiskError, UsageError
from llmcli.files import config_dir
from llmcli.inference.request import system_text
from llmcli.params.policies.policy import Fixed
from llmcli.params.settings import resolve

TOML = """
name = "Captain Ahab"
system = "You hunt a whale."
greeting = "Hast thou seen it?"
examples = [{user = "No.", assistant = "Then look!"}]

[settings]
temp = 1.2
stop = ["Ishmael"]
"""
AHAB = Character(
    "Captain Ahab",
    "You hunt a whale.",
    "Hast thou seen it?",
    {"temperature": Fixed(1.2), "stop": ("Ishmael",)},
    (("No.", "Then look!"),),
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def save_character(name: str, text: str) -> Path:
    """A file in the folder of characters."""
    path = config_dir() / "characters" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def load(text: str | dict[str, Any], name: str = "x.toml") -> Character:
    Path(name).write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return load_character(name)


def test_a_toml_file_can_have_every_part() -> None:
    assert load(TOML) == AHAB
    assert load("") == Character("x")


def test_a_text_file_is_a_system_prompt() -> None:
    assert load("You are terse.\n\n---\nReally.\n", "Terse one.txt") == Character(
        "Terse one", "You are terse.\n\n---\nReally."
    )


def test_a_markdown_file_has_the_system_prompt_below_its_head() -> None:
    head = TOML.replace('system = "You hunt a whale."\n', "")
    assert load(f"---{head}---\n\nYou hunt a whale.\n", "x.md") == AHAB
    simple = """---
# who
name: "Captain Ahab"
greeting: Hast thou seen it?
settings:
  temp: 1.2
  stop: ["Ishmael"]
---
You hunt a whale.
"""
    assert load(simple, "x.md") == Character(AHAB.name, AHAB.system, AHAB.greeting, AHAB.settings)
    assert load(simple.replace("\n", "\r\n"), "x.md").settings == AHAB.settings
    assert load("# You\nare a poet.\n", "x.md") == Character("x", "# You\nare a poet.")
    assert load("---\nname: A\nsystem: B = C: D\n---\n", "x.md") == Character("A", "B = C: D")


CARD = {
    "name": "Ada",
    "description": "{{char}} is a countess.",
    "personality": "exact",
    "scenario": "{{user}} visits <BOT>.",
    "first_mes": "Good day, {{User}}.",
    "mes_example": "<START>\n{{user}}: What is it?\n{{char}}: An engine,\nof brass.\n<start>\n{{char}}: So.\n{{user}}: "
    "{{char}}?\n{{char}}: Yes, {{user}}.",
}
ADA = Character(
    "Ada",
    "You are Ada, and answer as Ada would.\n\nAda is a countess.\n\nPersonality: exact\n\nScenario: User visits Ada.",
    "Good day, User.",
    {},
    (("What is it?", "An engine,\nof brass."), ("Ada?", "Yes, User.")),
)


@pytest.mark.parametrize(
    "card", [CARD, {"spec": "chara_card_v2", "data": CARD}, {"spec": "chara_card_v3", "data": CARD}]
)
def test_a_card_of_any_version_is_read(card: dict[str, Any]) -> None:
    assert load(card, "x.json") == ADA


def test_a_card_can_have_its_own_system_prompt() -> None:
    data = {
        "name": "",
        "system_prompt": "{{original}} Be {{char}}.",
        "mes_example": "<START> Ada: hm.",
        "first_mes": None,
    }
    character = load({"spec": "chara_card_v2", "data": data}, "eve.json")
    assert character == Character("eve", "Be the character.\n\nAda: hm.")


def test_json_that_is_not_a_card_is_read_like_toml() -> None:
    assert load({"name": "A", "system": "B", "settings": {"seed": 1}}, "x.json") == Character("A", "B", "", {"seed": 1})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.toml", "name = \n", "not valid TOML: .*line 1"),
        ("x.toml", "sistem = 'a'\n", "unknown key 'sistem'"),
        ("x.toml", "temperature = 1\n", "unknown key 'temperature'"),
        ("x.toml", "name = 3\n", "name must be a string"),
        ("x.toml", "settings = 3\n", "settings must be a table"),
        ("x.toml", "[settings]\ntop_p = 7\n", "settings: top_p must be between"),
        ("x.toml", "[settings]\npull = true\n", "pull cannot be part"),
        ("x.toml", "[settings]\nsystem = 'a'\n", "`system` cannot be in settings"),
        ("x.toml", "[settings]\ntemp_policy_file = 'a.py:b'\n", "cannot set temp_policy_file"),
        ("x.toml", "examples = ['a']\n", "examples must be"),
        ("x.toml", "examples = [{user = 'a'}]\n", "examples must be"),
        ("x.toml", "a = " + "[" * 50_000, "not valid TOML"),
        ("x.md", "---\nname: A\n", "is not closed"),
        ("x.md", "---\nname = 'A'\nb = \n---\n", "not valid TOML: .*line 3"),
        ("x.md", "---\nname: A\nhello\n---\n", "line 3: expected"),
        ("x.md", "---\nname: A\ngreeting: |\n  a\n---\n", "line 3: greeting has no value"),
        ("x.md", "---\nsystem: A\n---\nB\n", "given twice"),
        ("x.md", "---\ntop_p: high\n---\nB\n", "settings: top_p must be a number"),
        ("x.json", "{", "not valid JSON: .*line 1"),
        ("x.json", "[" * 100_000, "not valid JSON"),
        ("x.json", "[]", "must be a JSON object"),
        ("x.json", '{"spec": "chara_card_v2", "data": []}', "`data` of the card must be a JSON object"),
        ("x.json", '{"first_mes": ["a"]}', "first_mes must be a string"),
    ],
)
def test_a_file_that_is_not_valid_is_an_error_with_the_place(name: str, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load(text, name)
    assert str(caught.value).startswith(name)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_too_large_or_binary_is_refused() -> None:
    with pytest.raises(DiskError, match="more than 1048576 characters"):
        load("a" * ((1 << 20) + 1), "x.txt")
    Path("x.png").write_bytes(b"\x89PNG\0")
    with pytest.raises(DiskError, match="not a text file"):
        load_character("x.png")
    Path("folder").mkdir()
    with pytest.raises(DiskError, match="is a folder"):
        load_character("folder")


def test_a_name_is_found_in_the_folder_of_characters(folder: Path) -> None:
    save_character("ahab.toml", TOML)
    save_character("dr.who.txt", "A doctor.")
    save_character("both.md", "first")
    save_character("both.txt", "second")
    save_character(".hidden.txt", "")
    save_character("notes.pdf", "")
    assert character_names() == ["ahab", "both", "dr.who", *BUILT_IN]
    assert load_character("ahab") == load_character("ahab.toml") == AHAB
    assert load_character("dr.who").system == "A doctor."
    assert load_character("both").system == "first"
    Path("ahab").write_text("a file beside us")
    assert load_character("ahab") == AHAB
    assert load_character("./ahab").system == "a file beside us"


def test_a_path_may_start_with_a_tilde() -> None:
    path = Path("~/c.txt").expanduser()
    path.parent.mkdir()
    path.write_text("At home.")
    assert load_character("~/c.txt") == Character("c", "At home.")


@pytest.mark.parametrize("reference", ["", "nobody", "../ahab", "x" * 10_000, "a\0b", "~nobody-has-this-name/x"])
def test_an_unknown_character_is_an_error(reference: str) -> None:
    save_character("ahab.toml", TOML)
    with pytest.raises(UsageError, match=r"unknown character|character file not found"):
        load_character(reference)


def test_the_error_for_an_unknown_name_has_the_file_to_create() -> None:
    with pytest.raises(UsageError, match=r"^unknown character 'ahap'$") as caught:
        load_character("ahap")
    file = config_dir() / "characters" / "ahap.toml"
    assert caught.value.hint == f"use one of editor, pirate, tutor, or create {file}"
    save_character("ahab.toml", TOML)
    with pytest.raises(UsageError) as caught:
        load_character("ahap")
    assert caught.value.hint.startswith("did you mean")
    assert "ahab" in caught.value.hint
    file.write_text('system = "Now I exist."')
    assert load_character("ahap").system == "Now I exist."


def test_the_error_for_an_unknown_path_names_the_path() -> None:
    with pytest.raises(UsageError, match=r"^character file not found: 'roles/ahab\.toml'$"):
        load_character("roles/ahab.toml")


BUILT_IN = ["editor", "pirate", "tutor"]


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_character_is_complete_without_a_file(name: str) -> None:
    character = load_character(name)
    assert all((character.name, character.system, character.greeting, character.settings))
    assert character.purpose.endswith(".")
    assert character_purposes()[name] == character.purpose


def test_a_file_replaces_the_built_in_character_of_its_name() -> None:
    save_character("pirate.toml", 'purpose = "Sings  sea\\nshanties."\n[settings]\nseed = 1')
    assert load_character("pirate") == Character("pirate", settings={"seed": 1}, purpose="Sings sea shanties.")
    assert character_names() == BUILT_IN


def test_the_list_of_purposes_skips_a_file_that_is_not_valid() -> None:
    save_character("ahab.toml", "name = 3")
    save_character("eve.md", "---\npurpose: Asks questions.\n---\nYou are Eve.")
    assert {name: character_purposes()[name] for name in ("ahab", "eve")} == {"ahab": "", "eve": "Asks questions."}


def test_the_layer_has_the_settings_and_the_system_prompt() -> None:
    values = character_layer(AHAB).values
    assert character_layer(AHAB).name == "character"
    assert values == {"temperature": Fixed(1.2), "stop": ("Ishmael",), "system": "You hunt a whale."}
    assert character_layer(Character("x")).values == {}


def test_the_system_prompt_of_a_character_reads_no_file(folder: Path) -> None:
    (folder / "secret").write_text("42")
    read = system_text(resolve([character_layer(load('system = "@secret"'))]).settings)
    assert read is not None
    assert read.strip() == "@secret"
