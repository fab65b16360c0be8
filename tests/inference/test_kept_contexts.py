"""Contexts that a warm process keeps: an answer is that of a process of its own, and what is private is gone."""

import random
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from llmcli.engine.events import Cancellation, Prompt, Request
from llmcli.engine.llama import hardware
from llmcli.engine.llama.kept_context import rounds_alike
from llmcli.engine.llama.model import Model
from llmcli.inference import kept_contexts
from llmcli.inference.engine_host import EngineHost
from llmcli.inference.engine_session import Session
from llmcli.inference.local import LocalEngine
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.models.locations import ModelFile
from llmcli.params.policies.policy import Fixed
from llmcli.params.settings import Settings
from tests.engine.test_reuse import KINDS
from tests.models import tiny_models

SETTINGS = Settings(n_ctx=1024, n_threads=1, max_tokens=6, seed=3, temperature=Fixed(1.0), logprobs=2, kv_cache_min=64)
WORDS = [3 + 7 * number % 250 for number in range(400)]
Seen = tuple[object, int]  # an answer, and how many tokens of its prompt were evaluated
pytestmark = pytest.mark.usefixtures("home")


def loaded(path: Path) -> EngineHost:
    host = EngineHost(ResolvedModel(ModelFile(path, (path,), "tiny", trusted=True)))
    host.load(SETTINGS)
    return host


@pytest.fixture
def host(tiny: Path) -> Iterator[EngineHost]:
    with closing(loaded(tiny)) as made:
        yield made


@contextmanager
def command(host: EngineHost, settings: Settings = SETTINGS) -> Iterator[LocalEngine]:
    """What one command has of the host."""
    session: Session = host.open(settings, lambda _share: None)
    yield session.engine
    host.leave(session)


def answer(engine: LocalEngine, tokens: Sequence[int], settings: Settings = SETTINGS) -> Seen:
    *_, last = engine.generate([Request(Prompt.of_tokens("", [*tokens]), settings)])
    record = last.record
    return (record.tokens, record.logprobs, record.layout, record.n_ctx, str(record.failure)), record.timings.prompt_n


def ask(host: EngineHost, tokens: Sequence[int], settings: Settings = SETTINGS) -> Seen:
    with command(host, settings) as engine:
        return answer(engine, tokens, settings)


def fresh(host: EngineHost, tokens: Sequence[int], settings: Settings = SETTINGS) -> object:
    own = replace(settings, kv_cache=False)
    with closing(LocalEngine(replace(host._target, notes=[]), own)) as engine:
        return answer(engine, tokens, own)[0]


def n_kept(host: EngineHost) -> tuple[float, float]:
    counts = host.counts()
    return counts["contexts"], counts["tokens"]


def test_a_prompt_that_is_repeated_is_not_read_again(host: EngineHost) -> None:
    expected = fresh(host, WORDS[:40])
    assert ask(host, WORDS[:40]) == (expected, 40)
    assert ask(host, WORDS[:40]) == (expected, 0)
    assert ask(host, WORDS[:40], replace(SETTINGS, seed=4)) == (fresh(host, WORDS[:40], replace(SETTINGS, seed=4)), 0)


@pytest.mark.parametrize(("n_shared", "n", "n_least"), [(27, 40, 16), (43, 130, 90), (300, 390, 134)])
def test_a_beginning_that_prompts_share_is_read_once(n_shared: int, n: int, n_least: int, host: EngineHost) -> None:
    prompts = [[*WORDS[:n_shared], *range(10 + i, 10 + i + n - n_shared)] for i in range(3)]
    ask(host, prompts[0])
    ask(host, prompts[1])
    host.tend()  # it finds out that a batch can be divided
    found, n_read = ask(host, prompts[2])
    assert found == fresh(host, prompts[2])
    assert n_read <= n_least


@pytest.mark.parametrize("kind", [*KINDS, "quantized"])
def test_any_prompts_after_each_other_have_answers_of_their_own_process(kind: str, tmp_path: Path) -> None:
    source = random.Random(kind)
    with closing(loaded(getattr(tiny_models, kind)(tmp_path / "m.gguf"))) as host:
        for number in range(8):
            n_shared, n = source.choice((9, 30, 70, 200)), source.choice((12, 40, 66, 90, 140, 260))
            prompt = [*WORDS[: min(n_shared, n)], *(source.randrange(3, 250) for _ in range(n - n_shared))]
            own = replace(SETTINGS, n_ctx=source.choice((512, 768)), n_ubatch=source.choice((64, 512)))
            for settings in (own, own):
                assert ask(host, prompt, settings)[0] == fresh(host, prompt, settings), number
            host.tend()


def test_a_batch_of_a_model_can_be_divided_here(tiny: Path) -> None:
    model = Model.load((tiny,), 0)
    assert [rounds_alike(model, SETTINGS, kind, Cancellation()) for kind in ("few", "many")] == [True, True]
    ended = Cancellation()
    ended.set()
    assert rounds_alike(model, SETTINGS, "few", ended) is None
    model.close()


def test_what_is_found_out_about_a_model_is_remembered(host: EngineHost, tiny: Path) -> None:
    for start in (10, 20):
        ask(host, [*WORDS[:30], *range(start, start + 12)])
    host.tend()
    with closing(loaded(tiny)) as later:
        ask(later, [*WORDS[:30], *range(10, 22)])
        assert ask(later, [*WORDS[:30], *range(20, 32)])[1] == 42 - 24


def test_a_saved_conversation_goes_on_where_it_was_left(host: EngineHost) -> None:
    with command(host) as engine:
        engine.open_context(SETTINGS)
        answer(engine, WORDS[:90])
        tokens = engine.context.tokens()
        engine.keep_context("talk")
    with command(host) as engine:
        engine.open_context(SETTINGS)
        assert answer(engine, [*tokens, *range(30, 50)])[1] == 20


@pytest.mark.parametrize("end", ["nothing is saved", "no cache", "another talk", "it was removed", "all were removed"])
def test_what_must_not_stay_is_overwritten(end: str, host: EngineHost) -> None:
    settings = replace(SETTINGS, kv_cache=end != "no cache")
    with command(host, settings) as engine:
        engine.open_context(settings)
        answer(engine, WORDS[:90], settings)
        if end != "nothing is saved":
            engine.keep_context("talk")
        if end == "another talk":  # which is not saved
            answer(engine, WORDS[40:90], settings)
    if "removed" in end and host.contexts:
        assert n_kept(host)[1] > 90
        host.contexts.forget("other")
        assert n_kept(host)[1] > 90
        host.contexts.forget("talk" if end == "it was removed" else "")
    assert n_kept(host) == (1, 0)
    assert ask(host, WORDS[:90]) == (fresh(host, WORDS[:90]), 90)


def test_few_contexts_are_kept_and_not_for_long(host: EngineHost, monkeypatch: pytest.MonkeyPatch) -> None:
    for n_ctx in (1280, 1536, 1792, 2048):
        ask(host, WORDS[:20], replace(SETTINGS, n_ctx=n_ctx))
    assert n_kept(host)[0] == 3
    monkeypatch.setattr(kept_contexts, "_IDLE", -1.0)  # some clocks have steps of 15 ms
    host.tend()
    assert n_kept(host) == (0, 0)


def test_no_context_is_kept_where_memory_is_short(host: EngineHost, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(host, WORDS[:20])
    monkeypatch.setattr(hardware, "available_memory", lambda: 1 << 20)
    host.tend()
    assert n_kept(host) == (0, 0)


def test_a_short_prompt_leaves_a_long_context_to_those_who_use_it(host: EngineHost) -> None:
    ask(host, WORDS[:390])
    ask(host, [*WORDS[:20], 9, 9, 9])
    assert n_kept(host)[0] == 2
    assert ask(host, WORDS[:390])[1] == 0


def test_two_commands_at_a_time_have_a_context_each(host: EngineHost) -> None:
    ask(host, WORDS[:40])
    with command(host) as one, command(host) as other:
        assert answer(one, WORDS[:40]) == (fresh(host, WORDS[:40]), 0)
        assert answer(other, WORDS[:40]) == (fresh(host, WORDS[:40]), 40)
    assert n_kept(host)[0] == 2
