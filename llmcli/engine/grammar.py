"""Grammars: GBNF as llama.cpp parses it, followed token by token."""

import ctypes
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llmcli.engine import binding, log
from llmcli.engine.vocab import Vocab
from llmcli.errors import UsageError

_MOST_RULES = 10_000  # llama.cpp's parser calls itself for each level of nesting until the stack ends


class Grammar:
    """A parsed GBNF grammar that follows the answer token by token.

    Raises:
        UsageError: when the grammar does not parse, with llama.cpp's reason.
    """

    def __init__(self, vocab: Vocab, gbnf: str) -> None:
        self._api = api = binding.load()
        self._vocab = vocab
        if not gbnf.strip():
            raise UsageError("the grammar is empty")
        if gbnf.count("(") + gbnf.count("::=") > _MOST_RULES:
            raise UsageError(f"the grammar is too large: more than {_MOST_RULES} rules and groups")
        log.forget()
        with _c_stderr() as said:
            self.pointer = api.llama_sampler_init_grammar(vocab.pointer, gbnf.encode("utf-8", "replace"), b"root")
        if not self.pointer:
            raise UsageError(f"the grammar does not parse: {_parse_reason(said)}", "see llama.cpp's GBNF guide")
        self._one = api.llama_token_data(0, 1.0, 0.0)
        self._array = api.llama_token_data_array(ctypes.pointer(self._one), 1, -1, False)

    def allows(self, token: int) -> bool:
        """Whether `token` may come next."""
        self._one.id, self._one.logit = token, 1.0
        self._array.size, self._array.selected = 1, -1
        self._api.llama_sampler_apply(self.pointer, ctypes.byref(self._array))
        return bool(self._one.logit != -math.inf)

    def accept(self, token: int) -> None:
        """Move on; the token must be allowed, for llama.cpp ends the process otherwise."""
        self._api.llama_sampler_accept(self.pointer, token)

    def may_end(self) -> bool:
        """Whether the output so far is complete."""
        ends = [token for token in (self._vocab.eos,) if token is not None] or self._vocab.end_tokens
        return any(self.allows(token) for token in ends)

    def clone(self) -> Any:
        return self._api.llama_sampler_clone(self.pointer)

    def restore(self, snapshot: Any) -> None:
        self.close()
        self.pointer = snapshot

    def close(self) -> None:
        pointer, self.pointer = self.pointer, None
        if pointer:
            self._api.llama_sampler_free(pointer)


@contextmanager
def _c_stderr() -> Iterator[list[str]]:
    """What C code prints to stderr meanwhile: the GBNF parser reports nowhere else."""
    said: list[str] = []
    with tempfile.TemporaryFile() as file:
        if sys.stderr:  # None when the program was started without one
            sys.stderr.flush()
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            said += file.read().decode("utf-8", "replace").splitlines()


def _parse_reason(said: list[str]) -> str:
    telling = [line.partition(": ")[2] for line in said if "error parsing grammar" in line]
    reason = telling[0].replace("error parsing grammar: ", "") if telling else log.reason()
    return reason[:160] or "llama.cpp gives no reason"
