"""`llm openai endpoint` of Simon Willison's llm against the server, with the starter model."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmcli.inference.resolved_model import ResolvedModel
from llmcli.params.settings import Layer
from llmcli.server.loading import entry_of
from tests.server.conftest import Client, running_server

pytestmark = pytest.mark.model
PROMPT = ["-m", "starter", "-o", "temperature", "0", "-o", "max_tokens", "12"]
llm = pytest.importorskip("llm.cli")
testing = pytest.importorskip("click.testing")
Llm = Callable[..., str]


@pytest.fixture(scope="module")
def server(target: ResolvedModel) -> Iterator[Client]:
    layers = [Layer("flag", {"n_ctx": 512, "n_threads": 1})]
    with running_server(entries=[entry_of(target, layers, 2, 8)]) as running:
        yield running


@pytest.fixture
def ask(server: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Llm:
    """Runs `llm openai endpoint URL` with some arguments, and returns its output."""
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    url = f"http://127.0.0.1:{server.port}/v1"

    def run(*arguments: str, stdin: str = "") -> str:
        ran = testing.CliRunner().invoke(llm.cli, ["openai", "endpoint", url, *arguments], input=stdin)
        assert ran.exit_code == 0, ran.output
        return str(ran.output)

    return run


def test_the_models_are_listed(ask: Llm) -> None:
    assert ask("--models") == "starter\n"


def test_a_prompt_is_answered_streamed_or_not(ask: Llm, server: Client) -> None:
    streamed, whole = (ask(*PROMPT, "Say hello.", *flags) for flags in ([], ["--no-stream"]))
    assert streamed == whole != "\n"
    assert ask(*PROMPT, "Say hello.", "--responses") == whole
    assert server.record().path == "/v1/responses"


def test_an_answer_has_the_form_of_a_schema(ask: Llm) -> None:
    schema = {"type": "object", "properties": {"age": {"enum": [1, 2]}}, "required": ["age"]}
    text = ask(*PROMPT, "A cat", "--schema", json.dumps({**schema, "additionalProperties": False}))
    assert json.loads(text)["age"] in (1, 2)


def test_a_chat_sends_what_was_said_before(ask: Llm, server: Client) -> None:
    ask(*PROMPT, "--chat", stdin="Say hello.\nSay it again.\nexit\n")
    second = server.record()
    first = server.records[-2]
    assert second.n_prompt > first.n_prompt + first.n_generated
