"""GBNF grammars, parsed and matched by llama.cpp."""

import ctypes
import math
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from llmcli.engine.llama import bindings
from llmcli.engine.llama.bindings import OwnedSampler
from llmcli.engine.llama.model import Vocab
from llmcli.errors import UsageError

# llama.cpp's parser is recursive and overflows the stack, takes quadratic time for alternatives, and does not end for
# a repetition {3,1}.
_MAX_RULES = 10_000
_TEXTS = re.compile(
    r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\n]*', re.DOTALL
)  # texts, classes of characters, comments


class Grammar(OwnedSampler):
    """A parsed GBNF grammar and the position in it."""

    def __init__(self, vocab: Vocab, pointer: "bindings.Pointer | None") -> None:
        super().__init__(pointer)
        self._vocab = vocab
        self._candidate = self._api.llama_token_data(0, 1.0, 0.0)
        self._array = self._api.llama_token_data_array(ctypes.pointer(self._candidate), 1, -1, False)

    @classmethod
    def parse(cls, vocab: Vocab, gbnf: str) -> "Grammar":
        """A grammar at its start. Raises UsageError for an invalid one, with llama.cpp's reason."""
        if not gbnf.strip():
            raise UsageError("the grammar is empty", 'write rules in GBNF, such as root ::= "yes" | "no"')
        if "\0" in gbnf:
            raise UsageError("the grammar contains a NUL character", "write it as \\x00")
        bare = _TEXTS.sub("", gbnf)
        if sum(map(bare.count, ("(", "::=", "|"))) > _MAX_RULES:
            raise UsageError(f"the grammar has more than {_MAX_RULES} rules, groups and alternatives")
        for least, most in re.findall(r"\{\s*(\d+)\s*,\s*(\d+)\s*\}", bare):
            if int(least[:20]) > int(most[:20]):
                raise UsageError(f"the grammar is not valid GBNF: {{{least},{most}}} is not a range")
        bindings.clear_log()
        text = gbnf.encode("utf-8", "replace")
        with _capture_stderr() as lines:
            pointer = bindings.load().llama_sampler_init_grammar(vocab.pointer, text, b"root")
        if not pointer:
            mark = "error parsing grammar: "
            reasons = [line.partition(": ")[2].replace(mark, "") for line in lines if mark[:-2] in line]
            reason = (reasons[0] if reasons else bindings.last_log_error())[:160] or "llama.cpp gives no reason"
            raise UsageError(f"the grammar is not valid GBNF: {reason}", "see llama.cpp's GBNF guide")
        return cls(vocab, pointer)

    def allows(self, token: int) -> bool:
        """Whether the grammar allows `token` next."""
        self._candidate.id, self._candidate.logit = token, 1.0
        self._array.size, self._array.selected = 1, -1
        self._api.llama_sampler_apply(self.pointer, ctypes.byref(self._array))
        return bool(self._candidate.logit != -math.inf)

    def accept(self, token: int) -> None:
        """Advance by `token`, which must be allowed: otherwise llama.cpp aborts the process."""
        self._api.llama_sampler_accept(self.pointer, token)

    def apply(self, candidates: "bindings.Candidates") -> None:
        """Mask the candidates that cannot be next."""
        self._api.llama_sampler_apply(self.pointer, candidates)

    def must_end(self) -> bool:
        """Never known before the next draw: it takes a walk over the vocabulary."""
        return False

    def copy(self) -> "Grammar":
        """A grammar at the same position that advances alone."""
        return Grammar(self._vocab, self._api.llama_sampler_clone(self.pointer))

    def may_end(self) -> bool:
        """Whether the output can end now."""
        # A grammar allows all end tokens or none, and the list of all of them takes a walk over the vocabulary.
        eos = self._vocab.eos
        return any(self.allows(token) for token in (self._vocab.end_tokens if eos is None else [eos]))


@contextmanager
def _capture_stderr() -> Iterator[list[str]]:
    """Capture the lines that C code prints to stderr: the GBNF parser reports errors only there."""
    lines: list[str] = []
    with tempfile.TemporaryFile() as file:
        if sys.stderr:  # None when the program was started without one
            sys.stderr.flush()
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            lines += file.read().decode("utf-8", "replace").splitlines()
