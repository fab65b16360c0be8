"""The table of commands: everything that names them is made from it."""

import re
from contextlib import suppress

import pytest

from llmcli.chat.controller import chat_setting_keys
from llmcli.errors import DiskError, LlmcliError, UsageError
from llmcli.params.settings import fields
from llmcli.text import parse_command
from llmcli.ui.chat.app import ChatApp
from llmcli.ui.commands.registry import (
    SYNONYMS,
    Command,
    commands,
    commands_by_name,
    dispatch,
    find_command,
    require_command,
)
from tools.docs import ROOT, command_table

ASKED_FOR = {
    *("help", "exit", "set", "reset", "params", "samplers", "temp", "seed", "system", "model", "retry", "continue"),
    *("stop", "edit", "undo", "redo", "branches", "branch", "fork", "clear", "history", "save", "load", "sessions"),
    *("rename", "export", "copy", "file", "paste", "context", "compact", "stats", "think", "preset", "json"),
    *("tokens", "trace", "why", "alternatives", "compare", "keep", "character"),
    *("markdown", "theme", "multiline", "editor"),
}


def test_the_table_has_every_promised_command() -> None:
    assert set(commands()) == ASKED_FOR
    assert {"quit", "bye"} <= set(commands_by_name())


@pytest.mark.parametrize("one", commands().values(), ids=lambda one: one.name)
def test_a_command_has_help_of_one_line_and_a_row_in_the_manual(one: Command) -> None:
    assert 0 < len(one.summary) <= 55, "the list of /help has one line for each"
    assert one.help.endswith(".")
    assert one.heading
    manual = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert f"| `/{one.name}" in manual
    assert one.help.replace("|", "\\|") in manual


@pytest.mark.parametrize("one", commands().values(), ids=lambda one: one.name)
def test_a_command_has_three_examples_of_known_commands(one: Command) -> None:
    assert len(set(one.examples)) == 3
    for example in one.examples:
        for part in example.split(", then "):
            if part.startswith("/"):
                parsed = parse_command(part)
                assert parsed
                assert require_command(parsed[0])


def test_aliases_and_synonyms_are_not_names_of_commands() -> None:
    aliases = [alias for one in commands().values() for alias in one.aliases]
    assert len(aliases) == len(set(aliases))
    assert not set(aliases) & set(commands())
    assert not set(SYNONYMS) & {*commands_by_name(), *chat_setting_keys()}
    assert not [word for word in SYNONYMS if find_command(word)], "an alias of a setting needs no synonym"


@pytest.mark.parametrize(("word", "targets"), SYNONYMS.items())
def test_a_word_of_other_programs_leads_to_what_exists(word: str, targets: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        require_command(word)
    for target in targets:
        assert f"/{target}" in caught.value.hint
        assert require_command(target)


@pytest.mark.parametrize("word", ["editing_mode", "promt", "logprob", "edit_mode", "charcter", "prompt", "zzzzzz"])
def test_a_suggestion_never_names_what_does_not_exist(word: str) -> None:
    with pytest.raises(UsageError) as caught:
        require_command(word)
    for name in re.findall(r"/(\w+)", caught.value.hint):
        assert require_command(name)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("/creative", "use /preset creative or /temp"),
        ("/search x", "use /sessions x"),
        ("/delete", "use /undo for a turn; `llmcli sessions rm NAME` deletes a session"),
    ],
)
def test_an_unknown_command_leads_to_a_whole_command(chat: ChatApp, text: str, hint: str) -> None:
    parsed = parse_command(text)
    assert parsed
    with pytest.raises(UsageError) as caught:
        dispatch(chat, *parsed)
    assert caught.value.hint == hint


def test_a_changed_message_says_where_the_later_ones_are(chat: ChatApp, capfd: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        chat.session.add("user", f"q{number}")
        chat.session.add("assistant", f"a{number}")
    chat.replace(2, "changed")
    note = "messages 3 to 6 stay in branch 1; /branch 1 returns to them\n"
    assert capfd.readouterr().err.endswith(note)
    dispatch(chat, "branch", "1")
    assert [message.content for message in chat.path()] == ["q0", "a0", "q1", "a1", "q2", "a2"]


def test_the_manual_has_the_generated_table() -> None:
    assert command_table() in (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


def test_each_heading_has_its_commands_in_one_piece() -> None:
    headings = [one.heading for one in commands().values()]
    assert len(set(headings)) == sum(a != b for a, b in zip(headings, [None, *headings], strict=False))


@pytest.mark.parametrize("key", chat_setting_keys())
def test_every_setting_is_a_command(key: str) -> None:
    assert require_command(key).name in (key, *commands())


@pytest.mark.parametrize("key", ["prompt", "file", "choices", "rating", "logprobs", "character", "editing_mode"])
def test_a_setting_of_one_request_cannot_be_set(chat: ChatApp, key: str) -> None:
    assert key in fields()
    with pytest.raises(UsageError, match="cannot be set in a running chat"):
        dispatch(chat, "set", f"{key} 1")


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
        ("// help", None),
        ("/top_k=9", ("top_k", "9")),
        ("/top-k = 9", ("top_k", "= 9")),
    ],
)
def test_a_slash_starts_a_command_but_not_a_path(text: str, parsed: tuple[str, str] | None) -> None:
    assert parse_command(text) == parsed


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("hlep", "/help"), ("tmep", "/temp"), ("brnaches", "/branches"), ("topp", "/top_p"), ("zzzzzz", "/help")],
)
def test_an_unknown_command_suggests_the_nearest_one(wrong: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        require_command(wrong)
    assert meant in caught.value.hint


@pytest.mark.parametrize(
    ("name", "usage", "example"),
    [
        ("branch", "/branch N [K]", "/branch 2"),
        ("keep", "/keep N", "/keep 2"),
        ("export", "/export FILE", "/export talk.md"),
        ("fork", "/fork NAME", "/fork other-ending"),
        ("save", "/save NAME", "/save novel"),
        ("load", "/load NAME", "/load novel"),
        ("rename", "/rename NAME", "/rename novel"),
    ],
)
def test_a_command_names_its_missing_argument(chat: ChatApp, name: str, usage: str, example: str) -> None:
    with pytest.raises(UsageError, match=f"^/{name} needs an argument: {re.escape(usage)}$") as caught:
        dispatch(chat, name, "")
    assert caught.value.hint == f"try {example}"


@pytest.mark.parametrize(("name", "example"), [("undo", 2), ("history", 4), ("compact", 4), ("keep", 2)])
def test_a_command_that_takes_a_number_refuses_a_word(chat: ChatApp, name: str, example: int) -> None:
    with pytest.raises(UsageError, match=f"^/{name} takes a number, got 'two'$") as caught:
        dispatch(chat, name, "two")
    assert caught.value.hint == f"try /{name} {example}"


@pytest.mark.parametrize("command", ["undo", "history", "branch", "edit", "copy", "keep"])
def test_a_number_of_many_digits_is_an_error_at_most(chat: ChatApp, command: str) -> None:
    chat.session.add("user", "hi")
    with suppress(LlmcliError):
        dispatch(chat, command, "9" * 5000)


@pytest.mark.parametrize("name", ["x" * 300 + ".md", "~nobody-has-this-name/x.md", "x\0.md"])
def test_an_export_to_an_impossible_path_fails(chat: ChatApp, name: str) -> None:
    chat.session.add("user", "hi")
    with pytest.raises(DiskError, match="cannot write"):
        dispatch(chat, "export", name)
