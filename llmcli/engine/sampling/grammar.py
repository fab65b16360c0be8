"""GBNF grammars, parsed and matched by llama.cpp, and the sampler that obeys one or leaves out tokens."""

import ctypes
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llmcli.engine.llama import bindings
from llmcli.engine.llama.model import Vocab
from llmcli.engine.sampling.chain import BEGIN, Chain, ChainHooks, OwnedSampler, StepObserver, make_bias
from llmcli.engine.sampling.python_samplers import CustomSampler
from llmcli.errors import ConstraintError, UsageError
from llmcli.params.sampler_chain import SamplerStep

_MAX_RULES = 10_000  # the parser of llama.cpp is recursive and overflows the stack
# Keywords that constrain a value and that the converter ignores.
_NOT_ENFORCED = frozenset((
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "uniqueItems", "contains"),
    *("minContains", "maxContains", "minProperties", "maxProperties", "patternProperties", "propertyNames"),
    *("dependentRequired", "dependentSchemas", "if", "then", "else", "not"),
))  # fmt: skip
_NAMES = ("properties", "$defs", "definitions")  # objects whose keys are names, not keywords
_VALUES = ("const", "enum", "default", "examples")  # keywords whose content is data, not a schema
Biases = Sequence[tuple[int, float]]


class Grammar(OwnedSampler):
    """A parsed GBNF grammar and its state after the tokens of the answer.

    Raises:
        UsageError: when the grammar is not valid, with llama.cpp's reason.
    """

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
        end_tokens = [token for token in (self._vocab.eos,) if token is not None] or self._vocab.end_tokens
        return any(self.allows(token) for token in end_tokens)


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

    Raises:
        UsageError: when the schema is not valid JSON or not supported by the converter.
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


def _keywords(node: Any) -> Iterator[str]:
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


class Sampler:
    """Draws tokens with the chain. `sample` also adds the token to the history of the chain."""

    def __init__(
        self, vocab: Vocab, steps: Sequence[SamplerStep], biases: Biases, hooks: ChainHooks | None = None
    ) -> None:
        self._api = bindings.load()
        self.chain = Chain(vocab, steps, biases, hooks)
        self._sample = self._api.llama_sampler_sample

    def sample(self, ctx: Any, row: int) -> int:
        """The next token from the logits of batch row `row` (-1 = the last)."""
        token: int = self._sample(self.chain.pointer, ctx, row)
        if self.chain.python_samplers:
            self.chain.raise_failure()
        return token

    def complete(self) -> bool:
        """Whether the output can end now."""
        return True

    def close(self) -> None:
        """Free the samplers; a second call has no effect."""
        self.chain.close()


class ConstrainedSampler(Sampler):
    """Draws tokens that match a grammar and are not forbidden.

    As in llama.cpp's common_sampler_sample, the chain draws without the grammar first. Only if the grammar rejects the
    token, a second draw applies the grammar to all candidates, which is slow. The gate is a Python sampler that calls
    the chain, so the candidates stay in C.
    """

    def __init__(
        self,
        vocab: Vocab,
        steps: Sequence[SamplerStep],
        biases: Biases,
        grammar: Grammar | None,
        hooks: ChainHooks | None = None,
    ) -> None:
        super().__init__(vocab, steps, (), hooks)
        api = bindings.load()
        self._on_step: StepObserver = hooks.on_step if hooks and hooks.on_step else lambda _name, _candidates: None
        self.grammar = grammar
        self.forbidden: set[int] = set()
        self._with_grammar = False
        self._is_empty = False
        self._bias = make_bias(vocab, biases) if biases else None
        self._greedy = api.llama_sampler_init_greedy()
        gate = CustomSampler("gate", self._apply, owned=[self._greedy, *filter(None, [self._bias])])
        self.chain.python_samplers.append(gate)  # the chain raises its errors, and closes it
        # A chain of one sampler, because llama_sampler_sample reuses its buffer of candidates only for a chain.
        self._outer = OwnedSampler(api.llama_sampler_chain_init(api.llama_sampler_chain_default_params()))
        api.llama_sampler_chain_add(self._outer.pointer, gate.pointer)

    def _apply(self, candidates: Any) -> None:
        """Apply forbidden tokens, grammar and biases, then the chain."""
        api, array = self._api, candidates.contents
        array.selected = 0  # llama.cpp aborts without a selected token, which an exception below would cause
        self._on_step(BEGIN, candidates)
        for token in self.forbidden:
            array.data[token].logit = -math.inf
        if self.forbidden:
            self._on_step("banned_strings", candidates)
        if self._with_grammar and self.grammar:
            api.llama_sampler_apply(self.grammar.pointer, candidates)
            self._on_step("grammar", candidates)
        if self._bias:
            api.llama_sampler_apply(self._bias, candidates)
            self._on_step("logit_bias", candidates)
        if self._with_grammar or self.forbidden:
            api.llama_sampler_apply(self._greedy, candidates)
            self._is_empty = array.data[array.selected].logit == -math.inf
            if self._is_empty:
                return
        array.selected = -1
        api.llama_sampler_apply(self.chain.pointer, candidates)

    def sample(self, ctx: Any, row: int) -> int:
        """The next token.

        Raises:
            ConstraintError: when grammar, biases and banned strings exclude every token.
        """
        self._with_grammar = False
        token = self._draw(ctx, row)
        if self.grammar and not self.grammar.allows(token):
            self._with_grammar = True
            token = self._draw(ctx, row)
        self._api.llama_sampler_accept(self.chain.pointer, token)
        if self.grammar:
            self.grammar.accept(token)
        return token

    def _draw(self, ctx: Any, row: int) -> int:
        self._is_empty = False
        token: int = self._sample(self._outer.pointer, ctx, row)
        self.chain.raise_failure()
        if self._is_empty or (self._with_grammar and self.grammar and not self.grammar.allows(token)):
            raise ConstraintError("no token satisfies the constraints", "relax the grammar, --ban or --logit-bias")
        return token

    def snapshot(self) -> tuple[Any, Any]:
        """A copy of the state of chain and grammar; pass it to `restore` or `discard`, once."""
        return self.chain.snapshot(), self.grammar.snapshot() if self.grammar else None

    def restore(self, snapshot: tuple[Any, Any]) -> None:
        self.chain.restore(snapshot[0])
        if self.grammar:
            self.grammar.restore(snapshot[1])

    def discard(self, snapshot: tuple[Any, Any]) -> None:
        for pointer in filter(None, snapshot):
            self._api.llama_sampler_free(pointer)

    def complete(self) -> bool:
        return self.grammar is None or self.grammar.may_end()

    def close(self) -> None:
        self._outer.close()
        super().close()
        if self.grammar:
            self.grammar.close()
