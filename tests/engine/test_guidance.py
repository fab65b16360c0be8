"""Matching by llguidance: the same texts for every vocabulary, and a position that can be copied."""

import json
from pathlib import Path

import pytest

from llmcli.engine.events import Constraint
from llmcli.engine.llama.context import Context
from llmcli.engine.llama.model import Model, Vocab
from llmcli.engine.sampling.constraints import make_matcher
from llmcli.errors import UsageError
from llmcli.params.policies.policy import Fixed
from tests.engine.drive import run
from tests.models.tiny_models import full_attention

SCHEMA = Constraint(
    "json_schema",
    json.dumps(
        {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 12},
                "age": {"type": "integer", "minimum": 0, "maximum": 150},
                "colour": {"enum": ["red", "green"]},
                "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2},
            },
            "required": ["name", "age", "colour", "tags"],
            "additionalProperties": False,
        }
    ),
)


@pytest.mark.parametrize("settings", [{}, {"mirostat": 2}, {"samplers": ("adaptive_p",)}, {"ignore_eos": True}])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_answer_matches_its_schema(context: Context, settings: dict[str, object], seed: int) -> None:
    answer = run(context, "A person:", SCHEMA, seed=seed, temperature=Fixed(1.2), max_tokens=120, **settings)
    assert answer.reason == "stop"
    data = json.loads(answer.text)
    assert list(data) == ["name", "age", "colour", "tags"]
    assert json.dumps(data, ensure_ascii=False) == answer.text or "\\" in answer.text
    assert 0 <= data["age"] <= 150


def test_an_answer_ends_with_its_last_token(context: Context) -> None:
    answer = run(context, "A flag:", Constraint("json_schema", '{"const": true}'), max_tokens=20)
    assert (answer.text, answer.reason, answer.timings.predicted_n) == ("true", "stop", 1)


def test_a_ban_and_a_schema_apply_together(context: Context) -> None:
    schema = Constraint("json_schema", '{"enum": ["red", "green", "blue"]}')
    answer = run(context, "A colour:", schema, temperature=Fixed(0.0), banned_strings=("red", "BLU"))
    assert answer.text == '"green"'


def test_an_obedient_model_costs_no_mask(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmcli.engine.sampling import guidance

    masks: list[object] = []
    monkeypatch.setattr(guidance.GuidanceMatcher, "apply", lambda _self, candidates: masks.append(candidates))
    monkeypatch.setattr(guidance, "token_index", masks.append)
    free = run(context, "The capital of France is", temperature=Fixed(0.0), max_tokens=12)
    bound = run(
        context, "The capital of France is", Constraint("regex", "(?s).*"), temperature=Fixed(0.0), max_tokens=12
    )
    assert bound.ids == free.ids
    assert masks == []


def test_a_vocabulary_that_adds_a_space_gives_the_same_text(tmp_path: Path) -> None:
    model = Model.load([full_attention(tmp_path / "tiny.gguf")], vocab_only=True)
    vocab, text = model.vocab, '{"name": "a"}'
    assert vocab.detokenize(vocab.tokenize(text)) == " " + text
    assert vocab.detokenize(vocab.tokenize_exactly(text.encode())) == text
    matcher = make_matcher(vocab, Constraint("json_schema", '{"properties": {"name": {"type": "string"}}}'))
    for token in vocab.tokenize_exactly(text.encode()):
        assert matcher.allows(token)
        matcher.accept(token)
    assert matcher.may_end()
    model.close()


def test_bytes_that_are_no_text_have_tokens_too(vocab: Vocab) -> None:
    data = b"\xe6\x97 ok"
    assert b"".join(map(vocab.piece, vocab.tokenize_exactly(data))) == data


def test_all_pieces_are_those_of_single_tokens(vocab: Vocab) -> None:
    step = 97
    assert vocab.all_pieces[::step] == [vocab.piece(token, special=True) for token in range(0, vocab.n_tokens, step)]


def test_a_copy_of_a_matcher_advances_alone(vocab: Vocab) -> None:
    for constraint in (Constraint("grammar", 'root ::= "ab"'), Constraint("regex", "ab")):
        matcher = make_matcher(vocab, constraint)
        first, second = vocab.tokenize("a")[0], vocab.tokenize("b")[0]
        matcher.accept(first)
        other = matcher.copy()
        other.accept(second)
        assert (matcher.may_end(), other.may_end()) == (False, True)
        assert matcher.allows(second)
        matcher.close()
        other.close()


def test_a_control_token_matches_no_text(vocab: Vocab) -> None:
    matcher = make_matcher(vocab, Constraint("regex", "(?s).*"))
    (control,) = vocab.tokenize("<|im_start|>", parse_special=True)
    assert not matcher.allows(control)
    assert matcher.allows(vocab.tokenize("<|im_start|>")[0])


def test_a_schema_that_is_too_complex_is_refused(vocab: Vocab) -> None:
    with pytest.raises(UsageError, match="json_schema is not valid: "):
        make_matcher(vocab, Constraint("json_schema", '{"type": "nonsense"}'))
