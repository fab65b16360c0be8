"""A test of an unknown model file in a child process, so that an abort inside ggml ends only the child.

The child runs `main`: it loads the file, evaluates a few tokens, and prints `ok`.
"""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from llmcli.engine.llama.bindings import bindings_version
from llmcli.errors import ExitStatus, LlmcliError, ModelInvalidError

_TIMEOUT_S = 600  # a large file on a slow disk
_OK = "ok"
_ILLEGAL_INSTRUCTION = (-signal.SIGILL, 0xC000001D)  # POSIX, Windows
_CHILD = """
import sys
sys.path[:] = sys.argv.pop(1).splitlines()
from llmcli.engine.llama.probe import main
sys.exit(main(sys.argv[1:]))
"""


def probe(parts: Sequence[Path]) -> None:
    """Check that llama.cpp can load the file and evaluate tokens.

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
    if child.returncode == 0 and child.stdout.strip().endswith(_OK):
        return
    if child.returncode in _ILLEGAL_INSTRUCTION:
        raise LlmcliError(
            "llama.cpp uses CPU instructions that this machine does not run",
            "compile it without them: CMAKE_ARGS=-DGGML_NATIVE=OFF pip install --force-reinstall --no-cache-dir "
            f"--no-deps --no-binary llama-cpp-python llama-cpp-python=={bindings_version()}",
        )
    if child.returncode == ExitStatus.MODEL_INVALID:
        reason = child.stdout.strip() or f"cannot load {name}"
        raise ModelInvalidError(reason, "download the model again, or use another one")
    lines = [line.strip() for line in child.stderr.splitlines() if "GGML_ASSERT" in line or "error" in line.lower()]
    reason = lines[0].rpartition("/")[2][:160] if lines else f"llama.cpp ended with status {child.returncode}"
    raise ModelInvalidError(f"{name} crashes llama.cpp: {reason}", "do not use this file: it is corrupt or malicious")


def main(paths: Sequence[str]) -> int:
    """The test itself, in the child process."""
    from llmcli.engine.llama.context import Context
    from llmcli.engine.llama.model import Model
    from llmcli.params.model import ModelParams

    try:
        model = Model.load([Path(path) for path in paths])
        if model.generates:
            params = ModelParams(n_ctx=64, n_threads=1, n_batch=64, n_ubatch=64)
            # Eight tokens, because one does not take the kernels for matrices.
            Context(model, params).prefill(0, [model.vocab.bos or 0] * 8)
    except LlmcliError as error:
        print(str(error))
        return ExitStatus.MODEL_INVALID
    print(_OK)
    return ExitStatus.OK
