"""The table of commands: everything that names them is made from it."""

import pytest

from docs.build import ROOT, command_table
from llmcli.chat.dialogue import settable
from llmcli.errors import DiskError, UsageError
from llmcli.params.settings import fields
from llmcli.ui.commands.registry import Command, commands, lookup, names, obey, split
from llmcli.ui.repl.chat import Chat

ASKED_FOR = {
    *("help", "exit", "set", "reset", "params", "samplers", "temp", "seed", "system", "model", "retry", "continue"),
    *("stop", "edit", "undo", "redo", "branches", "branch", "fork", "clear", "history", "save", "load", "sessions"),
    *("rename", "export", "copy", "file", "paste", "context", "compact", "stats", "think", "preset", "json"),
    *("tokens", "trace", "why", "alternatives", "compare", "keep"),
    *("markdown", "theme", "multiline", "editor"),
}


def test_every_command_that_was_promised_is_there() -> None:
    assert set(commands()) == ASKED_FOR
    assert {"quit", "bye"} <= set(names())


@pytest.mark.parametrize("one", commands().values(), ids=lambda one: one.name)
def test_a_command_has_help_of_one_line_a_heading_and_a_row_in_the_readme(one: Command) -> None:
    first = one.help.split(". ")[0]
    assert first.strip()
    assert len(first) <= 56, "the list of /help has one line for each"
    assert one.help.endswith(".")
    assert one.heading
    readme = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert f"| `/{one.name}" in readme
    assert one.help.replace("|", "\\|") in readme


def test_the_readme_has_the_table_as_it_is_made() -> None:
    assert command_table() in (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


def test_commands_stand_under_their_headings_in_one_piece() -> None:
    headings = [one.heading for one in commands().values()]
    assert len(set(headings)) == sum(a != b for a, b in zip(headings, [None, *headings], strict=False))


@pytest.mark.parametrize("key", settable())
def test_every_setting_is_a_command(key: str) -> None:
    found = lookup(key)
    assert found == key or isinstance(found, Command)


@pytest.mark.parametrize("key", ["prompt", "file", "logprobs", "character", "editing_mode"])
def test_what_makes_no_sense_in_a_conversation_cannot_be_set(chat: Chat, key: str) -> None:
    assert key in fields()
    with pytest.raises(UsageError, match="cannot be set here"):
        obey(chat, "set", f"{key} 1")


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("/help", ("help", "")),
        ("/HELP me", ("help", "me")),
        ("/top-p 0.5", ("top_p", "0.5")),
        ("/system two\nlines", ("system", "two\nlines")),
        ("/?", ("?", "")),
        ("/etc/hosts is a file", None),
        ("/ is the root", None),
        ("/5 is a number", None),
        ("hello /help", None),
        ("//help", None),
    ],
)
def test_a_command_is_told_from_a_message(text: str, parsed: tuple[str, str] | None) -> None:
    assert split(text) == parsed


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("hlep", "/help"), ("tmep", "/temp"), ("brnaches", "/branches"), ("topp", "/top_p"), ("zzzzzz", "/help")],
)
def test_an_unknown_command_names_the_nearest_one(wrong: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        lookup(wrong)
    assert meant in caught.value.hint


@pytest.mark.parametrize("name", ["x" * 300 + ".md", "~nobody/x.md", "x\0.md"])
def test_a_file_that_no_system_can_write_is_told(chat: Chat, name: str) -> None:
    chat.session.say("user", "hi")
    with pytest.raises(DiskError, match="cannot write"):
        obey(chat, "export", name)
