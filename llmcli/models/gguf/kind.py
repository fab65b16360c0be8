"""What a GGUF file is for, from its header: text, embeddings, a part of another model, or nothing for llama.cpp."""

from functools import cache
from pathlib import Path
from typing import NamedTuple

from llmcli.models.gguf.header import GGUFHeader, quote

_RANK = 4  # LLAMA_POOLING_TYPE_RANK: one score for a query and a document
_NONE = 0  # LLAMA_POOLING_TYPE_NONE: the vectors of all tokens, as in a model for text
_CHAT = "use a model for text: see `llmcli models list` and `llmcli models recommend`"
_HUB = "get a GGUF version of it from the Hub: run `llmcli models search NAME`"


class ModelKind(NamedTuple):
    """The kind of a model: its name for tables and JSON data, with its article for messages, and what would help.

    `loads` tells whether llama.cpp can load the file as a model at all, to generate text or for its vocabulary.
    """

    name: str
    noun: str = ""
    hint: str = _CHAT
    loads: bool = True

    @property
    def generates(self) -> bool:
        """Whether it is a model that generates text, token by token: a model for `generate` and `chat`."""
        return self.name == TEXT.name

    @property
    def runs(self) -> bool:
        """Whether a command can run it: it generates text, or it gives vectors or scores."""
        return self.name in (TEXT.name, EMBEDDING.name, RERANKER.name)


TEXT = ModelKind("text", "a model for text", "")
EMBEDDING = ModelKind(
    "embedding", "an embedding model, which gives vectors and no text", f"{_CHAT}; `llmcli embed` gives its vectors"
)
RERANKER = ModelKind(
    "reranker", "a reranking model, which gives scores and no text", f"{_CHAT}; `llmcli rerank` gives its scores"
)
_KINDS = {
    "text": TEXT,
    "embedding": EMBEDDING,
    "encoder-decoder": ModelKind("encoder-decoder", "an encoder-decoder model, which llmcli cannot run yet"),
    "diffusion": ModelKind("diffusion", "a diffusion model, which does not generate token by token"),
    "speech": ModelKind("speech", "a speech model, which gives sound and no text"),
    "draft": ModelKind(
        "draft", "a draft model, a helper of a larger model", "use the model it belongs to", loads=False
    ),
}
_OLLAMA = ModelKind("unsupported", "a model in Ollama's own format, which only Ollama can load", _HUB, loads=False)


def kind_of(header: GGUFHeader) -> ModelKind:
    """The kind of the model with this header, the first one of a split model; a summary without tensors is enough.

    A chat model and an embedding model can have one architecture: then its pooling decides, as in llama.cpp.
    """
    architecture, general = header.architecture, header.metadata.get("general.type")
    known = known_architectures().get(architecture)
    if general == "adapter" or architecture == "controlvector":
        return _adapter(header)
    if known == "projector" or general == "mmproj":
        sense = "an audio" if _is_audio(header) else "a vision"
        noun = f"{sense} projector (mmproj), a part of another model"
        return ModelKind("projector", noun, "use the model it belongs to", loads=False)
    if known is None:
        noun = f"a model of the architecture {quote(architecture)}, which this llama.cpp does not support"
        return ModelKind("unsupported", noun, "update llmcli, or use another model", loads=False)
    if known == "ollama" or _has_own_projector(header):
        return _OLLAMA
    if header.is_vocab_only and header.file_size:
        return ModelKind("vocabulary", "a vocabulary without weights", "use the file with the weights", loads=False)
    pooling = header.metadata.get(f"{architecture}.pooling_type")
    if pooling == _RANK or any(tensor.name.startswith("cls.") for tensor in header.tensors):
        return RERANKER
    is_causal = header.metadata.get(f"{architecture}.attention.causal", True)
    if known == "text" and (pooling not in (None, _NONE) or not is_causal):
        return EMBEDDING
    return _KINDS[known]


@cache
def known_architectures() -> dict[str, str]:
    """The kind of each architecture, such as "embedding"; "ollama" for those that only Ollama loads."""
    lines = Path(__file__).with_name("architectures.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    return {architecture: kind for kind, *names in rows for architecture in names}


def _adapter(header: GGUFHeader) -> ModelKind:
    base = header.metadata.get("general.base_model.0.name")
    what = "a control vector" if header.architecture == "controlvector" else "an adapter (LoRA)"
    hint = f"use its base model, {quote(base)}" if isinstance(base, str) and base else "use its base model"
    return ModelKind("adapter", f"{what}, which changes another model", hint, loads=False)


def _is_audio(header: GGUFHeader) -> bool:
    """Whether a projector is for sound only."""
    has = [header.metadata.get(f"clip.has_{sense}_encoder") for sense in ("audio", "vision")]
    return bool(has[0]) and not has[1]


def _has_own_projector(header: GGUFHeader) -> bool:
    """Whether the projector is inside the file, where Ollama's converter puts it; for llama.cpp it is a second file."""
    if header.tensors:
        return any(tensor.name.startswith(("v.", "a.", "mm.")) for tensor in header.tensors)
    return any(key.startswith(f"{header.architecture}.vision.") for key in header.metadata)  # a summary
