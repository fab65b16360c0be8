"""Samplers of the chain that are written in Python, as the temperature step; and what is read from the logits."""

import ctypes
import math
import reprlib
import sys
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from operator import mul
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from llmcli.engine.draw_state import DrawState
from llmcli.engine.events import Alternative, TemperatureShift, TokenLogprob, TokenTrace
from llmcli.engine.llama import bindings
from llmcli.engine.llama.model import Vocab
from llmcli.errors import PolicyError
from llmcli.params.param import LARGEST_FLOAT, quote
from llmcli.params.policies.policy import Entropy, Fixed
from llmcli.params.policies.rules import TokenStep
from llmcli.params.policies.user_functions import describe_exception
from llmcli.params.sampler_chain import TemperaturePlan
from llmcli.params.samplers import Args, Sampler

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROW_TYPE = [("id", "<i4"), ("logit", "<f4"), ("p", "<f4")]  # a llama_token_data for numpy
_ROW_BYTES = 12
_NEAR = 1e-4  # of the highest probability: only these are sorted, or all if they are fewer than requested
_MAX_PYTHON = 512  # candidates; for more, numpy is faster than a loop, also with its import
_MIN_TEMPERATURE = 1e-30  # below, logits / T overflows a float; greedy sampling gives the same token


class CustomSampler:
    """A `llama_sampler` whose `apply` is a Python function of the candidates.

    Keep a reference to the object as long as llama.cpp can call it, and while a chain or a clone of it is freed.
    """

    def __init__(self, name: str, apply: "Callable[[bindings.Candidates], None]") -> None:
        api = bindings.load()
        self.failure: BaseException | None = None
        label = name.encode()

        def guarded(_sampler: object, candidates: "bindings.Candidates") -> None:
            try:
                apply(candidates)
            except BaseException as error:  # it cannot pass through C: the caller of llama.cpp raises it
                self.failure = error

        self._interface = api.llama_sampler_i(
            name=api.llama_sampler_i_name(lambda _sampler: label), apply=api.llama_sampler_i_apply(guarded)
        )
        # Without a function `clone`, llama.cpp can clone only a sampler whose context is NULL: the clone calls this
        # object as well. So the state of a Python sampler must not be part of a draw's state.
        self.pointer = api.llama_sampler_init(self._interface, None)


def python_sampler(sampler: Sampler, args: Args) -> CustomSampler:
    """A sampler that is written in Python, with its arguments."""
    import numpy as np  # takes 80 ms, so only here; a loop over a vocabulary is too slow

    def apply(candidates: "bindings.Candidates") -> None:
        array = candidates.contents
        rows = candidate_rows(array)
        logits = rows["logit"]
        live = logits > -math.inf
        if not live.any():
            return
        if sampler.transform:
            with np.errstate(over="ignore"):  # a logit below the smallest float becomes -inf, as it should
                logits[live] = sampler.transform(logits[live], *args)
            array.sorted = array.sorted and bool((logits[1:] <= logits[:-1]).all())
        if sampler.keep:
            weights = np.exp(logits[live] - logits.max())
            kept = rows[live][np.asarray(sampler.keep(weights / weights.sum(), *args))]
            rows[: len(kept)] = kept  # in the memory of llama.cpp, as its own samplers do
            array.size = len(kept)

    return CustomSampler(sampler.name, apply)


def candidate_rows(array: "bindings.CandidateArray") -> "NDArray[np.void]":
    """The candidates, not copied, as a numpy array with the fields id, logit and p."""
    import numpy as np

    block = (ctypes.c_char * (array.size * _ROW_BYTES)).from_address(ctypes.addressof(array.data.contents))
    return np.frombuffer(memoryview(block), ROW_TYPE)


def candidate_bytes(array: "bindings.CandidateArray") -> bytes:
    """A copy of the candidates: for some hundred of them, much faster than a loop over structures of ctypes."""
    return ctypes.string_at(array.data, array.size * _ROW_BYTES)


class TemperatureReading(NamedTuple):
    """Values of a draw."""

    entropy: float  # of the live candidates, in nats
    candidates: int
    temperature: float
    policy: str  # the part that was used


class TemperatureSampler(CustomSampler):
    """The temperature step of a chain. Each draw is one of three cases:

    - native: llama.cpp's `temp_ext` applies the policy, so that the tokens are exactly those of llama.cpp.
    - policy: llama.cpp does not have the policy; it is called for each token.
    - shifted: the user moved the temperature; that of the policy plus the shift is applied.

    A step that only reads applies nothing. With `records`, `reading` has the values of the last draw. Raises UsageError
    when the function of a user's policy cannot be loaded.
    """

    def __init__(
        self, plan: TemperaturePlan, state: DrawState, shift: TemperatureShift | None = None, records: bool = False
    ) -> None:
        self._api = bindings.load()
        self._plan = plan
        self._state = state
        self._shift = None if plan.only_reads else shift
        self._records = records
        native = plan.native and self._api.llama_sampler_init_temp_ext(*plan.native)
        self._native = bindings.OwnedSampler(native) if native else None
        self.reading = TemperatureReading(0.0, 0, 0.0, "")
        self.seconds = 0.0  # time in the policy
        policy = plan.policy
        policy.load()
        self._label = f"the temperature policy {quote(policy, 62)}"
        if self._shift and isinstance(policy, Fixed | Entropy):
            self._shift.observe(policy.value if isinstance(policy, Fixed) else policy.high)
        super().__init__("temperature", self._apply)

    def _apply(self, candidates: "bindings.Candidates") -> None:
        shift = self._shift.start_draw(self._state.total) if self._shift else 0.0
        native = None if shift else self._native
        # Before it is applied: entropy and policy see the candidates as they are without the temperature.
        temperature = self._temperature(candidates.contents, shift) if self._records or not native else 0.0
        if native:
            self._api.llama_sampler_apply(native.pointer, candidates)
        elif not self._plan.only_reads:  # policy or shifted
            # Dividing the logits in C, by a sampler for this draw, gives exactly the logits of a native step.
            sampler = bindings.OwnedSampler(self._api.llama_sampler_init_temp(temperature))
            self._api.llama_sampler_apply(sampler.pointer, candidates)

    def _temperature(self, array: "bindings.CandidateArray", shift: float) -> float:
        """The temperature of this draw, which is recorded."""
        state, policy, text = self._state, self._plan.policy, self._state.text
        step = TokenStep(
            lambda: _distribution(array), state.index, text.sentence, text.line, text.paragraph, state.thinking
        )
        if isinstance(policy, Fixed):
            value = policy.value
        elif isinstance(policy, Entropy):  # llama.cpp counts masked candidates too: all in the array
            value = policy.at(step.entropy, array.size)
        else:
            value = self._evaluate(step)
            if self._shift:
                self._shift.observe(value)
        value = min(value + shift, LARGEST_FLOAT)
        value = value if value > _MIN_TEMPERATURE else 0.0
        if self._records:
            self.reading = TemperatureReading(step.entropy, step.candidates, value, policy.explain(step))
        step.end()  # a policy may keep it, and the chain is about to change the candidates that it reads
        return value

    def _evaluate(self, step: TokenStep) -> float:
        """The temperature of the policy. Raises PolicyError when it raises anything or returns no valid temperature."""
        start, stdout = perf_counter(), sys.stdout
        sys.stdout = sys.stderr  # what a user's function prints is not a part of the answer
        try:
            value: object = self._plan.policy(step)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # GeneratorExit too: a user's function can raise anything
            raise PolicyError(f"{self._label} failed at token {step.index}: {describe_exception(error)}") from None
        finally:
            sys.stdout = stdout
            self.seconds += perf_counter() - start
        number: Any = value if isinstance(value, Real) else math.nan  # numpy's numbers are Real too
        if 0 <= number <= LARGEST_FLOAT:
            return float(number)
        try:
            shown = f"{value:g}"
        except Exception:  # not a number, or too large to format
            shown = reprlib.repr(value) if isinstance(value, str) else type(value).__name__
        raise PolicyError(
            f"{self._label} returned {shown} for token {step.index}", "return a finite number of at least 0"
        )


def _distribution(array: "bindings.CandidateArray") -> tuple[Sequence[float], float]:
    """The probabilities of the live candidates, the most likely first, and their entropy in nats.

    H = ln(sum w) - sum(w d) / sum w, with d = l - max and w = exp(d).
    """
    if array.size > _MAX_PYTHON:
        return _large_distribution(array)
    logits = memoryview(candidate_bytes(array)).cast("f")[1::3].tolist()
    if not array.sorted:
        logits.sort(reverse=True)
    best = logits[0]
    if best == -math.inf:
        return (), 0.0
    below = [logit - best for logit in logits]
    if logits[-1] == -math.inf:
        below = [d for d in below if d > -math.inf]
    weights = list(map(math.exp, below))
    total = sum(weights)
    nats = math.log(total) - sum(map(mul, weights, below)) / total
    return [weight / total for weight in weights], max(nats, 0.0)


def _large_distribution(array: "bindings.CandidateArray") -> tuple[Sequence[float], float]:
    """`_distribution` for many candidates, such as a whole vocabulary."""
    import numpy as np  # takes 80 ms, so only where no sampler removed candidates before

    logits = candidate_rows(array)["logit"]
    below = np.sort(logits[logits > -math.inf])[::-1]
    if not len(below):
        return (), 0.0
    below = below - below[0]
    weights = np.exp(below)
    total = float(weights.sum(dtype=np.float64))
    nats = math.log(total) - float(np.dot(weights, below)) / total
    return weights / total, max(nats, 0.0)


class DrawTracer(CustomSampler):
    """The last step of a chain, after the draw. It records the drawn token, its rank, and the candidates."""

    def __init__(self) -> None:
        self.p, self.rank = 0.0, 0
        self._rows = b""
        super().__init__("drawn", self._record)

    def _record(self, candidates: "bindings.Candidates") -> None:
        array = candidates.contents
        self._rows = candidate_bytes(array)  # now: the next draw writes into the same memory
        probabilities = memoryview(self._rows).cast("f")[2::3].tolist()
        self.p = probabilities[array.selected]
        self.rank = 1 + sum(map(self.p.__lt__, probabilities))

    def trace(
        self, ctx: int, row: int, vocab: Vocab, token: int, count: int, reading: TemperatureReading | None
    ) -> TokenTrace:
        """The trace of the last draw, with `count` alternatives; without a reading, of a token that was not drawn.

        It reads the logits in batch row `row` of the context `ctx`, which the next evaluation overwrites.
        """
        found = TokenTrace(0, token, "", None, None, None, None, None, (), "", 0, 0.0)
        left: dict[int, float] = {}
        if reading:
            found = found._replace(**reading._asdict(), p=self.p, rank=self.rank)
            rows = memoryview(self._rows)
            left = dict(zip(rows.cast("i")[::3].tolist(), rows.cast("f")[2::3].tolist(), strict=True)) if count else {}
        return found._replace(top=alternatives(ctx, row, vocab, count, left)) if count else found


def alternatives(ctx: int, row: int, vocab: Vocab, count: int, left: Mapping[int, float]) -> tuple[Alternative, ...]:
    """The most likely tokens in batch row `row` of the context `ctx`; `left` are the candidates after the chain."""
    _, weights, top = _most_likely(ctx, row, vocab.n_tokens, count)
    before = weights[top] / float(weights.sum())
    pairs = zip(top.tolist(), before.tolist(), strict=True)
    return tuple(Alternative(token, vocab.label(token), p, left.get(token, 0.0)) for token, p in pairs)


def token_logprob(ctx: int, row: int, n_vocab: int, token: int, count: int) -> TokenLogprob:
    """The log-probability of `token` and of the `count` most likely tokens, in batch row `row` of the context `ctx`.

    log softmax: l_i - max - ln sum exp(l_j - max).
    """
    import numpy as np

    logits, weights, top = _most_likely(ctx, row, n_vocab, count)
    logprobs = logits - (logits.max() + np.log(weights.sum()))
    return TokenLogprob(token, float(logprobs[token]), tuple(zip(top.tolist(), logprobs[top].tolist(), strict=True)))


def _most_likely(
    ctx: int, row: int, n_vocab: int, count: int
) -> "tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.intp]]":
    """The logits of a batch row, not copied; the weights exp(l - max); the ids of the most likely tokens, in order."""
    import numpy as np  # takes 80 ms, so only here

    logits = np.ctypeslib.as_array(bindings.load().llama_get_logits_ith(ctx, row), (n_vocab,))
    weights = np.exp(logits - logits.max())
    # To sort a whole vocabulary takes longer than to draw the token.
    near = (weights > _NEAR).nonzero()[0]
    if len(near) < count:
        near = (weights >= 0).nonzero()[0]
    return logits, weights, near[(-logits[near]).argsort(kind="stable")[:count]]
