"""The reference: a plain loop over llama.cpp's C API without code of llmcli, like llama-completion."""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from llmcli.engine.llama import bindings

N_VOCAB, VOCAB = object(), object()  # stand for the model's own in a list of calls
Calls = Sequence[tuple[Any, ...]]
_ROW = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])


def reference_tokens(model: Any, prompt: list[int], calls: Calls, count: int, grammar: str | None = None) -> list[int]:
    """Up to `count` token ids from the chain of `calls`, each ("name", *arguments of llama_sampler_init_name)."""
    api = bindings.submodule("llama_cpp")
    vocab = api.llama_model_get_vocab(model)
    params = api.llama_context_default_params()
    params.n_ctx, params.n_threads, params.n_threads_batch = 256, 1, 1
    ctx = api.llama_init_from_model(model, params)
    chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
    for name, *args in calls:
        api.llama_sampler_chain_add(chain, getattr(api, "llama_sampler_init_" + name)(*_c_arguments(api, vocab, args)))
    for token in prompt:
        api.llama_sampler_accept(chain, token)
    gate = api.llama_sampler_init_grammar(vocab, grammar.encode(), b"root") if grammar else None
    out: list[int] = []
    batch = list(prompt)
    while len(out) < count:
        array = (ctypes.c_int32 * len(batch))(*batch)
        assert api.llama_decode(ctx, api.llama_batch_get_one(array, len(batch))) == 0
        token = _draw_gated(api, ctx, vocab, chain, gate) if gate else api.llama_sampler_sample(chain, ctx, -1)
        if api.llama_vocab_is_eog(vocab, token):
            break
        out.append(token)
        batch = [token]
    for pointer in (chain, gate):
        api.llama_sampler_free(pointer)
    api.llama_free(ctx)
    return out


def _c_arguments(api: Any, vocab: Any, args: Sequence[Any]) -> list[Any]:
    """Arguments for C: texts and (token, bias) pairs become arrays."""
    out: list[Any] = []
    for arg in args:
        if arg is N_VOCAB:
            out.append(api.llama_vocab_n_tokens(vocab))
        elif arg is VOCAB:
            out.append(vocab)
        elif isinstance(arg, tuple) and arg and isinstance(arg[0], tuple):
            out.append((api.llama_logit_bias * len(arg))(*arg))
        elif isinstance(arg, tuple):
            out.append((ctypes.c_char_p * len(arg))(*arg))
        else:
            out.append(arg)
    return out


def _draw_gated(api: Any, ctx: Any, vocab: Any, chain: Any, gate: Any) -> int:
    """common_sampler_sample and common_sampler_accept of llama.cpp's common/sampling.cpp."""
    token = _apply(api, ctx, vocab, [chain])
    one = api.llama_token_data(token, 1.0, 0.0)
    single = api.llama_token_data_array(ctypes.pointer(one), 1, -1, False)
    api.llama_sampler_apply(gate, ctypes.byref(single))
    if one.logit == -np.inf:
        token = _apply(api, ctx, vocab, [gate, chain])
    api.llama_sampler_accept(gate, token)
    api.llama_sampler_accept(chain, token)
    return token


def _apply(api: Any, ctx: Any, vocab: Any, samplers: Sequence[Any]) -> int:
    n = api.llama_vocab_n_tokens(vocab)
    rows = np.zeros(n, _ROW)
    rows["id"] = np.arange(n)
    rows["logit"] = np.ctypeslib.as_array(api.llama_get_logits_ith(ctx, -1), (n,))
    array = api.llama_token_data_array(
        ctypes.cast(rows.ctypes.data, ctypes.POINTER(api.llama_token_data)), n, -1, False
    )
    for sampler in samplers:
        api.llama_sampler_apply(sampler, ctypes.byref(array))
    return int(array.data[array.selected].id)
