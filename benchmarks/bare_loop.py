"""The yardstick: the shortest loop on llama.cpp's C API, with the whole `llama_cpp` package imported.

`python -m benchmarks.bare_loop MODEL PROMPT N_CTX` prints 16 greedy tokens as they come.
"""

import ctypes
import sys
from time import perf_counter
from typing import Any

import llama_cpp

api: Any = llama_cpp.llama_cpp
_silent = api.llama_log_callback(lambda *_: None)


def load(path: str) -> Any:
    api.llama_log_set(_silent, ctypes.c_void_p(0))
    api.llama_backend_init()
    return api.llama_model_load_from_file(path.encode(), api.llama_model_default_params())


def make_context(model: Any, n_ctx: int, threads: int) -> Any:
    params = api.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_threads, params.n_threads_batch = n_ctx, 2048, threads, threads
    return api.llama_init_from_model(model, params)


def make_chain(greedy: bool, n_vocab: int = 0, repeat_penalty: float = 1.0, frequency_penalty: float = 0.0) -> Any:
    chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
    steps = []
    if n_vocab:
        steps = [api.llama_sampler_init_penalties(n_vocab, 64, repeat_penalty, frequency_penalty, 0.0)]
    steps += [
        api.llama_sampler_init_top_k(40),
        api.llama_sampler_init_top_p(0.95, 0),
        api.llama_sampler_init_min_p(0.05, 0),
    ]
    steps += [api.llama_sampler_init_temp_ext(0.0 if greedy else 0.8, 0.0, 1.0), api.llama_sampler_init_dist(1)]
    for step in steps:
        api.llama_sampler_chain_add(chain, step)
    return chain


def tokenize(vocab: Any, text: str) -> list[int]:
    data = text.encode()
    buffer = (ctypes.c_int32 * (len(data) + 8))()
    return list(buffer[: api.llama_tokenize(vocab, data, len(data), buffer, len(buffer), True, True)])


def timed(model: Any, ctx: Any, prompt: list[int], n_predict: int, **penalties: float) -> tuple[float, float]:
    """Tokens per second of prompt and of generation, from an empty memory."""
    vocab = api.llama_model_get_vocab(model)
    api.llama_memory_clear(api.llama_get_memory(ctx), True)
    chain, text = (
        make_chain(False, api.llama_vocab_n_tokens(vocab) if penalties else 0, **penalties),
        ctypes.create_string_buffer(64),
    )
    tokens, one = (ctypes.c_int32 * len(prompt))(*prompt), (ctypes.c_int32 * 1)()
    begin = perf_counter()
    api.llama_decode(ctx, api.llama_batch_get_one(tokens, len(prompt)))
    one[0] = api.llama_sampler_sample(chain, ctx, -1)
    middle = perf_counter()
    for _ in range(n_predict):
        api.llama_decode(ctx, api.llama_batch_get_one(one, 1))
        one[0] = api.llama_sampler_sample(chain, ctx, -1)
        api.llama_token_to_piece(vocab, one[0], text, 64, 0, False)
    end = perf_counter()
    api.llama_sampler_free(chain)
    return len(prompt) / (middle - begin), n_predict / (end - middle)


def main(path: str, prompt: str, n_ctx: int, threads: int) -> None:
    model = load(path)
    ctx, vocab, chain = make_context(model, n_ctx, threads), api.llama_model_get_vocab(model), make_chain(greedy=True)
    tokens, text = tokenize(vocab, prompt), ctypes.create_string_buffer(64)
    array, one = (ctypes.c_int32 * len(tokens))(*tokens), (ctypes.c_int32 * 1)()
    batch = api.llama_batch_get_one(array, len(tokens))
    for _ in range(16):
        api.llama_decode(ctx, batch)
        one[0] = api.llama_sampler_sample(chain, ctx, -1)
        if api.llama_vocab_is_eog(vocab, one[0]):
            break
        size = api.llama_token_to_piece(vocab, one[0], text, 64, 0, False)
        sys.stdout.buffer.write(text.raw[:size])
        sys.stdout.flush()
        batch = api.llama_batch_get_one(one, 1)
    print()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
