"""GBNF grammars, parsed and matched by llama.cpp, and JSON schemas as such grammars."""

import ctypes
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from llmcli.engine.llama import bindings
from llmcli.engine.llama.bindings import OwnedSampler
from llmcli.engine.llama.model import Vocab
from llmcli.errors import UsageError

_MAX_RULES = 10_000  # the parser of llama.cpp is recursive and overflows the stack
# Keywords that constrain a value and that the converter ignores.
_NOT_ENFORCED = frozenset((
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "uniqueItems", "contains"),
    *("minContains", "maxContains", "minProperties", "maxProperties", "patternProperties", "propertyNames"),
    *("dependentRequired", "dependentSchemas", "if", "then", "else", "not"),
))  # fmt: skip
_NAMES = ("properties", "$defs", "definitions")  # objects whose keys are names, not keywords
_VALUES = ("const", "enum", "default", "examples")  # keywords whose content is data, not a schema


class Grammar(OwnedSampler):
    """A parsed GBNF grammar and the position in it. Raises UsageError for an invalid one, with llama.cpp's reason."""

    def __init__(self, vocab: Vocab, gbnf: str) -> None:
        api = bindings.load()
        self._vocab = vocab
        if not gbnf.strip():
            raise UsageError("the grammar is empty", 'write rules in GBNF, such as root ::= "yes" | "no"')
        if gbnf.count("(") + gbnf.count("::=") > _MAX_RULES:
            raise UsageError(f"the grammar has more than {_MAX_RULES} rules and groups")
        bindings.clear_log()
        with _capture_stderr() as lines:
            super().__init__(api.llama_sampler_init_grammar(vocab.pointer, gbnf.encode("utf-8", "replace"), b"root"))
        if not self.pointer:
            mark = "error parsing grammar: "
            reasons = [line.partition(": ")[2].replace(mark, "") for line in lines if mark[:-2] in line]
            reason = (reasons[0] if reasons else bindings.last_log_error())[:160] or "llama.cpp gives no reason"
            raise UsageError(f"the grammar is not valid GBNF: {reason}", "see llama.cpp's GBNF guide")
        self._candidate = api.llama_token_data(0, 1.0, 0.0)
        self._array = api.llama_token_data_array(ctypes.pointer(self._candidate), 1, -1, False)

    def allows(self, token: int) -> bool:
        """Whether the grammar allows `token` next."""
        self._candidate.id, self._candidate.logit = token, 1.0
        self._array.size, self._array.selected = 1, -1
        self._api.llama_sampler_apply(self.pointer, ctypes.byref(self._array))
        return bool(self._candidate.logit != -math.inf)

    def accept(self, token: int) -> None:
        """Advance by `token`, which must be allowed: otherwise llama.cpp aborts the process."""
        self._api.llama_sampler_accept(self.pointer, token)

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


def schema_to_gbnf(schema: str) -> str:
    """The GBNF grammar of a JSON schema (llama-cpp-python's port of llama.cpp's converter).

    Raises UsageError when the schema is not valid JSON, or the converter does not support it.
    """
    try:
        parsed = json.loads(schema)
    except ValueError as error:
        raise UsageError(f"json_schema is not valid JSON: {error}") from None
    except RecursionError:
        raise UsageError("json_schema is nested too deep") from None
    if not isinstance(parsed, (dict, bool)):
        raise UsageError("json_schema must be a JSON object")
    try:
        return str(bindings.submodule("llama_grammar").json_schema_to_gbnf(json.dumps(parsed)))
    except Exception as error:  # the converter does not wrap the errors of its dictionaries
        text = str(error) or type(error).__name__
        raise UsageError(f"json_schema is not supported: {text.splitlines()[0][:120]}") from None


def unenforced_keywords(schema: str) -> list[str]:
    """The keywords of a schema that the grammar does not enforce, sorted."""
    return sorted(set(_keywords(json.loads(schema))))


def _keywords(node: object) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from _keywords(item)
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if key in _NOT_ENFORCED:
            yield key
        if key in _NAMES and isinstance(value, dict):
            yield from _keywords(list(value.values()))
        elif key not in _VALUES:
            yield from _keywords(value)
