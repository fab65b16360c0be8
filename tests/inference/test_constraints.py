"""What an answer must match, as the settings say it."""

from pathlib import Path
from typing import Any

import pytest

from llmcli.errors import DiskError, LlmcliError, UsageError
from llmcli.inference.constraints import read_constraint, read_regex, recorded_constraint
from llmcli.params.settings import Settings


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_constraint_comes_from_whichever_setting_has_it(folder: Path) -> None:
    (folder / "g.gbnf").write_text('root ::= "a"\n')
    (folder / "s.json").write_text('{"type": "integer"}')
    (folder / "s.txt").write_text("n: int\n")

    def read(**given: str) -> tuple[str, str] | None:
        constraint = read_constraint(Settings(**given))  # type: ignore[arg-type]
        return (constraint.kind, constraint.text) if constraint else None

    assert read() is None
    assert read(grammar='root ::= "b"') == ("grammar", 'root ::= "b"')
    assert read(grammar_file="g.gbnf") == ("grammar", 'root ::= "a"\n')
    assert read(regex="a|b") == ("regex", "a|b")
    inline = read(json_schema='{"type": "integer"}')
    assert inline == ("json_schema", '{"type": "integer"}')
    assert read(json_schema="s.json") == inline
    assert read(json_schema="s.txt") == read(json_schema="n: int")


@pytest.mark.parametrize(
    ("given", "kind", "telling"),
    [
        ({"grammar": "a", "json_schema": "{}"}, UsageError, "grammar and json_schema cannot"),
        ({"grammar": "a", "grammar_file": "b"}, UsageError, "grammar and grammar_file cannot"),
        ({"regex": "a", "json_schema": "{}"}, UsageError, "json_schema and regex cannot"),
        ({"grammar_file": "missing"}, DiskError, "file not found: missing"),
        ({"json_schema": "missing.json"}, DiskError, "file not found: missing.json"),
        ({"json_schema": "{bad"}, UsageError, "JSON"),
        ({"json_schema": ""}, UsageError, "empty"),
        ({"json_schema": "3"}, UsageError, "must be a JSON object or the name of a file, and '3' is neither"),
        ({"json_schema": '"x"'}, UsageError, """must be a JSON object or the name of a file, and '"x"' is neither"""),
        ({"json_schema": "[1]"}, UsageError, "must be a JSON object"),
        ({"grammar": "x.gbnf"}, UsageError, "grammar must be GBNF"),
    ],
)
def test_an_invalid_constraint_is_refused(given: dict[str, Any], kind: type[LlmcliError], telling: str) -> None:
    with pytest.raises(kind, match=telling):
        read_constraint(Settings(**given))


def test_a_note_says_what_only_the_finished_answer_shows() -> None:
    notes: list[str] = []
    schema = '{"type": "array", "contains": {"const": 3}, "uniqueItems": true}'
    read_constraint(Settings(json_schema=schema), notes.append)
    read_constraint(Settings(json_schema="{}"), notes.append)
    read_constraint(Settings(json_schema=schema, constraint_retries=0), notes.append)
    told = "json_schema: only the finished answer shows whether it matches /contains, /uniqueItems; it is"
    again = "generated again if it does not match, at most 2 times"
    assert notes == [f"{told} {again}", f"{told} refused if it does not match"]


@pytest.mark.parametrize(
    ("regex", "reason"),
    [
        ("(?=a)b", "look-around, including look-ahead and look-behind, is not supported"),
        (r"(a)\1", "backreferences are not supported"),
        ("[", "unclosed character class"),
        (r"\bfoo", "lookarounds not supported yet"),
        ("(" * 300 + ")" * 300, "exceed"),
    ],
)
def test_a_regex_that_is_not_supported_is_refused(regex: str, reason: str) -> None:
    with pytest.raises(UsageError, match="regex is not supported: ") as caught:
        read_regex(regex)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("regex", "reason"),
    [
        ("\\", "regex ends in the middle of an escape"),
        (r"\d\\" + "\\", "regex ends in the middle of an escape"),
        ("\ud800", "regex is not valid UTF-8"),
        ("a{1000000}", "regex: it is too complex"),
        ("[a&&b]", "regex: nothing can match it"),
    ],
)
def test_a_regex_that_cannot_be_matched_is_refused(regex: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_regex(regex)
    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize(
    ("regex", "right", "wrong"),
    [
        (r"\d{2}", "42", "\u0664\u0662"),
        (r"[\d-]+", "4-2", "\u0664"),
        (r"[^\]\d]", "a", "4"),
        (r"\\d", r"\d", "4"),
        ("^a+$", "aaa", ""),
        ("(?i)yes|no", "NO", "yesno"),
        ("", "", "a"),
    ],
)
def test_a_regex_is_one_of_the_whole_text(regex: str, right: str, wrong: str) -> None:
    constraint = read_regex(regex)
    assert constraint.problem(right) is None
    assert constraint.problem(wrong) == "it ends too early"


def test_a_recorded_constraint_reads_no_file(folder: Path) -> None:
    (folder / "s.json").write_text('{"type": "integer"}')
    (folder / "g.gbnf").write_text('root ::= "a"')
    assert recorded_constraint("", "", Settings(json_schema="s.json", grammar_file="g.gbnf")) is None
    assert recorded_constraint("", "{}", Settings(json_schema="s.json")) == read_constraint(Settings(json_schema="{}"))
    old = recorded_constraint('root ::= "b"', "", Settings(json_schema='{"type": "string"}'))
    assert old
    assert old.kind == "grammar"
