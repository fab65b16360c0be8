"""The settings for loading, down to the structures of C that llama.cpp gets."""

import ctypes
import re
from pathlib import Path
from typing import Any

import pytest

from llmcli.engine.llama import bindings, hardware, structures
from llmcli.engine.llama.context import Context
from llmcli.engine.llama.model import Model
from llmcli.errors import UsageError
from llmcli.params.model import ModelParams, PlacementParams, RopeParams
from llmcli.params.param import fields_of

POINTERS = {"devices", "tensor_buft_overrides", "tensor_split", "kv_overrides"}
UNTOUCHED = {"progress_callback", "progress_callback_user_data", "cb_eval", "abort_callback", "samplers"}


def values(structure: ctypes.Structure) -> dict[str, Any]:
    """The fields of a structure that are numbers."""
    names = [field[0] for field in structure._fields_ if field[0] not in POINTERS | UNTOUCHED]
    return {name: getattr(structure, name) for name in names}


def model_values(**settings: Any) -> dict[str, Any]:
    return values(structures.model_params(ModelParams(**settings), 7)[0])


def context_values(**settings: Any) -> dict[str, Any]:
    return values(structures.context_params(ModelParams(n_ctx=64, n_threads=1, **settings), 64, 1, False))


def test_default_settings_leave_llama_cpp_its_defaults() -> None:
    c, kept = structures.model_params(ModelParams(), 7)
    assert values(c) == values(bindings.load().llama_model_default_params()) | {"n_gpu_layers": 7}
    assert not any(getattr(c, name) for name in POINTERS)
    assert kept == []
    own = values(bindings.load().llama_context_default_params())
    chosen = {"n_ctx": 64, "n_batch": 64, "n_ubatch": 64, "n_threads": 1, "n_threads_batch": 1}
    assert context_values() == own | chosen


@pytest.mark.parametrize(
    ("key", "value", "field", "expected"),
    [
        ("load_mode", "auto", "load_mode", "LLAMA_LOAD_MODE_AUTO"),
        ("load_mode", "none", "load_mode", "LLAMA_LOAD_MODE_NONE"),
        ("load_mode", "mmap", "load_mode", "LLAMA_LOAD_MODE_MMAP"),
        ("load_mode", "mlock", "load_mode", "LLAMA_LOAD_MODE_MLOCK"),
        ("load_mode", "mmap+mlock", "load_mode", "LLAMA_LOAD_MODE_MMAP_MLOCK"),
        ("load_mode", "dio", "load_mode", "LLAMA_LOAD_MODE_DIRECT_IO"),
        ("split_mode", "none", "split_mode", "LLAMA_SPLIT_MODE_NONE"),
        ("split_mode", "layer", "split_mode", "LLAMA_SPLIT_MODE_LAYER"),
        ("split_mode", "row", "split_mode", "LLAMA_SPLIT_MODE_ROW"),
        ("split_mode", "tensor", "split_mode", "LLAMA_SPLIT_MODE_TENSOR"),
        ("main_gpu", 3, "main_gpu", 3),
        ("check_tensors", True, "check_tensors", True),
    ],
)
def test_a_setting_is_in_the_model_structure(key: str, value: Any, field: str, expected: str | int) -> None:
    number = getattr(bindings.load(), expected) if isinstance(expected, str) else expected
    assert model_values(**{key: value}) == model_values() | {field: number}


@pytest.mark.parametrize(
    ("key", "value", "field", "expected"),
    [
        ("swa_full", False, "swa_full", False),
        ("rope_scaling", "none", "rope_scaling_type", "LLAMA_ROPE_SCALING_TYPE_NONE"),
        ("rope_scaling", "linear", "rope_scaling_type", "LLAMA_ROPE_SCALING_TYPE_LINEAR"),
        ("rope_scaling", "yarn", "rope_scaling_type", "LLAMA_ROPE_SCALING_TYPE_YARN"),
        ("rope_scale", 4.0, "rope_freq_scale", 0.25),
        ("rope_freq_scale", 0.125, "rope_freq_scale", 0.125),
        ("rope_freq_base", 50_000.0, "rope_freq_base", 50_000.0),
        ("yarn_orig_ctx", 4096, "yarn_orig_ctx", 4096),
        ("yarn_ext_factor", 0.5, "yarn_ext_factor", 0.5),
        ("yarn_attn_factor", 1.5, "yarn_attn_factor", 1.5),
        ("yarn_beta_slow", 2.0, "yarn_beta_slow", 2.0),
        ("yarn_beta_fast", 16.0, "yarn_beta_fast", 16.0),
    ],
)
def test_a_setting_is_in_the_context_structure(key: str, value: Any, field: str, expected: str | float) -> None:
    number = getattr(bindings.load(), expected) if isinstance(expected, str) else expected
    assert context_values(**{key: value}) == context_values() | {field: number}


def test_overrides_are_typed_entries_and_an_empty_one() -> None:
    texts = ("a.b=int:-9", "c=float:0.5", "d=bool:true", "e=str:x=y, z", "f=bool:false")
    c, _kept = structures.model_params(ModelParams(override_kv=texts), 0)
    api = bindings.load()
    members = {
        api.LLAMA_KV_OVERRIDE_TYPE_INT: "val_i64",
        api.LLAMA_KV_OVERRIDE_TYPE_FLOAT: "val_f64",
        api.LLAMA_KV_OVERRIDE_TYPE_BOOL: "val_bool",
        api.LLAMA_KV_OVERRIDE_TYPE_STR: "val_str",
    }
    entries = [c.kv_overrides[index] for index in range(len(texts) + 1)]
    read = [(entry.key, getattr(entry.value, members[entry.tag])) for entry in entries]
    assert read[:-1] == [(b"a.b", -9), (b"c", 0.5), (b"d", True), (b"e", b"x=y, z"), (b"f", False)]
    assert read[-1][0] == b""  # ends the array


def test_shares_fill_an_array_of_all_possible_devices() -> None:
    c, _kept = structures.model_params(ModelParams(tensor_split="3,1.5"), 0)
    most = bindings.load().llama_max_devices()
    assert c.tensor_split[:most] == [3.0, 1.5, *[0.0] * (most - 2)]
    with pytest.raises(UsageError, match=f"tensor_split has {most + 1} shares"):
        structures.model_params(ModelParams(tensor_split=",".join("1" * (most + 1))), 0)


def handles(c: ctypes.Structure) -> list[int | None]:
    array = ctypes.cast(c.devices, ctypes.POINTER(ctypes.c_void_p))
    return [array[index] for index in range(3)]


def test_devices_are_a_list_that_ends_with_null(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "offload_handles", lambda names: [101, 102] if names == "CUDA0,CUDA1" else [])
    c, _kept = structures.model_params(ModelParams(device="CUDA0,CUDA1"), 0)
    assert handles(c) == [101, 102, None]
    c, _kept = structures.model_params(ModelParams(device="none"), 0)
    assert c.devices
    assert ctypes.cast(c.devices, ctypes.POINTER(ctypes.c_void_p))[0] is None


def test_a_device_of_another_machine_is_refused() -> None:
    with pytest.raises(UsageError, match="device 'CUDA99' does not exist"):
        structures.model_params(ModelParams(device="CUDA99"), 0)


def patterns(c: ctypes.Structure) -> list[str]:
    """The patterns of an array of overrides, all of which must be for the memory of the CPU."""
    cpu = bindings.ggml().ggml_backend_cpu_buffer_type()
    entry = ctypes.cast(c.tensor_buft_overrides, ctypes.POINTER(structures._BufferOverride))
    found: list[str] = []
    while entry[len(found)].pattern:
        assert entry[len(found)].buffer_type == cpu
        found.append(entry[len(found)].pattern.decode())
    return found


EXPERTS = [f"blk.{n}.ffn_{name}_exps.weight" for n in (0, 1, 10) for name in ("up", "down", "gate", "gate_up")]
OTHERS = ["blk.0.ffn_up.weight", "blk.0.attn_q.weight", "blk.0.ffn_gate_inp.weight", "token_embd.weight"]


@pytest.mark.parametrize(
    ("settings", "kept"),
    [({"cpu_moe": True}, EXPERTS), ({"n_cpu_moe": 1}, EXPERTS[:4]), ({"n_cpu_moe": 2}, EXPERTS[:8])],
)
def test_the_weights_of_experts_stay_on_the_cpu(settings: dict[str, Any], kept: list[str]) -> None:
    c, _kept = structures.model_params(ModelParams(**settings), 0)
    found = [name for name in EXPERTS + OTHERS if any(re.search(one, name) for one in patterns(c))]
    assert found == kept


def test_the_way_threads_wait_is_in_their_structure() -> None:
    assert structures.thread_pool_params(ModelParams()) is None
    for poll in (0, 100):
        c = structures.thread_pool_params(ModelParams(poll=poll, n_threads=2, n_threads_batch=3))
        assert c
        assert (c.poll, c.n_threads, c.prio, c.strict_cpu, c.paused) == (poll, 3, 0, False, False)
        assert not any(c.cpumask)


def test_numa_is_started_once_and_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(bindings.load(), "llama_numa_init", calls.append)
    monkeypatch.setattr(hardware, "_numa_started", False)
    hardware.start_numa("off")
    assert calls == []
    for strategy in ("numactl", "isolate"):
        hardware.start_numa(strategy)
    assert calls == [3]


@pytest.mark.parametrize(
    "settings",
    [
        {"load_mode": "none"},
        {"load_mode": "mmap"},
        {"load_mode": "dio"},
        {"check_tensors": True},
        {"device": "none"},
        {"split_mode": "none"},
        {"cpu_moe": True},
        {"poll": 0},
        {"poll": 100},
        {"swa_full": False},
    ],
    ids=str,
)
def test_how_a_model_is_loaded_changes_no_logit(tiny: Path, settings: dict[str, Any]) -> None:
    assert logits(tiny, **settings) == logits(tiny)


@pytest.mark.parametrize(
    "settings",
    [
        {"rope_scaling": "linear", "rope_scale": 4.0},
        {"rope_freq_base": 100.0},
        {"rope_freq_scale": 0.5},
        {"rope_scaling": "yarn", "rope_freq_scale": 0.5, "yarn_orig_ctx": 16},
        {"override_kv": ("llama.rope.freq_base=float:100",)},
    ],
    ids=str,
)
def test_positions_and_overrides_change_the_logits(tiny: Path, settings: dict[str, Any]) -> None:
    assert logits(tiny, **settings) != logits(tiny)


def logits(path: Path, **settings: Any) -> list[float]:
    params = ModelParams(n_ctx=64, n_threads=2, **settings)
    model = Model.load([path], 0, settings=params)
    context = Context(model, params)
    context.prefill(0, list(range(5, 25)))
    found = list(context.logits(model.vocab.n_tokens))
    context.close()
    model.close()
    return found


def test_no_setting_for_loading_is_left_out_here() -> None:
    text = Path(__file__).read_text()
    for key in {**fields_of(PlacementParams), **fields_of(RopeParams)}:
        assert f'"{key}"' in text or f"{key}=" in text or key in ("numa", "rpc", "rpc_timeout"), key
