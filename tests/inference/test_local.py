"""Finding a model, its own defaults, and the context it answers in."""

import json
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from llmcli.engine.events import Cancellation, Prompt, Request, TokenEvent
from llmcli.engine.llama import bindings, hardware
from llmcli.engine.llama.model import Model
from llmcli.errors import ContextOverflowError, LlmcliError, ModelInvalidError, ModelNotFoundError
from llmcli.files import data_dir
from llmcli.inference import resolved_model, sizing
from llmcli.inference.local import LocalEngine
from llmcli.inference.resolved_model import ResolvedModel, resolve_model
from llmcli.models import notes
from llmcli.models.locations import ModelFile, model_locations
from llmcli.params.policies.policy import Fixed
from llmcli.params.settings import Layer, Settings, resolve
from tests.models.gguf_writer import MODEL, write_gguf


def resolved(model: str) -> ResolvedModel:
    return resolve_model(model, model_locations(Settings()))


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Path]]:
    """The files that were probed; none of them is really loaded."""
    seen: list[Sequence[Path]] = []
    monkeypatch.setattr(resolved_model, "probe", seen.append)
    return seen


def test_an_unknown_file_is_probed_once(tmp_path: Path, probed: list[Sequence[Path]]) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    for _ in range(2):
        found = resolved(str(path))
        assert found.file.name == "tiny"
        assert found.file.path == path
    assert probed == [(path,)]


def test_a_note_of_its_arrays_is_made_once_and_a_wrong_one_replaced(tmp_path: Path, home: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", {**MODEL, "tokenizer.ggml.tokens": ["word"] * 100})
    file, folder = ModelFile(path, (path,), "tiny"), home / "data"
    headers = ResolvedModel(file).headers
    ends = notes.array_ends(folder, path)
    assert len(ends) == 1
    notes.update(folder, path, arrays=json.dumps({begin: end - 1 for begin, end in ends.items()}))
    assert ResolvedModel(file).headers == headers
    assert notes.array_ends(folder, path) == ends


def test_a_file_that_changed_is_probed_again(tmp_path: Path, probed: list[Sequence[Path]]) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    resolved(str(path))
    write_gguf(path, {**MODEL, "general.name": "other"})
    resolved(str(path))
    assert len(probed) == 2


def test_a_file_that_crashed_the_probe_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def crash(parts: Sequence[Path]) -> None:
        tries.append(parts)
        raise ModelInvalidError("tiny.gguf crashes llama.cpp")

    monkeypatch.setattr(resolved_model, "probe", crash)
    path = write_gguf(tmp_path / "tiny.gguf")
    for _ in range(2):
        with pytest.raises(ModelInvalidError, match="crashes"):
            resolved(str(path))
    assert len(tries) == 2


def test_the_starter_is_trusted_without_a_probe(with_starter: Path, probed: list[Sequence[Path]]) -> None:
    assert resolved("starter").file.path == with_starter
    assert probed == []


def test_a_folder_that_is_not_writable_costs_only_a_probe(tmp_path: Path, probed: list[Sequence[Path]]) -> None:
    data_dir().parent.mkdir(parents=True, exist_ok=True)
    data_dir().write_text("in the way")
    path = write_gguf(tmp_path / "tiny.gguf")
    assert resolved(str(path)).file.path == path
    assert resolved(str(path)).file.path == path
    assert len(probed) == 2


def test_a_vocabulary_without_weights_is_refused(tmp_path: Path, probed: list[Sequence[Path]]) -> None:
    path = write_gguf(tmp_path / "vocab.gguf", {**MODEL, "tokenizer.ggml.model": "llama"}, tensors=())
    with pytest.raises(ModelInvalidError, match="a vocabulary without weights"):
        resolved(str(path))
    assert probed == []


def test_embedding_model_is_refused_before_it_is_loaded(tmp_path: Path, probed: list[Sequence[Path]]) -> None:
    path = write_gguf(tmp_path / "embed.gguf", {"general.architecture": "bert", "bert.block_count": 1})
    with pytest.raises(ModelInvalidError, match="embed is an embedding model"):
        resolve_model(str(path), model_locations(Settings()), for_text=True)
    assert probed == []
    assert resolved(str(path)).kind.name == "embedding"  # for its vocabulary


def test_a_file_that_is_not_a_model_is_refused_before_the_probe(tmp_path: Path, probed: list[Sequence[Path]]) -> None:
    path = tmp_path / "page.gguf"
    path.write_text("<!DOCTYPE html><html></html>")
    with pytest.raises(ModelInvalidError):
        resolved(str(path))
    with pytest.raises(ModelNotFoundError):
        resolved(str(tmp_path / "missing.gguf"))
    assert probed == []


def sampling(tmp_path: Path, **values: object) -> ResolvedModel:
    """A model whose file holds these `general.sampling.*` values."""
    metadata = {f"general.sampling.{key}": value for key, value in values.items()}
    path = write_gguf(tmp_path / "tiny.gguf", {**MODEL, **metadata})
    return ResolvedModel(ModelFile(path, (path,), "tiny", trusted=True))


def test_defaults_of_the_model_are_the_lowest_layer(tmp_path: Path) -> None:
    target = sampling(tmp_path, temp=0.5, top_k=7, top_p=0.25, sequence="top_k;temperature")
    resolved = resolve([target.layer, Layer("config", {"top_p": 0.75}), Layer("flag", {"seed": 5})]).with_seed()
    assert resolved.settings.temperature == Fixed(0.5)
    assert (resolved.settings.top_k, resolved.settings.top_p, resolved.settings.seed) == (7, 0.75, 5)
    assert resolved.settings.samplers == ("top_k", "temperature")
    assert [resolved.origins[key] for key in ("top_k", "top_p", "seed", "min_p")] == [
        "model",
        "config",
        "flag",
        "default",
    ]
    assert target.notes == []


@pytest.mark.parametrize(
    ("values", "telling"),
    [
        ({"top_p": 1.5}, "top_p must be between 0 and 1, got 1.5"),
        ({"temp": -1.0}, "temperature must be"),
        ({"top_k": -5}, "top_k must be"),
        ({"mirostat": 7}, "mirostat must be"),
        ({"sequence": "top_k;nonsense"}, "unknown sampler 'nonsense'"),
    ],
)
def test_an_invalid_default_of_the_model_is_ignored_with_a_note(
    tmp_path: Path, values: dict[str, object], telling: str
) -> None:
    target = sampling(tmp_path, **{"min_p": 0.25, **values})
    settings = resolve([target.layer]).with_seed().settings
    assert settings == Settings(min_p=0.25, seed=settings.seed)
    assert len(target.notes) == 1
    assert target.notes[0].startswith(f"ignored a sampling default of the model: {telling}")


def test_a_random_seed_is_used_if_none_is_given(tmp_path: Path) -> None:
    target = sampling(tmp_path)
    seeds = {resolve([target.layer]).with_seed().settings.seed for _ in range(8)}
    assert None not in seeds
    assert len(seeds) > 1
    assert resolve([target.layer, Layer("flag", {"seed": 0})]).with_seed().settings.seed == 0


def test_a_context_that_cannot_fit_is_refused_before_loading(
    target: ResolvedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "available_memory", lambda: 1 << 30)
    monkeypatch.setattr(Model, "load", lambda *_: pytest.fail("loaded"))
    with pytest.raises(LlmcliError, match="973 MiB are free"):
        LocalEngine(target, Settings(n_ctx=1 << 20), Cancellation())


@pytest.fixture
def fresh(target: ResolvedModel) -> Iterator[LocalEngine]:
    """A model without a context yet."""
    model = LocalEngine(ResolvedModel(target.file), Settings(), Cancellation())
    yield model
    model.close()
    model.close()


def ask(engine: LocalEngine, n_prompt: int, **values: Any) -> Generator[TokenEvent, None, None]:
    return engine.generate([Request(Prompt.of_tokens("", [5] * n_prompt), Settings(seed=1, **values))])


def sizes(model: LocalEngine, *requests: tuple[int, int]) -> list[int]:
    """The size of the context for each (prompt, max_tokens); nothing is evaluated."""
    found = []
    for n_prompt, max_tokens in requests:
        ask(model, n_prompt, max_tokens=max_tokens).close()
        assert model._context
        found.append(model._context.n_ctx)
    return found


def test_the_context_grows_with_the_request_and_never_shrinks(fresh: LocalEngine) -> None:
    requests = [(10, 16), (10, 200), (10, 300), (10, 16), (600, 16), (10, -1), (10, 16), (600, -1)]
    assert sizes(fresh, *requests) == [256, 256, 512, 512, 768, 8192, 8192, 8192]


def test_a_full_context_keeps_its_evaluated_tokens(fresh: LocalEngine) -> None:
    sizes(fresh, (10, -1))
    before = fresh._context
    sizes(fresh, (10, 100_000), (5000, 5000))
    assert fresh._context is before


def test_a_prompt_that_does_not_fit_is_refused_at_once(
    fresh: LocalEngine, local: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ContextOverflowError, match="the context has 512"):
        list(ask(local, 600, n_ctx=512))
    with pytest.raises(ContextOverflowError, match="9000 tokens, and the context has 8192") as caught:
        ask(fresh, 9000)
    assert caught.value.hint == "shorten the prompt"
    monkeypatch.setattr(sizing, "fitting_context", lambda *_: 256)
    note = r"the context is 256 of 8192 tokens: more does not fit in memory"
    with pytest.raises(ContextOverflowError, match=rf"the context has 256 \({note}\)"):
        ask(fresh, 300)


def test_tokens_of_a_text_are_counted_as_plain_text(local: LocalEngine) -> None:
    assert local.count_tokens("") == 0
    assert local.count_tokens("<|im_end|>") > 1
    assert local.name == "starter"


@pytest.mark.parametrize("count", [1, 2])
def test_answers_that_never_start_free_their_samplers(
    fresh: LocalEngine, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    freed: list[object] = []
    free = bindings.load().llama_sampler_free

    def count_and_free(pointer: object) -> None:
        freed.append(pointer)
        free(pointer)

    monkeypatch.setattr(bindings.load(), "llama_sampler_free", count_and_free)
    fresh.generate([Request(Prompt.of_tokens("", [5]), Settings(seed=1, max_tokens=1))] * count).close()
    assert len(freed) == count
