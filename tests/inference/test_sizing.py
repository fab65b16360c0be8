"""The size of the context and the layers on the GPU, where the user leaves them open."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.engine.llama import bindings, hardware
from llmcli.engine.llama.context import Context
from llmcli.engine.llama.hardware import Device
from llmcli.engine.llama.model import ALL_LAYERS, Model
from llmcli.errors import LlmcliError, UsageError
from llmcli.inference import sizing
from llmcli.inference.sizing import (
    CACHE_BYTES,
    ModelShape,
    check_settings,
    choose_context,
    choose_gpu_layers,
    fits_repacked,
    fitting_context,
    fitting_layer,
    fitting_layers,
    memory_need,
    shape_of,
)
from llmcli.models.gguf.header import ArraySummary, GGUFHeader, TensorInfo, Value
from llmcli.models.gguf.parser import read_headers
from llmcli.params.model import CACHE_TYPES
from llmcli.params.settings import Layer, Settings, resolve
from tests.models import tiny_models

MIB, GIB = 1 << 20, 1 << 30
# 100 MiB of weights; 4 KiB and 48 bytes of f16 cache a token; 2 MiB of logits for 512 tokens, or 1 KiB of mask a token.
SHAPE = ModelShape(
    weights=100 * MIB, n_layers=9, n_ctx_train=2048, n_embd=0, n_vocab=1024, kv_width_k=1024, kv_width_v=1024
)


@pytest.fixture
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Free memory, in bytes, all of which can be used."""
    size: int = request.param
    monkeypatch.setattr(hardware, "available_memory", lambda: size)
    monkeypatch.setattr(sizing, "_MOST_SPARE", 0)
    return size


@pytest.mark.parametrize(("free", "usable"), [(0, 0), (1000, 950), (40 * GIB, 39 * GIB)])
def test_a_part_of_the_free_memory_is_left_to_others(monkeypatch: pytest.MonkeyPatch, free: int, usable: int) -> None:
    monkeypatch.setattr(hardware, "available_memory", lambda: free)
    assert sizing.usable_memory() == usable


def gpus(monkeypatch: pytest.MonkeyPatch, *found: tuple[str, int]) -> None:
    devices = [Device(kind.lower(), "", kind, free, free) for kind, free in found]
    monkeypatch.setattr(hardware, "devices", lambda: devices)


@pytest.mark.parametrize("memory", [0, 8 * GIB], indirect=True, ids=["memory unknown", "memory plenty"])
@pytest.mark.parametrize(
    ("n_prompt", "max_tokens", "expected"),
    [
        (10, -1, 2048),
        (2000, -1, 2048),
        (10, 16, 256),
        (10, 0, 256),
        (239, 16, 256),
        (240, 16, 512),
        (600, 100, 768),
        (10, 2037, 2048),
        (10, 100_000, 2048),
    ],
)
def test_an_automatic_context_fits_the_prompt_and_the_answer(
    memory: int, n_prompt: int, max_tokens: int, expected: int
) -> None:
    assert choose_context(SHAPE, Settings(max_tokens=max_tokens), n_prompt) == (expected, "")


# 90 percent of the memory may be taken; weights and scratch need 102 MiB of it.
@pytest.mark.parametrize("memory", [119 * MIB], indirect=True)
@pytest.mark.parametrize(
    ("settings", "expected", "has_note"),
    [
        ({}, 1280, True),
        ({"max_tokens": 16}, 256, False),
        ({"max_tokens": 1500}, 1280, True),
        ({"cache_type_k": "q8_0", "cache_type_v": "q8_0"}, 2048, False),
        ({"n_ctx": 2048}, 2048, False),
    ],
)
def test_memory_limits_an_automatic_context(
    memory: int, settings: dict[str, Any], expected: int, has_note: bool
) -> None:
    n_ctx, note = choose_context(SHAPE, Settings(**settings), 10)
    assert n_ctx == expected
    assert note == (f"the context is {expected} of 2048 tokens: more does not fit in memory" if has_note else "")


@pytest.mark.parametrize("memory", [1 * MIB], indirect=True)
def test_the_smallest_context_has_256_tokens(memory: int) -> None:
    assert choose_context(SHAPE, Settings(), 10)[0] == 256


@pytest.mark.parametrize(("n_ctx", "has_note"), [(1, False), (2048, False), (2049, True)])
def test_a_context_beyond_the_trained_one_is_used_with_a_note(n_ctx: int, has_note: bool) -> None:
    chosen, note = choose_context(SHAPE, Settings(n_ctx=n_ctx), 0)
    assert chosen == n_ctx
    assert note == ("the context of 2049 tokens is larger than the 2048 the model was trained on" if has_note else "")


# Cache and cells of 2**18 tokens have 1036 MiB, in Q8_0 556 MiB; the masks have half a MiB for each row of a batch.
BIG = replace(SHAPE, n_ctx_train=1 << 18)


@pytest.mark.parametrize("memory", [0, 4 * GIB, 1300 * MIB, 1150 * MIB, 700 * MIB, 500 * MIB], indirect=True)
def test_a_context_that_does_not_fit_gets_a_smaller_micro_batch_then_a_smaller_cache(memory: int) -> None:
    expected: dict[int, dict[str, Any]] = {
        1300 * MIB: {},
        1150 * MIB: {"n_ubatch": 128},
        700 * MIB: {"n_ubatch": 256, "cache_type_k": "q8_0", "cache_type_v": "q8_0"},
    }
    layer = fitting_layer(BIG, Settings(n_ctx=1 << 18))
    assert (layer.name, layer.values) == ("memory", expected.get(memory, {}))


@pytest.mark.parametrize("memory", [700 * MIB], indirect=True)
@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        (BIG, {"n_ubatch": 512}),
        (BIG, {"cache_type_k": "f16"}),
        (BIG, {"flash_attn": "off"}),
        (replace(BIG, has_blocks=False), {}),
    ],
)
def test_what_is_set_or_not_possible_is_not_made_smaller(
    memory: int, shape: ModelShape, settings: dict[str, Any]
) -> None:
    resolved = resolve([Layer("flag", {"n_ctx": 1 << 18, **settings})]).settings
    found: dict[str, Any] = {**fitting_layer(shape, resolved).values}
    assert not found.keys() & settings.keys()
    if found:
        need = memory_need(shape, replace(resolved, **found), 1 << 18)
        assert need.kv_cache + need.compute <= memory
    else:
        with pytest.raises(LlmcliError, match="a context of 262144 tokens needs"):
            check_settings(shape, resolved)


@pytest.mark.parametrize("memory", [60 * MIB], indirect=True)
@pytest.mark.parametrize("mode", ["none", "dio", "mlock", "mmap+mlock"])
def test_weights_that_are_not_mapped_must_fit(memory: int, mode: str) -> None:
    (note,) = check_settings(SHAPE, Settings(load_mode="mmap"))
    assert note.startswith("the model needs 102 MiB of memory and 60 MiB are free: it is slow")
    with pytest.raises(LlmcliError) as caught:
        check_settings(SHAPE, Settings(load_mode=mode))
    assert str(caught.value) == f"load_mode {mode} needs 102 MiB of memory, and 60 MiB are free"
    assert "--load-mode mmap" in caught.value.hint


@pytest.mark.parametrize(
    ("memory", "gpu_layers", "expected"),
    [(0, 0, True), (120 * MIB, 0, True), (90 * MIB, 0, False), (90 * MIB, 5, True), (90 * MIB, ALL_LAYERS, True)],
    indirect=["memory"],
)
def test_weights_get_another_order_only_where_that_copy_fits(memory: int, gpu_layers: int, expected: bool) -> None:
    shape = replace(SHAPE, repacked=100 * MIB)
    assert fits_repacked(shape, Settings(), gpu_layers) == expected
    assert fits_repacked(SHAPE, Settings(), gpu_layers)  # types that are computed as they are in the file


@pytest.mark.parametrize("memory", [4 * GIB], indirect=True)
def test_a_context_that_cannot_fit_is_refused_with_the_figures(memory: int) -> None:
    assert check_settings(SHAPE, Settings(n_ctx=1 << 19)) == []
    with pytest.raises(LlmcliError) as caught:
        check_settings(SHAPE, Settings(n_ctx=1 << 20))
    assert str(caught.value) == (
        "a context of 1048576 tokens needs 5.0 GiB of memory in addition to the model's 100 MiB, and 4.0 GiB are free"
    )
    size, smaller = re.fullmatch(r"use --ctx-size (\d+) or less(.*)", caught.value.hint).groups()  # type: ignore[union-attr]
    assert smaller == ", a smaller --ubatch-size, or --cache-type-k q8_0 --cache-type-v q8_0"
    check_settings(SHAPE, Settings(n_ctx=1 << 20, cache_type_k="q8_0", cache_type_v="q8_0"))
    assert check_settings(SHAPE, Settings(n_ctx=int(size))) == []
    assert "it is slow" in check_settings(SHAPE, Settings(n_ctx=int(size) + 256))[0]
    with pytest.raises(LlmcliError) as caught:
        check_settings(SHAPE, Settings(n_ctx=1 << 24))  # no cache type helps
    assert caught.value.hint == f"use --ctx-size {size} or less"


@pytest.mark.parametrize("memory", [0], indirect=True)
def test_an_unknown_memory_refuses_nothing(memory: int) -> None:
    assert check_settings(SHAPE, Settings(n_ctx=1 << 30)) == []


@pytest.mark.parametrize("memory", [50 * MIB], indirect=True)
def test_weights_larger_than_the_memory_give_only_a_note(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "has_gpu", lambda: True)
    assert "it is slow" in check_settings(SHAPE, Settings(n_ctx=2048))[0]
    assert check_settings(SHAPE, Settings(n_ctx=2048, n_gpu_layers="all")) == []


# A layer is a tenth of 100 MiB and of the cache of 8 MiB: 10.8 MiB.
@pytest.mark.parametrize(
    ("given", "devices", "expected"),
    [
        ("all", [], ALL_LAYERS),
        ("all", [("GPU", 1)], ALL_LAYERS),
        (0, [("GPU", GIB)], 0),
        (7, [], 7),
        (7, [("GPU", GIB)], 7),
        ("auto", [], 0),
        ("auto", [("CPU", GIB), ("ACCEL", GIB)], 0),
        ("auto", [("CPU", GIB), ("GPU", GIB)], 10),
        ("auto", [("IGPU", GIB)], 10),
        ("auto", [("GPU", 64 * MIB)], 5),
        ("auto", [("GPU", 32 * MIB), ("GPU", 32 * MIB)], 4),  # each has 2 MiB of compute buffers
        ("auto", [("GPU", MIB)], 0),
    ],
)
def test_as_many_layers_go_to_the_gpu_as_fit(
    monkeypatch: pytest.MonkeyPatch, given: int | str, devices: list[tuple[str, int]], expected: int
) -> None:
    gpus(monkeypatch, *devices)
    assert choose_gpu_layers(SHAPE, Settings(n_gpu_layers=given), 2048) == expected


def header(metadata: Mapping[str, Value], sizes: tuple[int, ...] = ()) -> GGUFHeader:
    tensors = tuple(TensorInfo(f"t{size}", (size // 4,), 0, 0, size) for size in sizes)
    return GGUFHeader(3, {"general.architecture": "llama", **metadata}, tensors, 32, 0, 0)


PLAIN: dict[str, Value] = {
    "llama.block_count": 4,
    "llama.context_length": 4096,
    "llama.embedding_length": 512,
    "llama.attention.head_count": 8,
    "tokenizer.ggml.tokens": ArraySummary(1000),
}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, (4 * 8 * 64, 4 * 8 * 64)),
        ({"llama.attention.head_count_kv": 2}, (4 * 2 * 64, 4 * 2 * 64)),
        ({"llama.attention.head_count_kv": [2, 0, 4, 2]}, (8 * 64, 8 * 64)),
        ({"llama.attention.head_count": [8, 8, 4, 4]}, (24 * 64, 24 * 64)),
        ({"llama.attention.key_length": 128, "llama.attention.value_length": 32}, (4 * 8 * 128, 4 * 8 * 32)),
    ],
)
def test_the_cache_width_counts_the_heads_of_every_layer(more: dict[str, Value], expected: tuple[int, int]) -> None:
    shape = shape_of([header({**PLAIN, **more})])
    assert (shape.kv_width_k, shape.kv_width_v) == expected
    assert (shape.n_layers, shape.n_ctx_train, shape.n_embd, shape.n_vocab) == (4, 4096, 512, 1000)


def test_the_weights_are_those_of_all_parts_of_a_model() -> None:
    assert shape_of([header(PLAIN, (128, 256)), header({}, (512,))]).weights == 896


def test_a_header_with_few_keys_still_has_a_shape() -> None:
    shape = shape_of([header({})])
    assert shape == ModelShape(0, 1, 2048, 0, 0, 0, 0)
    assert choose_context(shape, Settings(), 10) == (2048, "")


@pytest.mark.parametrize("values", [{"n_threads": 5}, {"n_threads_batch": 5}])
def test_more_threads_than_cores_are_noted(monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert check_settings(SHAPE, Settings(**values)) == ["5 threads are slow: this machine has 4 cores"]
    assert check_settings(SHAPE, Settings(n_threads=4, n_threads_batch=4)) == []


def test_a_quantized_v_cache_needs_flash_attention() -> None:
    with pytest.raises(UsageError, match="cache_type_v q4_0 needs flash attention") as caught:
        check_settings(SHAPE, Settings(cache_type_v="q4_0", flash_attn="off"))
    assert caught.value.hint == "use -fa on, or -ctv f16"
    check_settings(SHAPE, Settings(cache_type_v="q4_0"))
    check_settings(SHAPE, Settings(flash_attn="off", cache_type_v="bf16", cache_type_k="q4_0"))


LARGE = ModelShape(
    weights=10**9, n_layers=24, n_ctx_train=8192, n_embd=2048, n_vocab=50_000, kv_width_k=12_288, kv_width_v=12_288
)


@pytest.mark.parametrize(("kind", "bytes_each"), [("f16", 2), ("f32", 4), ("q8_0", 34 / 32), ("q4_0", 18 / 32)])
def test_the_estimate_adds_weights_cache_and_compute_buffers(kind: str, bytes_each: float) -> None:
    need = memory_need(LARGE, Settings(cache_type_k=kind), 4096)
    assert need.weights == 10**9
    assert need.kv_cache == 4096 * (12_288 * (bytes_each + 2) + 48)
    assert need.compute == 4 * 512 * (50_000 + 8 * 2048)
    assert need.total == need.weights + need.kv_cache + need.compute


@pytest.mark.parametrize(
    ("settings", "bytes_each"),  # of a token of the context, and a token of the ubatch
    [({}, 2), ({"flash_attn": "on"}, 2), ({"flash_attn": "off"}, 4 * (1 + 32))],
)
def test_the_masks_of_a_long_context_are_in_the_estimate(settings: dict[str, Any], bytes_each: int) -> None:
    shape = replace(LARGE, n_heads=32)
    each = 32 * 2048 + 131_072 * bytes_each
    assert memory_need(shape, Settings(**settings), 131_072).compute == 512 * each
    assert memory_need(shape, Settings(n_ubatch=64, **settings), 131_072).compute == 64 * each


def test_a_ubatch_is_never_larger_than_batch_and_context() -> None:
    def compute(n_ctx: int, **settings: Any) -> int:
        return memory_need(LARGE, Settings(**settings), n_ctx).compute

    assert compute(4096, n_ubatch=2**31 - 1) == compute(4096, n_ubatch=2048)
    assert compute(4096, n_ubatch=2**31 - 1, n_batch=64) == compute(4096, n_ubatch=64)
    assert compute(256, n_ubatch=512) == compute(256, n_ubatch=256)


def test_a_sliding_window_has_a_mask_of_its_own() -> None:
    shape = replace(LARGE, has_window=True)
    assert memory_need(shape, Settings(), 131_072).compute == 512 * (32 * 2048 + 2 * 2 * 131_072)


@pytest.mark.parametrize("flash_attn", ["on", "off"])
@pytest.mark.parametrize("n_ctx", [512, 16_384])
@pytest.mark.parametrize("make", [tiny_models.full_attention, tiny_models.sliding_window])
def test_the_estimate_is_what_llama_cpp_allocates(
    tmp_path: Path, flash_attn: str, n_ctx: int, make: Callable[[Path], Path]
) -> None:
    path = make(tmp_path / "m.gguf")
    settings = Settings(n_ctx=n_ctx, flash_attn=flash_attn, n_threads=1)
    lines: list[str] = []
    bindings.subscribe_log(lines.append)
    model = Model.load([path], 0)
    Context(model, settings).close()
    model.close()
    bindings._listeners.remove(lines.append)
    real = {"KV": 0.0, "compute": 0.0}
    for line in lines:
        if found := re.search(r"(KV|compute) buffer size = +([\d.]+) MiB", line):
            real[found[1]] += float(found[2]) * MIB
    need = memory_need(shape_of(read_headers([path])), settings, n_ctx)
    assert real["KV"] <= need.kv_cache <= 1.5 * real["KV"]
    assert 0.9 * real["compute"] <= need.compute <= 1.5 * real["compute"]


@pytest.mark.parametrize("memory", [2 * GIB], indirect=True)
@pytest.mark.parametrize("kv_width", [0, 1, 1024])
@pytest.mark.parametrize("flash_attn", ["auto", "off"])
def test_a_huge_trained_context_is_cut_to_what_fits(memory: int, kv_width: int, flash_attn: str) -> None:
    shape = replace(SHAPE, n_ctx_train=2**31 - 1, kv_width_k=kv_width, kv_width_v=kv_width, n_heads=16)
    settings = Settings(flash_attn=flash_attn)
    n_ctx, note = choose_context(shape, settings, 10)
    assert 256 <= n_ctx < 2**21
    assert memory_need(shape, settings, n_ctx).total <= memory * 0.9
    assert note == f"the context is {n_ctx} of 2147483647 tokens: more does not fit in memory"
    assert check_settings(shape, settings) == []


@pytest.mark.parametrize("memory", [1 * MIB], indirect=True)
def test_a_refusal_without_a_context_size_has_real_figures(memory: int) -> None:
    with pytest.raises(LlmcliError) as caught:
        check_settings(SHAPE, Settings())
    assert str(caught.value) == (
        "a context of 256 tokens needs 2 MiB of memory in addition to the model's 100 MiB, and 1 MiB are free"
    )
    assert "--ctx-size" not in caught.value.hint


def test_rope_scaling_makes_room_for_a_longer_context() -> None:
    for settings in (Settings(rope_scale=4.0), Settings(rope_freq_scale=0.25)):
        assert choose_context(SHAPE, replace(settings, n_ctx=8192), 0) == (8192, "")
        assert "larger than the 2048" in choose_context(SHAPE, replace(settings, n_ctx=8193), 0)[1]


def test_overrides_of_the_metadata_count_in_the_shape() -> None:
    settings = Settings(override_kv=("llama.context_length=int:512", "llama.attention.head_count_kv=int:2"))
    shape = shape_of([header(PLAIN)], settings)
    assert (shape.n_ctx_train, shape.kv_width_k) == (512, 4 * 2 * 64)


def test_every_cache_type_has_a_size() -> None:
    assert set(CACHE_BYTES) == set(CACHE_TYPES)


@given(st.integers(0, 2**36), st.integers(0, 2**36), st.sampled_from([128, 2048, 8192, 131_072]))
def test_more_memory_never_gives_less_context(a: int, b: int, n_ctx_train: int) -> None:
    shape = ModelShape(**(vars(LARGE) | {"n_ctx_train": n_ctx_train}))
    low, high = sorted((max(a, 1), max(b, 1)))
    small, large = (fitting_context(shape, Settings(), room) for room in (low, high))
    assert 0 < small <= large <= n_ctx_train


def test_the_fitting_context_is_the_largest_that_fits() -> None:
    room = 3 * 10**8 + 10**9
    n_ctx = fitting_context(LARGE, Settings(), room)
    assert n_ctx % 256 == 0
    assert memory_need(LARGE, Settings(), n_ctx).total <= room * sizing._USABLE
    assert memory_need(LARGE, Settings(), n_ctx + 256).total > room * sizing._USABLE


@pytest.mark.parametrize("room", [0, -1])
def test_unknown_memory_sets_no_limit(room: int) -> None:
    assert fitting_context(LARGE, Settings(), room) == 8192


@given(st.integers(0, 2**36), st.integers(0, 2**36))
def test_more_gpu_memory_never_takes_fewer_layers(a: int, b: int) -> None:
    small, large = (fitting_layers(LARGE, Settings(), 4096, room) for room in sorted((a, b)))
    assert 0 <= small <= large <= 25


@pytest.mark.parametrize(("room", "layers"), [(0, 0), (10**8, 0), (2**36, 25)])
def test_no_layer_or_all_layers_fit(room: int, layers: int) -> None:
    assert fitting_layers(LARGE, Settings(), 4096, room) == layers
