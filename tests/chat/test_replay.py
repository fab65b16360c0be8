"""An answer given again is the same to the letter, whatever it was drawn with; and what differs is found and named."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from llmcli.chat.controller import ChatController
from llmcli.chat.replay import RecordedAnswer, Replay, from_session, replay_settings
from llmcli.chat.sessions.session import Session, Turn
from llmcli.engine.events import FinishReason, Request, TemperatureShift
from llmcli.inference.answer import Answer
from llmcli.inference.answer_json import answer_data
from llmcli.inference.local import LocalEngine
from llmcli.inference.request import build_prompt
from llmcli.params.settings import Settings, parse_data
from tests.chat.controllers import answer, ask, controller_with
from tests.chat.replays import N_CTX, QUESTIONS, again, given, opened, read
from tests.chat.test_exactness import Walk
from tests.engine.test_reuse import Countdown
from tests.models import tiny_models

WARM = "def warm(step, low=0.4):\n    return low + 0.2 * (step.index % 4)\n"
THINKING = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]<think>\n"
THOUGHT = 'root ::= [a-z ]{20,60} "\\n</think>\\n\\n" [A-Z] [a-z ]{5,20} "."'
COUNTED = 'root ::= [0-9]+ ("," [0-9]+)*'
SCHEMA = '{"type": "object", "properties": {"river": {"type": "string", "maxLength": 12}}, "required": ["river"]}'
WIDE = '{"type": "integer", "minimum": 1, "maximum": 9, "not": {"multipleOf": 2}}'

# All kinds of policies, and what else decides which token comes.
KINDS: dict[str, dict[str, Any]] = {
    "fixed": {"temperature": 0.8},
    "hot": {"temperature": 1.7, "top_k": 0, "min_p": 0.02},
    "greedy": {"temperature": 0},
    "one": {"temperature": 1, "top_p": 0.9},
    "entropy": {"temperature": "0.3..1.3"},
    "entropy with an exponent": {"temperature": "0.2..1.6^0.7"},
    "llama.cpp's spelling": {"temperature": 0.8, "dynatemp_range": 0.5, "dynatemp_exponent": 1.2},
    "edt": {"temperature": "edt:0.9,theta=0.2"},
    "linear": {"temperature": "linear:1.4->0.3@12"},
    "cosine": {"temperature": "cosine:1.4->0.3@12"},
    "exp": {"temperature": "exp:1.4->0.3@12"},
    "clamped": {"temperature": "linear:1.6->0.1@12,clamp=0.4..1.2"},
    "sentence": {"temperature": "sentence:1.3,0.7,0.4"},
    "line": {"temperature": "line:1.3,0.5"},
    "paragraph": {"temperature": "paragraph:1.3,0.5"},
    "sentences of ranges": {"temperature": "sentence:0.3..1.5,0.5..0.9^2"},
    "think and answer": {"temperature": "think=1.2,answer=0.6"},
    "think and answer, thinking": {
        "temperature": "think=1.2,answer=(sentence:0.9,0.4)",
        "chat_template": THINKING,
        "grammar": THOUGHT,
        "max_tokens": 60,
        "think_budget": 24,
    },
    "own file": {"temp_policy_file": "WARM", "temperature": 0.8},
    "own file in a policy": {"temp_policy_file": "WARM", "temperature": "sentence:(warm:low=0.9),warm"},
    "penalties": {"temperature": 1, "repeat_penalty": 1.2, "presence_penalty": 0.3, "frequency_penalty": 0.2},
    "dry": {"temperature": "0.4..1.2", "dry_multiplier": 0.8, "dry_base": 1.5},
    "xtc": {"temperature": 1.1, "xtc_probability": 0.6, "xtc_threshold": 0.08},
    "mirostat": {"temperature": 0.9, "mirostat": 1},
    "mirostat 2": {"temperature": 0.9, "mirostat": 2, "mirostat_tau": 4.0},
    "adaptive_p": {"samplers": "top_k,min_p,adaptive_p", "adaptive_target": 0.4},
    "tfs_z": {"temperature": 1.2, "tfs_z": 0.95, "top_k": 0},
    "top_a and smoothing": {"temperature": 1.2, "top_a": 0.2, "smoothing_factor": 0.3, "smoothing_curve": 2.0},
    "typical and sigma": {"temperature": 1.2, "typical_p": 0.8, "top_n_sigma": 1.5},
    "temperature first": {"temperature": "linear:1.5->0.5@9", "samplers": "temperature,top_k,top_p"},
    "no temperature": {"samplers": "top_k,min_p"},
    "grammar": {"temperature": "0.5..1.5", "grammar": COUNTED},
    "grammar in a file": {"temperature": 1.2, "grammar_file": "COUNTED"},
    "schema": {"temperature": "linear:1.2->0.6@9", "json_schema": SCHEMA, "max_tokens": 40},
    "regex": {"regex": r"[a-z ]{12} \d{3}", "max_tokens": 40},
    "checked at the end": {"json_schema": WIDE, "max_tokens": 12, "constraint_retries": 9, "temperature": 1.5},
    "bans": {"temperature": "sentence:1.2,0.6", "banned_strings": [" the", "e ", ","]},
    "bias": {"temperature": 1, "logit_bias": [[" moon", 4.0], [260, False]]},
    "stop": {"temperature": 1.1, "stop": ["I, a", "zz"]},
    "on and on": {"temperature": 1.4, "ignore_eos": True, "max_tokens": 24},
    "prefill": {"temperature": "sentence:1.4,0.5", "prefill": "Once upon. A"},
    "raw": {"temperature": 1.0, "raw": True},
    "raw prefill": {"temperature": "line:1.2,0.5", "raw": True, "prefill": "\nAnd"},
    "no thinking": {"temperature": 0.9, "think": "off"},
    "template": {"temperature": 0.9, "chat_template": "{{ messages[-1].content }} ({{ strftime_now('%s') }}):"},
    "variables of the template": {
        "chat_template": "{{ messages[-1].content }} {{ thinking }} {{ effort }}:",
        "template_arg": ['effort="low"', "thinking=7"],
    },
    "built-in template": {"temperature": 0.9, "chat_template": "llama3"},
    "system in a file": {"temperature": 1.1, "system": "@SYSTEM"},
    "probabilities": {"temperature": 1.1, "logprobs": 3},
    "one thread each": {"temperature": 1.1, "n_threads_batch": 1},
}
MOVED = ("fixed", "entropy", "sentence", "bans", "grammar", "edt", "mirostat 2")


@pytest.fixture(scope="module")
def first(short_starter: Path) -> Iterator[LocalEngine]:
    """The model that answers; each answer stands on the last one's context."""
    yield from opened(short_starter)


@pytest.fixture(scope="module")
def second(short_starter: Path) -> Iterator[LocalEngine]:
    """The model that gives the answers again."""
    yield from opened(short_starter)


@pytest.fixture
def files(tmp_path: Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Puts the files in the place of their names."""
    texts = {"WARM": ("warm.py", WARM), "COUNTED": ("counted.gbnf", COUNTED), "@SYSTEM": ("s.txt", "Speak in rhymes.")}

    def placed(values: dict[str, Any]) -> dict[str, Any]:
        for word, (name, text) in texts.items():
            (tmp_path / name).write_text(text)
            for key in [key for key, value in values.items() if value == word]:
                place = {"WARM": f"{tmp_path / name}:warm", "@SYSTEM": f"@{tmp_path / name}"}.get(word, name)
                values = {**values, key: place if place != name else str(tmp_path / name)}
        return values

    return placed


# The same


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_repeats_exactly(
    first: LocalEngine, second: LocalEngine, files: Callable[[dict[str, Any]], dict[str, Any]], kind: str
) -> None:
    number = list(KINDS).index(kind)
    values = files(KINDS[kind]) | {"seed": number}
    data = given(first, values, QUESTIONS[number % len(QUESTIONS)])
    assert "stop" not in values or data["finish_reason"] == "stop"
    replay = again(second, read(data))
    assert (replay.difference, replay.reasons) == (None, [])
    assert (replay.answer.text, replay.answer.reasoning) == (data["text"], data.get("reasoning_content", ""))
    assert len(replay.answer.tokens) == data["completion_tokens"]
    assert replay.answer.finish_reason == data["finish_reason"]


def test_an_older_record_did_not_tell_the_template_of_reasoning(first: LocalEngine, second: LocalEngine) -> None:
    data = given(first, {"chat_template": "{{ messages[-1].content }}:", "seed": 3}, QUESTIONS[0])
    template = "{{ messages[-1].content }}{{ ' on' if thinking }}:"
    sha256 = hashlib.sha256(template.encode()).hexdigest()
    manifest = {**data["replay"], "template": template, "template_sha256": sha256}
    told = again(second, read(data, replay=manifest))
    assert "the prompt is different" in told.reasons[0]
    del manifest["template_arguments"]
    replay = again(second, read(data, replay=manifest))
    assert (replay.difference, replay.reasons) == (None, [])


@pytest.mark.parametrize("kind", MOVED)
def test_an_output_with_temperature_shifts_repeats_exactly(first: LocalEngine, second: LocalEngine, kind: str) -> None:
    data = given(first, KINDS[kind] | {"seed": 5, "max_tokens": 16}, QUESTIONS[1], TemperatureShift())
    assert len(data["replay"]["moves"]) == 2
    replay = again(second, read(data))
    assert (replay.difference, replay.reasons) == (None, [])
    assert replay.answer.text == data["text"]


def test_the_replay_tests_cover_fifty_outputs() -> None:
    assert len(KINDS) + len(MOVED) >= 50


def test_a_record_needs_nothing_else(first: LocalEngine, second: LocalEngine, tmp_path: Path) -> None:
    """The files of the first time may be gone."""
    place = tmp_path / "counted.gbnf"
    place.write_text(COUNTED)
    data = given(first, {"grammar_file": str(place)}, "Count.")
    place.unlink()
    assert again(second, read(data)).answer.text == data["text"]


# The turns of a chat


def turns(session: Session) -> Iterator[RecordedAnswer]:
    """Every answer of every branch that a model gave, as a reader of the file finds it."""
    reader = Session.read(session.name)
    for message in list(reader.conversation.messages.values()):
        if message.replay:
            reader.conversation.move(message.id)
            yield from_session(reader, None)


def test_the_turns_of_a_chat_repeat_exactly(first: LocalEngine, second: LocalEngine) -> None:
    """With a past of several batches: they are what a replay could not do without."""
    session = Session()
    controller = controller_with(first, n_ctx=N_CTX, max_tokens=10, session=session)
    conversation = session.conversation
    ask(
        controller,
        "Tell me about the river that runs through the town where my mother was born, and of its bridges. " * 4,
    )
    ask(controller, "Name three colours.", temperature=parse_data({"temp": "sentence:1.3,0.5"}, "")["temperature"])
    session.conversation.move(conversation.path()[-2].id)
    answer(controller, seed=9)  # a retry
    session.conversation.move(conversation.path()[-1].parent)
    session.conversation.move(conversation.path()[-1].parent)
    ask(controller, "Name three animals, and one of them twice.")  # an edit
    answer(controller, continued=conversation.path()[-1])  # going on
    session.conversation.undo(1)
    controller.set("system", "Speak like a sailor.")
    ask(controller, "And now?")
    turn = stopped(controller, "Tell me about the sea.")
    controller.window_start = conversation.path()[2].id
    ask(controller, "What did I ask?")
    found = list(turns(session))
    session.close()
    assert len(found) == 8
    assert turn.message
    assert turn.message.finish_reason == "interrupt"
    assert any(rows != kept for recorded in found for rows, kept, _ in recorded.manifest.layout)
    for recorded in found:
        replay = again(second, recorded)
        assert (replay.difference, replay.reasons) == (None, []), recorded.source


def stopped(controller: ChatController, text: str) -> Turn:
    """An answer of which three parts are shown."""
    controller.session.add("user", text)
    turn = controller.answer(controller.session.conversation.path(), {"grammar": "root ::= [a-z]{40}"})
    parts = turn.parts()
    for _ in range(3):
        next(parts)
    parts.close()
    return turn


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full_attention", "sliding_window", "recurrent", "hybrid"])
def test_an_answer_after_any_history_repeats_exactly(tmp_path: Path, kind: str) -> None:
    path = getattr(tiny_models, kind)(tmp_path / f"{kind}.gguf")
    first, second = (next(opened(path)) for _ in range(2))
    session = Session()
    controller = controller_with(first, n_ctx=N_CTX, max_tokens=6, session=session)
    steps = WithoutCount(controller, first, Countdown(first.context), Random(3), 0.0, controller.settings)
    for _ in range(40):
        steps.step()
    found = list(turns(session))
    session.close()
    assert len(found) > 15
    assert {recorded.is_complete for recorded in found} == {True, False}
    for recorded in found:
        replay = again(second, recorded)
        assert (replay.difference, replay.reasons) == (None, [])
    for local in (first, second):
        local.close()


class WithoutCount(Walk):
    """The walk of the tests of exactness, which checks what was evaluated; here its answers are the matter."""

    def count(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize("reason", ["interrupt", "timeout"])
@pytest.mark.parametrize("more", [{}, {"stop": (" t",)}, {"banned_strings": (" the", " a b")}])
def test_a_stopped_answer_repeats_up_to_its_end(
    first: LocalEngine, second: LocalEngine, settings: Settings, reason: FinishReason, more: dict[str, Any]
) -> None:
    settings = replace(settings, n_ctx=N_CTX, max_tokens=40, **more)
    answer = Answer(first, Request(build_prompt(first, settings, QUESTIONS[3], None), settings))
    with suppress(StopIteration):
        parts = answer.parts()
        for _ in range(4):
            next(parts)
        answer.request.cancellation.set(reason)
        list(parts)
    data = json.loads(json.dumps(answer_data(answer)))
    assert data["finish_reason"] == reason
    replay = again(second, read(data))
    assert (replay.difference, replay.answer.text) == (None, data["text"])


def test_a_stopped_replay_has_no_result(first: LocalEngine, second: LocalEngine) -> None:
    recorded = read(given(first, {}, QUESTIONS[0]))
    replay = Replay(second, recorded, replay_settings(recorded, None, Settings()))
    parts = replay.answer.parts()
    next(parts)
    replay.answer.request.cancellation.set()
    list(parts)
    replay.compare()
    assert replay.stopped
    assert (replay.difference, replay.reasons) == (None, [])


def test_a_changed_policy_file_is_found(
    first: LocalEngine, second: LocalEngine, files: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    data = given(first, files({"temp_policy_file": "WARM"}), QUESTIONS[2])
    file = Path(data["params"]["temp_policy_file"].removesuffix(":warm"))
    file.write_text(WARM.replace("0.2", "0.21"))
    assert "the file of the temperature policy is different" in again(second, read(data)).reasons
