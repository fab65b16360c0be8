"""A model file loaded into llama.cpp."""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

from llmcli.engine import log
from llmcli.engine.llama import bindings
from llmcli.engine.llama.abort import AbortFlag
from llmcli.engine.llama.vocab import Vocab
from llmcli.errors import ModelInvalidError

ALL_LAYERS = -1  # a negative number offloads all layers (llama.h)
Progress = Callable[[float], None]


class Model:
    """A loaded model. `close` frees it; close its contexts before."""

    def __init__(self, handle: Any, path: Path) -> None:
        self._api = bindings.load()
        self.handle = handle
        self.path = path
        self.vocab = Vocab(self._api, handle)
        self.load_ms = 0.0

    @classmethod
    def load(
        cls,
        parts: Sequence[Path],
        n_gpu_layers: int = ALL_LAYERS,
        progress: Progress | None = None,
        abort: AbortFlag | None = None,
        vocab_only: bool = False,
        quiet: bool = False,
    ) -> "Model":
        """Load a model from its file, or from all files of a split model in order; without weights if `vocab_only`.

        `progress` is called with the fraction that was read, 0 to 1. A set `abort` cancels the load. `quiet` discards
        llama.cpp's log, and with it the reason of a failure: then no Python code runs during the load.

        Raises:
            ModelInvalidError: with llama.cpp's reason.
            KeyboardInterrupt: when `abort` was set.
        """
        api = bindings.load()
        params = api.llama_model_default_params()
        params.n_gpu_layers = n_gpu_layers
        params.vocab_only = vocab_only

        def on_progress(fraction: float, _user_data: Any) -> bool:
            if progress:
                progress(fraction)
            return not (abort and abort.is_set())

        if progress or abort:
            params.progress_callback = api.llama_progress_callback(on_progress)
        begin = perf_counter()
        log.forget()
        names = (api.ctypes.c_char_p * len(parts))(*map(_encode, parts))
        with log.muted(api) if quiet else nullcontext():
            handle = api.llama_model_load_from_splits(names, len(parts), params)
        if handle:
            model = cls(handle, parts[0])
            model.load_ms = (perf_counter() - begin) * 1e3
            return model
        if abort and abort.is_set():
            raise KeyboardInterrupt
        reason = log.reason() or "llama.cpp gives no reason"
        raise ModelInvalidError(
            f"cannot load {parts[0].name}: {reason}", "download the model again, or use another one"
        )

    @cached_property
    def n_ctx_train(self) -> int:
        """The context size of the training, in tokens."""
        return int(self._api.llama_model_n_ctx_train(self.handle))

    @cached_property
    def generates(self) -> bool:
        """Whether it is a decoder-only model: encoders and encoder-decoders need another generation loop."""
        api = self._api
        return bool(api.llama_model_has_decoder(self.handle)) and not api.llama_model_has_encoder(self.handle)

    def close(self) -> None:
        """Free the memory; a second call has no effect."""
        handle, self.handle = self.handle, None
        if handle:
            self._api.llama_model_free(handle)


def _encode(path: Path) -> bytes:
    """The path for llama.cpp: UTF-8 on Windows, the bytes of the file system elsewhere."""
    return str(path).encode("utf-8") if sys.platform == "win32" else os.fsencode(path)
