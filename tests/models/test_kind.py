"""kind_of: what a file is for, from its header alone."""

from pathlib import Path
from typing import Any

import pytest

from llmcli.engine.llama.model import Model
from llmcli.errors import ModelInvalidError
from llmcli.models.gguf.kind import ModelKind, kind_of, known_architectures
from llmcli.models.gguf.parser import read_header, read_summary
from tests.models.gguf_writer import STRING, Tensor, Typed, write_gguf

FACTS = {"context_length": 512, "block_count": 2}


def header_of(architecture: str, **values: Any) -> dict[str, Any]:
    """The metadata of a model; keys without a dot get the name of the architecture."""
    own = {f"{architecture}.{key}": value for key, value in (FACTS | values).items() if "." not in key}
    return {"general.architecture": architecture} | own | {key: value for key, value in values.items() if "." in key}


def kind(path: Path, metadata: dict[str, Any], *tensors: str) -> ModelKind:
    return kind_of(read_header(write_gguf(path / "m.gguf", metadata, [Tensor(name) for name in tensors or ("x",)])))


BASE = {"general.type": "adapter", "adapter.type": "lora", "general.base_model.0.name": "Llama 3.2 1B"}


@pytest.mark.parametrize(
    ("metadata", "tensors", "name", "words"),
    [
        (header_of("llama"), (), "text", "a model for text"),
        (header_of("qwen3", pooling_type=0), (), "text", "a model for text"),
        (header_of("nomic-bert"), (), "embedding", "an embedding model"),
        (header_of("qwen3", pooling_type=3), (), "embedding", "an embedding model"),
        (header_of("llama") | {"llama.attention.causal": False}, (), "embedding", "an embedding model"),
        (header_of("qwen3", pooling_type=4), (), "reranker", "a reranking model"),
        (header_of("bert"), ("cls.weight",), "reranker", "a reranking model"),
        (header_of("t5"), (), "encoder-decoder", "an encoder-decoder model"),
        (header_of("dream") | {"dream.attention.causal": False}, (), "diffusion", "a diffusion model"),
        (header_of("wavtokenizer-dec"), (), "speech", "a speech model"),
        (header_of("eagle3"), (), "draft", "a draft model"),
        (header_of("clip"), ("v.blk.0.ln1.weight",), "projector", "a vision projector"),
        (header_of("clip") | {"clip.has_audio_encoder": True}, (), "projector", "an audio projector"),
        (header_of("new") | {"general.type": "mmproj"}, (), "projector", "a vision projector"),
        (header_of("llama") | BASE, (), "adapter", "an adapter (LoRA)"),
        (header_of("controlvector"), (), "adapter", "a control vector"),
        (header_of("llama99"), (), "unsupported", "the architecture 'llama99', which this llama.cpp does not support"),
        (header_of("gptoss"), (), "unsupported", "Ollama's own format"),
        (
            header_of("gemma3"),
            ("token_embd.weight", "mm.mm_input_projection.weight"),
            "unsupported",
            "Ollama's own format",
        ),
        (header_of("mistral3"), ("token_embd.weight", "v.patch_embd.weight"), "unsupported", "Ollama's own format"),
    ],
)
def test_kind_of_a_model_comes_from_its_header(
    metadata: dict[str, Any], tensors: tuple[str, ...], name: str, words: str, tmp_path: Path
) -> None:
    found = kind(tmp_path, metadata, *tensors)
    assert found.name == name
    assert words in found.noun
    assert found.generates == (name == "text")
    assert (found.hint == "") == (name == "text")


def test_adapter_names_its_base_model(tmp_path: Path) -> None:
    assert kind(tmp_path, header_of("llama") | BASE).hint == "use its base model, 'Llama 3.2 1B'"


def test_hostile_names_in_a_header_stay_on_one_short_line(tmp_path: Path) -> None:
    hostile = "x\n\x1b[31m" + "y" * 500
    for metadata in (header_of(hostile), header_of("llama") | BASE | {"general.base_model.0.name": hostile}):
        found = kind(tmp_path, metadata)
        assert (found.noun + found.hint).isprintable()
        assert len(found.noun + found.hint) < 200


def test_file_with_a_vocabulary_only_is_a_vocabulary(tmp_path: Path) -> None:
    words = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": Typed(STRING, ["a", "b"])}
    path = write_gguf(tmp_path / "m.gguf", header_of("llama") | words, [])
    assert kind_of(read_header(path)).name == "vocabulary"


@pytest.mark.parametrize("architecture", ["llama", "nomic-bert", "clip", "llama99", "gemma3"])
def test_summary_of_a_file_gives_the_same_kind(architecture: str, tmp_path: Path) -> None:
    vocabulary = Typed(STRING, [f"token {number}" for number in range(20_000)])
    metadata = header_of(architecture) | {"general.file_type": 15, "tokenizer.ggml.tokens": vocabulary}
    sight = {"gemma3.vision.block_count": 27} if architecture == "gemma3" else {}
    path = write_gguf(tmp_path / "m.gguf", sight | metadata, [Tensor("v.blk.0.ln1.weight")] if sight else [Tensor("x")])
    assert kind_of(read_summary(path)) == kind_of(read_header(path))


def test_listed_architectures_are_those_of_llama_cpp(tmp_path: Path) -> None:
    """Each name, because a model that llama.cpp loads must not be refused, nor the other way round."""
    for architecture, kind in known_architectures().items():
        path = write_gguf(tmp_path / "m.gguf", {"general.architecture": architecture})
        with pytest.raises(ModelInvalidError) as refused:
            Model.load([path], vocab_only=True)
        assert ("unknown model architecture" in str(refused.value)) == (kind == "ollama"), architecture
