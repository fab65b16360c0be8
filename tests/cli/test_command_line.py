"""The parser of usual command lines agrees with Typer's, and so does its help."""

import os
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from llmcli.cli.command_line import CommandLine, direct_line
from llmcli.cli.help_texts import COMMANDS, help_page
from llmcli.cli.typer_app import make_app

PATHS = [path for path, command in COMMANDS.items() if command.place]
ROOT: Any = typer.main.get_command(make_app())
# Flags of all kinds, values that look like flags, and words that no command has.
WORDS = ["-n", "5", "-n5", "-n=5", "--max-tokens=5", "--temp", "-1", "--stop", "", "a=b", "-", "--", "--json", "-q"]
WORDS += ["-v", "-vv", "--no-stream", "--no-such", "--heat", "p", "x", "--limit", "-ngl", "-ngl=3", "--quiet=1", "-fa"]


def context_of(path: str) -> Any:
    command, context = ROOT, ROOT.make_context("llmcli", [], resilient_parsing=True)
    for word in path.split():
        command = command.commands[word]
        context = command.make_context(word, [], parent=context, resilient_parsing=True)
    return context


def line_of(path: str, words: list[str]) -> CommandLine:
    line = direct_line([*path.split(), *words])
    assert line
    return line


@pytest.mark.parametrize("path", PATHS)
def test_the_help_without_typer_is_the_help_of_typer(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "COLUMNS", "80")
    line, context = line_of(path, []), context_of(path)
    for everything in (False, True):
        assert help_page(line, everything) == help_page(context, everything)


@given(st.sampled_from(PATHS), st.lists(st.sampled_from(WORDS), max_size=6))
def test_a_line_parsed_without_typer_has_the_values_of_typer(path: str, words: list[str]) -> None:
    values = line_of(path, words).parse()
    if values is None:
        return  # it is for Typer
    context = context_of(path)
    theirs = context.command.make_context(path, [*words], parent=context.parent).params
    defaults = {one.name: one.default for one in line_of(path, []).parameters}
    lists = {key: [*value] or defaults[key] for key, value in theirs.items() if isinstance(value, tuple)}
    assert theirs | lists == values


def test_a_help_flag_is_found_where_it_is_not_a_value() -> None:
    assert line_of("generate", ["hi", "-h", "--help-all"]).parse() == "-h"
    values = line_of("generate", ["--prompt", "--help", "--", "-h"]).parse()
    assert isinstance(values, dict)
    assert (values["prompt"], values["text"]) == ("--help", "-h")


@pytest.mark.parametrize("words", [["-n"], ["a", "b"], ["--no-such"], ["--json=1"], ["--heat", "x"], ["-n5"]])
def test_an_error_or_a_rare_form_is_left_to_typer(words: list[str]) -> None:
    assert line_of("generate", words).parse() is None
    assert direct_line(["models"]) is None
    assert direct_line(["cache"]) is None
