"""The documentation: links lead somewhere, examples parse, flags exist, and the README stays short."""

import ast
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from llmcli.cli.help_texts import COMMANDS
from llmcli.cli.typer_app import make_app
from tools.layout import MODULES

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
MANUAL = sorted(ROOT.glob("docs/*.md"))
MOST_README_LINES = 200
# Of an earlier idiom of these pages; plain words say the same.
IDIOM = re.compile(
    r"\b(gone on with|parted by|is no [a-z]+|carries nothing|what has come|leaves nothing|said on stderr|anew)\b"
)
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)$", re.MULTILINE)  # in the text, or defined at its end
_REFERENCE = re.compile(r"\]\[([\w-]+)\]")
# The README is on PyPI too, where a relative link leads nowhere.
PUBLISHED = (
    "https://github.com/llmcli/llmcli/blob/main/",
    "https://raw.githubusercontent.com/llmcli/llmcli/main/",
)
_NAMED = re.compile(r"`((?:[a-z_]+/)+|(?:[a-z_]+/)*[a-z_]+\.(?:py|md|yml|toml))(?::(\w+))?`")
DEFAULTS = {path: command.default for path, command in COMMANDS.items()}
FOLDERS = (ROOT / "llmcli", ROOT, ROOT / ".github/workflows")
_NOT_OURS = {"config.toml", "utils.py", "helpers.py", "common.py", "characters/", "waves.py"}
_GENERATED = re.compile(r"^<!-- (\w+) -->$.*?^<!-- /\1 -->$", re.MULTILINE | re.DOTALL)


def page_text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks_of(language: str) -> list[Any]:
    """Every code block of this language, with its page and number as the id of its test."""
    return [
        pytest.param(match[2], id=f"{page.name}-{number}")
        for page in PAGES
        for number, match in enumerate(_BLOCK.finditer(page_text(page)))
        if match[1] == language
    ]


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", _BLOCK.sub("", page_text(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands_in(line: str) -> Iterator[list[str]]:
    """The words of each call of llmcli in a line of shell."""
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    call: list[str] | None = None
    for word in words:
        if word in ("|", "&&", "||", ";", ">", "<", "&"):
            if call is not None:
                yield call
            call = None
        elif word == "llmcli" and call is None:
            call = []
        elif call is not None:
            call.append(word)
    if call is not None:
        yield call


@cache
def program() -> Any:
    """The parser of the whole command line, which takes some time to make."""
    return typer.main.get_command(make_app())


def unknown_flags(words: list[str], command: Any) -> list[str]:
    """The flags in `words` that the command which they name does not have."""
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    if default := DEFAULTS.get(getattr(command, "name", "")):
        command = command.commands[default]
    known = {opt for option in command.params for opt in (*option.opts, *option.secondary_opts)}
    known |= {"--help", "-h", "--install-completion"}
    return [word for word in words if re.match(r"--?[a-zA-Z]", word) and word.partition("=")[0] not in known]


def links_of(page: Path) -> list[str]:
    return [inline or defined for inline, defined in _LINK.findall(_BLOCK.sub("", page_text(page)))]


def local(link: str) -> str:
    """A link to a file of this repository, as a path from its root; other links as they are."""
    for start in PUBLISHED:
        if link.startswith(start):
            return link.removeprefix(start)
    return link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for link in links_of(page):
        path, _, anchor = local(link).partition("#")
        if "://" in path:
            continue
        folder = ROOT if local(link) != link else page.parent
        target = folder / path if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors_of(target), f"{page.name} links to {link}"


def test_every_named_link_of_the_readme_is_defined() -> None:
    text = _BLOCK.sub("", page_text(ROOT / "README.md"))
    assert set(_REFERENCE.findall(text)) == set(re.findall(r"^\[([^\]]+)\]: ", text, re.MULTILINE))


def test_links_of_the_readme_work_outside_the_repository() -> None:
    for link in links_of(ROOT / "README.md"):
        assert "://" in link or link.startswith("#"), link
        assert not link.startswith(PUBLISHED[1]) or link.endswith(".svg"), link


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_files_and_names_in_pages_about_the_code_exist(page: str) -> None:
    for path, name in _NAMED.findall(page_text(ROOT / page)):
        if path in _NOT_OURS:
            continue
        found = [folder / path for folder in FOLDERS if (folder / path).exists()]
        assert found, f"{page} names {path}"
        if name:
            defined = rf"^(?:def|class) {name}\b|^{name}\b[^=\n]*= "
            assert re.search(defined, page_text(found[0]), re.MULTILINE), f"{page} names {path}:{name}"


def test_architecture_lists_every_module() -> None:
    listed = re.findall(r"^\| `([a-z_/]+\.py)` \|", page_text(ROOT / "ARCHITECTURE.md"), re.MULTILINE)
    modules = [module.removeprefix("llmcli/") for module in MODULES if not module.endswith("/__init__.py")]
    assert sorted(listed) == sorted(modules)


def test_every_page_of_the_manual_is_linked_in_the_readme() -> None:
    linked = set(map(local, links_of(ROOT / "README.md")))
    assert {f"docs/{page.name}" for page in MANUAL} <= linked


def test_readme_is_short() -> None:
    assert len(page_text(ROOT / "README.md").splitlines()) <= MOST_README_LINES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_are_in_plain_words(page: Path) -> None:
    assert not IDIOM.findall(_GENERATED.sub("", page_text(page)))


@pytest.mark.skipif(not shutil.which("sh"), reason="needs a shell")
@pytest.mark.parametrize("text", blocks_of("sh"))
def test_shell_examples_parse(text: str) -> None:
    done = subprocess.run(["sh", "-n"], input=text, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", blocks_of("toml"))
def test_toml_examples_parse(text: str) -> None:
    assert tomllib.loads(text)


@pytest.mark.parametrize("text", blocks_of("python"))
def test_python_examples_parse(text: str) -> None:
    assert ast.parse(text).body


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
@pytest.mark.parametrize("text", blocks_of("diff"))
def test_diffs_in_examples_apply_to_the_code(text: str) -> None:
    done = subprocess.run(["git", "apply", "--check", "-"], input=text, text=True, capture_output=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", [*blocks_of("console"), *blocks_of("sh")])
def test_flags_in_examples_exist(text: str) -> None:
    for line in text.splitlines():
        if "llmcli" not in line or line.lstrip().startswith("#") or "'!" in line:
            continue
        for words in commands_in(line.removeprefix("$ ")):
            assert not unknown_flags(words, program()), line


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("git diff | llmcli generate --tmp 0.3 'x' > out", ["--tmp"]),
        ("llmcli models list --json && llmcli chat --top-p=0.9", []),
        ("llmcli models list --top-k 3  # a comment", ["--top-k"]),
    ],
)
def test_reader_of_examples_finds_wrong_flags(line: str, wrong: list[str]) -> None:
    assert [flag for words in commands_in(line) for flag in unknown_flags(words, program())] == wrong
