"""Answers through `llmcli serve` are repeated, stopped and moved as those of this machine are."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llmcli.chat.controller import ChatController
from llmcli.chat.inspect import last_answer
from llmcli.chat.replay import Replay, from_session, replay_settings
from llmcli.chat.sessions.session import Session, Turn
from llmcli.engine.events import Request, TemperatureShift
from llmcli.errors import UsageError
from llmcli.inference import endpoint_exchange
from llmcli.inference.endpoint import EndpointEngine
from llmcli.inference.endpoint_server import open_endpoint
from llmcli.inference.local import LocalEngine
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.models.locations import ModelFile
from llmcli.params.settings import Layer, Settings
from llmcli.server.loading import entry_of
from tests.chat.controllers import answer, ask, controller_with
from tests.chat.replays import N_CTX, QUESTIONS, again, given, opened, read
from tests.chat.test_replay import COUNTED, SCHEMA
from tests.conftest import Run
from tests.endpoints.server import Handler, serving
from tests.engine.drive import UNSTOPPED
from tests.inference.fake_engine import FakeEngine
from tests.server.conftest import running_server
from tests.waiting import wait_until

KINDS: dict[str, dict[str, Any]] = {
    "fixed": {"temperature": 0.8},
    "sentences": {"temperature": "sentence:1.3,0.5"},
    "mirostat": {"temperature": 0.9, "mirostat": 2},
    "schema": {"temperature": 1.2, "json_schema": SCHEMA, "max_tokens": 40},
    "grammar": {"temperature": 1.2, "grammar": COUNTED},
    "bans": {"temperature": 1.2, "banned_strings": [" the", "e "]},
    "prefill": {"temperature": "sentence:1.4,0.5", "prefill": "Once upon. A"},
    "raw prefill": {"temperature": "line:1.2,0.5", "raw": True, "prefill": "\nAnd"},
}


@pytest.fixture(scope="module")
def here(short_starter: Path) -> Iterator[LocalEngine]:
    yield from opened(short_starter)


@pytest.fixture(scope="module")
def url(short_starter: Path) -> Iterator[str]:
    """A server of the same model, whose own settings are others."""
    target = ResolvedModel(ModelFile(short_starter, (short_starter,), "short", trusted=True))
    values: dict[str, Any] = {"n_ctx": N_CTX, "n_threads": 1, "top_k": 7, "min_p": 0.2}
    with running_server(entries=[entry_of(target, [Layer("flag", values)], 2, 8)]) as server:
        yield f"http://127.0.0.1:{server.port}"


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_exchange, "_PATIENCE_MS", 60_000.0)


@pytest.fixture
def there(url: str) -> Iterator[EndpointEngine]:
    with closing(EndpointEngine(open_endpoint(Settings(endpoint=url)))) as engine:
        yield engine


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_repeats_here_and_there(here: LocalEngine, there: EndpointEngine, kind: str) -> None:
    values = KINDS[kind] | {"seed": list(KINDS).index(kind)}
    local, served = given(here, values, QUESTIONS[1]), given(there, values, QUESTIONS[1])
    for data in (local, served):
        for engine in (here, there):
            replay = again(engine, read(data))
            assert (replay.difference, replay.answer.text) == (None, data["text"])
            assert replay.reasons == [] or data is served
            if data is local and engine is there:
                assert replay.answer.record.replay == local["replay"]


def test_the_settings_of_the_server_are_recorded(here: LocalEngine, there: EndpointEngine) -> None:
    controller = controller_with(there, max_tokens=8, seed=3)
    turn = ask(controller, QUESTIONS[0])
    assert turn.message
    assert turn.message.replay["settings"].items() >= {"top_k": 7, "min_p": 0.2, "seed": 3}.items()
    recorded = from_session(controller.session, None)
    assert recorded.values.items() >= {"top_k": 7, "min_p": 0.2}.items()
    assert again(here, recorded).difference is None


def moved_answer(there: EndpointEngine, seed: int) -> tuple[ChatController, Turn, TemperatureShift]:
    """An answer that becomes warmer after its second part, and then as cold as can be."""
    shift = TemperatureShift()
    controller = controller_with(there, temperature=0.8, seed=seed, max_tokens=600, ignore_eos=True)
    controller.session.add("user", QUESTIONS[1])
    turn = controller.answer(controller.session.conversation.path())
    turn.answer.request.live_shift = shift
    for number, _ in enumerate(turn.parts()):
        if number == 1:
            shift.add(0.4)
        temperature = turn.answer.traces[-1].temperature
        if temperature == pytest.approx(1.2) and shift.shift > 0:
            shift.add(-3.0)
        if temperature == 0:
            turn.answer.request.cancellation.set()
    return controller, turn, shift


def test_moves_of_the_temperature_reach_the_server_and_repeat(here: LocalEngine, there: EndpointEngine) -> None:
    for seed in range(5, 10):  # on a busy machine, the answer may end before the moves are on their way
        controller, turn, shift = moved_answer(there, seed)
        if len(shift.moves) == 2:
            break
    assert [moved for _, moved in shift.moves] == [0.4, -0.8]  # colder than 0 it does not become
    temperatures = [trace.temperature for trace in turn.answer.traces if trace.id is not None]
    (warm, _), (cold, _) = shift.moves
    assert temperatures[warm - 1 : warm + 1] == pytest.approx([0.8, 1.2])
    assert temperatures[cold - 1 : cold + 1] == pytest.approx([1.2, 0.0])
    inspected = last_answer(controller, turn).inspector.inspect(warm, 5, *UNSTOPPED)
    assert inspected
    assert inspected.trace.temperature == pytest.approx(1.2)
    assert turn.message
    assert turn.message.replay["moves"] == [list(one) for one in shift.moves]
    recorded = from_session(controller.session, None)
    for engine in (here, there):
        replay = again(engine, recorded)
        assert (replay.difference, replay.answer.text) == (None, turn.message.content)


def stopped_answer(there: EndpointEngine, seed: int) -> tuple[ChatController, Turn]:
    """An answer that is stopped after its third part."""
    controller = controller_with(there, temperature=1.2, seed=seed, max_tokens=600, ignore_eos=True)
    controller.session.add("user", QUESTIONS[3])
    turn = controller.answer(controller.session.conversation.path())
    for number, _ in enumerate(turn.parts()):
        if number == 2:
            turn.answer.request.cancellation.set()
    return controller, turn


def test_an_answer_that_is_stopped_repeats(here: LocalEngine, there: EndpointEngine) -> None:
    for seed in range(6, 11):  # on a busy machine, the answer may end before it is stopped
        controller, turn = stopped_answer(there, seed)
        assert turn.message
        if turn.message.replay["drawn"] < 600:
            break
    assert turn.message
    assert turn.message.finish_reason == "interrupt"
    assert 0 < turn.message.replay["drawn"] < 600
    recorded = from_session(controller.session, None)
    for engine in (here, there):
        replay = again(engine, recorded)
        assert (replay.difference, replay.stopped, replay.answer.text) == (None, False, turn.message.content)


def test_a_conversation_and_what_continues_it_repeat(here: LocalEngine, there: EndpointEngine) -> None:
    controller = controller_with(there, temperature=0.9, max_tokens=10)
    ask(controller, QUESTIONS[0])
    ask(controller, QUESTIONS[1], system="Speak like a sailor.")
    path = controller.session.conversation.path()
    continued = answer(controller, continued=path[-1])
    assert continued.message
    assert continued.message.replay["begun"] == path[-1].id
    recorded = from_session(controller.session, None)
    for engine in (here, there):
        assert again(engine, recorded).difference is None


def test_a_different_answer_is_located_through_the_server(there: EndpointEngine) -> None:
    served = given(there, {"seed": 3, "temperature": 1.3}, QUESTIONS[1])
    replay = again(there, read(served | {"params": served["params"] | {"seed": 4}}))
    assert replay.difference
    assert served["text"][replay.difference.offset :].startswith(replay.difference.recorded)
    assert replay.answer.text[replay.difference.offset :].startswith(replay.difference.replayed)
    assert "seed: was 3, is 4" in replay.reasons


@pytest.mark.parametrize("kind", ["llama-server", "vllm"])
def test_a_server_of_another_kind_refuses_a_replay_by_name(here: LocalEngine, kind: str) -> None:
    recorded = read(given(here, {"seed": 3}, QUESTIONS[0]))
    with serving(kind=kind) as (url, dialect):
        engine = EndpointEngine(open_endpoint(Settings(endpoint=url)))
        with closing(engine), pytest.raises(UsageError, match="first-model does not support replay"):
            Replay(engine, recorded, replay_settings(recorded, None, Settings()))
        turn = ask(controller_with(engine), "Why?")
    assert turn.answer.request.live_shift is None
    assert "llmcli" not in dialect.body
    assert turn.message
    assert turn.message.replay == {}


def stop_after_a_word(url: str) -> Turn:
    """An answer of this server that is stopped."""
    with closing(EndpointEngine(open_endpoint(Settings(endpoint=url)))) as engine:
        controller = controller_with(engine)
        controller.session.add("user", "Why?")
        turn = controller.answer(controller.session.conversation.path())
        for _ in turn.parts():
            turn.answer.request.cancellation.set()
    return turn


def test_a_server_that_does_not_end_an_answer_loses_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_exchange, "_PATIENCE_MS", 50.0)
    is_over = threading.Event()

    def reply(handler: Handler, _body: object) -> bool:
        is_late = handler.path == "/llmcli/control"
        if is_late:
            is_over.wait(60)
        return is_late

    try:
        with serving(kind="llmcli", words=("word ",) * 20_000, delay=0.01, reply=reply) as (url, dialect):
            turn = stop_after_a_word(url)
            assert turn.answer.finish_reason == "interrupt"
            assert 0 < len(turn.answer.text.split()) < 20_000
            wait_until(lambda: ("/llmcli/control", {"id": "1", "stop": True}) in dialect.asked)
            is_over.set()
    finally:
        is_over.set()


def test_a_manifest_that_is_not_valid_is_an_error_of_the_server(inside: Run) -> None:
    def reply(handler: Handler, body: dict[str, Any]) -> bool:
        if body:
            choice = {"index": 0, "delta": {"content": "x"}, "llmcli": {"replay": {"n_ctx": "many"}}}
            handler.begin_stream()
            handler.event({"choices": [choice]})
            handler.end_stream()
        return bool(body)

    with serving(kind="llmcli", reply=reply) as (url, _):
        ran = inside("generate", "why?", "--endpoint", url)
    assert ran.status == 5
    assert "sent a replay that is not valid: replay.n_ctx must be an integer" in ran.stderr


def test_the_command_replays_through_an_endpoint(inside: Run, tmp_path: Path) -> None:
    with running_server(FakeEngine(["Blue", " sky"])) as server:
        url, file = f"http://127.0.0.1:{server.port}", tmp_path / "answer.json"
        file.write_text(inside("generate", "why?", "--endpoint", url, "--json").text)
        ran = inside("replay", str(file), "--endpoint", url)
        compared = tmp_path / "compared.json"
        compared.write_text(inside("compare", "why?", "--endpoint", url, "--vary", "temp=0.2,0.9", "--json").text)
        both = inside("replay", str(compared), "--endpoint", url, "--json")
    assert (ran.status, ran.text) == (0, "Blue sky\n")
    assert "same answer: 2 tokens" in ran.stderr
    assert json.loads(both.text)["same"] is True


def test_tokens_of_an_earlier_chat_are_explained(here: LocalEngine, there: EndpointEngine) -> None:
    controller = controller_with(there, temperature=0.9, max_tokens=10, seed=2, session=Session())
    ask(controller, QUESTIONS[1])
    name = controller.session.name
    controller.session.close()
    found = []
    for engine in (here, there):
        session = Session.read(name)
        inspector = last_answer(controller_with(engine, temperature=0.9, session=session), None)
        assert inspector.message.content.startswith("".join(map(inspector.text, range(3))))
        found.append((inspector.tokens, inspector.inspector.inspect(3, 5, *UNSTOPPED)))
    (tokens, one), (others, other) = found
    assert tokens == others
    assert one
    assert other
    assert [(row.id, row.rank) for row in one.stepwise.candidates] == [
        (row.id, row.rank) for row in other.stepwise.candidates
    ]


def test_a_continued_answer_has_its_reasoning_once() -> None:
    asked: list[Request] = []

    def reply(request: Request) -> tuple[str, ...]:
        asked.append(request)
        return ("Hm.", "</think>", "Hello") if len(asked) == 2 else (" you.",)

    template = "{% for m in messages %}{{ m.content }}{% endfor %}<think>"
    with running_server(FakeEngine(reply=reply, chat_template=template)) as server:
        url = f"http://127.0.0.1:{server.port}"
        with closing(EndpointEngine(open_endpoint(Settings(endpoint=url)))) as engine:
            controller = controller_with(engine)
            turn = ask(controller, "Why?")
            assert turn.message
            assert (turn.message.reasoning, turn.message.content) == ("Hm.", "Hello")
            answer(controller, continued=turn.message)
    assert asked[-1].prompt.text == "Why?<think>Hm.</think>Hello"
