"""Tiny models with random weights (200 kB), one for each kind of memory of llama.cpp."""

import random
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.models.gguf_writer import I32, STRING, Tensor, Typed, write_gguf

WINDOW = 8  # tokens that the sliding window sees
_N_LAYERS, _N_EMBD, _N_FF, _N_HEADS = 2, 32, 64, 2
_D_INNER, _D_STATE, _D_CONV, _DT_RANK = 2 * _N_EMBD, 16, 4, 2
_NORMAL, _UNKNOWN, CONTROL, USER_DEFINED, _BYTE = 1, 2, 3, 4, 6  # llama.h, enum llama_token_type
_F32, _Q8_0 = 0, 8  # ggml.h, enum ggml_type
_Weights = dict[str, tuple[int, ...]]


def full_attention(path: Path, template: str = "") -> Path:
    """A llama: each token sees all before it, and a cut takes away exactly what it says; `template` is for chats."""
    return _write(path, "llama", _of_attention(), _weights(_llama_layer()), template)


def quantized(path: Path) -> Path:
    """The same with matrices of type Q8_0, all zero: llama.cpp takes the best kernel of the processor."""
    metadata = {"general.architecture": "llama"} | {f"llama.{key}": value for key, value in _of_attention().items()}
    weights = _weights(_llama_layer())
    kinds = {name: _Q8_0 if name.startswith("blk") and len(shape) == 2 else _F32 for name, shape in weights.items()}
    return write_gguf(path, metadata | vocab(), [Tensor(name, weights[name], kinds[name]) for name in weights])


def sliding_window(path: Path) -> Path:
    """A gemma 2: its first layer sees the last `WINDOW` tokens, its second one all of them."""
    extra = {"attention.sliding_window": WINDOW, "attention.key_length": 16, "attention.value_length": 16}
    norms = {"post_attention_norm.weight": (_N_EMBD,), "post_ffw_norm.weight": (_N_EMBD,)}
    return _write(path, "gemma2", _of_attention() | extra, _weights(_llama_layer() | norms))


def recurrent(path: Path) -> Path:
    """A mamba: one state that stands for all that was read, and cannot be turned back."""
    return _write(path, "mamba", _of_mamba(), _weights(_mamba_layer()))


def hybrid(path: Path) -> Path:
    """A jamba: a layer of mamba and one of attention."""
    norms = {"ssm_dt_norm.weight": (_DT_RANK,), "ssm_b_norm.weight": (_D_STATE,), "ssm_c_norm.weight": (_D_STATE,)}
    ffn = {name: shape for name, shape in _llama_layer().items() if name.startswith("ffn")}
    weights = _weights(_mamba_layer() | norms | ffn, _llama_layer())
    heads = {"attention.head_count_kv": Typed(I32, [0, _N_HEADS])}  # none: a layer of mamba
    return _write(path, "jamba", _of_mamba() | _of_attention() | heads, weights)


def encoder(path: Path, pooling: int = 1, n_scores: int = 0) -> Path:
    """A bert: every token sees all tokens; the mean of their vectors is that of the text (`pooling`: llama.h).

    With `n_scores` it is a reranking model, with so many outputs.
    """
    sizes = _of_attention() | {"context_length": N_CTX_ENCODER, "attention.causal": False, "pooling_type": pooling}
    sizes |= {"attention.layer_norm_epsilon": 1e-5}
    if n_scores > 1:
        sizes |= {"classifier.output_labels": Typed(STRING, [str(number) for number in range(n_scores)])}
    return _write(path, "bert", sizes, encoder_weights(n_scores), words=_word_pieces())


def encoder_weights(n_scores: int = 0) -> _Weights:
    """The shapes of its tensors, with the columns first."""
    weights: _Weights = {
        "token_embd.weight": (_N_EMBD, len(WORD_PIECES)),
        "position_embd.weight": (_N_EMBD, N_CTX_ENCODER),
    }
    weights |= {"token_types.weight": (_N_EMBD, 2), **_with_bias("token_embd_norm", (_N_EMBD,))}
    for number in range(_N_LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            weights |= _with_bias(f"blk.{number}.{name}", (_N_EMBD, _N_EMBD))
        weights |= _with_bias(f"blk.{number}.attn_output_norm", (_N_EMBD,))
        weights |= _with_bias(f"blk.{number}.ffn_up", (_N_EMBD, _N_FF))
        weights |= _with_bias(f"blk.{number}.ffn_down", (_N_FF, _N_EMBD))
        weights |= _with_bias(f"blk.{number}.layer_output_norm", (_N_EMBD,))
    if n_scores:
        weights |= _with_bias("cls", (_N_EMBD, _N_EMBD)) | _with_bias("cls.output", (_N_EMBD, n_scores))
    return weights


def _with_bias(name: str, shape: tuple[int, ...]) -> _Weights:
    return {f"{name}.weight": shape, f"{name}.bias": shape[-1:]}


def weights_as_arrays(weights: _Weights) -> dict[str, Any]:
    """What the file of a model with these tensors contains, for a computation by hand: rows first, as in numpy."""
    import numpy

    numbers = zip(weights.items(), _numbers(weights), strict=True)
    return {
        name: numpy.frombuffer(data, numpy.float32)[: numpy.prod(shape)].reshape(shape[::-1])
        for (name, shape), data in numbers
    }


def vocabulary(path: Path, special: Mapping[str, int] | None = None, name: str = "tiny") -> Path:
    """A vocabulary without weights and some special tokens more; llama.cpp gives attributes to some by the `name`."""
    sizes = {f"llama.{key}": value for key, value in _of_attention().items()}
    return write_gguf(path, {"general.architecture": "llama", "general.name": name} | sizes | vocab(special))


def vocab(special: Mapping[str, int] | None = None) -> dict[str, Any]:
    """SentencePiece metadata: three control tokens, the bytes, the letters and what some of them merge to."""
    tokens = [("<unk>", _UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)]
    tokens += [(f"<0x{byte:02X}>", _BYTE) for byte in range(256)]
    tokens += [(chr(letter), _NORMAL) for letter in range(ord("a"), ord("z") + 1)]
    tokens += [
        (text, _NORMAL) for text in ("\u2581", "\u2581a", "an", "\u2581an", "he", "the", "\u2581the", "er", "<|")
    ]
    tokens += (special or {}).items()
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": Typed(STRING, [text for text, _ in tokens]),
        "tokenizer.ggml.scores": [-float(number) for number in range(len(tokens))],
        "tokenizer.ggml.token_type": Typed(I32, [kind for _, kind in tokens]),
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


_LETTERS = [chr(letter) for letter in range(ord("a"), ord("z") + 1)]
# Of a bert: special tokens, letters at the beginning of a word, and within it. 2 is [CLS] and 3 is [SEP].
WORD_PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"\u2581{one}" for one in _LETTERS), *_LETTERS]
N_CTX_ENCODER = 64


def _word_pieces() -> dict[str, Any]:
    special = {"padding": 0, "unknown": 1, "cls": 2, "bos": 2, "seperator": 3, "mask": 4}  # as GGUF spells it
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": Typed(STRING, WORD_PIECES),
        "tokenizer.ggml.token_type": Typed(I32, [CONTROL] * 5 + [_NORMAL] * (len(WORD_PIECES) - 5)),
        "tokenizer.ggml.token_type_count": 2,
        **{f"tokenizer.ggml.{name}_token_id": number for name, number in special.items()},
    }


N_VOCAB = len(vocab()["tokenizer.ggml.scores"])


def _of_attention() -> dict[str, Any]:
    return {
        "block_count": _N_LAYERS,
        "context_length": 1024,
        "embedding_length": _N_EMBD,
        "feed_forward_length": _N_FF,
        "attention.head_count": _N_HEADS,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }


def _of_mamba() -> dict[str, Any]:
    sizes = {"ssm.inner_size": _D_INNER, "ssm.state_size": _D_STATE, "ssm.conv_kernel": _D_CONV}
    return {**_of_attention(), **sizes, "ssm.time_step_rank": _DT_RANK, "attention.head_count": 0}


def _llama_layer() -> _Weights:
    square, up = (_N_EMBD, _N_EMBD), (_N_EMBD, _N_FF)
    attention = {f"attn_{name}.weight": square for name in ("q", "k", "v", "output")}
    ffn = {"ffn_norm.weight": (_N_EMBD,), "ffn_gate.weight": up, "ffn_up.weight": up, "ffn_down.weight": up[::-1]}
    return {"attn_norm.weight": (_N_EMBD,), **attention, **ffn}


def _mamba_layer() -> _Weights:
    return {
        "attn_norm.weight": (_N_EMBD,),
        "ssm_in.weight": (_N_EMBD, 2 * _D_INNER),
        "ssm_conv1d.weight": (_D_CONV, _D_INNER),
        "ssm_conv1d.bias": (_D_INNER,),
        "ssm_x.weight": (_D_INNER, _DT_RANK + 2 * _D_STATE),
        "ssm_dt.weight": (_DT_RANK, _D_INNER),
        "ssm_dt.bias": (_D_INNER,),
        "ssm_a": (_D_STATE, _D_INNER),
        "ssm_d": (_D_INNER,),
        "ssm_out.weight": (_D_INNER, _N_EMBD),
    }


def _weights(*layers: _Weights) -> _Weights:
    """The tensors of a model with these layers, the last of them repeated."""
    weights: _Weights = {"token_embd.weight": (_N_EMBD, N_VOCAB), "output_norm.weight": (_N_EMBD,)}
    for number in range(_N_LAYERS):
        layer = layers[min(number, len(layers) - 1)]
        weights |= {f"blk.{number}.{name}": shape for name, shape in layer.items()}
    return weights


def _write(
    path: Path,
    architecture: str,
    values: Mapping[str, Any],
    weights: _Weights,
    template: str = "",
    words: Mapping[str, Any] | None = None,
) -> Path:
    metadata = {"general.architecture": architecture, **{f"{architecture}.{key}": v for key, v in values.items()}}
    if template:
        metadata["tokenizer.chat_template"] = template
    write_gguf(path, metadata | dict(words or vocab()), [Tensor(name, shape) for name, shape in weights.items()])
    data = b"".join(_numbers(weights))
    with path.open("r+b") as file:
        file.seek(-len(data), 2)  # the writer left zeros there
        file.write(data)
    return path


def _numbers(weights: _Weights) -> Iterator[bytes]:
    """Random weights of about the size that training would give them, padded as the format wants it."""
    source = random.Random(1)
    for name, shape in weights.items():
        values = _uniform(source, shape)
        if name.endswith("ssm_a"):  # of a state that fades
            values = [-abs(value) - 0.05 for value in values]
        if name.endswith("norm.weight"):
            values = [1 + value / 4 for value in values]
        data = array("f", values).tobytes()
        yield data + bytes(-len(data) % 32)


def _uniform(source: random.Random, shape: Sequence[int]) -> list[float]:
    count = shape[0] * (shape[1] if len(shape) > 1 else 1)
    width = 2.0 / (shape[0] ** 0.5 if len(shape) > 1 else 4)
    return [value * width / (1 << 15) for value in array("h", source.randbytes(2 * count))]
