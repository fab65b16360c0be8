"""The temperature step in Python: it applies a policy and a shift, and records what it did."""

import ctypes
import math
import reprlib
from collections.abc import Sequence
from numbers import Real
from operator import mul
from time import perf_counter
from typing import Any, NamedTuple

from llmcli.engine.events import TemperatureShift
from llmcli.engine.llama import bindings
from llmcli.engine.sampling.python_samplers import ROW_BYTES, CustomSampler, candidate_rows
from llmcli.engine.sentences import DrawState
from llmcli.errors import PolicyError
from llmcli.params.param import LARGEST_FLOAT, quote
from llmcli.params.policies.policy import Entropy, Fixed, Policy, describe_exception, explain_policy, to_callable
from llmcli.params.policies.rules import TokenStep, by_entropy
from llmcli.params.sampler_chain import NEUTRAL_TEMPERATURE

_MAX_PYTHON = 512  # candidates; for more, numpy is faster than a loop, also with its import
_MIN_TEMPERATURE = 1e-30  # below, logits / T overflows a float; greedy sampling gives the same token


class TemperatureReading(NamedTuple):
    """Values of a draw: entropy (nats) and number of the live candidates, temperature, and the part of the policy."""

    entropy: float
    candidates: int
    temperature: float
    policy: str


class TemperatureSampler(CustomSampler):
    """The temperature step of a chain. `args` are the arguments of the `SamplerStep`, in one of three forms:

    - (base, half width, exponent): a fixed or entropy policy. llama.cpp's `temp_ext` applies it, so that the tokens are
      exactly those of llama.cpp; only with a shift by the user the temperature is computed in Python.
    - (policy,): a policy that llama.cpp does not have; it is evaluated in Python.
    - (): the chain has no temperature. The step changes nothing and only reads.

    With `records`, `reading` has the values of the last draw.
    """

    def __init__(
        self, args: tuple[Any, ...], state: DrawState, shift: TemperatureShift | None = None, records: bool = False
    ) -> None:
        self._api = api = bindings.load()
        self._state = state
        self._shift = shift if args else None
        self._records = records
        self._native = api.llama_sampler_init_temp_ext(*args) if len(args) == 3 else None
        self._policy = args[0] if len(args) == 1 else policy_of_args(*(args or NEUTRAL_TEMPERATURE))
        self._is_python = bool(args) and not self._native
        self._temperature_of, self._explain = to_callable(self._policy), explain_policy(self._policy)
        self._last: tuple[TokenStep, float] | None = None
        if self._shift and isinstance(self._policy, Fixed | Entropy):
            self._shift.observe(self._policy.value if isinstance(self._policy, Fixed) else self._policy.high)
        self.seconds = 0.0  # time in the policy
        super().__init__("temperature", self._apply, owned=[self._native] if self._native else [])

    def _apply(self, candidates: Any) -> None:
        array, state, api = candidates.contents, self._state, self._api
        text = state.text
        step = TokenStep(
            lambda: _distribution(array), state.index, text.sentence, text.line, text.paragraph, state.thinking
        )
        shift = self._shift.start_draw(state.total) if self._shift else 0.0
        value = 0.0
        if self._records or self._is_python or shift:
            value = self._evaluate(step) if self._is_python else self._native_temperature(step, array.size)
            if self._shift and self._is_python:
                self._shift.observe(value)
            value = min(value + shift, LARGEST_FLOAT)
            value = value if value > _MIN_TEMPERATURE else 0.0
        if self._records:
            self._last = step, value
            step.entropy  # noqa: B018  computes it now and stores it: the next lines change the candidates
        step.end()
        if self._native and not shift:
            api.llama_sampler_apply(self._native, candidates)
        elif self._native or self._is_python:
            sampler = api.llama_sampler_init_temp(value)
            api.llama_sampler_apply(sampler, candidates)
            api.llama_sampler_free(sampler)

    def reading(self) -> TemperatureReading:
        """The values of the last draw; only with `records`."""
        assert self._last
        step, value = self._last
        return TemperatureReading(step.entropy, step.candidates, value, self._explain(step))

    def _native_temperature(self, step: TokenStep, n_candidates: int) -> float:
        """The temperature that llama.cpp applies; its entropy rule counts masked candidates too: `n_candidates`."""
        policy = self._policy
        if isinstance(policy, Entropy):
            return by_entropy(step.entropy, n_candidates, policy.low, policy.high, policy.exponent)
        return self._temperature_of(step)

    def _evaluate(self, step: TokenStep) -> float:
        """The temperature of the policy for a token.

        Raises:
            PolicyError: when the policy raises an error or returns an invalid temperature.
        """
        start = perf_counter()
        try:
            value: Any = self._temperature_of(step)
        except (Exception, SystemExit) as error:
            raise PolicyError(f"{self._label()} failed at token {step.index}: {describe_exception(error)}") from None
        finally:
            self.seconds += perf_counter() - start
        if type(value) is float and 0 <= value <= LARGEST_FLOAT:
            return value
        number: Any = value if isinstance(value, Real) else math.nan  # numpy's numbers are Real too
        if 0 <= number <= LARGEST_FLOAT:
            return float(number)
        message = f"{self._label()} returned {_format_invalid(value)} for token {step.index}"
        raise PolicyError(message, "return a finite number of at least 0")

    def _label(self) -> str:
        """The policy in errors."""
        return f"the temperature policy {quote(self._policy, 62)}"


def _format_invalid(value: Any) -> str:
    """An invalid temperature, short enough for an error."""
    try:
        return f"{value:g}"
    except Exception:  # not a number, or too large to format
        return reprlib.repr(value) if isinstance(value, str) else type(value).__name__


def policy_of_args(base: float, delta: float, exponent: float) -> Policy:
    """The policy of the three arguments of llama.cpp's `temp_ext`."""
    if delta <= 0:
        return Fixed(base)
    low, high = (float(f"{bound:.9g}") for bound in (base - delta, base + delta))  # 0.8 - 0.5 is 0.30000000000000004
    return Entropy(max(low, 0.0), high, exponent)


def _distribution(array: Any) -> tuple[Sequence[float], float]:
    """The probabilities of the live candidates, the most likely first, and their entropy in nats.

    H = ln(sum w) - sum(w d) / sum w, with d = l - max and w = exp(d).
    """
    size = array.size
    if size > _MAX_PYTHON:
        return _large_distribution(array)
    logits = memoryview(ctypes.string_at(array.data, size * ROW_BYTES)).cast("f")[1::3].tolist()
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


def _large_distribution(array: Any) -> tuple[Sequence[float], float]:
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
