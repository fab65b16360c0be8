"""Where reasoning ends: a constraint, stop strings and the limit of tokens are those of the answer."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmcli.engine.events import Cancellation, Constraint, Prompt, Request, TokenChunk
from llmcli.engine.reasoning import ReasoningGate, ReasoningSplitter, begun_answer, closing_text, model_tags
from llmcli.inference.answer import Answer
from llmcli.inference.local import LocalEngine
from llmcli.inference.request import build_prompt
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.models.locations import ModelFile
from llmcli.params.policies.policy import Fixed
from llmcli.params.settings import Settings
from tests.inference.fake_vocab import FakeVocab

PIECES = ("<think>", "</think>", "<", "th", "ink>", "hm", "\n", "\n\n", "{", "\n{", "</think>{")


class PieceVocab(FakeVocab):
    """Tokens are the indexes of `PIECES`; a text is tokenized by its longest beginnings."""

    def piece(self, token: int, special: bool = False) -> bytes:  # noqa: ARG002
        return PIECES[token].encode()

    def ends(self, token: int) -> bool:
        return token == len(PIECES)

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]:  # noqa: ARG002
        found = []
        while text:
            piece = max((piece for piece in PIECES if text.startswith(piece)), key=len)
            found.append(PIECES.index(piece))
            text = text[len(piece) :]
        return found


def gate_for(prompt: str = "", budget: int = -1) -> ReasoningGate:
    closing = "\n</think>\n\n"
    return ReasoningGate(PieceVocab(), ReasoningSplitter(prompt), ("<think>",), budget, closing)


def sides(gate: ReasoningGate, *pieces: str) -> list[str]:
    """What each of these tokens is, when the ones before it were drawn."""
    found: list[str] = []
    for piece in pieces:
        token = PIECES.index(piece) if piece else len(PIECES)
        found.append(gate.side(token))
        if piece:
            gate.push(token)
    return found


@pytest.mark.parametrize(
    ("prompt", "pieces", "expected"),
    [
        ("<think>\n", ("hm", "</think>", "\n\n", "{"), ["reasoning", "reasoning", "reasoning", "answer"]),
        ("", ("<think>", "\n", "hm", "</think>", "{"), ["reasoning"] * 4 + ["answer"]),
        ("", ("{", "<think>"), ["answer", "answer"]),
        ("<think>", ("hm", "</think>{"), ["reasoning", "both"]),
        ("<think>", ("hm", "</think>", "\n{"), ["reasoning", "reasoning", "both"]),
        ("<think>", ("hm", ""), ["reasoning", "both"]),
        ("<think>", ("</think>", ""), ["reasoning", "answer"]),
    ],
)
def test_a_token_is_reasoning_or_answer(prompt: str, pieces: tuple[str, ...], expected: list[str]) -> None:
    assert sides(gate_for(prompt), *pieces) == expected


def test_the_beginning_of_a_tag_is_completed() -> None:
    gate = gate_for()
    assert [PIECES[token] for token in gate.rest_of_opener(PIECES.index("<"))] == ["th", "ink>"]
    assert gate.rest_of_opener(PIECES.index("<think>")) == []
    assert gate.rest_of_opener(PIECES.index("{")) == []
    gate.push(PIECES.index("<think>"))
    assert gate.rest_of_opener(PIECES.index("<")) == []


@pytest.mark.parametrize("budget", [0, 1, 3])
def test_reasoning_ends_after_its_budget(budget: int) -> None:
    gate = gate_for("<think>", budget)
    closing = gate.closing_tokens()
    for _ in range(budget):
        assert closing == []
        closing = gate.push(PIECES.index("hm"))
    assert "".join(PIECES[token] for token in closing) == "\n</think>\n\n"
    assert [gate.push(token) for token in closing] == [[]] * len(closing)
    assert (gate.thinking, gate.is_open) == (False, False)
    gate.push(PIECES.index("{"))
    assert gate.is_open


# What the templates of Qwen 3, MiniMax M2, GLM 4.7, SmolLM3, DeepSeek R1 and V3.1, and Gemma 4 tell of their tags.
SPLIT = "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"


@pytest.mark.parametrize(
    ("template", "prompt", "expected"),
    [
        (SPLIT + r"{{ '<think>\n' + reasoning.strip('\n') + '\n</think>\n\n' + content }}", "", "\n</think>\n\n"),
        (SPLIT + r"{{ '<think>' ~ '\n' ~ reasoning ~ '\n' ~ '</think>' ~ '\n\n' }}", "", "\n</think>\n\n"),
        (SPLIT + "{{ '<think>' + reasoning.strip() +  '</think>'}}", "a<think>", "</think>"),
        (r"<think> Thought </think> Solution{{ '<think>\n\n</think>\n' + content }}", "", "\n</think>\n"),
        (SPLIT + r"{{ '<think>\n' }}", "a<think>\n", "\n</think>\n\n"),
        (SPLIT + "{{ '<think></think>' }}", "a<think>", "</think>"),
    ],
)
def test_reasoning_is_ended_in_the_words_of_the_template(template: str, prompt: str, expected: str) -> None:
    assert closing_text("<think>", "</think>", template, prompt) == expected


def test_the_reasoning_of_a_channel_ends_with_its_message() -> None:
    prompt = Prompt("<|start|>assistant", (), (), "{{ '<|channel|>analysis<|message|>' }}<|channel|>final<|message|>")
    gate = ReasoningGate.of_request(CharacterVocab(), Request(prompt, Settings(think_budget=0)))
    assert gate
    closing = [token for character in "<|channel|>analysis<|message|>" for token in gate.push(ord(character))]
    assert "".join(map(chr, closing)) == "<|end|><|start|>assistant<|channel|>final<|message|>"


ANALYSIS, FINAL = "<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"


@pytest.mark.parametrize(
    ("template", "prompt", "expected"),
    [
        ("", "", "<think>\nwhy\n</think>\n\nso"),
        (r"{{ '<think>\n' + x + '\n</think>\n\n' }}", "a: <think>\n", "why\n</think>\n\nso"),
        ("{{ '<think>' + x + '</think>' }}", "a:", "<think>why</think>so"),
        ("{{ '" + ANALYSIS + "' + x + '<|end|>' }}", "<|start|>assistant", f"{ANALYSIS}why{FINAL}so"),
    ],
)
def test_a_begun_answer_is_in_the_words_of_the_template(template: str, prompt: str, expected: str) -> None:
    assert begun_answer("why", "so", template, prompt) == expected


def test_a_user_who_writes_of_other_tags_changes_nothing() -> None:
    template = r"{{ '<think>\n' }}"
    assert model_tags(template, "What is <reasoning> for?") == ("<think>", "</think>")
    assert model_tags(template, "What is <thought> for?\n<reasoning>\n") == ("<reasoning>", "</reasoning>")
    assert model_tags("", "<thought> and <reasoning>: so far")[0] == "<reasoning>"
    assert begun_answer("", "so", template, "What is <reasoning> for?") == "so"


class CharacterVocab(FakeVocab):
    """Tokens are characters."""

    def piece(self, token: int, special: bool = False) -> bytes:  # noqa: ARG002
        return chr(token).encode()

    def ends(self, token: int) -> bool:
        return not token

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]:  # noqa: ARG002
        return [ord(character) for character in text]


THINKING = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: <think>\n"


def answer_of(local: LocalEngine, settings: Settings, constraint: Constraint | None = None, **given: Any) -> Answer:
    """The answer under a template that begins the reasoning."""
    settings = replace(settings, samplers=("temperature",), chat_template=THINKING, max_tokens=20, **given)
    answer = Answer(local, Request(build_prompt(local, settings, "Why?", None), settings, constraint))
    for _ in answer.parts():
        pass
    return answer


SCHEMA = Constraint(
    "json_schema",
    '{"properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "type": "object", "additionalProperties": false}',
)


@pytest.mark.parametrize("constraint", [SCHEMA, Constraint("grammar", 'root ::= "{\\"ok\\": true}"')])
def test_a_constraint_begins_after_the_reasoning(
    local: LocalEngine, settings: Settings, constraint: Constraint
) -> None:
    answer = answer_of(local, settings, constraint, think_budget=6, temperature=Fixed(1.0))
    assert isinstance(json.loads(answer.text)["ok"], bool)
    assert answer.reasoning
    assert "{" not in answer.reasoning or not answer.reasoning.startswith("{")
    assert answer.record.is_complete
    assert answer.constraint_failure() is None


def test_max_tokens_and_stop_strings_are_those_of_the_answer(local: LocalEngine, settings: Settings) -> None:
    answer = answer_of(local, settings, think_budget=30, temperature=Fixed(1.0), ignore_eos=True, stop=("e",))
    assert len(local.tokenizer.tokenize(answer.reasoning)) > 20
    assert "e" in answer.reasoning
    assert "e" not in answer.text


@pytest.mark.parametrize("phrase", ["</think>", "ink>", "<"])
def test_no_ban_applies_to_the_end_of_the_reasoning(local: LocalEngine, settings: Settings, phrase: str) -> None:
    cut = replace(settings, banned_strings=(phrase,))
    answer = answer_of(local, cut, SCHEMA, think_budget=4, temperature=Fixed(1.0), timeout=200)
    assert isinstance(json.loads(answer.text)["ok"], bool)
    assert phrase not in answer.reasoning


@pytest.fixture
def narrow(local: LocalEngine) -> Iterator[LocalEngine]:
    """The starter with a context that is full soon."""
    local.close_context()
    local.open_context(Settings(n_ctx=128, n_threads=1))
    yield local
    local.close_context()


def test_reasoning_without_an_answer_is_told(narrow: LocalEngine, settings: Settings) -> None:
    answer = answer_of(narrow, settings, temperature=Fixed(0.0), ignore_eos=True)
    assert (answer.text, answer.finish_reason) == ("", "length")
    n_tokens = len(answer.tokens)
    assert answer.reasoning_only() == f"the reasoning took all {n_tokens} tokens: the answer did not begin"
    assert answer.fills_context
    answer = answer_of(narrow, settings, temperature=Fixed(0.0), ignore_eos=True, think_budget=5)
    assert answer.text
    assert answer.reasoning_only() == ""
    assert not answer.fills_context


def test_an_answer_that_did_not_begin_is_no_success(narrow: LocalEngine, settings: Settings) -> None:
    answer = answer_of(narrow, settings, SCHEMA, temperature=Fixed(0.0))
    assert (answer.text, answer.finish_reason) == ("", "length")
    failure = answer.constraint_failure()
    assert re.fullmatch(r"the reasoning took all \d+ tokens: the answer did not begin", str(failure))


@pytest.mark.parametrize(
    ("prompt", "values", "expected"),
    [
        ("<think>\n", {"max_tokens": 20, "think_budget": 100}, 184),
        ("<think>\n", {"max_tokens": 20}, -1),
        ("<think>\n", {"max_tokens": 0}, 0),
        ("<think>\n", {"think_budget": 100}, -1),
        ("<think>\n\n</think>\n\n", {"max_tokens": 20}, 20),
        ("a", {"max_tokens": 20}, 20),
    ],
)
def test_the_reasoning_counts_for_the_length_of_an_answer(
    local: LocalEngine, prompt: str, values: dict[str, Any], expected: int
) -> None:
    template = "{{ '<think>' }}" if "<think>" in prompt else ""
    request = Request(Prompt(prompt, (TokenChunk((1,)),), (), template), Settings(seed=1, **values))
    assert local.start(request).max_new_tokens == expected


def test_a_context_has_room_for_reasoning_and_answer(tiny: Path) -> None:
    local = LocalEngine(ResolvedModel(ModelFile(tiny, (tiny,), "tiny", trusted=True)), Settings(), Cancellation())
    answer = answer_of(local, Settings(seed=1, n_threads=1), think_budget=300, ignore_eos=True)
    assert (len(answer.record.tokens) > 320, answer.fills_context) == (True, False)
    assert answer.record.n_ctx == 512
    taken = iter([answer.request])
    *_, last = local.generate_batch(lambda _is_idle: next(taken, None), 1)
    assert (last.finish_reason, last.record.n_ctx) == ("length", 512)
    assert last.record.tokens == answer.record.tokens
    local.close()
