"""Loading: the reason of a failure, the vocabulary, and files that crash llama.cpp."""

import os
import stat
import struct
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llmcli.engine.events import Cancellation
from llmcli.engine.llama import bindings
from llmcli.engine.llama.model import Model, Vocab
from llmcli.engine.llama.probe import probe
from llmcli.errors import LlmcliError, ModelInvalidError
from llmcli.params.settings import Settings
from tests.models.gguf_writer import MODEL, write_gguf
from tests.models.tiny_models import quantized
from tests.waiting import wait_until

BROKEN = ["empty", "text", "header", "cut"]


@pytest.fixture
def broken(tmp_path: Path, starter: Path, request: pytest.FixtureRequest) -> Path:
    """A file that is not a model, or a damaged one."""
    path = tmp_path / "broken model.gguf"
    if request.param == "header":
        return write_gguf(path)
    with starter.open("rb") as file:
        path.write_bytes({"empty": b"", "text": b"<html>", "cut": file.read(3_000_000)}[request.param])
    return path


@pytest.mark.parametrize("broken", BROKEN, indirect=True)
def test_a_broken_file_is_an_error_with_the_reason(broken: Path) -> None:
    with pytest.raises(ModelInvalidError, match=r"^cannot load broken model\.gguf: \S") as caught:
        Model.load([broken], n_gpu_layers=0)
    assert "gives no reason" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_long_text_stops_to_be_tokenized_at_once(starter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model.load([starter], vocab_only=True)
    text = "The quick brown fox jumps over the lazy dog. " * 50_000
    is_waiting, tokenize = threading.Event(), model.vocab._tokenize

    def tokenize_later(data: bytes, add_special: bool, parse_special: bool) -> list[int]:
        is_waiting.wait(60)
        return tokenize(data, add_special, parse_special)

    monkeypatch.setattr(model.vocab, "_tokenize", tokenize_later)
    model.vocab.abort = Cancellation()
    model.vocab.abort.set()
    with pytest.raises(KeyboardInterrupt):
        model.vocab.tokenize(text)
    assert model.vocab.is_busy  # nobody waited for it
    model.close()  # while it is in use
    is_waiting.set()
    wait_until(lambda: not model.vocab.is_busy)


def test_a_long_text_has_the_tokens_of_its_parts(starter: Path) -> None:
    with closing(Model.load([starter], vocab_only=True)) as model:
        line = "The quick brown fox jumps over the lazy dog.\n"
        assert model.vocab.tokenize(line * 4000) == model.vocab.tokenize(line) * 4000


@pytest.mark.parametrize("broken", ["header", "cut"], indirect=True)
def test_a_broken_file_fails_in_the_child_for_the_same_reason(broken: Path) -> None:
    with pytest.raises(ModelInvalidError, match=r"^cannot load broken model\.gguf: ") as inside:
        Model.load([broken], n_gpu_layers=0)
    with pytest.raises(ModelInvalidError) as outside:
        probe([broken])
    assert str(outside.value) == str(inside.value)


def test_load_progress_goes_from_zero_to_one(starter: Path) -> None:
    shares: list[float] = []
    Model.load([starter], 0, shares.append).close()
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_set_abort_flag_cancels_the_load(starter: Path) -> None:
    flag = Cancellation()
    flag.set()
    with pytest.raises(KeyboardInterrupt):
        Model.load([starter], 0, abort=flag)


def test_the_probe_ignores_modules_in_the_current_folder(
    starter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("typing", "ctypes", "llmcli"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module was run')")
    monkeypatch.chdir(tmp_path)
    probe([starter])


def with_block_count(starter: Path, path: Path, count: int) -> Path:
    """The starter with another `llama.block_count` in its header."""
    data = bytearray(starter.read_bytes())
    key = b"llama.block_count"
    at = data.index(key, 0, 1 << 20) + len(key)
    assert struct.unpack_from("<II", data, at) == (4, 30)
    struct.pack_into("<I", data, at + 4, count)
    path.write_bytes(data)
    return path


def test_a_crash_of_llama_cpp_ends_only_the_child(starter: Path, tmp_path: Path) -> None:
    path = with_block_count(starter, tmp_path / "evil.gguf", 600)
    with pytest.raises(ModelInvalidError, match=r"^evil\.gguf crashes llama\.cpp: .*GGML_ASSERT") as caught:
        probe([path])
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.slow
def test_a_header_without_tensors_fails_in_the_child(tmp_path: Path) -> None:
    with pytest.raises(ModelInvalidError, match=r"^cannot load many\.gguf: "):
        probe([write_gguf(tmp_path / "many.gguf", MODEL | {"llama.block_count": 600})])


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell script")
@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("kill -SEGV $$", r"crashes llama\.cpp: llama\.cpp ended with status -11"),
        (
            "echo '/x/ggml.c:1: GGML_ASSERT(a) failed' >&2; exit 134",
            r"crashes llama\.cpp: ggml\.c:1: GGML_ASSERT\(a\) failed",
        ),
        ("exit 0", r"crashes llama\.cpp: llama\.cpp ended with status 0"),
        ("echo cannot load x.gguf: why; exit 8", r"^cannot load x\.gguf: why$"),
    ],
)
def test_every_end_of_the_child_is_an_error_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    become(script, tmp_path, monkeypatch)
    with pytest.raises(ModelInvalidError, match=message) as caught:
        probe([tmp_path / "x.gguf"])
    assert caught.value.hint


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell script")
def test_a_child_that_does_not_end_is_an_error_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    become("exec sleep 600", tmp_path, monkeypatch)
    monkeypatch.setattr("llmcli.engine.llama.probe._TIMEOUT_S", 0.5)
    with pytest.raises(ModelInvalidError, match=r"x\.gguf does not load within 0\.5 seconds") as caught:
        probe([tmp_path / "x.gguf"])
    assert caught.value.hint


def become(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a script take the place of Python."""
    fake = folder / "python"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(fake))


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell script")
def test_an_illegal_instruction_is_the_fault_of_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    become("kill -ILL $$", tmp_path, monkeypatch)
    with pytest.raises(LlmcliError, match=r"CPU instructions that this machine does not run$") as caught:
        probe([tmp_path / "x.gguf"])
    assert not isinstance(caught.value, ModelInvalidError)
    assert caught.value.hint.startswith("compile it without them: CMAKE_ARGS=-DGGML_NATIVE=OFF pip install ")


@pytest.mark.slow
def test_the_check_of_the_cpu_multiplies_quantized_matrices(tmp_path: Path) -> None:
    probe([quantized(tmp_path / "tiny.gguf")])


def test_a_file_name_that_is_not_utf8_loads(starter: Path, tmp_path: Path) -> None:
    path = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.gguf"))
    try:
        path.symlink_to(starter)
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    Model.load([path], 0).close()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        " leading",
        "two  spaces",
        "caf\u00e9 \u4f60\u597d \U0001f600",
        "tab\tnew\nline",
        "<|im_end|>",
        "x" * 5000,
    ],
)
def test_detokenization_restores_the_text(vocab: Vocab, text: str) -> None:
    tokens = vocab.tokenize(text)
    assert vocab.detokenize(tokens) == text
    assert not any(vocab.is_control(token) for token in tokens)


def test_control_tokens_are_parsed_and_shown_only_on_request(vocab: Vocab) -> None:
    tokens = vocab.tokenize("a<|im_end|>", parse_special=True)
    assert tokens[-1] == vocab.eos == 2
    assert vocab.detokenize(tokens) == "a"
    assert "".join(map(vocab.label, tokens)) == "a<|im_end|>"


def test_a_lone_surrogate_is_tokenized_as_a_question_mark(vocab: Vocab) -> None:
    assert vocab.tokenize("a\udcff") == vocab.tokenize("a?")


def test_a_control_token_can_be_shown(model: Model) -> None:
    assert model.handle
    own = Vocab(model._api, model.handle)
    assert own.piece(1) == b""
    own.show_control(["<|im_start|>"])
    assert own.piece(1) == b"<|im_start|>"


def test_only_end_tokens_end_an_answer(vocab: Vocab) -> None:
    assert vocab.end_tokens == [token for token in range(vocab.n_tokens) if vocab.ends(token)] == [0, 2, 4]


def test_closing_twice_has_no_effect(starter: Path) -> None:
    loaded = Model.load([starter], 0)
    loaded.close()
    loaded.close()
    assert loaded.handle is None


def test_a_model_knows_its_training_context(model: Model) -> None:
    assert (model.generates, model.vocab.adds_bos) == (True, False)


@pytest.mark.parametrize("repack", [True, False])
def test_weights_stay_in_the_order_of_the_file_if_they_must(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, repack: bool
) -> None:
    api, seen = bindings.load(), list[bool]()
    load: Callable[..., int] = api.llama_model_load_from_splits

    def record(names: object, count: int, params: Any) -> int:
        seen.append(params.use_extra_bufts)
        return load(names, count, params)

    monkeypatch.setattr(api, "llama_model_load_from_splits", record)
    Model.load([tiny], 0, settings=Settings(), repack=repack).close()
    assert seen == [repack]
