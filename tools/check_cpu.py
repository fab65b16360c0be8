"""Does the compiled llama.cpp run on this machine? `python -m tools.check_cpu` ends with SIGILL (status 132) if not.

It evaluates a few tokens with a tiny model of quantized weights: they take the kernels for matrices, such as AMX.
"""

import tempfile
from pathlib import Path

from llmcli.engine.llama.context import Context
from llmcli.engine.llama.model import Model
from llmcli.params.model import ModelParams
from tests.models.tiny_models import quantized


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = Model.load([quantized(Path(folder) / "tiny.gguf")], n_gpu_layers=0)
        context = Context(model, ModelParams(n_ctx=64, n_threads=1, n_batch=64, n_ubatch=64))
        context.prefill(0, [1] * 8)
        context.close()
        model.close()


if __name__ == "__main__":
    main()
