"""A test of an unknown model file in a child process, so that an abort inside ggml ends only the child.

The child runs `main`, which does what a chat does: it loads the file, tokenizes every byte that text can have,
detokenizes every token, evaluates a prompt and a token, and samples; or what `embed` does, with an embedding model. It
prints each step before it begins, then `ok`.
"""

import math
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.engine.llama import bindings
from llmcli.engine.llama.bindings import bindings_version
from llmcli.errors import ExitStatus, LlmcliError, ModelInvalidError

if TYPE_CHECKING:
    import subprocess

    from llmcli.engine.llama.model import Model, Vocab

_TIMEOUT_S = 600  # a large file on a slow disk
_PORTION = 256  # characters; the time for a text without words grows with its square
_OK = "ok"
_STEPS = ("load", "tokenize", "detokenize", "evaluate", "sample", "embed")
_ILLEGAL_INSTRUCTION = (-signal.SIGILL, 0xC000001D)  # POSIX, Windows
_CHILD = """
import sys
sys.path[:] = sys.argv.pop(1).splitlines()
from llmcli.engine.llama.probe import main
sys.exit(main(sys.argv[1:]))
"""


def probe_record() -> str:
    """What this release tests, and with which llama.cpp: a file whose note says something else is tested again."""
    return " ".join((bindings_version(), *_STEPS))


def probe(parts: Sequence[Path]) -> None:
    """Check that llama.cpp can do with the file what a chat does.

    Raises ModelInvalidError with llama.cpp's reason or how the child ended, LlmcliError for instructions of other CPUs.
    """
    import subprocess  # takes 6 ms, and most files were tested before

    # The child gets sys.path of this process: by itself it would import modules from the current folder.
    command = [sys.executable, "-c", _CHILD, "\n".join(sys.path), *map(str, parts)]
    name = parts[0].name
    try:
        child = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise ModelInvalidError(f"{name} does not load within {_TIMEOUT_S} seconds", "use another model") from None
    if child.returncode != 0 or not child.stdout.strip().endswith(_OK):
        raise _failure(child, name)


def _failure(child: "subprocess.CompletedProcess[str]", name: str) -> LlmcliError:
    """The error for a child that failed, from its status, its steps and what ggml wrote."""
    if child.returncode in _ILLEGAL_INSTRUCTION:
        return LlmcliError(
            "llama.cpp uses CPU instructions that this machine does not run",
            "compile it without them: CMAKE_ARGS=-DGGML_NATIVE=OFF pip install --force-reinstall --no-cache-dir "
            f"--no-deps --no-binary llama-cpp-python llama-cpp-python=={bindings_version()}",
        )
    steps = child.stdout.split("\n")
    lines = [line.strip() for line in child.stderr.splitlines() if "GGML_ASSERT" in line or "error" in line.lower()]
    if child.returncode == ExitStatus.MODEL_INVALID and not any(bindings.FAILURE in line for line in lines):
        reason = child.stdout.strip().rpartition("\n")[2] or f"cannot load {name}"
        return ModelInvalidError(reason, "download the model again, or use another one")
    reason = lines[0].rpartition("/")[2].rpartition(f"{bindings.FAILURE}: ")[2][:160] if lines else ""
    reason = reason or f"llama.cpp ended with status {child.returncode}"
    begun = [step for step in _STEPS if step in steps]
    at = f" (step: {begun[-1]})" if begun else ""
    message = f"{name} crashes llama.cpp: {reason}{at}"
    return ModelInvalidError(message, "do not use this file: it is corrupt or malicious")


def main(paths: Sequence[str]) -> int:
    """The test itself, in the child process."""
    from llmcli.engine.llama.model import Model

    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, most))  # a crash here is expected: no core dump
    try:
        _begin("load")
        model = Model.load([Path(path) for path in paths])
        _check_vocab(model)
        if model.pooling not in ("", "none"):
            _check_vectors(model)
        elif model.generates:
            _check_answer(model)
    except LlmcliError as error:
        print(str(error))
        return ExitStatus.MODEL_INVALID
    print(_OK)
    return ExitStatus.OK


def _begin(step: str) -> None:
    print(step, flush=True)  # a crash loses what is not written


def _check_vocab(model: "Model") -> None:
    """Tokenize each character that UTF-8 has in one to three bytes, and some with four; then detokenize each token.

    A character without a token of its own becomes the tokens of its bytes, and llama.cpp aborts if one is missing.
    """
    vocab = model.vocab
    if not vocab.n_tokens:
        return
    _begin("tokenize")
    for code in range(128):
        # A tokenizer that drops a letter without a word would answer to another text than the user's.
        if not vocab.tokenize(chr(code)) and chr(code).isalnum():
            raise ModelInvalidError(f"{model.path.name} has a vocabulary without a token for {chr(code)!r}")
    codes = [*range(0xD800), *range(0xE000, 0x10000), *range(0x10000, 0x110000, 0x3FD)]
    for start in range(0, len(codes), _PORTION):
        text = "".join(map(chr, codes[start : start + _PORTION]))
        vocab.tokenize(text, add_special=True)
        vocab.tokenize(text[::-1], parse_special=True)  # neighbors that merge with others
    _begin("detokenize")
    # They read the pieces, the texts and the attributes of all tokens.
    vocab.all_pieces, vocab.end_tokens, vocab.special  # noqa: B018


def _check_answer(model: "Model") -> None:
    """Evaluate a prompt with the first and the last token, then draw some tokens, each with finite logits."""
    from llmcli.engine.events import Prompt, Request
    from llmcli.engine.generation import Generation
    from llmcli.engine.llama.context import Context
    from llmcli.engine.scheduler import generate
    from llmcli.params.settings import Settings

    _begin("evaluate")
    vocab = model.vocab
    context = Context(model, Settings(n_ctx=64, n_threads=1, n_batch=64, n_ubatch=64))
    tokens = _some_tokens(vocab)
    context.prefill(0, tokens)
    logits = context.logits(vocab.n_tokens)
    if any(map(math.isnan, logits)):
        raise context.not_a_number()
    _begin("sample")
    # DRY is the one sampler of llama.cpp that reads the texts of the vocabulary.
    settings = Settings(seed=1, max_tokens=4, ignore_eos=True, dry_multiplier=0.8)
    for event in generate(context, [Generation(vocab, Request(Prompt.of_tokens("", tokens), settings))]):
        if event.record.failure:
            raise event.record.failure


def _check_vectors(model: "Model") -> None:
    """Compute the vectors of two texts, with the pooling of the model."""
    from llmcli.engine.embedding import EmbeddingContext
    from llmcli.params.settings import Settings

    _begin("embed")
    tokens = _some_tokens(model.vocab)
    EmbeddingContext(model, Settings(n_threads=1), 64, model.pooling).vectors([tokens, tokens[:3]])


def _some_tokens(vocab: "Vocab") -> list[int]:
    """The first and the last token and some others: eight, because one does not take the kernels for matrices."""
    last = vocab.n_tokens - 1
    return [vocab.bos or 0, 0, last // 4, last // 2, last, *vocab.tokenize("a b")[:3], 0, 0][:8]
