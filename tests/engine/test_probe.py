"""The test of an unknown file does what a chat does, and no failure of llama.cpp reaches stdout."""

import os
import struct
import sys
from pathlib import Path

import pytest

from llmcli.engine.llama.context import Context
from llmcli.engine.llama.model import Model
from llmcli.engine.llama.probe import probe, probe_record
from llmcli.errors import ModelInvalidError
from llmcli.models.notes import is_probed, record_probed
from llmcli.params.model import ModelParams
from tests.conftest import Run
from tests.models import tiny_models

NAN = struct.pack("<f", float("nan"))
ASK = ("generate", "A cat", "-n", "2", "-t", "1", "--raw")


def without_byte(path: Path, byte: int = ord("A")) -> Path:
    """A model whose vocabulary has no token for a byte; `A` is not one of its letters."""
    tiny_models.full_attention(path)
    path.write_bytes(path.read_bytes().replace(b"<0x%02X>" % byte, b"<0x!!>"))
    return path


def with_nan(path: Path, first: int, count: int) -> Path:
    """A model with `count` weights that are NaN, from number `first` on; -1 is the last weight."""
    tiny_models.full_attention(path)
    data = bytearray(path.read_bytes())
    start = len(data) + 4 * first
    data[start : start + 4 * count] = NAN * count
    path.write_bytes(data)
    return path


@pytest.fixture
def nan(tmp_path: Path) -> Path:
    return with_nan(tmp_path / "nan.gguf", -1000, 1000)


@pytest.mark.slow  # one child process each
@pytest.mark.parametrize("byte", [ord("A"), 0x00, 0x0A, 0x80, 0xBF, 0xC3, 0xE0, 0xF0, 0xF4])
def test_a_vocabulary_without_a_byte_is_refused(tmp_path: Path, byte: int) -> None:
    with pytest.raises(ModelInvalidError, match=r"^m\.gguf crashes llama\.cpp: .*\(step: tokenize\)$"):
        probe([without_byte(tmp_path / "m.gguf", byte)])


@pytest.mark.slow
@pytest.mark.parametrize("byte", [0xC0, 0xC1, 0xF5, 0xFF])
def test_a_byte_that_no_text_has_may_be_missing(tmp_path: Path, byte: int) -> None:
    probe([without_byte(tmp_path / "m.gguf", byte)])


def test_a_vocabulary_that_drops_a_letter_is_refused(starter: Path, tmp_path: Path) -> None:
    data = bytearray(starter.read_bytes())
    letter = struct.pack("<Q", 1) + b"z"
    data[data.index(letter, data.index(b"tokenizer.ggml.tokens")) + 8] = 1
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(ModelInvalidError, match=r"^m\.gguf has a vocabulary without a token for 'z'$"):
        probe([tmp_path / "m.gguf"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [tiny_models.recurrent, tiny_models.hybrid, tiny_models.sliding_window, tiny_models.encoder]
)
def test_every_kind_of_model_passes_the_test(tmp_path: Path, make: type) -> None:
    probe([make(tmp_path / "m.gguf")])


@pytest.mark.slow
def test_weights_that_are_nan_are_refused_by_name(nan: Path) -> None:
    with pytest.raises(ModelInvalidError, match=r"^nan\.gguf computes NaN \(not a number\) instead of probabilities$"):
        probe([nan])


@pytest.mark.slow
def test_an_embedding_model_is_tried_with_vectors(tmp_path: Path) -> None:
    path = tiny_models.encoder(tmp_path / "nan.gguf")
    data = path.read_bytes()
    path.write_bytes(data[:-128] + NAN * 32)  # the bias of the last norm
    with pytest.raises(ModelInvalidError, match=r"^nan\.gguf computes NaN \(not a number\) instead of vectors$"):
        probe([path])


def test_a_context_that_computes_nan_says_so(nan: Path) -> None:
    model = Model.load([nan], 0)
    context = Context(model, ModelParams(n_ctx=64, n_threads=1))
    for _ in range(2):  # nothing of the first evaluation is reused
        with pytest.raises(ModelInvalidError, match="computes NaN"):
            context.prefill(0, [1, 5, 6])
        assert context.evaluated() == 0
    context.close()
    model.close()


def test_nan_by_a_setting_names_the_settings(tiny: Path) -> None:
    params = ModelParams(n_ctx=64, n_threads=1, rope_scaling="yarn", yarn_ext_factor=3e38, rope_freq_scale=0.5)
    model = Model.load([tiny], 0)
    context = Context(model, params)
    with pytest.raises(ModelInvalidError, match="computes NaN") as caught:
        context.prefill(0, list(range(5, 40)))
    assert caught.value.hint == "remove the settings for RoPE and YaRN, and --override-kv"
    context.close()
    model.close()


def test_an_answer_that_becomes_nan_ends_with_an_error(run: Run, nan: Path, home: Path) -> None:
    record_probed(home / "data", [nan], probe_record())
    ran = run(*ASK, "-m", str(nan))
    assert (ran.status, ran.stdout.strip()) == (8, b"")
    assert "computes NaN (not a number)" in ran.stderr


def test_a_file_that_an_older_release_tested_is_tested_again(run: Run, tmp_path: Path, home: Path) -> None:
    path = without_byte(tmp_path / "m.gguf")
    record_probed(home / "data", [path], "0.3.36")  # the record of releases that only loaded the file
    ran = run(*ASK, "-m", str(path))
    assert (ran.status, ran.stdout) == (8, b"")
    assert "m.gguf crashes llama.cpp" in ran.stderr
    assert not is_probed(home / "data", [path], probe_record())


@pytest.mark.parametrize("override", ["", "llama.block_count=int:600"])
def test_a_failure_of_llama_cpp_is_one_error_on_stderr(
    run: Run, tmp_path: Path, home: Path, tiny: Path, override: str
) -> None:
    """An uncaught exception of C++, and a failed assertion: no backtrace, no core dump, no text on stdout."""
    path = tiny if override else without_byte(tmp_path / "m.gguf")
    record_probed(home / "data", [path], probe_record())
    ran = run(*ASK, "-m", str(path), *(["--override-kv", override] if override else []))
    assert (ran.status, ran.stdout) == (8, b"")
    error, hint = ran.stderr.strip().splitlines()[-2:]
    assert error.startswith("error: llama.cpp stopped the program: ")
    assert ("GGML_ASSERT" in error) == bool(override)
    assert hint.startswith("  hint: check the file with")
    assert "#0" not in ran.stderr
    assert not [name for name in os.listdir(tmp_path) if name.startswith("core")]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_failure_leaves_a_terminal_with_echo() -> None:
    import pty
    import termios

    code = (
        "import tty; tty.setraw(0); from llmcli.engine.llama import bindings; bindings._end('/x/ggml.c:1: why\\nmore')"
    )
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", code])
    shown = b""
    while b"another model" not in shown:
        shown += os.read(terminal, 1000)
    flags = termios.tcgetattr(terminal)[3]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 8
    os.close(terminal)
    assert b"error: llama.cpp stopped the program: ggml.c:1: why\r\n" in shown
    assert flags & termios.ECHO
    assert flags & termios.ICANON
