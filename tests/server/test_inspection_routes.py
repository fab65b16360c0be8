"""How a token of an answer was drawn, asked over HTTP, with the starter model."""

from collections.abc import Iterator

import pytest

from llmcli.inference.resolved_model import ResolvedModel
from llmcli.params.settings import Layer
from llmcli.server.loading import entry_of
from tests.server.conftest import Client, running_server

pytestmark = pytest.mark.model
ASK = {
    "messages": [{"role": "user", "content": "Name a river."}],
    "max_tokens": 6,
    "seed": 5,
    "temperature": "0.3..1.3",
}


@pytest.fixture(scope="module")
def client(target: ResolvedModel) -> Iterator[Client]:
    with running_server(entries=[entry_of(target, [Layer("flag", {"n_ctx": 256, "n_threads": 1})], 2, 8)]) as made:
        yield made


def test_the_inspection_of_a_token_agrees_with_its_trace(client: Client) -> None:
    (choice,) = client.post("/v1/chat/completions", {**ASK, "llmcli": {"trace": 3}}).data["choices"]
    trace = choice["llmcli"]["trace"]
    tokens = [one["id"] for one in trace if one["id"] is not None]
    found = client.post("/llmcli/inspect", {**ASK, "tokens": tokens, "at": 2, "count": 3}).data["inspection"]
    assert (found["at"], found["drawn"]) == (2, tokens[2])
    assert found["trace"][6] == pytest.approx(trace[2]["temperature"], abs=1e-2)  # of another batch
    entropies = client.post("/llmcli/inspect", {**ASK, "tokens": tokens}).data["entropies"]
    assert entropies == pytest.approx([one["entropy"] for one in trace[: len(tokens)]], abs=5e-2)
    first = client.post("/llmcli/inspect", {**ASK, "tokens": tokens, "at": 0, "rank": 1}).data["token"]
    assert first == trace[0]["top"][0]["id"]


@pytest.mark.parametrize(
    "changed",
    [
        {"tokens": []},
        {"tokens": [10**9]},
        {"tokens": [5], "at": 1},
        {"tokens": [5], "count": 0},
        {"tokens": [5], "n_prompt": 0},
        {"tokens": [5], "n_prompt": 10**6},
        {"tokens": [5], "moves": [[0, "warm"]]},
    ],
)
def test_tokens_and_places_that_are_not_valid_are_refused(client: Client, changed: dict[str, object]) -> None:
    assert client.post("/llmcli/inspect", {**ASK, **changed}).code == 400
