"""A whole chat, a comparison and a replay over an engine that is not llama.cpp."""

import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmcli.chat.compare import CompareSession
from llmcli.chat.controller import BackgroundLoad, ChatController
from llmcli.chat.replay import Replay, from_output, from_session, replay_settings
from llmcli.chat.sessions.session import Session
from llmcli.engine.events import Cancellation, Constraint, Request, TemperatureShift
from llmcli.engine.llama import bindings
from llmcli.errors import ConstraintError, ExitStatus, UsageError
from llmcli.inference.answer import Answer
from llmcli.inference.answer_json import answer_data
from llmcli.inference.comparison import END, Comparison, variant_data, variants_of
from llmcli.inference.request import build_prompt
from llmcli.params.settings import Settings
from llmcli.ui.chat.app import ChatApp
from llmcli.ui.chat.loop import run
from llmcli.ui.input.piped import LineReader
from tests.chat.controllers import ask, controller_with
from tests.inference.fake_engine import FakeEngine, without

SETTINGS = Settings(seed=1)


@pytest.fixture(autouse=True)
def no_llama(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may load llama.cpp."""

    def load() -> Any:
        raise AssertionError("llama.cpp was loaded")

    monkeypatch.setattr(bindings, "load", load)


def echo(request: Request) -> list[str]:
    """Says the last message again, word by word."""
    words = request.prompt.text.strip().splitlines()[-2].removeprefix("user: ").split()
    return [f"{word} " for word in words]


def chat_with(engine: FakeEngine, *lines: str, **flags: Any) -> tuple[int, ChatApp]:
    """The exit status of a chat that reads these lines, and the chat."""
    chat = ChatApp(controller_with(engine, session=Session(), **flags))
    chat.reader = LineReader(io.BytesIO("\n".join(lines).encode()))
    return run(chat), chat


def test_a_whole_chat_runs_and_is_saved(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine(reply=echo)
    status, chat = chat_with(engine, "one two", "/retry", "/system Be brief.", "three", "/undo", "/stats", "four five")
    assert status == 0
    assert capfd.readouterr().out == "one two \none two \nthree \nfour five \n"
    assert [one.content for one in chat.path()] == ["one two", "one two ", "four five", "four five "]
    assert engine.requests[-1].prompt.text.startswith("system: Be brief.\nuser: one two\nassistant: one two \n")
    chat.session.close()
    assert [one.content for one in Session.read(chat.session.name).conversation.path()][-1] == "four five "


def test_undo_after_edit_shows_the_conversation_before(capfd: pytest.CaptureFixture[str]) -> None:
    _, chat = chat_with(FakeEngine(reply=echo), "one", "two", "/edit 1 uno", "/undo", "three", "/edit 2 dos", "/undo")
    assert [one.content for one in chat.path()] == ["one", "one ", "two", "two ", "three", "three "]
    err = capfd.readouterr().err
    assert "removed 2 messages, starting at 'uno' (/redo restores them); the messages before /edit are back" in err
    assert "removed 1 message, starting at 'dos' (/redo restores them); the messages before /edit are back" in err
    chat.session.close()


def test_reasoning_and_the_plain_template_need_no_llama(capfd: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine(("<think>", "hm", "</think>", "Yes."), chat_template="")
    _, chat = chat_with(engine, "Why?")
    assert (chat.path()[-1].reasoning, chat.path()[-1].content) == ("hm", "Yes.")
    assert "fake has no chat template" in capfd.readouterr().err
    assert engine.requests[0].settings.stop == ("\nUser:",)
    chat.session.close()


def test_a_session_knows_the_seed_of_the_try_that_matched(capfd: pytest.CaptureFixture[str]) -> None:
    schema = '{"type": "integer", "not": {"multipleOf": 2}}'
    _, chat = chat_with(FakeEngine(("2",), ("3",)), "/seed 5", f"/json {schema}", "A number", "/json")
    assert (chat.path()[-1].content, chat.path()[-1].params["seed"]) == ("3", 6)
    err = capfd.readouterr().err
    assert "json_schema: only the finished answer shows whether it matches /not; it is generated again" in err
    chat.session.close()


def test_an_engine_that_fails_ends_the_turn_and_not_the_chat(capfd: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine(("I ", "see", ConstraintError("no token fits")), ("fine",))
    status, chat = chat_with(engine, "one", "two")
    out, err = capfd.readouterr()
    assert (status, out) == (ExitStatus.CONSTRAINT_UNMET, "I see\nfine\n")
    assert "error: no token fits" in err
    assert [one.content for one in chat.path()] == ["one", "I see", "two", "fine"]
    chat.session.close()


def test_why_is_refused_by_the_name_of_the_engine(capfd: pytest.CaptureFixture[str]) -> None:
    _, chat = chat_with(FakeEngine(), "one", "/why")
    assert "error: fake does not support /why" in capfd.readouterr().err
    chat.session.close()


@pytest.mark.parametrize(
    ("capabilities", "request_of", "says"),
    [
        (
            without(ignored_settings=frozenset({"top_k", "min_p"})),
            lambda prompt: Request(prompt, Settings(seed=1, top_k=3)),
            "fake does not support top_k",
        ),
        (
            without(constraints=False),
            lambda prompt: Request(prompt, SETTINGS, Constraint("grammar", 'root ::= "a"')),
            "fake does not support grammar",
        ),
        (
            without(logprobs=False),
            lambda prompt: Request(prompt, Settings(seed=1, logprobs=2)),
            "fake does not support logprobs",
        ),
        (without(traces=False), lambda prompt: Request(prompt, SETTINGS, trace=2), "fake does not support trace"),
        (
            without(live_temperature=False),
            lambda prompt: Request(prompt, SETTINGS, live_shift=TemperatureShift()),
            "fake does not support temperature changes during an answer",
        ),
    ],
)
def test_a_request_beyond_an_engine_is_refused_by_name(
    capabilities: Any, request_of: Callable[..., Request], says: str
) -> None:
    engine = FakeEngine(capabilities=capabilities)
    request = request_of(build_prompt(engine, SETTINGS, "Q", None))
    with pytest.raises(UsageError, match=says):
        list(Answer(engine, request).parts())
    with pytest.raises(UsageError, match=says):
        list(Comparison([Answer(engine, request)]).parts())
    assert engine.requests == []


def test_a_chat_asks_an_engine_without_traces_for_none() -> None:
    engine = FakeEngine(("Hi.",), capabilities=without(traces=False))
    turn = ask(controller_with(engine), "one")
    assert (turn.answer.text, engine.requests[0].trace) == ("Hi.", None)
    traced = ask(controller_with(FakeEngine(("Hi", "."))), "one")
    assert [one.text for one in traced.answer.traces] == ["Hi", "."]


def test_a_comparison_runs_and_a_failing_answer_ends_alone() -> None:
    engine = FakeEngine(("a ", "b ", "c"), ("x ", ConstraintError("no token fits")), ("1",))
    controller = controller_with(engine)
    controller.session.add("user", "Why?")
    variants = variants_of(["temp=0.2,0.8,1.4"], 1)
    compared = CompareSession(controller, controller.session.conversation.path(), variants, 1)
    pieces = list(compared.comparison.parts())
    assert pieces[:3] == [(0, "answer", "a "), (1, "answer", "x "), (2, "answer", "1")]
    assert {(index, text) for index, kind, text in pieces if kind == END} == {(0, "stop"), (1, "error"), (2, "stop")}
    assert [one.text for one in compared.comparison.answers] == ["a b c", "x ", "1"]
    assert [str(one.record.failure or "") for one in compared.comparison.answers] == ["", "no token fits", ""]
    assert compared.keep(1).message
    assert controller.session.conversation.path()[-1].content == "a b c"


def test_a_comparison_is_stopped_by_its_cancellation() -> None:
    engine = FakeEngine(("a ",) * 50)
    controller = controller_with(engine)
    controller.session.add("user", "Why?")
    variants = variants_of(["temp=0.2,0.8"], 1)
    compared = CompareSession(controller, controller.session.conversation.path(), variants, 1)
    for number, _ in enumerate(compared.comparison.parts()):
        if number == 5:
            compared.cancellation.set()
    assert compared.comparison.interrupted
    assert [one.text for one in compared.comparison.answers] == ["a a a "] * 2


def test_a_replay_is_the_same_or_says_where_it_differs() -> None:
    engine = FakeEngine(("a ", "b ", "c"), ("a ", "b ", "c"), ("a ", "x"))
    answer = Answer(engine, Request(build_prompt(engine, SETTINGS, "Q", None), SETTINGS))
    list(answer.parts())
    (recorded,) = from_output(json.dumps(answer_data(answer)), "test")
    same, other = (Replay(engine, recorded, replay_settings(recorded, None, SETTINGS)) for _ in range(2))
    for replay in (same, other):
        list(replay.answer.parts())
        replay.compare()
    assert (same.difference, same.reasons) == (None, [])
    assert other.difference
    assert (other.difference.offset, other.difference.recorded, other.difference.replayed) == (2, "b", "x")


@pytest.mark.parametrize("n_drawn", [0, 1, 2])
def test_an_answer_that_was_stopped_is_replayed_to_its_end(n_drawn: int) -> None:
    engine = FakeEngine(("a ", "b ", "c"))
    answer = Answer(engine, Request(build_prompt(engine, SETTINGS, "Q", None), SETTINGS))
    events = engine.generate([answer.request])
    list(answer.begin())
    for _ in range(n_drawn):
        list(answer.push(next(events)))
    answer.request.cancellation.set()
    list(answer.push(next(events)))
    (recorded,) = from_output(json.dumps(answer_data(answer)), "test")
    assert (recorded.text, recorded.manifest.drawn) == ("a b c"[: 2 * n_drawn], n_drawn)
    replay = Replay(engine, recorded, replay_settings(recorded, None, SETTINGS))
    list(replay.answer.parts())
    replay.compare()
    assert (replay.difference, replay.reasons, replay.stopped) == (None, [], False)
    assert replay.answer.text == recorded.text


def test_an_engine_that_cannot_replay_refuses_it_by_name() -> None:
    engine = FakeEngine(("a ", "b "))
    answer = Answer(engine, Request(build_prompt(engine, SETTINGS, "Q", None), SETTINGS))
    list(answer.parts())
    (recorded,) = from_output(json.dumps(answer_data(answer)), "test")
    engine.capabilities = without(replay=False)
    with pytest.raises(UsageError, match="fake does not support replay"):
        Replay(engine, recorded, replay_settings(recorded, None, SETTINGS))


def test_a_failing_answer_keeps_the_text_that_was_held_back() -> None:
    engine = FakeEngine(("Yes <th", ConstraintError("no token fits")))
    answer = Answer(engine, Request(build_prompt(engine, SETTINGS, "Q", None), SETTINGS))
    with pytest.raises(ConstraintError):
        list(answer.parts())
    assert (answer.text, answer.finish_reason) == ("Yes <th", "error")


def test_only_the_first_answer_waited_for_the_model() -> None:
    engine = FakeEngine(("a ",))
    engine.waited_ms = 5000.0
    prompt, times = build_prompt(engine, SETTINGS, "Q", None), []
    for _ in range(2):
        answer = Answer(engine, Request(prompt, SETTINGS))
        list(answer.parts())
        times.append(answer.timings()["ttft_ms"])
    assert times == [5000.0, 0.0]


def test_a_load_in_the_background_counts_from_the_wait_on() -> None:
    engine, is_waiting = FakeEngine(), threading.Event()

    def load(_cancellation: Cancellation, _report: Callable[[str], None]) -> FakeEngine:
        is_waiting.wait()
        engine.waited_ms = 60_000.0
        return engine

    loading = BackgroundLoad(load)

    def tick(_doing: str) -> bool:
        is_waiting.set()
        return True

    loading.wait(tick)
    assert 0 < engine.waited_ms < 60_000


def test_a_session_and_a_comparison_are_replayed() -> None:
    engine = FakeEngine(reply=echo)
    controller = controller_with(engine)
    ask(controller, "one two")
    recorded = from_session(controller.session, None)
    replay = Replay(engine, recorded, replay_settings(recorded, None, SETTINGS))
    assert "".join(text for _, text in replay.answer.parts()) == "one two "
    replay.compare()
    assert (replay.difference, replay.reasons) == (None, [])

    prompt = build_prompt(engine, SETTINGS, "Q", None)
    variants = variants_of(["seed=1,2"], 1)
    compared = Comparison([Answer(engine, Request(prompt, SETTINGS)) for _ in variants])
    list(compared.parts())
    data = {
        "messages": prompt.request,
        "variants": [variant_data(*pair) for pair in zip(variants, compared.answers, strict=True)],
    }
    pair = from_output(json.dumps(data), "test")
    replays = [Replay(engine, one, replay_settings(one, None, SETTINGS)) for one in pair]
    list(Comparison([one.answer for one in replays]).parts())
    for one in replays:
        one.compare()
    assert [(one.difference, one.reasons, one.stopped) for one in replays] == [(None, [], False)] * 2


def test_the_model_is_closed_with_the_chat() -> None:
    engine = FakeEngine()
    controller: ChatController = controller_with(engine)
    controller.close_model()
    assert engine.is_closed
