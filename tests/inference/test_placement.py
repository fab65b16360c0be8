"""What the settings for loading come to: refused, noted where they have no effect, and shown."""

from dataclasses import replace
from typing import Any

import pytest

from llmcli.engine.llama import hardware
from llmcli.engine.llama.hardware import Device
from llmcli.errors import UsageError
from llmcli.inference import placement
from llmcli.inference.placement import check, loading_settings, placement_facts
from llmcli.models.gguf.header import ArraySummary, GGUFHeader
from llmcli.params.settings import Settings

HEADER = GGUFHeader(
    3,
    {
        "general.architecture": "llama",
        "llama.context_length": 4096,
        "llama.rope.freq_base": 10_000.0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.tokens": ArraySummary(100),
        "general.name": "x",
    },
    (),
    32,
    0,
    0,
)
MIXTURE = replace(HEADER, metadata={**HEADER.metadata, "llama.expert_count": 8})


@pytest.fixture
def with_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Device(name, "", kind, 8, 8) for name, kind in (("CPU", "CPU"), ("CUDA0", "GPU"), ("CUDA1", "GPU"))]
    monkeypatch.setattr(hardware, "has_gpu", lambda: True)
    monkeypatch.setattr(hardware, "devices", lambda: found)


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "has_gpu", lambda: False)
    monkeypatch.setattr(hardware, "devices", lambda: [Device("CPU", "", "CPU", 8, 8)])


NO_GPU = "no effect: this build of llama.cpp has no GPU support, see `llmcli doctor`"


@pytest.mark.usefixtures("without_gpu")
@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ({}, ""),
        ({"n_gpu_layers": "auto"}, ""),
        ({"n_gpu_layers": 0}, ""),
        ({"device": "none"}, ""),
        ({"n_gpu_layers": 9}, f"n_gpu_layers has {NO_GPU}"),
        ({"n_gpu_layers": "all"}, f"n_gpu_layers has {NO_GPU}"),
        ({"split_mode": "row"}, f"split_mode has {NO_GPU}"),
        ({"tensor_split": "3,1"}, f"tensor_split has {NO_GPU}"),
        ({"main_gpu": 1}, f"main_gpu has {NO_GPU}"),
        ({"cpu_moe": True, "n_gpu_layers": 5}, f"n_gpu_layers and cpu_moe have {NO_GPU}"),
        ({"n_cpu_moe": 4}, f"n_cpu_moe has {NO_GPU}"),
    ],
)
def test_settings_of_gpus_are_noted_where_there_is_none(settings: dict[str, Any], note: str) -> None:
    assert check(HEADER, Settings(**settings)) == ([note] if note else [])


@pytest.mark.usefixtures("with_gpus")
def test_settings_of_gpus_are_not_noted_where_there_are_some() -> None:
    assert check(HEADER, Settings(n_gpu_layers=9, split_mode="tensor", tensor_split="3,1", main_gpu=1)) == []
    assert check(MIXTURE, Settings(cpu_moe=True)) == check(MIXTURE, Settings(n_cpu_moe=3)) == []
    assert "not a mixture-of-experts model" in check(HEADER, Settings(cpu_moe=True))[0]


@pytest.mark.usefixtures("without_gpu")
def test_what_cannot_work_is_refused_before_the_load() -> None:
    with pytest.raises(UsageError, match="split_mode tensor needs a GPU"):
        check(HEADER, Settings(split_mode="tensor"))
    with pytest.raises(UsageError, match="two names of one factor"):
        check(HEADER, Settings(rope_scale=2.0, rope_freq_scale=0.5))


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("llama.context_length=float:1", r"llama\.context_length has the type int, not float"),
        ("tokenizer.ggml.add_bos_token=int:0", r"add_bos_token has the type bool, not int"),
        ("tokenizer.ggml.tokens=str:x", r"tokens is a list"),
        ("llama.context_length=int:-5", r"context_length must be at least 1"),
    ],
)
def test_an_override_that_llama_cpp_would_ignore_is_refused(override: str, error: str) -> None:
    with pytest.raises(UsageError, match=error):
        check(HEADER, Settings(override_kv=(override,)))


def test_an_override_of_an_unknown_value_is_noted() -> None:
    right = ("llama.context_length=int:9", "llama.rope.freq_base=float:5", "general.name=str:y")
    assert check(HEADER, Settings(override_kv=right)) == []
    assert "the model has no value llama.contxt" in check(HEADER, Settings(override_kv=("llama.contxt=int:9",)))[0]


def test_numa_and_poll_are_noted_where_they_have_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(numa="isolate", poll=0)
    for nodes, openmp, n_notes in ((1, True, 2), (2, False, 0)):
        monkeypatch.setattr(hardware, "numa_nodes", lambda nodes=nodes: nodes)
        monkeypatch.setattr(hardware, "uses_openmp", lambda openmp=openmp: openmp)
        notes = check(HEADER, settings)
        assert len(notes) == n_notes, notes


@pytest.mark.parametrize(("limit", "n_notes"), [(None, 0), (1 << 30, 0), (64 << 10, 1)])
def test_a_limit_of_locked_memory_is_noted(monkeypatch: pytest.MonkeyPatch, limit: int | None, n_notes: int) -> None:
    monkeypatch.setattr(placement, "_lockable", lambda: limit)
    monkeypatch.setattr(GGUFHeader, "n_tensor_bytes", 100 << 20)
    assert len(check(HEADER, Settings(load_mode="mmap+mlock"))) == n_notes
    assert check(HEADER, Settings(load_mode="mmap")) == []


@pytest.mark.usefixtures("with_gpus")
@pytest.mark.parametrize(
    ("settings", "offload"),
    [
        ({}, "CUDA0, CUDA1, split by layer"),
        ({"split_mode": "row", "tensor_split": "3,1"}, "CUDA0, CUDA1, split by row in the shares 3,1"),
        ({"split_mode": "none", "main_gpu": 1}, "CUDA0, CUDA1, GPU 1 only"),
        ({"device": "none"}, "none, only the CPU computes"),
        ({"device": "cuda1"}, "cuda1"),
    ],
)
def test_the_facts_say_which_devices_compute(settings: dict[str, Any], offload: str) -> None:
    assert placement_facts(Settings(**settings))["offload"] == offload


@pytest.mark.usefixtures("with_gpus")
def test_a_device_that_is_not_there_is_refused_with_the_others() -> None:
    with pytest.raises(UsageError, match="device 'CUDA7' does not exist") as caught:
        placement_facts(Settings(device="CUDA0,CUDA7"))
    assert caught.value.hint == "use CUDA0, CUDA1, auto or none"
    with pytest.raises(UsageError, match="device 'CPU' does not exist"):
        placement_facts(Settings(device="CPU"))


def test_the_facts_say_how_the_weights_are_loaded() -> None:
    facts = placement_facts(Settings(n_threads=3, load_mode="dio", check_tensors=True, n_cpu_moe=4))
    assert facts["threads"] == "3 for generation, 3 for prompts"
    assert facts["load mode"] == "dio, weights checked"
    assert facts["experts on the CPU"] == "the first 4 layers"


def test_only_changed_settings_are_listed() -> None:
    assert loading_settings(Settings(n_ctx=5)) == {}
    changed = Settings(rope_scale=4.0, swa_full=False, override_kv=("a=int:1",), numa="isolate")
    expected = {"numa": "isolate", "rope_scale": "4", "swa_full": "false", "override_kv": '["a=int:1"]'}
    assert loading_settings(changed) == expected
