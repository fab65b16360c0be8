"""A loaded model and its vocabulary."""

import ctypes
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import cached_property
from itertools import repeat
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import TYPE_CHECKING

from llmcli.engine.llama import bindings, hardware
from llmcli.errors import ModelInvalidError, UsageError

if TYPE_CHECKING:  # a start with little to import: the load of a model waits for it
    from llmcli.engine.events import Cancellation
    from llmcli.engine.llama.layer_split import DeviceShare
    from llmcli.params.model import ModelParams

ALL_LAYERS = -1  # a negative number offloads all layers (llama.h)
Progress = Callable[[float], None]
_MAX_BYTES = 2**30  # llama_tokenize counts bytes and tokens in int32
_LONG = 1 << 17  # bytes; to tokenize a longer text takes more than about 50 ms
_POLL = 0.02  # seconds between two looks at a Ctrl-C
_NULL = -1  # LLAMA_TOKEN_NULL


class Model:
    """A loaded model. `close` frees it; close its contexts before."""

    def __init__(self, handle: int, path: Path) -> None:
        self._api = bindings.load()
        self.handle: int | None = handle
        self.path = path
        self.vocab = Vocab(self._api, handle)
        self.load_ms = 0.0
        self.split: Sequence[DeviceShare] = ()  # what each device has of it, if others than the CPU have some
        self._is_shared = False

    @classmethod
    def load(
        cls,
        parts: Sequence[Path],
        n_gpu_layers: int = ALL_LAYERS,
        progress: Progress | None = None,
        abort: "Cancellation | None" = None,
        vocab_only: bool = False,
        quiet: bool = False,
        settings: "ModelParams | None" = None,
        repack: bool = True,
    ) -> "Model":
        """Load a model from its file, or from all files of a split model in order; without weights if `vocab_only`.

        `progress` is called with the fraction that was read, 0 to 1. A set `abort` cancels the load. `quiet` discards
        llama.cpp's log, and with it the reason of a failure: then no Python code runs during the load. `settings` say
        how to load it, and with which devices. `repack` allows a copy of weights in an order that the CPU computes
        faster. Raises ModelInvalidError with llama.cpp's reason, UsageError for a
        device that is not there, or KeyboardInterrupt when `abort` is set.
        """
        api = bindings.load()
        params = api.llama_model_default_params()
        params.n_gpu_layers = n_gpu_layers
        if settings:
            from llmcli.engine.llama import structures

            hardware.start_numa(settings.numa)
            params, _kept = structures.model_params(settings, n_gpu_layers)
        params.vocab_only, params.use_extra_bufts = vocab_only, repack

        def on_progress(fraction: float, _user_data: object) -> bool:
            if progress:
                progress(fraction)
            return not (abort and abort.is_set())

        if progress or abort:  # without, the load must not wait for Python's lock
            params.progress_callback = api.llama_progress_callback(on_progress)
        start = perf_counter()
        bindings.clear_log()
        names = (ctypes.c_char_p * len(parts))(*map(bindings.path_bytes, parts))
        is_split = n_gpu_layers and not quiet and hardware.has_gpu()
        log = bindings.suppress_log(api) if quiet else bindings.recorded_log() if is_split else nullcontext()
        with log as lines:
            handle = api.llama_model_load_from_splits(names, len(parts), params)
        if handle:
            model = cls(handle, parts[0])
            model.load_ms = (perf_counter() - start) * 1e3
            if lines:
                from llmcli.engine.llama.layer_split import read_split

                model.split = read_split(lines)
            return model
        if abort and abort.is_set():
            raise KeyboardInterrupt
        reason = bindings.last_log_error() or "llama.cpp gives no reason"
        hint = "download the model again, or use another one"
        if settings and settings.override_kv:
            hint = "remove --override-kv"
        raise ModelInvalidError(f"cannot load {parts[0].name}: {reason}", hint)

    def share(self) -> "Model":
        """The same model with a vocabulary of its own, for another user in this process; its end frees nothing."""
        assert self.handle
        shared = Model(self.handle, self.path)
        shared.load_ms, shared.split, shared._is_shared = self.load_ms, self.split, True
        return shared

    @property
    def placement(self) -> str:
        """The layers of each device in words; "" where all are in the memory of the CPU."""
        return ", ".join(f"{one.n_layers} on {one.device}" for one in self.split if one.n_layers)

    @property
    def n_offloaded(self) -> int:
        """The number of layers that are not in the memory of the CPU, the output layer among them."""
        return sum(one.n_layers for one in self.split if one.device != "CPU")

    @cached_property
    def generates(self) -> bool:
        """Whether it is a decoder-only model: encoders and encoder-decoders need another generation loop."""
        api = self._api
        return bool(api.llama_model_has_decoder(self.handle)) and not api.llama_model_has_encoder(self.handle)

    @cached_property
    def n_bytes(self) -> int:
        """The bytes of all its tensors."""
        return int(self._api.llama_model_size(self.handle))

    @cached_property
    def is_recurrent(self) -> bool:
        """Whether the memory of a sequence is a state that each token changes, or has one beside it (a hybrid)."""
        api = self._api
        return bool(api.llama_model_is_recurrent(self.handle) or api.llama_model_is_hybrid(self.handle))

    @cached_property
    def pooling(self) -> str:
        """How its header says that the vectors of the tokens become that of a text; "" if it says nothing."""
        from llmcli.engine.llama.structures import POOLING_TYPES

        number = self._metadata(f"{self._metadata('general.architecture')}.pooling_type")
        return next((name for name, one in POOLING_TYPES.items() if str(one) == number), "")

    def _metadata(self, key: str) -> str:
        """A value of the header as llama.cpp spells it; "" without one."""
        buffer = ctypes.create_string_buffer(128)
        self._api.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    def close(self) -> None:
        """Free the memory; a second call has no effect. It stays while a text is tokenized that nobody waits for."""
        handle, self.handle = self.handle, None
        if handle and not (self._is_shared or self.vocab.is_busy or bindings.is_process_ending):
            self._api.llama_model_free(handle)


class Vocab:
    """Token ids are integers below `n_tokens`. Pieces are bytes, as a token can end in the middle of a character."""

    def __init__(self, api: ModuleType, model: int) -> None:
        self._api = api
        self.pointer: int = api.llama_model_get_vocab(model)  # the `llama_vocab *`, for samplers
        self.n_tokens: int = api.llama_vocab_n_tokens(self.pointer)
        bos, eos = api.llama_vocab_bos(self.pointer), api.llama_vocab_eos(self.pointer)
        self.bos: int | None = None if bos == _NULL else bos
        self.eos: int | None = None if eos == _NULL else eos
        # Whether the model needs a BOS token before each prompt.
        self.adds_bos = bool(api.llama_vocab_get_add_bos(self.pointer)) and self.bos is not None
        self.abort: Cancellation | None = None  # stops the tokenization of a long text
        self._thread: threading.Thread | None = None  # in which one is tokenized
        # What llama.cpp said of a token: calls with a buffer are slow, and most tokens come again and again.
        self._pieces: dict[int, bytes] = {}
        self._labels: dict[int, str] = {}
        self._ends: dict[int, bool] = {}

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """The tokens of `text`; `parse_special` parses texts such as `<|im_end|>` as control tokens.

        Raises KeyboardInterrupt at once if a long text is stopped by Ctrl-C or by `abort`.
        """
        data = text.encode("utf-8", "replace")
        if len(data) > _MAX_BYTES:
            raise UsageError("the text is too long: more than 1 GiB")
        if len(data) < _LONG:
            return self._tokenize(data, add_special, parse_special)
        # Python sees a Ctrl-C only when the main thread is not inside of llama.cpp, which cannot be stopped there.
        found: list[list[int]] = []
        thread = threading.Thread(
            target=lambda: found.append(self._tokenize(data, add_special, parse_special)), daemon=True
        )
        self._thread = thread
        thread.start()
        while thread.is_alive():
            thread.join(_POLL)
            if self.abort and self.abort.is_set():
                raise KeyboardInterrupt
        return found[0]

    @property
    def is_busy(self) -> bool:
        """Whether a text is still tokenized that was stopped."""
        return self._thread is not None and self._thread.is_alive()

    def _tokenize(self, data: bytes, add_special: bool, parse_special: bool) -> list[int]:
        size, count = len(data) + 8, -1
        while count < 0:  # the buffer is too small: -count tokens are needed
            buffer = (ctypes.c_int32 * size)()
            count = self._api.llama_tokenize(self.pointer, data, len(data), buffer, size, add_special, parse_special)
            size = -count
        return list(buffer[:count])

    def tokenize_exactly(self, data: bytes) -> list[int]:
        """Tokens with exactly these bytes, for a text that goes on in the middle of another one.

        Some tokenizers put a space before a text: a control character before it gets that space, and merges with
        nothing. Bytes that still differ, or are no UTF-8, become the longest token at each place.
        """
        for begin in (b"", b"\x02"):
            tokens = self.tokenize((begin + data).decode("utf-8", "replace"))
            at = next((index + 1 for index, token in enumerate(tokens) if self.piece(token) == begin != b""), 0)
            if b"".join(map(self.piece, tokens[at:])) == data:
                return tokens[at:]
        found: list[int] = []
        at = 0
        while at < len(data):
            ends = range(min(at + self._longest_piece, len(data)), at, -1)
            end = next((end for end in ends if data[at:end] in self._tokens_by_piece), 0)
            if not end:
                return found
            found.append(self._tokens_by_piece[data[at:end]])
            at = end
        return found

    @cached_property
    def _tokens_by_piece(self) -> dict[bytes, int]:
        return {piece: token for token, piece in enumerate(self.all_pieces) if not self.is_control(token)}

    @cached_property
    def _longest_piece(self) -> int:
        return max(map(len, self._tokens_by_piece))

    def piece(self, token: int, special: bool = False) -> bytes:
        """The bytes of a token; empty for control tokens unless `special`."""
        if token in self._pieces and not special:
            return self._pieces[token]
        size, count = 64, -1
        while count < 0:  # the buffer is too small: -count bytes are needed
            buffer = ctypes.create_string_buffer(size)
            count = self._api.llama_token_to_piece(self.pointer, token, buffer, size, 0, special)
            size = -count
        piece = buffer.raw[:count]
        if not special:
            self._pieces[token] = piece
        return piece

    @cached_property
    def all_pieces(self) -> list[bytes]:
        """The bytes of all tokens, also of control tokens (1 us per token: `piece` takes four times as long)."""
        prototype = ctypes.PYFUNCTYPE(  # with pointers as integers, and without the release of Python's lock
            ctypes.c_int32,
            ctypes.c_void_p,
            ctypes.c_int32,
            ctypes.c_void_p,
            ctypes.c_int32,
            ctypes.c_int32,
            ctypes.c_bool,
        )
        to_piece = prototype(("llama_token_to_piece", self._api._lib))
        n, width = self.n_tokens, 32
        buffer = ctypes.create_string_buffer(n * width)
        starts = range(ctypes.addressof(buffer), ctypes.addressof(buffer) + n * width, width)
        sizes = list(map(to_piece, repeat(self.pointer), range(n), starts, repeat(width), repeat(0), repeat(True)))
        raw = buffer.raw
        return [
            raw[at * width : at * width + size] if size >= 0 else self.piece(at, special=True)
            for at, size in enumerate(sizes)
        ]

    def label(self, token: int) -> str:
        """The text of one token for display: control tokens by name, an incomplete character as U+FFFD."""
        if token not in self._labels:
            self._labels[token] = self.piece(token, special=True).decode("utf-8", "replace")
        return self._labels[token]

    def show_control(self, texts: Iterable[str]) -> None:
        """From now on include the control tokens that these texts (reasoning tags) spell in the texts of answers."""
        for token in {token for text in texts for token in self.tokenize(text, parse_special=True)}:
            if self.is_control(token) and not self.ends(token):
                self._pieces[token] = self.piece(token, special=True)

    def detokenize(self, tokens: list[int]) -> str:
        """The text of `tokens`; invalid UTF-8 becomes U+FFFD."""
        return b"".join(map(self.piece, tokens)).decode("utf-8", "replace")

    def check(self, tokens: Iterable[int]) -> None:
        """Raise UsageError if one of these tokens, which come from others, is not in the vocabulary."""
        wrong = next((token for token in tokens if not 0 <= token < self.n_tokens), None)
        if wrong is not None:
            raise UsageError(f"{wrong} is not a token: the vocabulary has {self.n_tokens}")

    def ends(self, token: int) -> bool:
        """Whether the token ends an answer: any end-of-generation token of the model, not only EOS."""
        if token not in self._ends:
            self._ends[token] = bool(self._api.llama_vocab_is_eog(self.pointer, token))
        return self._ends[token]

    def is_control(self, token: int) -> bool:
        """Whether the token is a control token, which must never result from text of users or files."""
        return bool(self._api.llama_vocab_is_control(self.pointer, token))

    @cached_property
    def end_tokens(self) -> list[int]:
        """All end-of-generation tokens; computed once from the whole vocabulary."""
        return [token for token in range(self.n_tokens) if self._api.llama_vocab_is_eog(self.pointer, token)]

    @cached_property
    def special(self) -> dict[int, bytes]:
        """The texts that the tokenizer splits off first, by token; computed once (0.3 us per token in the model)."""
        api, vocab = self._api, self.pointer
        special = api.LLAMA_TOKEN_ATTR_CONTROL | api.LLAMA_TOKEN_ATTR_USER_DEFINED | api.LLAMA_TOKEN_ATTR_UNKNOWN
        attributes = map(api.llama_vocab_get_attr, repeat(vocab), range(self.n_tokens))
        return {
            token: api.llama_vocab_get_text(vocab, token) for token, bits in enumerate(attributes) if bits & special
        }

    def strips_left(self, token: int) -> bool:
        """Whether the token, parsed as special, removes the space before it."""
        return bool(self._api.llama_vocab_get_attr(self.pointer, token) & self._api.LLAMA_TOKEN_ATTR_LSTRIP)

    @cached_property
    def suppressed(self) -> list[int]:
        """Tokens that the model file suppresses (`tokenizer.ggml.suppress_tokens`)."""
        count = ctypes.c_int32(0)
        tokens = self._api.llama_vocab_get_suppress_tokens(self.pointer, ctypes.byref(count))
        return list(tokens[: count.value]) if count.value else []
