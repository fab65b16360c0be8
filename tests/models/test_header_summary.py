"""read_summary: the facts for a list from the first bytes of a file; empty for anything else."""

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.models.gguf import parser as module
from llmcli.models.gguf.header import GGUFHeader
from llmcli.models.gguf.parser import read_summary
from tests.models.gguf_writer import ARRAY, MODEL, STRING, U64, Raw, Typed, write_gguf

NOTHING = (None, "")
FACTS: dict[str, Any] = {**MODEL, "llama.context_length": 8192, "general.file_type": 15}


def summary(path: Path) -> tuple[int | None, str]:
    header = read_summary(path)
    return header.n_ctx_train, header.quantization


def test_summary_has_context_and_quantization(tmp_path: Path) -> None:
    assert summary(write_gguf(tmp_path / "m.gguf", FACTS)) == (8192, "Q4_K_M")


def test_summary_of_file_without_facts_is_empty(tmp_path: Path) -> None:
    assert summary(write_gguf(tmp_path / "m.gguf", MODEL, [])) == NOTHING


def test_without_a_file_type_the_tensors_give_the_quantization(tmp_path: Path) -> None:
    assert summary(write_gguf(tmp_path / "m.gguf")) == (None, "F32")


def test_facts_before_and_after_a_long_vocabulary_are_found(tmp_path: Path) -> None:
    vocabulary = Typed(STRING, [f"token {number}" for number in range(20_000)])
    early = {**FACTS, "tokenizer.ggml.tokens": vocabulary}
    late = {**MODEL, "tokenizer.ggml.tokens": vocabulary, "llama.context_length": 8192, "general.file_type": 15}
    assert summary(write_gguf(tmp_path / "early.gguf", early)) == (8192, "Q4_K_M")
    assert summary(write_gguf(tmp_path / "late.gguf", late)) == (8192, "Q4_K_M")


def test_header_of_a_linked_file_is_read(tmp_path: Path) -> None:
    write_gguf(tmp_path / "blob", FACTS)
    (tmp_path / "m.gguf").symlink_to("blob")
    assert summary(tmp_path / "m.gguf") == (8192, "Q4_K_M")


def test_summary_reads_only_the_first_bytes(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", FACTS)
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # a sparse file: reading it all would take hours
    assert summary(path) == (8192, "Q4_K_M")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.context_length", "long"),
        ("llama.context_length", 8192.5),
        ("llama.context_length", [1, 2]),
        ("general.file_type", "Q4_K_M"),
        ("general.file_type", Typed(U64, 1 << 63)),
        ("general.file_type", 999),
    ],
)
def test_summary_ignores_values_of_another_type(tmp_path: Path, key: str, value: Any) -> None:
    assert summary(write_gguf(tmp_path / "m.gguf", {**MODEL, key: value})) == (None, "F32")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GG",
        b"GGUF",
        b"GGUF\3\0\0\0",
        b"<!DOCTYPE html>",
        b"GGUF" + b"\xff" * 100,
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 62),
    ],
)
def test_summary_of_invalid_file_is_empty(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.gguf").write_bytes(data)
    assert summary(tmp_path / "m.gguf") == NOTHING


def test_summary_of_unreadable_file_is_empty(tmp_path: Path) -> None:
    assert summary(tmp_path / "none.gguf") == NOTHING
    assert summary(tmp_path) == NOTHING


def test_keys_beyond_the_first_ones_come_from_the_whole_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SUMMARY_KEYS", 2)
    late = {**MODEL, "llama.context_length": 8192}
    assert summary(write_gguf(tmp_path / "m.gguf", late)) == (8192, "F32")


def test_summary_keeps_facts_before_an_invalid_value(tmp_path: Path) -> None:
    nested = Raw(ARRAY, struct.pack("<IQ", ARRAY, 1 << 40))
    assert summary(write_gguf(tmp_path / "m.gguf", {**FACTS, "deep": nested})) == (8192, "Q4_K_M")


@given(at=st.integers(min_value=4, max_value=200), byte=st.integers(min_value=0, max_value=255))
def test_summary_never_raises_for_one_wrong_byte(tmp_path_factory: pytest.TempPathFactory, at: int, byte: int) -> None:
    path = write_gguf(tmp_path_factory.getbasetemp() / "one wrong byte.gguf", FACTS)
    data = bytearray(path.read_bytes())
    data[at % len(data)] = byte
    path.write_bytes(data)
    assert isinstance(read_summary(path), GGUFHeader)
