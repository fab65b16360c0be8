"""A session that is taken up again continues as if the chat had never ended, whatever was done in it."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from llmcli.chat.controller import ChatController
from llmcli.chat.sessions import store
from llmcli.chat.sessions.session import Session
from llmcli.engine.events import common_prefix
from llmcli.inference.local import LocalEngine
from llmcli.inference.state_store import StateStore
from llmcli.params.model import ModelParams
from llmcli.params.settings import Settings
from tests.chat.controllers import GREEDY, ask, controller_with, fresh_answer, greedy_answer, open_local
from tests.chat.test_exactness import KINDS, ONE_BY_ONE, TINY_NOISE, Walk
from tests.engine.test_reuse import Countdown
from tests.models import tiny_models

_EXACT: dict[str, Any] = {"cache_type_k": "f32", "cache_type_v": "f32", "flash_attn": "off"}
STATES: dict[str, Any] = {"kv_cache_min": 64}
TINY = Settings(n_ctx=1024, n_threads=1, n_batch=64, n_ubatch=16, **_EXACT, **STATES)
STARTER = Settings(n_ctx=1024, n_threads=1, n_batch=1, n_ubatch=1, **STATES)
pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(scope="module", params=KINDS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = getattr(tiny_models, request.param)(tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf")
    return path


def next_prompt(controller: ChatController) -> Any:
    path = [*controller.session.conversation.path(), controller.session.conversation.draft("user", "and now")]
    return controller.prompt(path)


def walk_and_take_up(
    path: Path, settings: Settings, seed: int, n_steps: int, noise: float, params: ModelParams
) -> tuple[list[int], list[int], list[str]]:
    """The next greedy answer of a chat and of one that takes up its session, which must be that of a new context."""
    flags: dict[str, Any] = {"n_ctx": 1024, "max_tokens": 6, **STATES}
    with closing(open_local(path, settings)) as local, closing(Session("walk")) as session:
        controller = controller_with(local, session=session, **flags)
        steps = Walk(controller, local, Countdown(local.context), Random(seed), noise, params)
        steps.send()
        for _ in range(n_steps):
            steps.step()
        controller.keep_context()
        going_on = greedy_answer(controller, next_prompt(controller), 8)
    with closing(open_local(path, settings)) as local, closing(Session.load("walk")) as session:
        controller = controller_with(local, session=session, **flags)
        controller.window_start = steps.controller.window_start
        prompt = next_prompt(controller)
        taken_up = greedy_answer(controller, prompt, 8)
        log = local.keep_context("walk")
        fresh = fresh_answer(local, prompt.tokens, 8, params)
    if taken_up != fresh.tokens:
        assert fresh.leads[common_prefix(taken_up, fresh.tokens)] < noise, steps.seen
    store.remove("walk")
    return going_on, taken_up, [line for line in log if line.startswith("restored")]


@pytest.mark.slow
def test_a_session_that_is_taken_up_has_the_answers_of_a_new_context(tiny: Path) -> None:
    exact = ModelParams(n_ctx=1024, n_threads=1, **_EXACT)
    n_restored = 0
    for seed in range(6):
        going_on, taken_up, log = walk_and_take_up(tiny, TINY, seed, 6, TINY_NOISE, exact)
        n_restored += len(log)
        if tiny.stem == "full_attention":
            assert taken_up == going_on
    # The text of these answers is noise, which has other tokens when it is read: then a whole state fits no prompt.
    assert n_restored >= 2 or tiny.stem != "full_attention"


@pytest.mark.parametrize("seed", [1, 4])
def test_a_session_of_the_starter_has_the_answers_of_a_new_context(starter: Path, seed: int) -> None:
    going_on, taken_up, log = walk_and_take_up(starter, STARTER, seed, 5, 0.0, ONE_BY_ONE)
    assert taken_up == going_on
    assert len(log) == 1


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalEngine]:
    with closing(open_local(tiny_models.full_attention(tmp_path / "tiny.gguf"), TINY)) as local:
        yield local


def talk(local: LocalEngine, session: Session, **flags: Any) -> ChatController:
    controller = controller_with(local, session=session, n_ctx=1024, max_tokens=40, **STATES, **GREEDY, **flags)
    ask(controller, "the moon and the river and nine of them, and why is that so")
    return controller


def n_states() -> int:
    return len(StateStore().entries())


def test_a_chat_that_is_not_saved_stores_nothing(local: LocalEngine) -> None:
    talk(local, Session(keep=False)).close_model()
    assert n_states() == 0


def test_a_chat_without_a_cache_stores_nothing(local: LocalEngine) -> None:
    talk(local, Session("novel"), kv_cache=False).close_model()
    assert n_states() == 0


def test_a_session_takes_its_state_with_it(local: LocalEngine) -> None:
    with closing(Session("novel")) as session:
        controller = talk(local, session)
        controller.keep_context()
        session.rename("story")
        controller.keep_context()
        assert n_states() == 1
        other = session.copy("copy")
        controller.switch_session(other)
        ask(controller, "what else")
        controller.close_model()
        other.close()
    assert n_states() == 2
    store.rename("copy", "draft")
    store.remove("draft")
    assert n_states() == 1
    store.remove("story")
    assert n_states() == 0
