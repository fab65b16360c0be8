"""Models that are not for text: said before a download from their headers, and refused as the model of an answer."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_hub_end_to_end import Place, error_line, facts_of, on_terminal, sole
from tests.cli.test_offer import ask, is_empty
from tests.hub.server import FakeHub
from tests.models import tiny_models
from tests.models.gguf_writer import Tensor, write_gguf

WEIGHTS = bytes(4 << 20)  # more than is read for a header
EMBEDDING: dict[str, Any] = {"general.architecture": "qwen3", "qwen3.block_count": 1, "qwen3.pooling_type": 3}
ADAPTER = {"general.architecture": "llama", "general.type": "adapter", "general.base_model.0.name": "Llama 3.2 1B"}
PROJECTOR = {"general.architecture": "clip"}
REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("embed", EMBEDDING, "an embedding model", "use a model for text"),
    ("adapter", ADAPTER, "an adapter (LoRA)", "use its base model, 'Llama 3.2 1B'"),
    ("sight", PROJECTOR, "a vision projector (mmproj)", "use the model it belongs to"),
    ("future", {"general.architecture": "llama99"}, "the architecture 'llama99'", "update llmcli"),
    ("dialect", {"general.architecture": "gptoss"}, "Ollama's own format", "from the Hub"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    folder = tmp_path_factory.mktemp("models")
    with FakeHub() as hub:
        for name, metadata, _, _ in REFUSED:
            hub.add(f"test/{name}", {"m-Q4_0.gguf": write_gguf(folder / f"{name}.gguf", metadata, extra=WEIGHTS)})
        new_type = [Tensor("token_embd.weight", type_id=99)]
        hub.add("test/type", {"m-Q4_0.gguf": write_gguf(folder / "type.gguf", tensors=new_type, extra=WEIGHTS)})
        yield hub


@pytest.fixture
def place(server: FakeHub, tmp_path: Path) -> Place:
    """A machine without models."""
    server.log.clear()
    return Place(tmp_path, server)


@pytest.mark.parametrize(("name", "metadata", "what", "help_"), REFUSED[1:])
def test_pull_in_a_pipe_refuses_what_no_command_can_run(
    place: Place, name: str, metadata: dict[str, Any], what: str, help_: str
) -> None:
    ran = place.run("pull", f"test/{name}", stdin="y\n")
    assert (ran.status, ran.stdout) == (8, b"")
    *_, error, hint = ran.stderr.splitlines()
    assert error.startswith(f"error: test/{name}/m-Q4_0.gguf is ")
    assert what in error
    assert help_ in hint
    assert "--yes" in hint
    assert "damaged" not in ran.stderr
    assert sum(request.sent for request in place.hub.requests("cdn")) <= 1 << 20  # the header, and none of the weights
    assert is_empty(place)


def test_pull_downloads_an_embedding_model_and_says_so(place: Place) -> None:
    ran = place.run("pull", "test/embed")
    assert ran.status == 0
    assert "embedding model, architecture qwen3" in ran.stderr
    assert Path(sole(ran.text)).stat().st_size > len(WEIGHTS)
    [item] = json.loads(place.run("models", "list", "--json").text)
    assert (item["kind"], item["architecture"]) == ("embedding", "qwen3")
    refused = place.run(*ask("test/embed"))
    assert refused.status == 8


def test_pull_refuses_a_type_that_llama_cpp_cannot_read(place: Place) -> None:
    ran = place.run("pull", "test/type")
    assert (ran.status, ran.stdout) == (8, b"")
    assert "has the unknown type 99" in ran.stderr
    assert is_empty(place)


def test_only_embed_downloads_an_embedding_model(place: Place) -> None:
    refused = place.run(*ask("test/embed", "--pull"))
    assert (refused.status, is_empty(place)) == (8, True)
    assert "`llmcli embed` gives its vectors" in refused.stderr
    assert "m-Q4_0.gguf" in place.run("embed", "x", "--model", "test/embed", "--pull").stderr
    assert not is_empty(place)


def test_generate_with_pull_does_not_download_an_adapter(place: Place) -> None:
    ran = place.run(*ask("test/adapter", "--pull"))
    assert (ran.status, ran.stdout) == (8, b"")
    assert error_line(ran.stderr) == "test/adapter/m-Q4_0.gguf is an adapter (LoRA), which changes another model"
    assert is_empty(place)


def test_pull_of_a_url_refuses_an_adapter_before_its_download(place: Place, tmp_path: Path) -> None:
    place.hub.other_serves = write_gguf(tmp_path / "a.gguf", ADAPTER, extra=WEIGHTS)
    ran = place.run("pull", f"{place.hub.other}/a.gguf")
    assert (ran.status, ran.stdout) == (8, b"")
    assert "a.gguf is an adapter (LoRA)" in ran.stderr
    assert sum(request.sent for request in place.hub.requests("other")) <= (1 << 20) + 1
    assert not [*place.home.rglob("*.gguf"), *place.home.rglob("*.incomplete")]


@pytest.mark.terminal
@pytest.mark.parametrize(("keys", "status", "columns"), [("y\r", 0, 80), ("\r", 1, 40), ("\x04", 1, 80)])
def test_pull_asks_before_it_downloads_an_adapter(place: Place, keys: str, status: int, columns: int) -> None:
    written, ended = on_terminal(place, "pull", "test/adapter", keys=keys, columns=columns)
    assert ended == status
    said = " ".join(written.decode().split())
    assert "m-Q4_0.gguf is an adapter (LoRA)" in said
    assert "Download it all the same? [y/N]" in said
    assert is_empty(place) == (status != 0)


def test_files_and_show_tell_the_kind_without_a_download(place: Place) -> None:
    listed, as_json = place.runs(("models", "files", "test/sight"), ("models", "files", "test/embed", "--json"))
    assert "a vision projector (mmproj)" in listed.stderr
    assert (json.loads(as_json.text)["kind"], json.loads(as_json.text)["architecture"]) == ("embedding", "qwen3")
    shown, described = place.runs(("models", "show", "test/adapter"), ("models", "show", "test/adapter", "--json"))
    facts = facts_of(shown.text)
    assert facts["kind"] == "an adapter (LoRA), which changes another model"
    assert facts["advice"] == "use its base model, 'Llama 3.2 1B'"
    assert "fits in memory" not in facts
    assert json.loads(described.text)["kind"] == "adapter"
    assert is_empty(place)


@pytest.mark.parametrize(
    ("pooling", "what"), [(3, "an embedding model, which gives vectors and no text"), (4, "a reranking model")]
)
def test_answer_of_a_model_without_text_is_refused(
    place: Place, tmp_path: Path, pooling: int, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tiny_models._of_attention() | {"pooling_type": pooling}
    monkeypatch.setattr(tiny_models, "_of_attention", lambda: own)
    model = str(tiny_models.full_attention(tmp_path / "m.gguf"))
    commands = ask(model), ask(model), ("compare", "hi", "--model", model, "--vary", "seed=1,2")  # the second preloads
    for ran in [*place.runs(*commands), place.run("chat", "--model", model, stdin="hi\n")]:
        assert (ran.status, ran.stdout) == (8, b"")
        assert what in ran.stderr
    assert place.run("tokenize", "hi", "--model", model, "--count").status == 0


@pytest.mark.parametrize(("name", "metadata", "what", "help_"), REFUSED[1:])
def test_file_of_another_kind_is_not_called_damaged(
    place: Place, tmp_path: Path, name: str, metadata: dict[str, Any], what: str, help_: str
) -> None:
    ran = place.run(*ask(str(write_gguf(tmp_path / f"{name}.gguf", metadata))))
    assert (ran.status, ran.stdout) == (8, b"")
    error, hint = ran.stderr.splitlines()
    assert what in error
    assert help_ in hint
    assert "download" not in ran.stderr


def test_calibration_data_is_named(place: Place, tmp_path: Path) -> None:
    ran = place.run(*ask(str(write_gguf(tmp_path / "i.gguf", {"general.type": "imatrix"}))))
    assert ran.status == 8
    assert "this is calibration data (imatrix) for quantizing, not a model" in error_line(ran.stderr)
