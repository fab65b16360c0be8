"""Warm processes of the tests, and what these ask them."""

import os
import sys
from dataclasses import replace

import pytest

from llmcli.engine.events import Prompt, Request
from llmcli.inference import warm
from llmcli.inference.warm import WarmModel
from llmcli.params.policies.policy import Fixed
from llmcli.params.settings import Settings

SETTINGS = Settings(n_ctx=256, n_threads=1, seed=7, max_tokens=8, temperature=Fixed(1.0))
ENDLESS = replace(SETTINGS, max_tokens=-1, ignore_eos=True, n_ctx=8192)  # some seconds, if it is read at once
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has named pipes")


def tokens_of(one: WarmModel) -> list[int]:
    engine = warm.open_engine(one, SETTINGS, [])
    *_, last = engine.generate([Request(Prompt.of_tokens("", [1, 5, 9]), SETTINGS)])
    engine.close()
    return last.record.tokens


def has_ended(one: WarmModel) -> bool:
    """The process is a child of this one, and stays in its list until it is waited for."""
    try:
        return os.waitpid(one.pid, os.WNOHANG)[0] == one.pid
    except ChildProcessError:
        return not warm.is_running(one.pid)
