"""Answers to compare: the context they are written in, each as it would be alone, and one of them kept."""

import json
import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from llmcli.chat.compare import CompareSession
from llmcli.chat.sessions.session import Session
from llmcli.engine.events import Cancellation, Constraint, Prompt, Request
from llmcli.engine.llama import hardware
from llmcli.errors import ConstraintError, ContextOverflowError, UsageError
from llmcli.inference import sizing
from llmcli.inference.answer import Answer
from llmcli.inference.answer_json import answer_data
from llmcli.inference.comparison import END, Comparison, Statistics, statistics_of, variant_data, variants_of
from llmcli.inference.local import LocalEngine
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.inference.sizing import ModelShape
from llmcli.models.locations import ModelFile
from llmcli.params.policies.policy import PolicyCall
from llmcli.params.policies.user_functions import PolicySource
from llmcli.params.settings import Settings
from tests.chat.controllers import ask, controller_with, open_local
from tests.models.tiny_models import full_attention

# The context


SHAPE = ModelShape(weights=10**6, n_layers=2, n_ctx_train=8192, n_embd=64, n_vocab=100, kv_width_k=500, kv_width_v=500)
PER_TOKEN = 2000  # bytes


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Any:
    def set_to(tokens: int) -> None:
        free = 10**6 + 4 * 512 * (100 + 8 * 64) + PER_TOKEN * tokens
        monkeypatch.setattr(hardware, "available_memory", lambda: int(free / 0.9) + 1000)

    set_to(10**6)
    return set_to


def shared(prompts: list[int], n_answers: int, **values: Any) -> tuple[int, int, int]:
    found = sizing.choose_shared(SHAPE, Settings(**values), prompts, n_answers)
    return found.n_ctx, found.n_ctx_seq, found.width


def test_several_answers_share_the_room_of_one_prompt(memory: Any) -> None:
    assert shared([100], 4, max_tokens=200) == (1024, 301, 4)
    assert shared([100, 60], 4, max_tokens=200) == (1024, 301, 4)
    assert shared([100], 4, max_tokens=100_000) == (32512, 8192, 4)
    assert shared([100], 2, n_ctx=1000, max_tokens=5000) == (2048, 1000, 2)


def test_unlimited_answers_share_the_context_of_one(memory: Any) -> None:
    assert shared([192], 2) == (8192, 192 + 4000, 2)
    assert shared([192], 8) == (16640, 192 + 2048, 8)
    assert shared([192], 8, n_ctx=1024) == (6912, 1024, 8)


def test_answers_beyond_the_width_come_in_equal_rounds(memory: Any) -> None:
    assert shared([100], 64, max_tokens=99)[2] == 16
    assert shared([100], 17, max_tokens=99)[2] == 9
    memory(1200)
    assert shared([100], 8, max_tokens=299) == (768, 400, 2)
    memory(300)
    assert shared([100], 8, max_tokens=299)[2] == 1


def test_a_prompt_without_room_for_an_answer_is_refused(memory: Any) -> None:
    with pytest.raises(ContextOverflowError, match="the prompt has 8192 tokens, and the context has 8192"):
        shared([10, 8192], 2)


# The answers


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full_attention(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def tiny(path: Path) -> Iterator[LocalEngine]:
    """A model that has no context yet."""
    target = ResolvedModel(ModelFile(path, (path,), path.stem, trusted=True))
    local = LocalEngine(target, Settings(), Cancellation())
    yield local
    local.close()


PROMPT = Prompt.of_tokens("", list(range(10, 95)))
BASE = Settings(seed=1, n_threads=1, raw=True, ignore_eos=True, max_tokens=12, cache_type_k="f32", cache_type_v="f32")


def comparison(local: LocalEngine, *specs: str, prompt: Prompt = PROMPT, base: Settings = BASE) -> Comparison:
    answers = []
    for one in variants_of(specs, 1):
        values: dict[str, Any] = {**one.values}
        answers.append(Answer(local, Request(prompt, replace(base, **values), label=one.label)))
    return Comparison(answers)


def texts(compared: Comparison) -> list[str]:
    """The texts as they came, piece by piece."""
    found = [""] * len(compared.answers)
    for index, kind, text in compared.parts():
        found[index] += text if kind != END else ""
    return found


def alone(local: LocalEngine, settings: Settings) -> str:
    answer = Answer(local, Request(PROMPT, settings))
    return "".join(text for _, text in answer.parts())


def test_each_answer_is_the_same_as_alone(tiny: LocalEngine, path: Path) -> None:
    compared = comparison(tiny, "temp=0.2,1.0", "top_k=3,40")
    found = texts(compared)
    other = open_local(path, BASE)
    assert found == [alone(other, one.settings) for one in compared.answers]
    assert [one.text for one in compared.answers] == found
    assert len(set(found)) > 1
    other.close()


def test_the_prompt_is_read_once_and_its_progress_reported(tiny: LocalEngine) -> None:
    compared, progress = comparison(tiny, "temp=0.2,1.0", "top_k=3,40"), list[tuple[int, int]]()
    compared.progress = lambda done, total: progress.append((done, total))
    texts(compared)
    assert [one.timings()["prompt_n"] for one in compared.answers] == [85, 0, 0, 0]
    assert progress[-1] == (85, 85)


def test_each_answer_ends_once_with_its_reason(tiny: LocalEngine) -> None:
    compared = comparison(tiny, "max_tokens=3,9,0")
    ends = [(index, text) for index, kind, text in compared.parts() if kind == END]
    assert ends == [(2, "length"), (0, "length"), (1, "length")]
    assert [statistics_of(one).tokens for one in compared.answers] == [3, 9, 0]


def test_rounds_give_the_texts_that_one_round_gives(tiny: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = texts(comparison(tiny, "temp=0.2,1.0", "top_k=3,40,5"))
    tiny.close_context()
    monkeypatch.setattr(sizing, "_MAX_WIDTH", 2)
    rounds = comparison(tiny, "temp=0.2,1.0", "top_k=3,40,5")
    assert texts(rounds) == whole
    assert [one.timings()["prompt_n"] for one in rounds.answers] == [85, 0, 1, 0, 1, 0]


def test_the_same_comparison_again_gives_the_same_texts(path: Path) -> None:
    found = []
    for _ in range(2):
        local = open_local(path, BASE)
        found.append(texts(comparison(local, "temp=0.9,1.5", "top_k=3,40")))
        local.close()
    assert found[0] == found[1]


def test_an_answer_that_fails_ends_alone(tiny: LocalEngine) -> None:
    compared = comparison(tiny, "temp=0.2,1.0")
    failing = compared.answers[0]
    failing.request.constraint = Constraint("grammar", 'root ::= "a"')
    nothing = tuple((token, -math.inf) for token in range(tiny.model.vocab.n_tokens))
    failing.request.settings = replace(failing.settings, logit_bias=nothing)
    whole = alone(tiny, compared.answers[1].settings)
    assert texts(compared) == ["", whole]
    assert isinstance(failing.record.failure, ConstraintError)
    assert failing.finish_reason == "error"
    assert compared.answers[1].record.failure is None
    data: Any = variant_data(variants_of(["temp=0.2"], 1, 2)[0], failing)
    assert data["error"] == str(failing.record.failure)
    assert (data["text"], data["stats"]["tokens"], data["stats"]["mean_p"]) == ("", 0, None)


def test_an_invalid_setting_names_its_variant_and_leaks_nothing(tiny: LocalEngine) -> None:
    compared = comparison(tiny, "temp=0.2,1.0")
    compared.answers[1].request.constraint = Constraint("grammar", "root ::= (")
    with pytest.raises(UsageError, match=r"temp=1\.0: "):
        texts(compared)


def test_an_interrupt_ends_all_and_those_of_later_rounds_too(
    tiny: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizing, "_MAX_WIDTH", 2)
    compared, flag = comparison(tiny, "temp=0.2,0.5,0.9,1.0"), Cancellation()
    for one in compared.answers:
        one.request.cancellation = flag
    ends = []
    for index, kind, text in compared.parts():
        if kind == END:
            ends.append((index, text))
        elif index == 1:
            flag.set("interrupt")
    assert ends == [(index, "interrupt") for index in range(4)]
    assert compared.interrupted
    assert compared.answers[0].text
    assert json.loads(json.dumps(answer_data(compared.answers[3])))["finish_reason"] == "interrupt"


def test_the_json_has_the_settings_that_differ(tiny: LocalEngine) -> None:
    spec = "temp=0.2,0.3..1.3"
    compared = comparison(tiny, spec)
    texts(compared)
    data = json.loads(json.dumps(variant_data(variants_of([spec], 1)[1], compared.answers[1]), allow_nan=False))
    assert list(data)[:4] == ["label", "settings", "stats", "text"]
    assert (data["label"], data["settings"]) == ("temp=0.3..1.3", {"temperature": "0.3..1.3"})
    assert list(data["stats"]) == [field.name for field in fields(Statistics)]
    assert 0 < data["stats"]["mean_p"] <= 1
    assert data["replay"]["beside"] == 1


def test_the_tokens_of_a_conversation_are_reused_and_kept(path: Path) -> None:
    chat, other = open_local(path, BASE), open_local(path, BASE)
    for local in (chat, other):
        local.warm(PROMPT.tokens[:80])
    before = chat.context
    compared = comparison(chat, "temp=0.2,1.0")
    found = texts(compared)
    assert [one.timings()["prompt_n"] for one in compared.answers] == [5, 0]
    assert chat.context is before
    assert before.evaluated(PROMPT.tokens) == before.evaluated() == 80
    assert texts(comparison(chat, "temp=0.2,1.0")) == found
    assert found[0] == alone(other, compared.answers[0].settings)
    other.warm(PROMPT.tokens[:80])
    assert found[1] == alone(other, compared.answers[1].settings)
    for local in (chat, other):
        local.close()


def test_a_stopped_comparison_gives_the_context_back(path: Path) -> None:
    chat = open_local(path, BASE)
    before = chat.context
    with closing(comparison(chat, "temp=0.2,1.0").parts()) as parts:
        next(parts)
        assert chat.context is not before
    assert chat.context is before
    with pytest.raises(ContextOverflowError):
        texts(comparison(chat, "temp=0.2,1.0", prompt=Prompt.of_tokens("", [5] * 2000)))
    assert chat.context is before
    chat.close()


def test_an_error_in_a_policy_file_is_a_failure_too(tiny: LocalEngine) -> None:
    source = PolicySource("failing", "a test", lambda: lambda step: 1 / (2 - step.index))
    compared = comparison(tiny, "temp=0.2,1.0")
    policy = PolicyCall("failing", source=source)
    compared.answers[0].request.settings = replace(BASE, temperature=policy)
    texts(compared)
    assert "failing" in str(compared.answers[0].record.failure)
    assert [statistics_of(one).tokens for one in compared.answers] == [2, 12]


# Kept


def test_a_kept_answer_is_saved_with_its_question_and_settings(path: Path, home: Path) -> None:
    local = open_local(path, Settings(n_ctx=512, n_threads=1))
    controller = controller_with(local, n_ctx=512, max_tokens=6, session=Session())
    session = controller.session
    first = ask(controller, "the river").message
    assert first
    draft = session.conversation.draft("user", "and the hill")
    compare_session = CompareSession(
        controller, [*session.conversation.path(), draft], variants_of(["temp=0.2,1.0"], 3, 2), 3
    )
    answers = texts(compare_session.comparison)
    assert session.conversation.path()[-1] == first
    turn = compare_session.keep(3)
    question, answer = session.conversation.path()[-2:]
    assert (question.role, question.content, question.parent) == ("user", "and the hill", first.id)
    assert (answer.content, answer.parent, answer.model) == (answers[2], question.id, "tiny")
    assert (answer.params["temperature"], answer.params["seed"], answer.finish_reason) == (1.0, 3, "length")
    assert answer.replay["beside"] == 3
    assert turn.message == answer
    assert turn.answer.traces
    other = compare_session.keep(1).message
    assert [message.parent for message in (other, answer) if message] == [question.id] * 2
    assert session.conversation.path()[-1] == other
    compare_session.keep(3)
    assert session.conversation.path()[-1] == answer
    assert len(session.conversation.messages) == 5
    with pytest.raises(UsageError, match="answer 5 does not exist"):
        compare_session.keep(5)
    kept = (Session.read(session.name), session)
    read, in_memory = ([message.content for message in one.conversation.messages.values()] for one in kept)
    assert read == in_memory
    session.close()
    local.close()


def test_an_empty_answer_cannot_be_kept(path: Path) -> None:
    local = open_local(path, Settings(n_ctx=512, n_threads=1))
    controller = controller_with(local, n_ctx=512)
    controller.session.add("user", "the river")
    compare_session = CompareSession(
        controller, controller.session.conversation.path(), variants_of(["max_tokens=0,3"], 1), 1
    )
    texts(compare_session.comparison)
    with pytest.raises(UsageError, match="answer 1 is empty"):
        compare_session.keep(1)
    compare_session.keep(2)
    assert len(controller.session.conversation.path()) == 2
    local.close()
