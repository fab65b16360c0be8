"""A model in another process answers as one in this process does: the two sides here are two threads and a pipe."""

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import astuple, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from llmcli.engine.events import Cancellation, GenerationRecord, Prompt, Request, TemperatureShift, TokenEvent
from llmcli.errors import (
    ContextOverflowError,
    ExitStatus,
    LlmcliError,
    ModelInvalidError,
    NetworkError,
    UsageError,
)
from llmcli.inference.constraints import read_constraint
from llmcli.inference.engine import Engine, TemplateOptions
from llmcli.inference.engine_host import EngineHost
from llmcli.inference.engine_messages import can_be_sent, error_data, read_error
from llmcli.inference.local import LocalEngine
from llmcli.inference.remote_engine import EngineGoneError, RemoteEngine
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.models.locations import ModelFile
from llmcli.params.policies.policy import Fixed
from llmcli.params.settings import Settings, parse_data
from tests.chat.test_replay import KINDS

SETTINGS = Settings(n_ctx=512, n_threads=1, seed=7, max_tokens=12, temperature=Fixed(1.0))
ENDLESS = replace(SETTINGS, max_tokens=-1, ignore_eos=True, n_ctx=8192)  # some seconds, if it is read at once
NOTHING = GenerationRecord()
MESSAGES = [{"role": "user", "content": "Say something <|im_end|>, é, 🦀."}]


class Place:
    """A host with the tiny model, and what connects to it."""

    def __init__(self, path: Path) -> None:
        self.target = ResolvedModel(ModelFile(path, (path,), "tiny", trusted=True))
        self.host = EngineHost(self.target)
        self.host.load(SETTINGS)
        self.theirs: list[Connection[Any, Any]] = []
        self.threads: list[threading.Thread] = []

    def connect(self) -> "Connection[Any, Any]":
        ours, theirs = Pipe()
        self.theirs.append(theirs)
        self.threads.append(threading.Thread(target=self.host.serve, args=(theirs,), daemon=True))
        self.threads[-1].start()
        return ours

    def open(self, settings: Settings = SETTINGS, **details: Any) -> RemoteEngine:
        return RemoteEngine(self.connect, settings, [], **details)

    def wait(self) -> None:
        """Until all connections have ended."""
        for one in self.threads:
            one.join(60)
        assert self.host.is_idle


@pytest.fixture(scope="module")
def place(tiny: Path) -> Iterator[Place]:
    made = Place(tiny)
    yield made
    made.wait()
    made.host.close()


@pytest.fixture
def remote(place: Place) -> Iterator[RemoteEngine]:
    engine = place.open()
    yield engine
    engine.close()


@pytest.fixture
def here(place: Place) -> Iterator[LocalEngine]:
    engine = LocalEngine(replace(place.target, notes=[]), SETTINGS)
    yield engine
    engine.close()


def request(engine: Engine, settings: Settings = SETTINGS, **details: Any) -> Request:
    prompt = engine.render(MESSAGES, TemplateOptions(engine.chat_template, time=1.0))
    return Request(prompt, settings, read_constraint(settings), **details)


def seen(events: Sequence[TokenEvent]) -> list[object]:
    """What can be known of answers, without durations, and without what a kept context has saved."""

    found: list[object] = [replace(event, record=NOTHING) for event in events]
    for record in {id(event.record): event.record for event in events}.values():
        traces = [trace._replace(time=0.0) for trace in record.traces]
        found += [
            record.tokens,
            record.logprobs,
            traces,
            record.timings.predicted_n,
            record.finish_reason,
            record.stop_string,
        ]
        found += [[*map(tuple, record.layout)], record.n_ctx, tuple(record.n_threads), record.beside]
        found += [record.is_complete, str(record.failure)]
    return found


@pytest.mark.parametrize(
    "kind", [name for name, one in KINDS.items() if not {"temp_policy_file", "grammar_file"} & {*one}]
)
def test_an_answer_has_the_same_events_as_one_of_this_process(
    kind: str, remote: RemoteEngine, here: LocalEngine
) -> None:
    given = {key: value for key, value in KINDS[kind].items() if key not in ("questions", "pieces")}
    try:
        values: dict[str, Any] = parse_data({"max_tokens": 12, "logprobs": 2, **given}, "")
        settings = replace(SETTINGS, **values)
    except UsageError:
        pytest.skip("its parts belong to that test")
    a, b = (list(engine.generate([request(engine, settings, trace=3)])) for engine in (remote, here))
    assert seen(a) == seen(b)


def test_several_answers_are_told_apart(remote: RemoteEngine, here: LocalEngine) -> None:
    a, b = (
        list(engine.generate([request(engine, replace(SETTINGS, seed=seed)) for seed in range(4)]))
        for engine in (remote, here)
    )
    assert seen(a) == seen(b)


def test_tokens_that_are_removed_are_removed_here_too(remote: RemoteEngine, here: LocalEngine) -> None:
    (first,) = {event.record for event in here.generate([request(here)])}
    text = here.tokenizer.detokenize(first.tokens[-6:-3])
    here.close_context()  # a prefix that is evaluated already changes the rounding
    settings = replace(SETTINGS, banned_strings=(text, "e", "a"), max_tokens=20)
    a, b = (list(engine.generate([request(engine, settings, trace=0)])) for engine in (remote, here))
    assert seen(a) == seen(b)
    assert any(event.id is None and not event.finish_reason for event in a)


def test_requests_join_a_batch_when_it_asks_for_them(remote: RemoteEngine, here: LocalEngine) -> None:
    def run(engine: Engine) -> list[TokenEvent]:
        waiting = [request(engine, replace(SETTINGS, seed=seed, max_tokens=3 + seed)) for seed in range(6)]
        return list(engine.generate_batch(lambda _is_idle: waiting.pop(0) if waiting else None, 2))

    assert seen(run(remote)) == seen(run(here))


def test_moves_of_the_temperature_reach_it_and_come_back(remote: RemoteEngine) -> None:
    for _ in range(20):  # a busy machine may end an answer before it reads the move
        shift = TemperatureShift()
        asked = request(remote, replace(SETTINGS, max_tokens=400, ignore_eos=True), live_shift=shift, trace=0)
        for number, event in enumerate(remote.generate([asked])):
            if number == 3:
                assert shift.add(0.5) == 0.5
            last = event
        if shift.moves:
            break
    assert len(shift.moves) == 1
    (at, by), traces = shift.moves[0], last.record.traces
    assert (by, 3 < at < 400) == (0.5, True)
    assert [one.temperature for one in traces] == pytest.approx([1.0] * at + [1.5] * (400 - at))
    repeated = request(
        remote, replace(SETTINGS, max_tokens=400, ignore_eos=True), live_shift=TemperatureShift([(at, by)])
    )
    assert [*remote.generate([repeated])][-1].record.tokens == last.record.tokens


@pytest.mark.parametrize("reason", ["interrupt", "timeout"])
def test_a_cancelled_answer_ends_and_keeps_its_text(reason: Any, remote: RemoteEngine) -> None:
    asked = request(remote, ENDLESS)
    events = list[TokenEvent]()
    for event in remote.generate([asked]):
        events.append(event)
        if len(events) == 4:
            asked.cancellation.set(reason)
    assert events[-1].finish_reason == reason
    assert len(events[-1].record.tokens) >= len(asked.prompt.tokens) + 4


def test_an_answer_that_nobody_reads_on_makes_room_for_the_next(remote: RemoteEngine) -> None:
    first = remote.generate([request(remote, ENDLESS)])
    next(first)
    first.close()
    assert [*remote.generate([request(remote)])][-1].finish_reason in ("stop", "length")


def test_other_work_is_the_same(remote: RemoteEngine, here: LocalEngine) -> None:
    def work(engine: Engine) -> list[object]:
        engine.open_context(SETTINGS)
        engine.warm([1, 2, 3])
        found: list[object] = [engine.n_evaluated([1, 2, 9]), engine.n_ctx, engine.context_size(SETTINGS)]
        found += [engine.score([1, 2], [[3, 4], [5]]), astuple(engine.score_prompt([1, 2, 3], 2))]
        found += [engine.count_tokens("Hello"), engine.name, engine.n_ctx_train, engine.chat_template, engine.defaults]
        asked = request(engine, replace(SETTINGS, max_tokens=5))
        tokens = [*engine.generate([asked])][-1].record.tokens[len(asked.prompt.tokens) :]
        inspector, running = engine.inspector(asked, tokens), Cancellation()
        found += [tokens, inspector.inspect(1, 3, running, lambda *_: None), inspector.stateful_steps]
        found += [inspector.entropies(running, lambda *_: None)]
        return [*found, inspector.token_at_rank(1, 2, running, lambda *_: None)]

    a, b = (repr(work(engine)).split("time=") for engine in (remote, here))
    assert [part.partition(",")[2] for part in a] == [part.partition(",")[2] for part in b]


def test_its_vocabulary_is_that_of_the_model(remote: RemoteEngine, here: LocalEngine) -> None:
    a, b = remote.tokenizer, here.tokenizer
    for text in ("", "Hello, wörld", " <|im_end|>", "🦀"):
        for flags in ({}, {"add_special": True}, {"parse_special": True}):
            assert a.tokenize(text, **flags) == b.tokenize(text, **flags)
    tokens = b.tokenize("Hello, wörld 🦀")
    for token in (*tokens, 0, 1, 2):
        assert (a.piece(token), a.piece(token, special=True), a.label(token)) == (
            *(b.piece(token), b.piece(token, special=True)),
            b.label(token),
        )
        assert (a.ends(token), a.is_control(token), a.strips_left(token)) == (
            *(b.ends(token), b.is_control(token)),
            b.strips_left(token),
        )
    assert (a.n_tokens, a.bos, a.eos, a.adds_bos) == (b.n_tokens, b.bos, b.eos, b.adds_bos)
    assert (a.all_pieces, a.special, a.end_tokens) == (b.all_pieces, b.special, b.end_tokens)
    assert a.detokenize(tokens) == b.detokenize(tokens)
    assert a.tokenize_exactly("wör".encode()[:-1]) == b.tokenize_exactly("wör".encode()[:-1])


def test_what_is_not_valid_is_refused_before_the_first_event(remote: RemoteEngine) -> None:
    with pytest.raises(UsageError, match="empty"):
        remote.generate([Request(Prompt.of_tokens("", []), SETTINGS)])
    with pytest.raises(ContextOverflowError):
        next(remote.generate([Request(Prompt.of_tokens("", [1] * 600), SETTINGS)]))
    assert next(remote.generate([request(remote)])).text is not None


@pytest.mark.skipif(sys.platform == "win32", reason="its pipes are no sockets")
def test_a_host_that_dies_in_an_answer_leaves_its_text_and_an_error(place: Place) -> None:
    engine, events = place.open(), list[TokenEvent]()
    for event in engine.generate([request(engine, ENDLESS)]):
        events.append(event)
        if len(events) == 3:
            for one in place.theirs[-2:]:
                with socket.socket(fileno=os.dup(one.fileno())) as ended:
                    ended.shutdown(socket.SHUT_RDWR)
    assert events[-1].finish_reason == "error"
    assert isinstance(events[-1].record.failure, EngineGoneError)
    assert len(events) > 3
    assert engine.has_ended
    assert engine.keep_context("talk") == engine.keep_context() == ()  # a chat does it before it loads the model
    with pytest.raises(EngineGoneError):
        engine.count_tokens("Hello")
    engine.close()


@pytest.mark.skipif(sys.platform == "win32", reason="its pipes are no sockets")
@pytest.mark.parametrize("n_more", [0, 1])
def test_a_batch_whose_host_dies_ends_with_the_error_if_requests_are_left(n_more: int, place: Place) -> None:
    engine, events = place.open(), list[TokenEvent]()
    endless = request(engine, ENDLESS)
    waiting = [endless] * (1 + n_more)
    with pytest.raises(EngineGoneError) if n_more else nullcontext():
        for event in engine.generate_batch(lambda _is_idle: waiting.pop() if waiting else None, 1):
            events.append(event)
            if len(events) == 3:
                for one in place.theirs[-2:]:
                    with socket.socket(fileno=os.dup(one.fileno())) as ended:
                        ended.shutdown(socket.SHUT_RDWR)
    assert [event.finish_reason for event in events[-2:]] == [None, "error"]
    engine.close()


def test_a_command_that_dies_in_an_answer_frees_its_context(place: Place) -> None:
    engine = place.open()
    answer = engine.generate([request(engine, ENDLESS)])
    next(answer)
    assert place.host.n_sessions >= 1
    engine.close()
    place.wait()
    assert place.host.n_sessions == 0


def test_commands_do_not_disturb_each_other(place: Place, here: LocalEngine) -> None:
    expected = [*here.generate([request(here)])][-1].record.tokens
    engines = [place.open() for _ in range(3)]
    running = [engine.generate([request(engine)]) for engine in engines]
    last: dict[int, list[int]] = {}
    while running:
        for one in list(running):
            try:
                last[id(one)] = next(one).record.tokens
            except StopIteration:
                running.remove(one)
    assert [*last.values()] == [expected] * 3
    for engine in engines:
        engine.close()


def test_who_comes_while_the_model_loads_waits_for_it(tiny: Path) -> None:
    late = Place.__new__(Place)
    late.target = ResolvedModel(ModelFile(tiny, (tiny,), "tiny", trusted=True))
    late.host, late.theirs, late.threads = EngineHost(late.target), [], []
    loading, shares = threading.Thread(target=late.host.load, args=[SETTINGS]), list[float]()

    def load_at_last(share: float) -> None:
        shares.append(share)
        if len(shares) == 1:  # it waits
            loading.start()

    engine = late.open(progress=load_at_last)
    assert shares
    assert engine.name == "tiny"
    engine.close()
    late.wait()
    loading.join()
    late.host.close()


def test_the_error_of_a_load_is_told_to_who_waits(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF")
    host = EngineHost(ResolvedModel(ModelFile(path, (path,), "broken", trusted=True)))
    with pytest.raises(ModelInvalidError):
        host.load(SETTINGS)
    with pytest.raises(ModelInvalidError):
        host.open(SETTINGS, lambda _share: None)


def test_messages_of_strangers_end_the_connection_only(place: Place) -> None:
    wrong: Sequence[bytes] = (b"", b"\xff", b"\x93\x01\x02\x03", b"\x81\xa4call\xa4quit", b"\x80")
    for data in wrong:
        connection = place.connect()
        connection.send_bytes(data)
        place.threads[-1].join(60)
        assert not place.threads[-1].is_alive()
    engine = place.open()
    assert engine.name == "tiny"
    engine.close()


@pytest.mark.parametrize("call", ["answer", "__init__", "close"])
def test_only_known_calls_are_made(call: str, place: Place) -> None:
    engine = place.open()
    with pytest.raises(Exception, match="unknown call"):
        engine._ask(call)
    engine.close()


def test_an_error_keeps_its_class_and_its_hint() -> None:
    error = read_error(error_data(ContextOverflowError("too long", "shorten it")))
    assert (type(error), str(error), error.hint) == (ContextOverflowError, "too long", "shorten it")


def test_an_error_of_a_class_that_is_not_loaded_here_keeps_its_exit_status() -> None:
    data = error_data(NetworkError("a server is not there", "start it"))
    error = read_error({**data, "class": "UnheardOfError"})
    assert (type(error), error.status) == (LlmcliError, ExitStatus.NETWORK)
    assert (LlmcliError.status, NetworkError.status) == (ExitStatus.FAILED, ExitStatus.NETWORK)


def test_functions_of_users_stay_in_their_process() -> None:
    parse: Callable[..., Any] = lambda text: parse_data({"temperature": text}, "")["temperature"]  # noqa: E731
    assert can_be_sent(SETTINGS)
    assert can_be_sent(replace(SETTINGS, temperature=parse("sentence:0.9,0.4")))
    assert not can_be_sent(replace(SETTINGS, temperature=parse("mine")))
    assert not can_be_sent(replace(SETTINGS, temp_policy_file="mine.py:warm"))
