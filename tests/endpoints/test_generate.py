"""`llmcli generate` at an endpoint: what is asked, what is shown, and what is refused, server by server."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run
from tests.endpoints.server import serving

ANSWER = "Blue light scatters.\n"
ALONE: dict[str, Any] = {"models": ("only-model",)}


def test_a_pipe_gets_the_answer_and_stderr_the_model(inside: Run) -> None:
    with serving() as (url, dialect):
        ran = inside("generate", "why?", "--endpoint", url)
    assert (ran.status, ran.text) == (0, ANSWER)
    host = url.removeprefix("http://")
    assert ran.stderr == f"the model at {host} is first-model, the first of 2 models; choose another with -m\n"
    path, body = dialect.asked[-1]
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "first-model",
        "messages": [{"role": "user", "content": "why?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.slow
def test_neither_a_model_nor_llama_cpp_is_needed(home: Path) -> None:
    show = "print(any(name.startswith('llama_cpp') for name in sys.modules), file=sys.stderr)"
    code = f"import sys, llmcli.cli.app as app; app.run(sys.argv[1:]); {show}"
    with serving(**ALONE) as (url, _):
        ran = subprocess.run(
            [sys.executable, "-c", code, "generate", "why?", "--endpoint", url],
            capture_output=True,
            text=True,
            env=os.environ,
        )
    assert ran.stdout == ANSWER
    assert ran.stderr.endswith("\nFalse\n")
    assert not (home / "cache").exists()


def test_dash_m_is_the_name_of_a_model_there(inside: Run) -> None:
    with serving() as (url, dialect):
        ran = inside("generate", "why?", "--endpoint", url, "-m", "second-model")
    assert (ran.stderr, dialect.body["model"]) == ("", "second-model")


@pytest.mark.parametrize(("model", "endpoint", "asked"), [("config", "flag", "first-model"), ("env", "env", "mine")])
def test_a_model_of_a_lower_layer_is_one_of_this_machine(
    model: str, endpoint: str, asked: str, inside: Run, home: Path
) -> None:
    env = {"LLMCLI_MODEL": "mine"} if model == "env" else {}
    if model == "config":
        (home / "config").mkdir(parents=True)
        (home / "config" / "config.toml").write_text("model = 'mine'\n")
    with serving() as (url, dialect):
        env |= {"LLMCLI_ENDPOINT": url} if endpoint == "env" else {}
        ran = inside("generate", "why?", *(["--endpoint", url] if endpoint == "flag" else []), env=env)
    assert (ran.status, dialect.body["model"]) == (0, asked)


def test_json_has_the_counts_and_only_settings_that_were_sent(inside: Run) -> None:
    with serving(kind="vllm", reasoning=("Let me", " think.")) as (url, _):
        ran = inside("generate", "why?", "--endpoint", url, "--json", "--temp", "0.8", "--seed", "7")
    data = json.loads(ran.text)
    assert (data["text"], data["reasoning_content"]) == (ANSWER.rstrip(), "Let me think.")
    assert (data["model"], data["finish_reason"]) == ("first-model", "stop")
    assert (data["prompt_tokens"], data["completion_tokens"]) == (11, 6)
    assert {key: one for key, one in data["params"].items() if key != "prompt"} == {"temperature": 0.8, "seed": 7}
    assert data["replay"] == {}
    assert "Let me think." in ran.stderr


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_has_the_field_of_each_server(field: str, inside: Run) -> None:
    with serving(reasoning=("Hm.",), reasoning_field=field) as (url, _):
        shown = inside("generate", "why?", "--endpoint", url)
        hidden = inside("generate", "why?", "--endpoint", url, "--think", "hide")
    assert (shown.text, hidden.text) == (ANSWER, ANSWER)
    assert ("Hm." in shown.stderr, "Hm." in hidden.stderr) == (True, False)


def test_reasoning_in_tags_is_told_from_the_answer(inside: Run) -> None:
    with serving(words=("<think>", "Hm.", "</think>", "\n\nBlue", ".")) as (url, _):
        data = json.loads(inside("generate", "why?", "--endpoint", url, "--json").text)
    assert (data["text"], data["reasoning_content"]) == ("Blue.", "Hm.")


@pytest.mark.parametrize("kind", ["other", "llama-server"])
@pytest.mark.parametrize("raw", [False, True])
def test_log_probabilities_have_the_form_of_local_ones(raw: bool, kind: str, inside: Run) -> None:
    with serving(kind=kind) as (url, dialect):
        flags = ["--raw"] if raw else []
        data = json.loads(inside("generate", "why?", "--endpoint", url, "--json", "--logprobs", "2", *flags).text)
    assert dialect.body["logprobs"] == (2 if raw else True)
    first = data["tokens"][0]
    assert {key: first[key] for key in ("token", "bytes", "logprob")} == {
        "token": "Blue",
        "bytes": [66, 108, 117, 101],
        "logprob": -0.25,
    }
    assert [(one["token"], one["logprob"]) for one in first["top_logprobs"]] == [("Blue", -0.25), ("Other", -2.5)]
    assert "id" not in first


def test_a_raw_prompt_is_a_completion(inside: Run) -> None:
    with serving(kind="vllm") as (url, dialect):
        assert inside("generate", "The sky is", "--raw", "--endpoint", url).text == ANSWER
        body = dialect.body
    assert (dialect.asked[-1][0], body["prompt"], body["max_tokens"]) == ("/v1/completions", "The sky is", None)


def test_a_raw_prompt_has_its_limit_under_the_name_of_that_route(inside: Run, home: Path) -> None:
    (home / "config").mkdir(parents=True)
    with serving() as (url, dialect):
        (home / "config" / "config.toml").write_text(f"[endpoints.cloud]\nurl = '{url}'\nkind = 'openai'\n")
        inside("generate", "The sky is", "-n", "3", "--endpoint", "cloud")
        chat = dialect.body
        inside("generate", "The sky is", "--raw", "-n", "3", "--endpoint", "cloud")
    assert (chat["max_completion_tokens"], dialect.body["max_tokens"]) == (3, 3)
    assert "max_completion_tokens" not in dialect.body


SETTINGS: tuple[str, ...]
SETTINGS = ("--temp", "0.7", "--top-k", "0", "--min-p", "0.02", "--repeat-penalty", "1.2", "--seed", "5", "-n", "9")
SETTINGS += ("--stop", "END", "--presence-penalty", "0.5")
SENT = {"temperature": 0.7, "seed": 5, "stop": ["END"], "presence_penalty": 0.5}


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("llama-server", {"top_k": 0, "min_p": 0.02, "repeat_penalty": 1.2, "max_tokens": 9}),
        ("vllm", {"top_k": -1, "min_p": 0.02, "repetition_penalty": 1.2, "max_tokens": 9}),
        ("sglang", {"top_k": -1, "min_p": 0.02, "repetition_penalty": 1.2, "max_tokens": 9}),
    ],
)
def test_settings_are_sent_under_the_names_of_the_server(kind: str, sent: dict[str, object], inside: Run) -> None:
    with serving(kind=kind) as (url, dialect):
        assert inside("generate", "why?", "--endpoint", url, *SETTINGS).status == 0
    beside = {"model", "messages", "stream", "stream_options"}
    assert {key: one for key, one in dialect.body.items() if key not in beside} == SENT | sent


def test_llama_server_gets_what_only_it_has(inside: Run) -> None:
    flags: tuple[str, ...]
    flags = ("--temp", "0.3..1.3", "--xtc-probability", "0.5", "--dry-multiplier", "0.8", "--mirostat", "0")
    flags += ("--logit-bias", '"word"=-inf', "--think-budget", "64", "--think", "off", "--grammar", 'root ::= "a"')
    with serving(kind="llama-server") as (url, dialect):
        assert inside("generate", "why?", "--endpoint", url, *flags).status == 0
    body = dialect.body
    assert (body["temperature"], body["dynatemp_range"], body["dynatemp_exponent"]) == (0.8, 0.5, 1.0)
    assert (body["xtc_probability"], body["dry_multiplier"]) == (0.5, 0.8)
    assert body["logit_bias"] == [["word", False]]
    assert body["reasoning_budget_tokens"] == 64
    assert body["chat_template_kwargs"] == {"enable_thinking": False, "thinking": False}
    assert body["grammar"] == 'root ::= "a"'


def test_the_defaults_of_llama_server_are_shown_as_its_own(inside: Run) -> None:
    with serving(kind="llama-server", **ALONE) as (url, dialect):
        ran = inside("generate", "why?", "--endpoint", url, "-v")
    assert "temperature = 0.5 (from server)\n" in ran.stderr
    assert "min_p = 0.1 (from server)\n" in ran.stderr
    assert "top_p" not in ran.stderr
    assert "endpoint: " + url + "/v1 (llama-server b1-test)\n" in ran.stderr
    assert "context 4096 tokens\n" in ran.stderr
    assert not {"temperature", "min_p", "top_p"} & dialect.body.keys()


@pytest.mark.parametrize(
    ("kind", "flags", "named"),
    [
        ("vllm", ("--xtc-probability", "0.5", "--dry-multiplier", "0.8"), "xtc_probability, dry_multiplier"),
        ("openai", ("--min-p", "0.2",), "min_p"),
        ("ollama", ("--top-k", "5", "--logit-bias", "5=-1"), "top_k, logit_bias"),
        ("vllm", ("--temp", "0.3..1.3"), "a temperature policy"),
        ("llama-server", ("--temp", "sentence:1.1,0.7"), "a temperature policy"),
        ("other", ("--think", "off"), "think"),
        ("other", ("--grammar", 'root ::= "a"'), "grammar"),
        ("vllm", ("--logit-bias", '"word"=-1'), "logit_bias of a text"),
        ("other", ("-t", "2"), "n_threads"),
        ("other", ("--ban", "word"), "banned_strings"),
    ],
)  # fmt: skip
def test_what_the_server_does_not_take_is_refused_by_name(
    kind: str, flags: tuple[str, ...], named: str, inside: Run
) -> None:
    with serving(kind=kind, **ALONE) as (url, dialect):
        refused = inside("generate", "why?", "--endpoint", url, "-m", "only-model", *flags)
        assert not [path for path, _ in dialect.asked if "completions" in path]
        dropped = inside("generate", "why?", "--endpoint", url, "-m", "only-model", "--drop-unsupported", *flags)
        body = dialect.body
    assert refused.status == 2
    assert refused.stderr == (
        f"error: only-model does not support {named}\n"
        "  hint: remove it, or let --drop-unsupported leave it out\n"
    )  # fmt: skip
    assert (dropped.status, dropped.text) == (0, ANSWER)
    assert dropped.stderr == "".join(
        f"warning: {one} is left out: only-model does not support it\n" for one in named.split(", ")
    )
    flag_keys = {"xtc_probability", "dry_multiplier", "min_p", "top_k", "logit_bias", "grammar", "temperature"}
    assert not flag_keys & body.keys()


@pytest.mark.parametrize(
    "flags", [("--min-p", "0"), ("--xtc-probability", "0"), ("--top-k", "40"), ("--think", "hide")]
)
def test_a_neutral_or_default_value_is_no_loss(flags: tuple[str, ...], inside: Run) -> None:
    with serving(kind="openai", **ALONE) as (url, _):
        assert inside("generate", "why?", "--endpoint", url, *flags).text == ANSWER


def test_threads_in_the_configuration_are_for_this_machine(inside: Run, home: Path) -> None:
    (home / "config").mkdir(parents=True)
    (home / "config" / "config.toml").write_text("n_threads = 2\n")
    with serving(**ALONE) as (url, _):
        assert inside("generate", "why?", "--endpoint", url).status == 0


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("other", {"response_format"}),
        ("vllm", {"structured_outputs"}),
    ],
)
def test_a_schema_is_sent_and_the_answer_is_checked(kind: str, sent: set[str], inside: Run) -> None:
    with serving(kind=kind, words=('{"name"', ': "x"}')) as (url, dialect):
        fits = inside("generate", "why?", "--endpoint", url, "--json-schema", "name: str")
        assert sent <= dialect.body.keys()
        fails = inside("generate", "why?", "--endpoint", url, "--json-schema", "age: int")
    assert (fits.status, fits.text) == (0, '{"name": "x"}\n')
    assert fails.status == 9


def test_the_beginning_of_an_answer_is_never_left_out(inside: Run) -> None:
    with serving(**ALONE) as (url, _):
        ran = inside("generate", "why?", "--endpoint", url, "--prefill", "Well", "--drop-unsupported")
    assert (ran.status, ran.text) == (2, "")
    assert "only-model does not support prefill\n" in ran.stderr


def test_the_beginning_of_an_answer_is_the_last_message(inside: Run) -> None:
    with serving(kind="vllm", **ALONE) as (url, dialect):
        assert inside("generate", "why?", "--endpoint", url, "--prefill", "Well: ").text == "Well: " + ANSWER
    assert dialect.body["messages"][-1] == {"role": "assistant", "content": "Well: "}
    assert (dialect.body["continue_final_message"], dialect.body["add_generation_prompt"]) == (True, False)


def test_what_is_not_here_is_named(inside: Run, tmp_path: Path) -> None:
    with serving(**ALONE) as (url, _):
        trace = str(tmp_path / "t.jsonl")
        ran = inside("generate", "why?", "--endpoint", url, "-m", "only-model", "--trace", trace)
    assert ran.status == 2
    assert "only-model does not support trace" in ran.stderr


def test_control_characters_of_a_server_are_visible(inside: Run) -> None:
    with serving(models=("a\x1b[31mb",), answers_as="\x1b]0;x\x07") as (url, _):
        ran = inside("generate", "why?", "--endpoint", url)
    assert "\x1b" not in ran.stderr
    assert "\x07" not in ran.stderr


def test_another_model_than_asked_is_named(inside: Run) -> None:
    with serving(answers_as="other-model", **ALONE) as (url, _):
        ran = inside("generate", "why?", "--endpoint", url, "-m", "only-model")
    host = url.removeprefix("http://")
    assert ran.stderr == f"warning: {host} answered with the model other-model, not with only-model\n"
    with serving(answers_as="only-model-2026-01-01", **ALONE) as (url, _):  # the dated name of the same one
        assert inside("generate", "why?", "--endpoint", url, "-m", "only-model").stderr == ""


def test_a_limit_of_the_server_is_named(inside: Run) -> None:
    with serving(finish_reason="length", **ALONE) as (url, _):
        ran = inside("generate", "why?", "--endpoint", url, "-m", "only-model")
    assert ran.status == 0
    assert ran.stderr == "cut off: the server has a limit of its own; set a larger one with -n\n"


@pytest.mark.parametrize(
    ("kind", "shown"),
    [("vllm", "user: why?\nassistant: \n"), ("llama-server", "<user>why?<assistant>\n")],
)
def test_the_rendered_prompt_comes_from_the_server(kind: str, shown: str, inside: Run) -> None:
    with serving(kind=kind, **ALONE) as (url, dialect):
        assert inside("generate", "why?", "--endpoint", url, "--show-prompt").text == shown
        assert inside("generate", "why?", "--endpoint", url, "--show-prompt", "--raw").text == "why?\n"
        assert not [path for path, _ in dialect.asked if "completions" in path]


def test_a_server_that_does_not_show_its_prompts_is_named(inside: Run) -> None:
    with serving(**ALONE) as (url, _):
        ran = inside("generate", "why?", "--endpoint", url, "--show-prompt")
    assert ran.status == 2
    assert "only-model does not show its prompts" in ran.stderr
