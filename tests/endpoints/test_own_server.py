"""`llmcli serve` as the endpoint of llmcli: every setting goes through."""

import json
import re
from pathlib import Path

import pytest

from llmcli.engine.events import Request
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.params.settings import Layer
from llmcli.server.loading import entry_of
from tests.conftest import Run
from tests.inference.fake_engine import FakeEngine
from tests.server.conftest import running_server

ALL = {
    "--temp": "sentence:1.1,0.7",
    "--top-k": "5",
    "--xtc-probability": "0.5",
    "--smoothing-factor": "0.3",
    "--dry-sequence-breaker": "x",
    "--samplers": "top_k,xtc,temperature",
    "--logit-bias": '"word"=-inf',
    "--ban": "never",
    "--stop": "END",
    "--seed": "7",
    "--max-tokens": "9",
    "--repeat-penalty": "1.2",
    "--think-budget": "5",
    "--template-arg": 'mode="x"',
}


def scripted(*words: str) -> tuple[FakeEngine, list[Request]]:
    """An engine that gives these words, and what it is asked."""
    asked: list[Request] = []

    def reply(request: Request) -> tuple[str, ...]:
        asked.append(request)
        return words

    return FakeEngine(reply=reply), asked


def test_every_setting_reaches_the_engine_behind_the_server(inside: Run) -> None:
    engine, asked = scripted("Hel", "lo.")
    with running_server(engine) as server:
        url = f"http://127.0.0.1:{server.port}"
        flags = [word for pair in ALL.items() for word in pair]
        ran = inside("generate", "why?", "--endpoint", url, *flags)
        there = asked[-1].settings
        inside("generate", "why?", *flags, "--endpoint", url, "--think", "off")
        assert asked[-1].settings.think == "off"
    assert (ran.status, ran.text) == (0, "Hello.\n")
    assert str(there.temperature) == "sentence:1.1,0.7"
    assert (there.top_k, there.xtc_probability, there.smoothing_factor) == (5, 0.5, 0.3)
    assert there.dry_sequence_breakers == ("x",)
    assert there.samplers == ("top_k", "xtc", "temperature")
    assert there.logit_bias == (("word", float("-inf")),)
    assert (there.banned_strings, there.stop) == (("never",), ("END",))
    assert (there.seed, there.max_tokens, there.repeat_penalty) == (7, 9, 1.2)
    assert (there.think_budget, there.template_arg) == (5, ('mode="x"',))


def test_a_chat_template_reaches_the_engine(inside: Run, tmp_path: Path) -> None:
    file = tmp_path / "own.jinja"
    file.write_text("{% for m in messages %}<{{ m.content }}>{% endfor %}{{ mode }}:")
    engine, asked = scripted("Hello.")
    with running_server(engine) as server:
        flags = ("--endpoint", f"http://127.0.0.1:{server.port}", "--chat-template", str(file))
        ran = inside("generate", "why?", *flags, "--template-arg", 'mode="x"', "--json")
        shown = inside("generate", "why?", *flags, "--show-prompt")
        inside("generate", "why?", *flags[:3], "chatml")
    assert asked[-2].prompt.text == "<why?>x:"
    assert json.loads(ran.text)["replay"]["template"] == file.read_text()
    assert shown.text.startswith("<why?>")
    assert asked[-1].prompt.text.startswith("<|im_start|>user\nwhy?")


def test_the_beginning_of_an_answer_is_there_once(inside: Run) -> None:
    engine, asked = scripted("Hel", "lo.")
    with running_server(engine) as server:
        ran = inside("generate", "why?", "--endpoint", f"http://127.0.0.1:{server.port}", "--prefill", "Well. ")
    assert ran.text == "Well. Hello.\n"
    assert asked[-1].settings.prefill == "Well. "


@pytest.mark.parametrize(
    ("flag", "value", "kind"),
    [
        ("--json-schema", "name: str", "json_schema"),
        ("--regex", "Hello.", "regex"),
        ("--grammar", 'root ::= "x"', "grammar"),
    ],
)
def test_a_constraint_reaches_the_engine(flag: str, value: str, kind: str, inside: Run) -> None:
    engine, asked = scripted('{"name": "x"}' if kind == "json_schema" else "Hello.")
    with running_server(engine) as server:
        ran = inside("generate", "why?", "--endpoint", f"http://127.0.0.1:{server.port}", flag, value)
    constraint = asked[-1].constraint
    assert ran.status == 0
    assert constraint
    assert constraint.kind == kind


def test_raw_texts_reasoning_and_log_probabilities_come_back(inside: Run) -> None:
    engine, asked = scripted("<think>Hm.</think>", "Hello.")
    with running_server(engine) as server:
        url = f"http://127.0.0.1:{server.port}"
        data = json.loads(inside("generate", "why?", "--endpoint", url, "--json").text)
        raw = inside("generate", "The sky is", "--raw", "--endpoint", url)
    assert (data["text"], data["reasoning_content"]) == ("Hello.", "Hm.")
    assert data["completion_tokens"] == 2
    assert asked[-1].prompt.text == "The sky is"
    assert raw.text == "<think>Hm.</think>Hello.\n"


def test_what_the_server_refuses_is_told(inside: Run) -> None:
    with running_server(FakeEngine(n_ctx=16)) as server:
        ran = inside("generate", "word " * 40, "--endpoint", f"http://127.0.0.1:{server.port}")
    assert ran.status == 7
    assert "the prompt does not fit the context of" in ran.stderr


def test_traces_and_their_colors_come_through_the_server(inside: Run, tmp_path: Path) -> None:
    engine, asked = scripted("Hel", "lo", " you.")
    with running_server(engine) as server:
        url = f"http://127.0.0.1:{server.port}"
        trace = tmp_path / "trace.jsonl"
        ran = inside("generate", "why?", "--endpoint", url, "--trace", str(trace), "--trace-top", "3")
        compared = inside("compare", "why?", "--endpoint", url, "--vary", "temp=0.2,0.9", "--json")
    assert (ran.status, ran.text) == (0, "Hello you.\n")
    tokens = [json.loads(line) for line in trace.read_text().splitlines()]
    assert [(one["i"], one["text"], one["p"]) for one in tokens] == [(0, "Hel", 0.5), (1, "lo", 0.5), (2, " you.", 0.5)]
    assert 3 in [one.trace for one in asked]  # the server itself asks for something at its start
    assert [one["stats"]["mean_p"] for one in json.loads(compared.text)["variants"]] == [0.5, 0.5]


def test_a_traced_answer_has_its_prefill_and_reasoning_once(inside: Run, tmp_path: Path) -> None:
    engine, _ = scripted("<think>", "Hm.", "</think>", "Hello.")
    with running_server(engine) as server:
        url = f"http://127.0.0.1:{server.port}"
        trace = tmp_path / "trace.jsonl"
        plain = inside("generate", "why?", "--endpoint", url, "--trace", str(trace), "--json")
        begun = inside("generate", "why?", "--endpoint", url, "--prefill", "Well. ", "--trace", str(trace), "--json")
    data = json.loads(plain.text)
    assert (data["text"], data["reasoning_content"]) == ("Hello.", "Hm.")
    assert json.loads(begun.text)["text"] == "Well. <think>Hm.</think>Hello."
    tokens = [json.loads(line) for line in trace.read_text().splitlines()]
    assert "".join(one["text"] for one in tokens) == "Well. <think>Hm.</think>Hello."


@pytest.mark.model
def test_why_shows_how_a_token_was_drawn_at_the_server(run: Run, target: ResolvedModel) -> None:
    entry = entry_of(target, [Layer("flag", {"n_ctx": 256, "n_threads": 1})], 2, 8)
    with running_server(entries=[entry]) as server:
        script = "Name a river.\n/tokens p\n/why 1\n/alternatives 1\n/branch 1 2\n/branch 1 3\n"
        flags = ("-n", "5", "--seed", "5", "--temp", "0.3..1.3")
        ran = run("chat", "--no-save", "--endpoint", f"http://127.0.0.1:{server.port}", *flags, stdin=script)
    assert ran.status == 0 or "is the token of this answer" in ran.stderr, ran.stderr
    first, *others = ran.text.splitlines()
    assert others  # another candidate begins as the answer did
    assert all(one[:2] == first[:2] for one in others)
    assert "token 1 (0 to 4)" in ran.stderr
    assert re.search(r"K +TOKEN +BEFORE % +AFTER %", ran.stderr)
    assert "* was sampled" in ran.stderr


def test_scores_and_decisions_come_through_the_server(inside: Run) -> None:
    engine = FakeEngine(logprob=lambda _before, token: -1.0 if chr(token) < "m" else -3.0)
    with running_server(engine) as server:
        url = f"http://127.0.0.1:{server.port}"
        score = json.loads(inside("score", "abzé", "--endpoint", url, "--json", "--tokens").text)
        chosen = json.loads(inside("generate", "which?", "--choices", "zz,aa", "--endpoint", url, "--json").text)
    assert score["logprob"] == pytest.approx(-1.0 - 3.0 - 3.0)
    assert [one["token"] for one in score["tokens"]] == ["a", "b", "z", "é"]
    assert score["bits_per_byte"] == pytest.approx(7.0 / 0.693147 / 4, rel=1e-4)
    assert chosen["text"] == "aa"
    assert chosen["details"]["zz"]["logprob"] == pytest.approx(-6.0)


def test_the_rendered_prompt_is_that_of_the_engine(inside: Run) -> None:
    with running_server(FakeEngine()) as server:
        ran = inside("generate", "why?", "--endpoint", f"http://127.0.0.1:{server.port}", "--show-prompt")
    assert ran.text == "user: why?\nassistant: \n"
