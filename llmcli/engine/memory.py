"""How much memory a model needs at a given context, and how much context and how many layers fit."""

from dataclasses import dataclass

# Bytes per element of the K and V caches: block bytes / block length (ggml.c type traits).
CACHE_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32, "q4_1": 20 / 32} | {
    "iq4_nl": 18 / 32,
    "q5_0": 22 / 32,
    "q5_1": 24 / 32,
}
_SPARE = 0.9  # share of the free memory that may be taken
_ALIGN = 256  # llama.cpp rounds the context up to this


@dataclass(frozen=True)
class ModelShape:
    """What an estimate needs of a model, in tensors' own units.

    `kv_width_k` and `kv_width_v` are elements per token over all layers: sum of heads x head length.
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
    """The memory of weights, caches and scratch buffers; scratch is rough: logits and activations of one ubatch."""
    per_token = shape.kv_width_k * CACHE_BYTES[type_k] + shape.kv_width_v * CACHE_BYTES[type_v]
    compute = 4 * n_ubatch * (shape.n_vocab + 8 * shape.n_embd)
    return MemoryNeed(shape.weights, int(per_token * n_ctx), compute)


def fitting_context(shape: ModelShape, memory: int, n_ubatch: int, type_k: str, type_v: str) -> int:
    """The largest context up to the trained one for which everything fits into `memory` bytes (0 = unknown)."""
    one = estimate(shape, 1, n_ubatch, type_k, type_v)
    room = memory * _SPARE - one.weights - one.compute
    if memory <= 0 or one.kv_cache <= 0 or room >= shape.n_ctx_train * one.kv_cache:
        return shape.n_ctx_train
    return min(shape.n_ctx_train, max(_ALIGN, int(room / one.kv_cache) // _ALIGN * _ALIGN))


def fitting_layers(shape: ModelShape, n_ctx: int, n_ubatch: int, type_k: str, type_v: str, gpu_memory: int) -> int:
    """Layers (output layer counted) that fit into `gpu_memory` bytes, each with its share of the cache."""
    need = estimate(shape, n_ctx, n_ubatch, type_k, type_v)
    layers = shape.n_layers + 1
    per_layer = (need.weights + need.kv_cache) / layers
    room = gpu_memory * _SPARE - need.compute
    return max(0, min(layers, int(room / per_layer))) if per_layer else layers
