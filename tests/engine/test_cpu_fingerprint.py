"""The fingerprint of the processor: devices, and the features that llama.cpp uses."""

from collections.abc import Iterator

import pytest

from llmcli.engine.llama import bindings, hardware
from llmcli.engine.llama.hardware import Device, machine
from llmcli.errors import LlmcliError


@pytest.fixture(autouse=True)
def clear_cache() -> Iterator[None]:
    machine.cache_clear()
    yield
    machine.cache_clear()


def set_features(monkeypatch: pytest.MonkeyPatch, features: bytes) -> None:
    monkeypatch.setattr(bindings.load(), "llama_print_system_info", lambda: features)


def test_the_fingerprint_has_devices_and_features(monkeypatch: pytest.MonkeyPatch) -> None:
    set_features(monkeypatch, b"CUDA : ARCHS = 890 | F16 = 1 | CPU : AVX2 = 1 | AVX512 = 0 | REPACK = 1 | ")
    devices = [Device("CPU", "A mill", "CPU", 1, 1), Device("CUDA0", "", "GPU", 1, 1)]
    monkeypatch.setattr(hardware, "devices", lambda: devices)
    assert machine() == "A mill, CUDA0: F16 AVX2 REPACK"


def test_the_fingerprint_works_without_a_list_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> list[Device]:
        raise LlmcliError("no ggml")

    set_features(monkeypatch, b"CPU : NEON = 1 | ")
    monkeypatch.setattr(hardware, "devices", fails)
    assert machine() == "unknown: NEON"


def test_the_fingerprint_of_this_machine_is_not_empty() -> None:
    name, colon, _ = machine().partition(": ")
    assert name
    assert colon
