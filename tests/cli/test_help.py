"""Help: it begins with examples that work, fits one screen, and names the right command after a wrong one."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import typer

from llmcli.cli import help_texts
from llmcli.cli.help_texts import commands_below, help_page, normalize_arguments
from llmcli.cli.options import parse_flag
from llmcli.cli.typer_app import make_app
from llmcli.errors import ExitStatus
from llmcli.inference.comparison import variants_of
from llmcli.params.settings import fields
from tests.conftest import Run


def contexts_below(group: Any, parent: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The context of every command and group below `group` by its path: `models pull`."""
    for name, command in group.commands.items():
        context = command.context_class(command, parent=parent, info_name=name, **command.context_settings)
        yield prefix + name, context
        if hasattr(command, "commands"):
            yield from contexts_below(command, context, f"{prefix}{name} ")


ROOT: Any = typer.main.get_command(make_app())
ROOT_CONTEXT = ROOT.context_class(ROOT, info_name="llmcli", **ROOT.context_settings)
CONTEXTS = dict(contexts_below(ROOT, ROOT_CONTEXT))
COMMANDS = {path: context.command for path, context in CONTEXTS.items()}


@cache
def help_of(path: str, everything: bool) -> str:
    """The text of `--help` or `--help-all` on a terminal of 80 columns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        return help_page(CONTEXTS[path], everything)


def visible_options(path: str) -> list[Any]:
    parameters = COMMANDS[path].get_params(CONTEXTS[path])
    return [one for one in parameters if one.param_type_name == "option" and not one.hidden]


def lines_of(path: str) -> list[str]:
    return [*help_texts.COMMANDS[path].examples]


def command_lines(line: str) -> list[list[str]]:
    """The arguments of each call of llmcli in a line of shell."""
    calls = re.findall(r"(?:^|[ (])llmcli((?: (?:\"[^\"]*\"|[^|<>#)])*)?)", line)
    return [shlex.split(call) for call in calls]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The parameters of the last command, which is parsed and not run."""
    given: dict[str, Any] = {}
    for command in COMMANDS.values():
        monkeypatch.setattr(command, "callback", lambda **values: given.update(values))
    return given


@pytest.mark.parametrize("path", ["", *COMMANDS])
def test_every_command_has_three_examples_that_parse(path: str, parsed: dict[str, Any]) -> None:
    lines = lines_of(path)
    assert len(lines) == 3
    assert max(map(len, lines)) <= 78
    for line in lines:
        calls = command_lines(line)
        assert calls, line
        for arguments in calls:
            assert " ".join(arguments).startswith(path), line
            parsed.clear()
            ROOT.main(args=normalize_arguments(arguments), prog_name="llmcli", standalone_mode=False)
            check_values(parsed)


def test_examples_belong_to_commands() -> None:
    assert set(help_texts.COMMANDS) == {"", *COMMANDS}


def check_values(given: dict[str, Any]) -> None:
    """Parse the values of the settings, which the command itself would do."""
    for key, value in given.items():
        if key in fields() and value is not None:
            parse_flag(fields()[key], list(value) if isinstance(value, tuple) else value)
    if given.get("vary"):
        assert len(variants_of(list(given["vary"]), 1, 1)) > 1


@pytest.mark.parametrize("path", COMMANDS)
def test_help_begins_with_usage_a_sentence_and_examples(path: str) -> None:
    text = help_of(path, everything=False)
    usage, sentence, examples = text.split("\n\n")[:3]
    assert usage.startswith(f"Usage: llmcli {path} ")
    assert re.match(r"  [A-Z]", sentence)
    assert sentence.endswith(".")
    assert examples.startswith("Examples:\n  ")
    group = hasattr(COMMANDS[path], "commands")
    options = f"{path} --help-all shows all {len(visible_options(path))} options."
    expected = f"{path} COMMAND --help shows the examples and options of a command." if group else options
    assert text.splitlines()[-1] == f"llmcli {expected}"


@pytest.mark.parametrize("path", COMMANDS)
def test_help_is_not_wider_than_a_terminal(path: str) -> None:
    for everything in (False, True):
        assert [line for line in help_of(path, everything).splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("path", COMMANDS)
def test_help_all_names_every_option(path: str) -> None:
    words = set(re.findall(r"--?[a-zA-Z][a-z-]*", help_of(path, everything=True)))
    for option in visible_options(path):
        assert {*option.opts} <= words


def test_an_example_uses_no_hidden_option() -> None:
    for path in COMMANDS:
        words = {word for line in lines_of(path) for call in command_lines(line) for word in call}
        for option in COMMANDS[path].params:
            assert not getattr(option, "hidden", False) or words.isdisjoint(option.opts), path


def test_the_facts_of_an_option_look_the_same_everywhere() -> None:
    assert "  --limit N " in help_of("models search", everything=False)
    assert "[between 1 and 100, default 15]" in " ".join(help_of("models search", everything=False).split())
    assert "[at least 0, or -1, default -1]" in " ".join(help_of("generate", everything=True).split())
    assert "[default true]" in help_of("chat", everything=False)
    assert "[required]" in help_of("trace plot", everything=False)


def test_help_and_help_all_print_these_texts(inside: Run) -> None:
    for path in ("models", "models pull", "chat"):
        assert inside(*path.split(), "--help", env={"COLUMNS": "80"}).text == help_of(path, everything=False) + "\n"
        assert inside(*path.split(), "--help-all", env={"COLUMNS": "80"}).text == help_of(path, everything=True) + "\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_fits_one_screen(name: str) -> None:
    assert len(help_of(name, everything=False).splitlines()) <= 45


@pytest.mark.parametrize("name", ["chat", "generate", "compare", "doctor", "models show"])
def test_the_common_options_of_a_command_exist(name: str) -> None:
    flags = {flag for option in visible_options(name) for flag in (*option.opts, *option.secondary_opts)}
    assert set(help_texts.COMMANDS[name].common) <= flags


def test_the_help_of_generate_ends_with_every_exit_status() -> None:
    assert all(status.meaning for status in ExitStatus)
    short = " ".join(help_of("generate", everything=False).partition("Exit status:")[2].split())
    whole = help_of("generate", everything=True).partition("Exit status:")[2]
    for status in ExitStatus:
        assert f"{status.value} {status.meaning}" in short
        assert re.search(rf"^  {status.value} +{re.escape(status.meaning)}$", whole, re.M)


def test_llmcli_alone_shows_where_to_start(run: Run, inside: Run) -> None:
    ran = inside()
    assert (ran.status, ran.stderr) == (0, "")
    assert run().text == ran.text
    assert "Start here:\n  llmcli chat " in ran.text
    for name, summary in commands_below(""):
        assert re.search(rf"^  {name} +{re.escape(summary)}$", ran.text, re.M), name
    assert "docs/" in ran.text
    assert len(ran.text.splitlines()) <= 34


def test_the_root_help_is_the_same_with_and_without_typer(inside: Run) -> None:
    assert inside("--help").text == ROOT.get_help(ROOT_CONTEXT) + "\n"
    assert inside("-h").text == inside("help").text == inside("--help").text


def test_the_whole_root_help_lists_the_commands_of_the_groups(inside: Run) -> None:
    text = inside("--help-all").text
    for path in COMMANDS:
        assert re.search(rf"^  {path} ", text, re.M), path


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["hello"], 'use `llmcli generate "hello"` to ask, or `llmcli chat "hello"` to talk'),
        (["why is", "it", "-n", "5"], '`llmcli generate "why is it 5"`'),
        (["cost: $5"], "`llmcli generate 'cost: $5'`"),
        (["generat"], "generate"),
        (["run"], "`llmcli chat -m MODEL`"),
        (["run", "q05"], "`llmcli chat -m q05`"),
        (["ls"], "`llmcli models list`"),
        (["list"], "`llmcli models list`"),
        (["show", "q05"], "`llmcli models show q05`"),
        (["rm", "q05"], "`llmcli models rm q05`"),
        (["ask", "why"], '`llmcli generate "why"`'),
        (["benchmark"], "`llmcli bench`"),
        (["embeddings", "x"], '`llmcli embed "x"`'),
        (["models", "ls"], "'list'"),
        (["sessions", "delete", "x"], "'rm'"),
        (["-m", "x", "chat"], "`llmcli chat -m …`"),
    ],
)
def test_a_command_of_another_program_names_the_right_one(inside: Run, arguments: list[str], command: str) -> None:
    ran = inside(*arguments)
    assert (ran.status, ran.text) == (2, "")
    error, hint = ran.stderr.splitlines()
    assert error.startswith("error: no such ")
    assert hint.startswith("  hint: ")
    assert command in hint


def test_a_narrow_terminal_has_each_comment_above_its_command(inside: Run) -> None:
    lines = inside(env={"COLUMNS": "42"}).text.splitlines()
    assert max(map(len, lines)) <= 42
    at = lines.index("  # one answer")
    assert lines[at + 1] == '  llmcli generate "Why is the sky blue?"'


def test_help_all_has_the_details_of_a_command(inside: Run) -> None:
    assert "One token on each line" in inside("tokenize", "--help-all").text
    assert "One token on each line" not in inside("tokenize", "--help").text


def test_help_and_version_are_commands_too(inside: Run) -> None:
    assert inside("help", "models", "pull").text == inside("models", "pull", "--help").text
    assert inside("version").text == inside("--version").text
    assert inside("help", "nothing").status == 2


@pytest.mark.slow
def test_the_front_page_imports_neither_typer_nor_rich() -> None:
    code = "import sys; from llmcli.cli.app import run; run(sys.argv[1:]); print([*sys.modules], file=sys.stderr)"
    for arguments in ([], ["--help"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        modules = set(re.findall(r"'([a-z_]+)'", done.stderr))
        assert not modules & {"typer", "rich", "llama_cpp", "numpy"}


@pytest.mark.slow
def test_the_help_of_a_group_imports_no_command_and_is_the_same() -> None:
    code = "import sys; from llmcli.cli.app import run; run(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    for flag, everything in (("--help", False), ("--help-all", True)):
        command = [sys.executable, "-c", code, "models", flag]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"})
        assert done.stdout == help_of("models", everything) + "\n"
        assert not re.search(r"llmcli\.(cli\.models|params\.settings)", done.stderr)
