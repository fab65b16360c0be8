"""Texts: the snapshots have every help text and every message, and every message keeps the rules of CONTRIBUTING."""

import ast
import re
from collections.abc import Callable
from difflib import unified_diff
from functools import cache

import pytest

from tools.texts import ROOT, SNAPSHOTS, MessageReader, messages, snapshots

# Words that begin with a capital letter in the middle of a sentence too.
NAMES = ("Ctrl-C", "Ctrl-D", "Enter", "Hugging", "Ollama")
PHRASES = r"\b(is no [a-z]+|gone on with|parted by|carries nothing|what has come|leaves nothing|said on stderr)\b"
FORBIDDEN = re.compile(PHRASES + r"|\b(anew|begun|mend)\b")
SOURCE = """
LIMIT = "use a smaller file"


def reason(name):
    if name:
        return f"{name} is missing"
    return "nothing is given"


def check(path, error, console, notes):
    hint = "check the path" if path else "give a path"
    if error:
        raise DiskError(f"cannot read {path}: {error.strerror}", hint) from error
    if path:
        raise UsageError(reason(path), LIMIT)
    notes.append("skipped a line")
    console.warn(f"{path!r} is large", hint="see the manual")
    console.note("done" if path else "nothing to do")
    raise ValueError("a number of at least 1")
"""


@cache
def current() -> dict[str, str]:
    """Each snapshot by its file name, as the program is now."""
    return {path.name: text for path, text in snapshots().items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["help.txt", "messages.txt"])
def test_a_snapshot_has_the_texts_of_the_program(name: str) -> None:
    stored = (SNAPSHOTS / name).read_text(encoding="utf-8").splitlines()
    changes = [*unified_diff(stored, current()[name].splitlines(), "stored", "now", lineterm="")]
    assert changes == [], "texts changed: run `python -m tools.docs`, then read `git diff tests/snapshots`"


@pytest.mark.slow
def test_the_snapshots_have_every_kind_of_text() -> None:
    help_texts, message_texts = current().values()
    for title in (
        "$ llmcli\n",
        "$ llmcli chat --help-all",
        "$ llmcli models pull --help",
        "> /help all",
        "> /help temp",
    ):
        assert f"\n{title}" in f"\n{help_texts}"
    for line in ("  error: unknown setting '{", "  warning: ", "  note: ", "    hint: see the numbers in /history"):
        assert f"\n{line}" in message_texts
    assert str(ROOT) not in help_texts + message_texts


@pytest.mark.parametrize(
    ("rule", "is_kept"),
    [
        ("begins lower case", lambda text: is_lower(text)),
        ("has no full stop at its end", lambda text: not re.search(r"(?<!\.)\.$", text)),
        ("uses the words of the field", lambda text: not FORBIDDEN.search(without_values(text))),
    ],
)
def test_every_message_keeps_the_rule(rule: str, is_kept: Callable[[str], bool]) -> None:
    texts = {(one.module, text) for one in messages() if one.kind != "output" for text in (one.text, one.hint) if text}
    assert sorted(pair for pair in texts if not is_kept(pair[1])) == [], f"every message {rule}"


def test_no_comment_or_docstring_has_a_forbidden_phrase() -> None:
    sources = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "llmcli").rglob("*.py")}
    assert {name: found for name, text in sources.items() if (found := re.search(PHRASES, text))} == {}


def without_values(text: str) -> str:
    """A text without the names of its values, which are code."""
    return re.sub(r"\{[^}]*\}", "", text)


def is_lower(text: str) -> bool:
    """Whether a text begins with a lower case letter, a name, a quote or a value."""
    first = text.split()[0]
    return not first[0].isupper() or first in NAMES or not first[1:].islower()


@pytest.mark.parametrize(
    ("text", "right"), [("file not found", True), ("Run it", False), ("GGUF version 1", True), ("'x' is new", True)]
)
def test_the_rule_of_the_first_letter_knows_names(text: str, right: bool) -> None:
    assert is_lower(text) is right


def test_the_reader_of_messages_follows_names_and_functions() -> None:
    found = MessageReader("module.py", ast.parse(SOURCE), {"DiskError", "UsageError"}).messages()
    assert {tuple(message)[1:] for message in found} == {
        ("error", "cannot read {path}: {strerror}", "check the path"),
        ("error", "cannot read {path}: {strerror}", "give a path"),
        ("error", "{name} is missing", "use a smaller file"),
        ("error", "nothing is given", "use a smaller file"),
        ("warning", "skipped a line", ""),
        ("warning", "'{path}' is large", "see the manual"),
        ("note", "done", ""),
        ("note", "nothing to do", ""),
        ("reason", "a number of at least 1", ""),
    }
