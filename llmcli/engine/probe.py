"""Trying an unknown model file in a child process, so that an abort inside ggml ends the child only.

The child runs `main`: it loads the file, evaluates one token, and says `ok`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from llmcli.errors import ExitStatus, LlmcliError, ModelInvalidError

_SECONDS = 600  # a large file on a slow disk is read once
_OK = "ok"
_CHILD = """
import sys
sys.path[:] = sys.argv.pop(1).splitlines()
from llmcli.engine.probe import main
sys.exit(main(sys.argv[1:]))
"""


def probe(parts: Sequence[Path], seconds: float = _SECONDS) -> None:
    """Return when llama.cpp can load the file and compute with it.

    Raises:
        ModelInvalidError: with llama.cpp's reason, or how the child ended.
    """
    import subprocess  # 6 ms, and most files are known

    # The child finds modules where this process does: a typing.py in the current folder is not ours to run.
    command = [sys.executable, "-c", _CHILD, "\n".join(sys.path), *map(str, parts)]
    name = parts[0].name
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise ModelInvalidError(f"{name} does not load within {seconds:g} seconds", "try another model") from None
    if done.returncode == 0 and done.stdout.strip().endswith(_OK):
        return
    if done.returncode == ExitStatus.MODEL_INVALID:
        raise ModelInvalidError(done.stdout.strip() or f"{name} does not load", "download it again, or try another one")
    reason = _last_words(done.stderr) or f"llama.cpp ended with status {done.returncode}"
    raise ModelInvalidError(
        f"{name} crashes llama.cpp: {reason}", "the file is damaged or made to do harm: do not use it"
    )


def _last_words(stderr: str) -> str:
    """The assertion that ended the child, from its stderr."""
    lines = [line.strip() for line in stderr.splitlines() if "GGML_ASSERT" in line or "error" in line.lower()]
    return lines[0].rpartition("/")[2][:160] if lines else ""


def main(paths: Sequence[str]) -> int:
    from llmcli.engine.context import Context, ContextParams
    from llmcli.engine.model import Model

    try:
        model = Model.load([Path(path) for path in paths])
        if model.generates:
            params = ContextParams(n_ctx=64, n_threads=1, n_threads_batch=1, n_batch=64, n_ubatch=64)
            Context(model, params).prefill(0, [model.vocab.bos or 0])
    except LlmcliError as error:
        print(str(error))
        return ExitStatus.MODEL_INVALID
    print(_OK)
    return ExitStatus.OK
