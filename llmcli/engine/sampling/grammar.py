"""GBNF grammars, parsed and matched by llama.cpp."""

import ctypes
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from llmcli.engine.llama import bindings
from llmcli.engine.llama.bindings import OwnedSampler
from llmcli.engine.llama.model import Vocab
from llmcli.errors import ConstraintError, UsageError

# llama.cpp's parser is recursive and overflows the stack, takes quadratic time for alternatives, and does not end for
# a repetition {3,1}. For each token it tries all ways to omit optional parts: if there are 20 in a row, a token of many
# spaces takes seconds, and with 30 of them hours.
_MAX_RULES = 10_000
_MAX_OPTIONAL = 20
_TEXTS = re.compile(
    r'"(?:\\.|[^"\\])*(?:"|\\?\Z)|\[(?:\\.|[^\]\\])*(?:\]|\\?\Z)|#[^\n]*', re.DOTALL
)  # texts, classes of characters, comments; one that has no end takes the rest, else each of many would be sought anew
_SYMBOL = re.compile(r'[a-zA-Z0-9-]+(?:\s*::=)?|["(|)?*+.]|<[^>]*>?|\{[^}]*\}?')  # where texts and classes are a quote
_MAX_SECONDS = 3.0  # of the processor for one token; llama.cpp follows all ways to read the text, which may double
_MAX_PASSES = 20  # over a grammar, whose rules can refer to later ones


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
        if _longest_optional_run(_TEXTS.sub(_shorten, gbnf)) > _MAX_OPTIONAL:
            raise UsageError(
                f"the grammar has more than {_MAX_OPTIONAL} optional parts in a row, which llama.cpp is too slow for",
                'nest them: ("a" ("b" "c"?)?)?, or "a"{0,30}',
            )
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
        with _limited_time():
            self._api.llama_sampler_apply(self.pointer, ctypes.byref(self._array))
        return bool(self._candidate.logit != -math.inf)

    def accept(self, token: int) -> None:
        """Advance by `token`, which must be allowed: otherwise llama.cpp aborts the process."""
        with _limited_time():
            self._api.llama_sampler_accept(self.pointer, token)

    def apply(self, candidates: "bindings.Candidates") -> None:
        """Mask the candidates that cannot be next."""
        with _limited_time():
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
def _limited_time() -> Iterator[None]:
    """Raise ConstraintError after a step that took very long: those after it would take longer and longer."""
    start = time.thread_time()
    yield
    if time.thread_time() - start > _MAX_SECONDS:
        raise ConstraintError("the grammar is too complex: it can be read in too many ways", "simplify it")


def _shorten(text: re.Match[str]) -> str:
    """A quote for a text or a class of characters; nothing for a comment or an empty text."""
    return "" if text[0] == '""' or text[0][0] == "#" else '"'


@dataclass
class _Group:
    """A rule, or what stands in parentheses, while it is read.

    A part counts as the optional parts in a row that it is made of; as 0 if it cannot be empty.
    """

    part: int | None = None  # the last one, which a repetition can change
    run: int = 0  # the optional parts in a row before it
    is_optional: bool = True  # whether this alternative can be empty so far
    count: int = 0  # the largest of the alternatives before it that can be empty

    def add(self, part: int | None) -> None:
        if self.part is not None:
            self.run = self.run + self.part if self.part else 0
            self.is_optional = self.is_optional and bool(self.part)
        self.part = part

    def repeat(self, symbol: str) -> None:
        numbers = [int(number[:9]) for number in re.findall(r"\d+", symbol)]
        if self.part:
            self.part *= max(numbers, default=1)
        elif symbol in "?*" or numbers[:1] == [0]:
            self.part = 1

    def end_alternative(self) -> None:
        self.add(None)
        if self.is_optional:
            self.count = max(self.count, self.run, 1)
        self.run, self.is_optional = 0, True


def _longest_optional_run(short: str) -> int:
    """The largest number of optional parts in a row in a grammar with quotes for its texts, or one above the limit."""
    symbols = [*_SYMBOL.findall(short), "::="]
    counts: dict[str, int] = {}  # of the rules
    longest = 0
    for _ in range(_MAX_PASSES):
        before, rule, groups = dict(counts), "", [_Group()]
        for symbol in symbols:
            group = groups[-1]
            if symbol.endswith("::="):
                group.end_alternative()
                counts[rule], rule, groups = group.count, symbol[:-3].strip(), [_Group()]
            elif symbol == "|":
                group.end_alternative()
            elif symbol == "(":
                groups.append(_Group())
            elif symbol == ")":
                group.end_alternative()
                if len(groups) > 1:
                    groups.pop()
                groups[-1].add(group.count)
            elif symbol[0] in "?*+{":
                group.repeat(symbol)
            else:
                group.add(counts.get(symbol, 0))
            longest = max(longest, groups[-1].run + (groups[-1].part or 0))
        if counts == before or longest > _MAX_OPTIONAL:
            break
    return longest


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
