"""read_header: the facts of a valid file, and the error for each invalid one."""

import os
import random
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from llmcli.errors import ModelInvalidError, ModelNotFoundError
from llmcli.models.gguf import header as header_module
from llmcli.models.gguf.header import ArraySummary
from llmcli.models.gguf.parser import read_header
from tests.models.gguf_writer import (
    ARRAY,
    BOOL,
    F32,
    I32,
    MODEL,
    STRING,
    U8,
    U16,
    U32,
    Raw,
    Tensor,
    Typed,
    write_gguf,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


# --- sound files ---


def test_header_has_the_shape_of_the_model(file: Path) -> None:
    metadata = MODEL | {
        "general.name": "Tiny",
        "general.file_type": 15,
        "llama.context_length": 4096,
        "llama.embedding_length": 64,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": [2, 1],
        "tokenizer.ggml.tokens": [f"t{i}" for i in range(100)],
        "tokenizer.chat_template": "{{ messages }}",
    }
    tensors = [Tensor("a", (64, 3)), Tensor("b", (256, 2), 12)]
    header = read_header(write_gguf(file, metadata, tensors))
    assert (header.version, header.architecture, header.name) == (3, "llama", "Tiny")
    assert (header.n_ctx_train, header.block_count, header.embedding_length) == (4096, 2, 64)
    assert (header.head_count, header.head_count_kv) == (4, [2, 1])
    assert (header.head_length("key_length"), header.head_length("value_length"), header.n_vocab) == (16, 16, 100)
    assert (header.quantization, header.chat_template) == ("Q4_K_M", "{{ messages }}")
    assert (header.n_parameters, header.n_tensor_bytes) == (64 * 3 + 512, 64 * 3 * 4 + 288)
    assert [tensor.offset for tensor in header.tensors] == [0, 768]
    assert header.data_offset % 32 == 0
    assert header.file_size == file.stat().st_size
    assert (header.split_count, header.split_no, header.is_vocab_only) == (1, 0, False)


def test_version_2_is_read_like_version_3(file: Path) -> None:
    assert read_header(write_gguf(file, version=2)).version == 2


def test_every_value_type_is_read(file: Path) -> None:
    values = {
        0: 200,
        1: -3,
        2: 60000,
        3: -300,
        4: 7,
        5: -7,
        6: 0.5,
        7: True,
        8: "text",
        10: 1 << 40,
        11: -1,
        12: 2.5,
    }
    metadata = MODEL | {f"k{kind}": Typed(kind, value) for kind, value in values.items()}
    metadata |= {f"a{kind}": Typed(kind, [value, value]) for kind, value in values.items()}
    found = read_header(write_gguf(file, metadata)).metadata
    for kind, value in values.items():
        assert found[f"k{kind}"] == value
        assert found[f"a{kind}"] == [value, value]


def test_header_keeps_short_arrays_and_summarizes_long_ones(file: Path) -> None:
    metadata = MODEL | {
        "tokens": ["x" * 300] * 65,
        "scores": Typed(F32, [0.0] * 2000),
        "layers": Typed(U32, list(range(512))),
        "empty": Typed(STRING, []),
        "after": "still in step",
    }
    found = read_header(write_gguf(file, metadata)).metadata
    assert found["tokens"] == ArraySummary(65)
    assert found["scores"] == ArraySummary(2000)
    assert found["layers"] == list(range(512))
    assert found["empty"] == []
    assert found["after"] == "still in step"


def test_invalid_utf8_text_has_replacement_characters(file: Path) -> None:
    found = read_header(write_gguf(file, MODEL | {"general.name": Raw(STRING, u64(3) + b"a\xffb")}))
    assert found.name == "a\ufffdb"


def test_custom_alignment_moves_the_data_offset(file: Path) -> None:
    metadata = MODEL | {"general.alignment": 4096}
    header = read_header(write_gguf(file, metadata, [Tensor("a"), Tensor("b")], align=4096))
    assert (header.alignment, header.data_offset) == (4096, 4096)
    assert header.tensors[1].offset == 4096


@pytest.mark.parametrize("shape", [(0,), (32, 0), ()])
def test_empty_tensors_and_scalars_are_read(file: Path, shape: tuple[int, ...]) -> None:
    header = read_header(write_gguf(file, tensors=[Tensor("mark", shape), Tensor("b")]))
    assert header.tensors[0].shape == shape


def test_last_tensor_needs_no_padding(file: Path) -> None:
    header = read_header(write_gguf(file, tensors=[Tensor("a", (1,))], missing=28))
    assert header.data_offset + 4 == header.file_size


def test_vocabulary_without_tensors_is_read(file: Path) -> None:
    header = read_header(write_gguf(file, MODEL | {"tokenizer.ggml.model": "gpt2"}, []))
    assert header.is_vocab_only
    assert header.quantization == ""


def test_quantization_without_file_type_comes_from_tensors(file: Path) -> None:
    header = read_header(write_gguf(file, tensors=[Tensor("a"), Tensor("b", (256, 8), 14)]))
    assert header.quantization == "Q6_K"


def test_sampling_defaults_have_the_keys_of_llmcli(file: Path) -> None:
    theirs = {
        "temp": 0.5,
        "top_k": 20,
        "top_p": 0.75,
        "min_p": "0.25",
        "xtc_probability": 0.5,
        "xtc_threshold": 0.125,
        "penalty_last_n": 32,
        "penalty_repeat": 1.5,
        "mirostat": 2,
        "mirostat_tau": 4.0,
        "mirostat_eta": 0.5,
        "sequence": "top_k;temperature",
    }
    header = read_header(write_gguf(file, MODEL | {f"general.sampling.{key}": value for key, value in theirs.items()}))
    assert header.sampling_defaults == {
        "temperature": 0.5,
        "top_k": 20,
        "top_p": 0.75,
        "min_p": 0.25,
        "xtc_probability": 0.5,
        "xtc_threshold": 0.125,
        "repeat_last_n": 32,
        "repeat_penalty": 1.5,
        "mirostat": 2,
        "mirostat_tau": 4.0,
        "mirostat_eta": 0.5,
        "samplers": ["top_k", "temperature"],
    }


def test_sampling_settings_that_are_not_numbers_are_skipped(file: Path) -> None:
    metadata = MODEL | {"general.sampling.temp": float("nan"), "general.sampling.top_p": "much"}
    assert read_header(write_gguf(file, metadata)).sampling_defaults == {}


def test_the_header_of_the_starter_is_read_at_once(starter: Path) -> None:
    start = time.thread_time()
    header = read_header(starter)
    assert time.thread_time() - start < 0.5  # CPU time, so that a busy machine does not matter: about 10 ms
    assert (header.architecture, header.quantization, header.n_ctx_train) == ("llama", "Q4_1", 8192)
    assert (header.n_vocab, header.n_parameters, len(header.tensors)) == (49152, 134_515_008, 272)
    assert header.data_offset + header.n_tensor_bytes == header.file_size
    assert header.chat_template is not None


# --- broken files; after the list in llama.cpp's tests/test-gguf.cpp ---

ONE = [Tensor("a")]
HUGE = 1 << 62
BROKEN: dict[str, tuple[dict[str, Any] | list[tuple[str, Any]], list[Tensor], dict[str, Any], str]] = {
    "bad magic": (MODEL, ONE, {"magic": b"FUGG"}, "web page|plain text|not a GGUF"),
    "version 0": (MODEL, ONE, {"version": 0}, "version 0 does not exist"),
    "version 1": (MODEL, ONE, {"version": 1}, "no longer reads GGUF version 1"),
    "version 4": (MODEL, ONE, {"version": 4}, "version 4 is not supported"),
    "big-endian": (MODEL, ONE, {"version": 3 << 24}, "big-endian"),
    "absurd version": (MODEL, ONE, {"version": 123456789}, "does not exist"),
    "too many tensors": (MODEL, ONE, {"n_tensors": 1 << 17}, "has 131072 tensors"),
    "minus one tensors": (MODEL, ONE, {"n_tensors": (1 << 64) - 1}, "tensors, the limit is"),
    "too many keys": (MODEL, ONE, {"n_keys": (1 << 64) - 1}, "metadata keys, the limit is"),
    "more keys than there are": (MODEL, [], {"n_keys": 9}, "truncated|metadata key"),
    "more tensors than there are": (MODEL, ONE, {"n_tensors": 50}, "tensor|truncated"),
    "nothing but a head": ({}, [], {}, "is not a model"),
    "cut after the magic": (MODEL, ONE, {"keep": 6}, "truncated at byte 4"),
    "cut in a value": (MODEL, ONE, {"keep": 60}, "truncated at byte"),
    "endless key": ([("k" * 65536, 1)], ONE, {}, "has 65536 bytes"),
    "empty key": ([*MODEL.items(), ("", 1)], ONE, {}, "empty metadata key"),
    "key that is not UTF-8": ([(b"\xff\xfe", 1)], ONE, {}, "not UTF-8"),  # type: ignore[list-item]
    "duplicate key": ([*MODEL.items(), ("x", 1), ("x", 2)], ONE, {}, "duplicate metadata key 'x'"),
    "unknown type": (MODEL | {"x": Raw(13, bytes(8))}, ONE, {}, "unknown value type 13"),
    "unknown element type": (
        MODEL | {"x": Raw(ARRAY, struct.pack("<IQ", 99, 1) + b"x")},
        ONE,
        {},
        "element type 99",
    ),
    "nested array": (
        MODEL | {"x": Raw(ARRAY, struct.pack("<IQ", ARRAY, 1) + bytes(20))},
        ONE,
        {},
        "nested array",
    ),
    "endless string": (MODEL | {"x": Raw(STRING, u64(1 << 40))}, ONE, {}, "has 1099511627776 bytes"),
    "string past the end": (MODEL | {"x": Raw(STRING, u64(1 << 20))}, ONE, {}, "of 1048576 bytes"),
    "array past the end": (MODEL | {"x": Raw(ARRAY, struct.pack("<IQ", U32, HUGE))}, ONE, {}, "truncated at byte"),
    "strings past the end": (
        MODEL | {"x": Raw(ARRAY, struct.pack("<IQ", STRING, HUGE))},
        ONE,
        {},
        "truncated at byte",
    ),
    "long vocabulary with a wild length": (
        MODEL | {"x": Raw(ARRAY, struct.pack("<IQ", STRING, 65) + u64((1 << 64) - 1) + bytes(600))},
        ONE,
        {},
        "65 strings at byte",
    ),
    "alignment 13": (MODEL | {"general.alignment": 13}, ONE, {}, "alignment is 13"),
    "alignment 0": (MODEL | {"general.alignment": 0}, ONE, {}, "alignment is 0"),
    "alignment 2 MiB": (MODEL | {"general.alignment": 1 << 21}, ONE, {}, "alignment is 2097152"),
    "alignment of the wrong type": (
        MODEL | {"general.alignment": Typed(I32, 32)},
        ONE,
        {},
        "not of type uint32",
    ),
    "long tensor name": (MODEL, [Tensor("n" * 64)], {}, "has 64 bytes"),
    "tensor name that is not UTF-8": (MODEL, [Tensor(b"\xff")], {}, "not UTF-8"),  # type: ignore[arg-type]
    "duplicate tensor": (MODEL, [Tensor("a"), Tensor("a")], {}, "duplicate tensor 'a'"),
    "five dimensions": (MODEL, [Tensor("a", (1,) * 5)], {}, "5 dimensions"),
    "wild number of dimensions": (MODEL, [Tensor("a", n_dims=1 << 31)], {}, "2147483648 dimensions"),
    "negative dimension": (MODEL, [Tensor("a", (-1,))], {}, "invalid shape"),
    "elements overflow": (MODEL, [Tensor("a", (1 << 32, 1 << 32))], {}, "invalid shape"),
    "elements overflow beside a zero": (MODEL, [Tensor("a", (1 << 32, 1 << 32, 0))], {}, "invalid shape"),
    "bytes overflow": (MODEL, [Tensor("a", (1 << 31, 1 << 31), 27)], {}, "invalid shape"),
    "padding overflow": (MODEL, [Tensor("a", (4, (1 << 30) - 1, (1 << 30) + 1))], {}, "invalid shape"),
    "sizes that add up to too much": (
        MODEL,
        [Tensor("a", (HUGE,), 24), Tensor("b", (HUGE,), 24)],
        {},
        "file is truncated",
    ),
    "unknown tensor type": (MODEL, [Tensor("a", (32,), 43)], {}, "type 43"),
    "removed tensor type": (MODEL, [Tensor("a", (32,), 4)], {}, "type 4$"),
    "row that is no whole block": (MODEL, [Tensor("a", (33,), 2)], {}, "rows of 33"),
    "offset out of line": (MODEL, [Tensor("a", offset=7)], {}, "at offset 7, expected 0"),
    "overlapping tensors": (
        MODEL,
        [Tensor("a"), Tensor("b", offset=0)],
        {},
        "'b' is at offset 0, expected 128",
    ),
    "padding too small": (MODEL, [Tensor("a", (1,)), Tensor("b")], {"align": 4}, "at offset 4, expected 32"),
    "no data": (MODEL, ONE, {"missing": 1}, "the file is truncated: "),
    "neither tensors nor vocabulary": (MODEL, [], {}, "neither tensors nor a vocabulary"),
    "no architecture": ({"llama.block_count": 1}, ONE, {}, "is not a model"),
    "architecture of the wrong type": ({"general.architecture": 3}, ONE, {}, "is not a model"),
    "no layers": (MODEL | {"llama.block_count": 0}, ONE, {}, "block_count must be 1 to 512, got 0"),
    "600 layers": (MODEL | {"llama.block_count": 600}, ONE, {}, "block_count must be 1 to 512, got 600"),
    "600 layers behind a false split.no": (
        MODEL | {"llama.block_count": 600, "split.no": Typed(U16, 1)},
        ONE,
        {},
        "block_count must be 1 to 512, got 600",
    ),
    "more extra layers than layers": (
        MODEL | {"llama.nextn_predict_layers": 3},
        ONE,
        {},
        "nextn_predict_layers must be at most block_count",
    ),
    "more experts used than there are": (
        MODEL | {"llama.expert_count": 4, "llama.expert_used_count": 8},
        ONE,
        {},
        "expert counts",
    ),
    "too many experts": (
        MODEL | {"llama.expert_count": 2000, "llama.expert_used_count": 8},
        ONE,
        {},
        "expert counts",
    ),
    "endless chat template": (
        MODEL | {"tokenizer.chat_template": "x" * ((1 << 20) + 1)},
        ONE,
        {},
        "chat_template",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_invalid_file_is_refused_in_one_line(file: Path, fault: str) -> None:
    metadata, tensors, faults, message = BROKEN[fault]
    write_gguf(file, metadata, tensors, **faults)
    with pytest.raises(ModelInvalidError, match=message) as caught:
        read_header(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_truncated_header_error_has_the_position(file: Path) -> None:
    whole = write_gguf(file, MODEL | {"tokenizer.ggml.tokens": ["ab"] * 70}).read_bytes()
    end = len(whole) - 128
    for kept in range(24, end, 7):
        file.write_bytes(whole[:kept])
        with pytest.raises(ModelInvalidError, match=r"is truncated|at byte \d+ exceed it"):
            read_header(file)


@pytest.mark.slow
def test_header_that_needs_too_much_memory_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header_module, "MAX_KEPT", 1 << 20)
    for hog in ("x" * (1 << 20), Typed(U8, [0] * 1000), ["a"] * 60):
        write_gguf(file, MODEL | {f"k{i}": hog for i in range(300)})
        with pytest.raises(ModelInvalidError, match="take more than 1 MiB"):
            read_header(file)


def test_huge_vocabularies_are_refused_early(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header_module, "MAX_STRINGS", 1000)
    write_gguf(file, MODEL | {"a": [""] * 600, "b": [""] * 600})
    with pytest.raises(ModelInvalidError, match="more than 1000 strings"):
        read_header(file)


def test_name_with_escape_codes_is_escaped_in_errors(file: Path) -> None:
    write_gguf(file, tensors=[Tensor("\x1b]52;c;x\x07\n"), Tensor("\x1b]52;c;x\x07\n")])
    with pytest.raises(ModelInvalidError) as caught:
        read_header(file)
    assert str(caught.value).isprintable()


# --- files that are something else ---

OTHERS = {
    "empty": (b"", "empty"),
    "html": (b"\n<!DOCTYPE html>\n<html>404</html>", "web page"),
    "xml error of a store": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "web page"),
    "lfs pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        "Git LFS pointer",
    ),
    "zip": (b"PK\x03\x04" + bytes(30), "zip archive or a PyTorch checkpoint"),
    "gzip": (b"\x1f\x8b\x08" + bytes(30), "gzip"),
    "safetensors": (struct.pack("<Q", 20) + b'{"__metadata__":{}}  ' + bytes(9), "safetensors"),
    "pickle": (b"\x80\x02}q\x00.", "pickle"),
    "json": (b'{"error": "Repository not found"}', "JSON"),
    "text": ("Entry not found: café".encode(), "plain text"),
    "zeros": (bytes(5000), "zeros"),
    "old ggml": (b"tjgg" + bytes(60), "GGJT"),
    "noise": (bytes(range(128, 228)), "not a GGUF file"),
    "one byte": (b"G", "plain text"),
    "only the magic": (b"GGUF", "truncated at byte 4"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_file_formats_are_recognized(file: Path, kind: str) -> None:
    content, message = OTHERS[kind]
    file.write_bytes(content)
    with pytest.raises(ModelInvalidError, match=message) as caught:
        read_header(file)
    assert caught.value.hint


def test_a_missing_file_and_a_folder_are_not_found(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path, tmp_path / "none" / "x.gguf"):
        with pytest.raises(ModelNotFoundError):
            read_header(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(ModelNotFoundError, match="regular file"):
        read_header(tmp_path / "pipe.gguf")


# --- mutations ---


def busy_file(file: Path) -> bytes:
    """A sound file with every kind of content, whose header is longer than 4 KiB."""
    metadata = MODEL | {
        "llama.attention.head_count_kv": [1, 2],
        "tokenizer.ggml.tokens": [f"token {i}" for i in range(300)],
        "tokenizer.ggml.scores": Typed(F32, [0.5] * 300),
        "tokenizer.ggml.flags": Typed(BOOL, [True] * 9),
        "tokenizer.ggml.bytes": Typed(U8, list(range(9))),
        "general.sampling.temp": 0.5,
        "general.sampling.sequence": "top_k;temperature",
        "tokenizer.chat_template": "{{ messages }}",
    }
    return write_gguf(file, metadata, [Tensor(f"blk.{i}.w", (32, 2), i % 4) for i in range(12)]).read_bytes()


def assert_parses_or_fails_cleanly(file: Path, content: bytes) -> None:
    """Read `content` as a model; anything but a header or ModelInvalidError is a failure of the test."""
    file.write_bytes(content)
    try:
        header = read_header(file)
    except ModelInvalidError:
        return
    for name in dir(type(header)):
        if not name.startswith("_"):
            getattr(header, name)


@pytest.mark.slow
def test_mutated_headers_raise_nothing_but_model_invalid(file: Path) -> None:
    whole, dice = busy_file(file), random.Random(20250101)
    assert len(whole) > 4096
    start = time.thread_time()
    for _ in range(1500):
        content = bytearray(whole)
        for _ in range(dice.choice((1, 1, 2, 8))):
            content[dice.randrange(4, 4096)] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
        assert_parses_or_fails_cleanly(file, bytes(content))
    assert time.thread_time() - start < 30  # CPU time: about 1 s


@pytest.mark.slow
def test_mutated_small_files_raise_nothing_but_model_invalid(file: Path) -> None:
    whole, dice = write_gguf(file).read_bytes(), random.Random(7)
    for _ in range(500):
        content = bytearray(whole)
        position = dice.randrange(4, len(content) - 8)
        content[position : position + 8] = u64(dice.choice((0, 1, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1)))
        assert_parses_or_fails_cleanly(file, bytes(content))


@pytest.mark.slow
def test_truncated_files_raise_nothing_but_model_invalid(file: Path) -> None:
    whole = busy_file(file)
    for kept in range(0, len(whole) - 24, 17):  # the last 24 bytes are padding, which may be missing
        file.write_bytes(whole[:kept])
        with pytest.raises(ModelInvalidError):
            read_header(file)


def test_known_ends_of_arrays_change_no_header(tmp_path: Path) -> None:
    words = [f"token {n}" for n in range(1000)]
    path = write_gguf(tmp_path / "many.gguf", MODEL | {"tokenizer.ggml.tokens": words, "general.name": "last"})
    ends: dict[int, int] = {}
    header = read_header(path, ends)
    ((begin, end),) = ends.items()
    assert end - begin == sum(8 + len(f"token {n}") for n in range(1000))
    assert read_header(path, dict(ends)) == header
    for useless in (end - 9000, path.stat().st_size + 1):  # before all lengths, behind the file
        assert read_header(path, {begin: useless}) == header
    with pytest.raises(ModelInvalidError):
        read_header(path, {begin: end - 1})
