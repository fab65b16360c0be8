"""Processes that keep a model loaded: found by whom they belong to, with the same answers, and gone in time."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from llmcli.engine.events import Prompt, Request
from llmcli.errors import LlmcliError
from llmcli.files import runtime_dir
from llmcli.inference import warm
from llmcli.inference.local import LocalEngine
from llmcli.inference.remote_engine import RemoteEngine
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.inference.warm import WarmModel
from llmcli.models.locations import ModelFile
from llmcli.params.policies.policy import Fixed
from tests.inference.warm_processes import POSIX, SETTINGS, has_ended, tokens_of
from tests.waiting import wait_until

pytestmark = pytest.mark.slow


def test_it_answers_as_this_process_does_and_is_found_by_what_it_has_loaded(
    started: Callable[..., WarmModel], file: ModelFile
) -> None:
    one = started()
    here = LocalEngine(ResolvedModel(file), SETTINGS)
    *_, last = here.generate([Request(Prompt.of_tokens("", [1, 5, 9]), SETTINGS)])
    here.close()
    assert tokens_of(one) == last.record.tokens
    assert warm.find(file.parts, replace(SETTINGS, n_ctx=64, temperature=Fixed(0.0))) == one
    assert warm.find(file.parts, replace(SETTINGS, n_gpu_layers=3)) is None
    assert [found.model for found in warm.all_warm()] == ["tiny"]
    # The process sees the end of a connection a moment later.
    wait_until(lambda: (warm.status(one) or {"sessions": 1})["sessions"] == 0)


@pytest.mark.usefixtures("patient")
def test_the_model_has_the_name_and_the_template_that_the_command_gave_it(home: Path, file: ModelFile) -> None:
    one = warm.start(replace(file, name="mine", ollama_template="{{ .Prompt }}!"), SETTINGS, 60.0)
    engine = warm.open_engine(one, SETTINGS, [])
    assert (one.model, engine.name) == ("mine", "mine")
    assert "!" in engine.chat_template
    engine.close()
    os.kill(one.pid, signal.SIGTERM)


def test_it_ends_some_time_after_its_last_use(started: Callable[..., WarmModel]) -> None:
    one, engine = in_use(started, 0.5)
    time.sleep(1.5)  # it is in use all the time
    assert engine.count_tokens("Hello")
    engine.close()
    wait_until(lambda: has_ended(one))
    assert list(runtime_dir().glob("*.json")) == []
    assert not Path(one.address).exists()


def in_use(started: Callable[..., WarmModel], seconds: float) -> tuple[WarmModel, RemoteEngine]:
    """A process that ends after so many seconds without use, and what uses it. On a busy machine it can end before."""
    for _ in range(20):
        with suppress(OSError, LlmcliError):
            one = started(seconds=seconds)
            return one, warm.open_engine(one, SETTINGS, [])
    raise AssertionError("it ends before it can be used")


@POSIX
@pytest.mark.usefixtures("patient")
def test_a_long_path_of_the_folder_gets_a_shorter_one_for_the_socket(
    home: Path, file: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMCLI_HOME", str(home / ("long" * 25)))
    one = warm.start(file, SETTINGS, 60.0)
    assert len(one.address) < 108
    assert Path(one.address).parent.stat().st_mode & 0o777 == 0o700
    assert tokens_of(one)
    os.kill(one.pid, signal.SIGTERM)
    wait_until(lambda: has_ended(one))
    assert not Path(one.address).exists()
