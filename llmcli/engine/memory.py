"""Estimates: the memory for a model and a context size, and the context size and GPU layers that fit."""

from dataclasses import dataclass

# Bytes per element of the K and V caches: bytes per block / elements per block (ggml.c, type traits).
CACHE_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32, "q4_1": 20 / 32} | {
    "iq4_nl": 18 / 32,
    "q5_0": 22 / 32,
    "q5_1": 24 / 32,
}
_USABLE = 0.9  # fraction of the free memory
_ALIGN = 256  # llama.cpp rounds the context size up to a multiple


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a model that an estimate needs. `weights` is in bytes.

    `kv_width_k` and `kv_width_v` are elements per token over all layers: the sum of heads x head length.
    """

    weights: int
    n_layers: int
    n_ctx_train: int
    n_embd: int
    n_vocab: int
    kv_width_k: int
    kv_width_v: int


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes by purpose."""

    weights: int
    kv_cache: int
    compute: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.compute


def estimate(shape: ModelShape, n_ctx: int, n_ubatch: int, type_k: str, type_v: str) -> MemoryNeed:
    """The memory for weights, KV cache and compute buffers; these are about logits and activations of a ubatch."""
    per_token = shape.kv_width_k * CACHE_BYTES[type_k] + shape.kv_width_v * CACHE_BYTES[type_v]
    compute = 4 * n_ubatch * (shape.n_vocab + 8 * shape.n_embd)
    return MemoryNeed(shape.weights, int(per_token * n_ctx), compute)


def fitting_context(shape: ModelShape, memory: int, n_ubatch: int, type_k: str, type_v: str) -> int:
    """The largest context size, up to that of the training, that fits into `memory` bytes (0 = unknown)."""
    one = estimate(shape, 1, n_ubatch, type_k, type_v)
    free = memory * _USABLE - one.weights - one.compute
    if memory <= 0 or one.kv_cache <= 0 or free >= shape.n_ctx_train * one.kv_cache:
        return shape.n_ctx_train
    return min(shape.n_ctx_train, max(_ALIGN, int(free / one.kv_cache) // _ALIGN * _ALIGN))


def fitting_layers(shape: ModelShape, n_ctx: int, n_ubatch: int, type_k: str, type_v: str, gpu_memory: int) -> int:
    """The number of layers, with the output layer, that fit into `gpu_memory` bytes with their part of the KV cache."""
    need = estimate(shape, n_ctx, n_ubatch, type_k, type_v)
    layers = shape.n_layers + 1
    per_layer = (need.weights + need.kv_cache) / layers
    free = gpu_memory * _USABLE - need.compute
    return max(0, min(layers, int(free / per_layer))) if per_layer else layers
