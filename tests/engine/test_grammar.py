"""Grammars and JSON schemas: the output matches them, and errors are one line."""

import json
import re
from typing import Any

import pytest

from llmcli.engine.llama.context import Context
from llmcli.engine.llama.model import Vocab
from llmcli.engine.sampling.grammar import Grammar, schema_to_gbnf, unenforced_keywords
from llmcli.errors import ConstraintError, UsageError
from llmcli.params.policies.policy import Fixed
from tests.engine.drive import GREEDY, run, start

PROMPT = "Name a colour and a number:"


@pytest.mark.parametrize(
    ("grammar", "pattern"),
    [
        ('root ::= "yes" | "no"', r"yes|no"),
        ("root ::= [0-9]{3}", r"\d{3}"),
        ('root ::= " "? [a-z]+ ", " [0-9]+ "."', r" ?[a-z]+, \d+\."),
        ('root ::= ("red" | "blue") ("-" ("red" | "blue")){2,3}', r"(red|blue)(-(red|blue)){2,3}"),
        ("root ::= [\u00e0-\u00ff]{2}", r"[\u00e0-\u00ff]{2}"),
    ],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_answer_matches_the_grammar(context: Context, grammar: str, pattern: str, seed: int) -> None:
    answer = run(context, PROMPT, grammar, seed=seed, temperature=Fixed(1.5), max_tokens=40)
    if answer.reason == "stop":
        assert re.fullmatch(pattern, answer.text)
    else:  # a number may go on for ever
        assert re.match(r" ?[a-z]*", answer.text)
        assert "+" in pattern


@pytest.mark.parametrize("settings", [{}, {"mirostat": 2}, {"samplers": ("adaptive_p",)}, {"top_a": 0.5}, GREEDY])
def test_a_grammar_works_with_every_chain(context: Context, settings: dict[str, Any]) -> None:
    assert run(context, PROMPT, "root ::= [xyz]{4}", **settings).text.strip("xyz") == ""


def test_an_answer_is_complete_only_where_its_grammar_ends(context: Context) -> None:
    generation = start(context, PROMPT, 'root ::= "a" "b"? "c"')
    sampler: Any = generation._sampler
    allowed = []
    for text in ("a", "b", "c"):
        token = context.model.vocab.tokenize(text)[0]
        assert sampler.grammar.allows(token)
        sampler.grammar.accept(token)
        allowed.append(generation._sampler.complete())
    generation.close()
    assert allowed == [False, False, True]


def test_a_truncated_answer_is_not_complete(context: Context) -> None:
    generation = start(context, PROMPT, 'root ::= "aaaaaaaaaaaaaaaaaaaaaaaa"', max_tokens=1)
    context.prefill(0, generation.request.prompt.tokens)
    generation.advance(context.handle, -1, context.n_ctx)
    assert not generation._sampler.complete()
    generation.close()


def test_a_grammar_and_a_ban_apply_together(context: Context) -> None:
    answer = run(context, PROMPT, 'root ::= "red" | "blue" | "green"', **GREEDY, banned_strings=("red", "BLU"))
    assert (answer.text, answer.reason) == ("green", "stop")


def test_a_ban_that_contradicts_the_grammar_is_an_error(context: Context) -> None:
    with pytest.raises(ConstraintError, match="no token satisfies the constraints"):
        run(context, PROMPT, 'root ::= "red"', **GREEDY, banned_strings=("e",))


def test_a_finished_grammar_with_ignore_eos_is_an_error(context: Context) -> None:
    with pytest.raises(ConstraintError, match="no token satisfies the constraints"):
        run(context, PROMPT, 'root ::= "yes"', ignore_eos=True)
    assert run(context, PROMPT, 'root ::= "yes"').text == "yes"


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        ("", "the grammar is empty"),
        (" \n", "the grammar is empty"),
        ("root := x", "is not valid GBNF: expecting ::= at := x"),
        ("root ::= x", "is not valid GBNF: Undefined rule identifier 'x'"),
        ('a ::= "x"', "is not valid GBNF: grammar does not contain a 'root' symbol"),
        ('root ::= root "a" | "b"', "is not valid GBNF: unsupported grammar, left recursion detected"),
        ("root ::= a\na ::= b\nb ::= a", "is not valid GBNF: unsupported grammar, left recursion detected"),
        ('root ::= "a"{1000000000}', "is not valid GBNF: number of repetitions exceeds sane defaults"),
        ("root ::= (", "is not valid GBNF: "),
        ('root ::= "' + "a" * 1000, "is not valid GBNF: unexpected end of input"),
        ("root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000, "the grammar has more than 10000 rules"),
        ("root ::= \udcff", "is not valid GBNF: "),
    ],
)
def test_an_invalid_grammar_is_an_error_with_the_reason(
    vocab: Vocab, capfd: pytest.CaptureFixture[str], grammar: str, reason: str
) -> None:
    with pytest.raises(UsageError) as caught:
        Grammar(vocab, grammar)
    message = str(caught.value)
    assert reason in message
    assert "\n" not in message
    assert len(message) < 250
    assert capfd.readouterr() == ("", "")


def test_a_grammar_works_in_a_program_without_stderr(vocab: Vocab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    grammar = Grammar(vocab, 'root ::= "a"')
    letter, other = vocab.tokenize("a")[-1], vocab.tokenize("b")[-1]
    assert (grammar.allows(letter), grammar.allows(other), grammar.may_end()) == (True, False, False)
    grammar.accept(letter)
    assert grammar.may_end()
    grammar.close()
    with pytest.raises(UsageError, match="Undefined rule identifier 'x'"):
        Grammar(vocab, "root ::= x")


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer"},
        "colour": {"enum": ["red", "green"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2},
    },
    "required": ["name", "age", "colour", "tags"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", [1, 2])
def test_the_answer_matches_its_json_schema(context: Context, seed: int) -> None:
    answer = run(context, PROMPT, schema_to_gbnf(json.dumps(SCHEMA)), seed=seed, max_tokens=90)
    assert answer.reason == "stop"
    data = json.loads(answer.text)
    assert list(data) == ["name", "age", "colour", "tags"]
    assert isinstance(data["name"], str)
    assert isinstance(data["age"], int)
    assert data["colour"] in ("red", "green")
    assert all(isinstance(tag, bool) for tag in data["tags"])
    assert len(data["tags"]) in (1, 2)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("", "json_schema is not valid JSON"),
        ("{", "json_schema is not valid JSON"),
        ("[1]", "json_schema must be a JSON object"),
        ("3", "json_schema must be a JSON object"),
        ('{"type": "nonsense"}', "json_schema is not supported: "),
        ('{"$ref": "#/missing"}', "json_schema is not supported: "),
        ('{"pattern": "^(", "type": "string"}', "json_schema is not supported: "),
        ('{"items": ' * 5000 + "{}" + "}" * 5000, "json_schema is nested too deep"),
    ],
)
def test_an_invalid_schema_is_an_error_in_one_line(schema: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        schema_to_gbnf(schema)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ('{"type": "integer", "minimum": 1, "maximum": 9}', ["maximum", "minimum"]),
        ('{"type": "object", "properties": {"n": {"multipleOf": 3}}}', ["multipleOf"]),
        ('{"anyOf": [{"type": "array", "uniqueItems": true}, {"not": {}}]}', ["not", "uniqueItems"]),
        ('{"type": "object", "properties": {"minimum": {"type": "string"}}}', []),
        ('{"enum": [{"maximum": 1}]}', []),
        ('{"type": "string", "minLength": 1, "pattern": "^a$"}', []),
        ("true", []),
    ],
)
def test_keywords_that_are_not_enforced_are_listed(schema: str, words: list[str]) -> None:
    assert unenforced_keywords(schema) == words
