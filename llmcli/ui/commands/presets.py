"""Commands for presets and characters."""

from dataclasses import replace
from typing import TYPE_CHECKING

from llmcli.config.presets import NEVER, presets, remove_preset, save_preset, summary
from llmcli.config.presets import describe as describe_preset
from llmcli.errors import UsageError
from llmcli.files import config_dir
from llmcli.ui.commands.registry import SETTINGS, command
from llmcli.ui.terminal.console import console

if TYPE_CHECKING:
    from llmcli.ui.chat.app import Chat


@command(
    "preset",
    heading=SETTINGS,
    usage="[NAME|none|save NAME|rm NAME]",
    help="List presets, or use one.",
    detail="`none` ends its use. `save NAME` saves the settings of this session as a preset in the configuration file, "
    "`rm NAME` deletes a preset of yours.",
    examples=("/preset", "/preset creative", "/preset save mine"),
    complete=lambda _chat, start: _preset_words(start),
    everyday=True,
)
def preset(chat: "Chat", argument: str) -> None:
    """List, use, save or delete presets."""
    word, _, name = argument.partition(" ")
    name = name.strip()
    if word in ("", "list"):
        _list_presets(chat)
    elif word == "save":
        _save_preset(chat, name)
    elif word == "rm" and name:
        remove_preset(name)
        if chat.session.overrides.get("preset") == name:
            chat.dialogue.reset("preset")
        console.note(f"deleted preset {name}")
    else:
        chat.dialogue.set("preset", None if word == "none" else argument)
        console.note("no preset" if word == "none" else f"preset {word}: {describe_preset(presets()[word])}")


def _list_presets(chat: "Chat") -> None:
    """Print what each preset is for, and its settings."""
    current = chat.dialogue.settings.preset
    chat.definitions(
        [(name + ("*" if name == current else ""), summary(name, values)) for name, values in presets().items()]
    )


def _save_preset(chat: "Chat", name: str) -> None:
    """Save the settings of this session as a preset of the user's."""
    if not name:
        raise UsageError("/preset save needs a name", "try /preset save mine")
    chosen = presets().get(chat.session.overrides.get("preset") or "", {})
    own = {key: value for key, value in chat.session.overrides.items() if key not in ("model", *NEVER)}
    values = {**chosen, **own}
    if not values:
        raise UsageError("no setting was changed in this session", "change one first, for example /temp 1.2")
    path = save_preset(name, values)
    console.note(f"saved preset {name} in {path}: {describe_preset(values)}")


def _preset_words(start: str) -> list[tuple[str, str]]:
    known = [(name, summary(name, values)) for name, values in presets().items()]
    words = [*known, ("save ", ""), ("rm ", ""), ("list", ""), ("none", "")]
    return [(word, note) for word, note in words if word.startswith(start)]


def _character_words(_chat: "Chat", start: str) -> list[tuple[str, str]]:
    from llmcli.config.characters import character_purposes

    words = [*character_purposes().items(), ("none", "no character")]
    return [(word, purpose) for word, purpose in words if word.startswith(start)]


@command(
    "character",
    heading=SETTINGS,
    usage="[NAME|FILE|none]",
    help="List characters, or let one answer.",
    detail="A character has a system prompt, a greeting and settings. Alone it lists them. `none` ends it. Yours are "
    "files in the folder `characters` of the configuration, or any FILE.",
    examples=("/character", "/character pirate", "/character none"),
    aliases=("characters",),
    complete=_character_words,
    everyday=True,
)
def character(chat: "Chat", argument: str) -> None:
    """List the characters, or switch to one."""
    from llmcli.chat.character_switch import use_character
    from llmcli.config.characters import load_character

    if argument in ("", "list"):
        _list_characters(chat)
        return
    chosen = None if argument == "none" else load_character(argument)
    if chosen and "model" in chosen.settings:
        chat.bring(replace(chat.dialogue.settings, model=chosen.settings["model"]))
    greeting = use_character(chat.dialogue, chosen)
    console.note(f"character: {chosen.name}" if chosen else "no character")
    if greeting:
        chat.render(greeting)
        chat.say("")


def _list_characters(chat: "Chat") -> None:
    """Print the names of the characters and what each is for."""
    from llmcli.config.characters import character_purposes

    chat.rows(("CHARACTER", "PURPOSE"), list(character_purposes().items()))
    current = chat.dialogue.character
    console.note(f"{current} answers" if current else "no character answers")
    console.note(f"add your own in {config_dir() / 'characters'}, for example NAME.toml")
