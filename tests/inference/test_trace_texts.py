"""The texts of a trace joined are the answer exactly, also if text was held back, removed or is reasoning."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmcli.engine.events import Constraint, Request, TokenTrace
from llmcli.engine.reasoning import ReasoningSplitter
from llmcli.inference.answer import Answer
from llmcli.inference.engine import TemplateOptions
from llmcli.inference.local import LocalEngine
from llmcli.params.settings import Settings
from tests.chat.controllers import open_local

SETTINGS = Settings(n_ctx=512, n_threads=1, seed=7, max_tokens=40, raw=True)
PROMPT = "Once upon a time there was a"


@pytest.fixture(scope="module")
def local(starter: Path) -> Iterator[LocalEngine]:
    model = open_local(starter, SETTINGS)
    yield model
    model.close()


def trace_answer(local: LocalEngine, prompt: str = PROMPT, **values: Any) -> tuple[Answer, list[TokenTrace]]:
    """An answer, and the traces in the order in which they were reported."""
    traces: list[TokenTrace] = []
    answer = Answer(local, Request(local.render(prompt, TemplateOptions("")), replace(SETTINGS, **values), trace=2))
    answer.on_token = traces.append
    for _ in answer.parts():
        pass
    return answer, traces


def of_tokens(traces: list[TokenTrace]) -> list[int]:
    return [one.id for one in traces if one.id is not None]


def test_each_token_is_reported_once_with_its_text(local: LocalEngine) -> None:
    answer, traces = trace_answer(local)
    assert traces == answer.traces
    assert "".join(one.text for one in traces) == answer.text
    assert of_tokens(traces) == answer.tokens
    assert [one.i for one in traces] == list(range(40))
    for one in traces:
        assert one.p is not None
        assert 0 < one.p <= 1
        assert len(one.top) == 2
        assert one.top[0].before >= one.top[1].before


def test_the_texts_have_no_stop_string_but_text_held_back(local: LocalEngine) -> None:
    free, _ = trace_answer(local)
    words = free.text.split()
    stopped, traces = trace_answer(local, stop=(f"{words[4]} {words[5]}",))
    assert stopped.finish_reason == "stop"
    assert "".join(one.text for one in traces) == stopped.text == free.text[: free.text.index(f"{words[4]} {words[5]}")]
    never, traces = trace_answer(local, stop=(words[4] + " zebra",))  # its beginning is held back until it cannot be
    assert "".join(one.text for one in traces) == never.text == free.text


def test_removed_tokens_have_no_trace(local: LocalEngine) -> None:
    free, _ = trace_answer(local)
    banned = free.text.split()[3] + " " + free.text.split()[4]
    answer, traces = trace_answer(local, banned_strings=(banned,))
    assert answer.text != free.text
    assert answer.n_drawn > len(of_tokens(traces))  # some were removed
    assert "".join(one.text for one in traces) == answer.text
    assert of_tokens(traces) == answer.tokens


def test_a_prefill_is_text_without_a_token(local: LocalEngine) -> None:
    answer, traces = trace_answer(local, PROMPT + " small boy", prefill=" small boy")
    assert (traces[0].id, traces[0].text, traces[0].p) == (None, " small boy", None)
    assert "".join(one.text for one in traces) == answer.text
    assert all(one.id is not None for one in traces[1:])


def test_the_traces_separate_reasoning_from_the_answer(local: LocalEngine) -> None:
    reasoning = "Let me see"
    prompt = "<think>\n" + reasoning
    constraint = Constraint("grammar", 'root ::= "Yes" [a-z. ]{10}')
    settings = replace(SETTINGS, raw=False, think_budget=4)
    request = Request(local.render(prompt, TemplateOptions("")), settings, constraint, reasoning=reasoning, trace=0)
    answer = Answer(local, request)
    assert ReasoningSplitter(prompt, True).thinking
    for _ in answer.parts():
        pass
    assert answer.text.startswith("Yes")
    assert "".join(one.text for one in answer.traces) == answer.text
    assert reasoning + "".join(one.reasoning for one in answer.traces) == answer.reasoning
    assert [one.thinking for one in answer.traces][:2] == [True, True]
    assert not answer.traces[-1].thinking
