"""GBNF grammars: the output matches them, and errors are one line."""

import re
from typing import Any

import pytest

from llmcli.engine.llama.context import Context
from llmcli.engine.llama.model import Vocab
from llmcli.engine.sampling.grammar import Grammar
from llmcli.errors import ConstraintError, UsageError
from llmcli.params.policies.policy import Fixed
from tests.engine.drive import GREEDY, run, start

PROMPT = "Name a colour and a number:"
# For each of them llama.cpp would take hours for a token of many spaces.
OPTIONAL = (
    'root ::= "x" ' + '" "? ' * 30 + '"b"',
    "root ::= " + "ws " * 11 + '"b"\nws ::= [ ]* opt # none\nopt ::= [ ] | ""',
    'root ::= (" "?){30} "b"',
    "root ::= " + '(" "{0,3} (" " |)) ' * 11 + '"b"',
)


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
        assert sampler.matcher.allows(token)
        sampler.matcher.accept(token)
        allowed.append(generation._sampler.may_end())
    generation.close()
    assert allowed == [False, False, True]


def test_a_truncated_answer_is_not_complete(context: Context) -> None:
    generation = start(context, PROMPT, 'root ::= "aaaaaaaaaaaaaaaaaaaaaaaa"', max_tokens=1)
    context.prefill(0, generation.request.prompt.tokens)
    generation.advance(context.handle, -1, context.n_ctx)
    assert not generation._sampler.may_end()
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
        ('root ::= "a"{3,1}', "is not valid GBNF: {3,1} is not a range"),
        ("root ::= " + '"a" | ' * 20_000 + '"b"', "the grammar has more than 10000 rules"),
        ('root ::= "a\0b"', "the grammar contains a NUL character"),
        ("root ::= " + "[" * 100_000, "is not valid GBNF: unexpected end of input"),
        ("root ::= " + '"' + '\\"' * 100_000, "is not valid GBNF: unexpected end of input"),
        ("root ::= " + "<" * 100_000, "is not valid GBNF: "),
        *((text, "more than 20 optional parts in a row") for text in OPTIONAL),
    ],
)
def test_an_invalid_grammar_is_an_error_with_the_reason(
    vocab: Vocab, capfd: pytest.CaptureFixture[str], grammar: str, reason: str
) -> None:
    with pytest.raises(UsageError) as caught:
        Grammar.parse(vocab, grammar)
    message = str(caught.value)
    assert reason in message
    assert "\n" not in message
    assert len(message) < 250
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "grammar",
    [
        "root ::= " + '" "? "x" ' * 30,
        'root ::= "x"{0,500} ("y"? "z")* ("?" | "*")+',
        'root ::= ws "{" ws "x" ws ":" ws "}" ws\nws ::= | " " | "\\n" [ \\t]{0,20}',
        "root ::= " + '("x" ' * 200 + '"y"' + ")?" * 200,
        'root ::= "x" list?\nlist ::= "," root list? # ' + '"a"? ' * 30,
        "root ::= " + '" "? ' * 20 + '"x"',
    ],
)
def test_optional_parts_that_llama_cpp_matches_fast_are_parsed(vocab: Vocab, grammar: str) -> None:
    parsed = Grammar.parse(vocab, grammar)
    assert any(parsed.allows(vocab.tokenize(text)[-1]) for text in ("x", "{"))


def test_what_a_grammar_quotes_is_not_counted(vocab: Vocab) -> None:
    text = "{3,1}" + "|(" * 6000
    grammar = Grammar.parse(vocab, f'root ::= "{text}" [{{3,1}}] # {{3,1}}')
    assert grammar.allows(vocab.tokenize("{")[-1])


def test_a_grammar_works_in_a_program_without_stderr(vocab: Vocab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    grammar = Grammar.parse(vocab, 'root ::= "a"')
    letter, other = vocab.tokenize("a")[-1], vocab.tokenize("b")[-1]
    assert (grammar.allows(letter), grammar.allows(other), grammar.may_end()) == (True, False, False)
    grammar.accept(letter)
    assert grammar.may_end()
    grammar.close()
    with pytest.raises(UsageError, match="Undefined rule identifier 'x'"):
        Grammar.parse(vocab, "root ::= x")


# Each `x` doubles the ways to go on, and llama.cpp follows them all.
DOUBLING = 'root ::= "x" root "1" | "x" root "2" | "x"'


def test_a_grammar_that_takes_long_ends_its_answer(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmcli.engine.sampling.grammar._MAX_SECONDS", 0.0)
    with pytest.raises(ConstraintError, match="the grammar is too complex: it can be read in too many ways"):
        run(context, PROMPT, DOUBLING, max_tokens=5)
