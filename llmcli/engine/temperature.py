"""The temperature step in Python: a policy over the candidates as they stand there, moved by hand, and read off."""

import ctypes
import math
import reprlib
from collections.abc import Sequence
from numbers import Real
from operator import mul
from time import perf_counter
from typing import Any, NamedTuple

from llmcli.engine import binding
from llmcli.engine.custom import CustomSampler, rows_of
from llmcli.engine.dial import Dial
from llmcli.engine.place import Place
from llmcli.errors import PolicyError
from llmcli.params.policy.compiled import compiled, spoken
from llmcli.params.policy.own import said
from llmcli.params.policy.rules import by_entropy
from llmcli.params.policy.step import TokenStep
from llmcli.params.policy.tree import Entropy, Fixed, Policy
from llmcli.params.values import LARGEST_FLOAT

_ROW = 12  # bytes of a llama_token_data: id, logit, p
_FEW = 512  # up to so many candidates plain Python is faster than numpy is imported
_COLDEST = 1e-30  # below, logits / T leaves what a float holds and llama.cpp draws nonsense; greedy is the same


class Reading(NamedTuple):
    """What the temperature step saw and did: entropy (nats) and number of the live candidates, the temperature."""

    entropy: float
    candidates: int
    temperature: float
    policy: str


class TemperatureSampler(CustomSampler):
    """Stands in the chain where the temperature does. `args` are those of the plan's step.

    A fixed or entropy policy is left to llama.cpp all the same, so that the tokens are the very same; only a shift
    by hand takes it over. Without `args` nothing is changed, and only read.
    """

    def __init__(self, args: tuple[Any, ...], place: Place, dial: Dial | None = None, reads: bool = False) -> None:
        self._api = api = binding.load()
        self._place = place
        self._dial = dial if args else None
        self._reads = reads
        self._native = api.llama_sampler_init_temp_ext(*args) if len(args) == 3 else None
        self._policy = args[0] if len(args) == 1 else policy_of(*(args or (1.0, 0.0, 1.0)))
        self._ours = bool(args) and not self._native
        self._at, self._spoken = compiled(self._policy), spoken(self._policy)
        self._last: tuple[TokenStep, float] | None = None
        if self._dial and isinstance(self._policy, Fixed | Entropy):
            self._dial.gave(self._policy.value if isinstance(self._policy, Fixed) else self._policy.high)
        self.seconds = 0.0  # spent in the policy itself
        super().__init__("temperature", self._temper, owned=[self._native] if self._native else [])

    def _temper(self, candidates: Any) -> None:
        array, place, api = candidates.contents, self._place, self._api
        text = place.text
        step = TokenStep(
            lambda: _distribution(array), place.index, text.sentence, text.line, text.paragraph, place.thinking
        )
        shift = self._dial.at(place.total) if self._dial else 0.0
        value = 0.0
        if self._reads or self._ours or shift:
            value = self._ask(step) if self._ours else self._known(step, array.size)
            if self._dial and self._ours:
                self._dial.gave(value)
            value = min(value + shift, LARGEST_FLOAT)
            value = value if value > _COLDEST else 0.0
        if self._reads:
            self._last = step, value
            step.entropy  # noqa: B018  computed now, for the candidates change
        step.end()
        if self._native and not shift:
            api.llama_sampler_apply(self._native, candidates)
        elif self._native or self._ours:
            sampler = api.llama_sampler_init_temp(value)
            api.llama_sampler_apply(sampler, candidates)
            api.llama_sampler_free(sampler)

    def reading(self) -> Reading:
        """What the last token was drawn with, where it was read at all."""
        assert self._last
        step, value = self._last
        return Reading(step.entropy, step.candidates, value, self._spoken(step))

    def _known(self, step: TokenStep, n_candidates: int) -> float:
        """The temperature that llama.cpp takes; it counts masked candidates too."""
        policy = self._policy
        if isinstance(policy, Entropy):
            return by_entropy(step.entropy, n_candidates, policy.low, policy.high, policy.exponent)
        return self._at(step)

    def _ask(self, step: TokenStep) -> float:
        """What the policy says for a token.

        Raises:
            PolicyError: when it raises, or returns what is no temperature.
        """
        begin = perf_counter()
        try:
            value: Any = self._at(step)
        except (Exception, SystemExit) as error:
            raise PolicyError(f"{self._whose()} failed at token {step.index}: {said(error)}") from None
        finally:
            self.seconds += perf_counter() - begin
        if type(value) is float and 0 <= value <= LARGEST_FLOAT:
            return value
        number: Any = value if isinstance(value, Real) else math.nan  # numpy's numbers are as good as ours
        if 0 <= number <= LARGEST_FLOAT:
            return float(number)
        message = f"{self._whose()} gave {_shown(value)} for token {step.index}"
        raise PolicyError(message, "it must give a finite number, 0 or more")

    def _whose(self) -> str:
        text = str(self._policy)
        return f"the temperature policy {text if len(text) <= 60 else text[:57] + '...'}"


def _shown(value: Any) -> str:
    """What a policy gave that is no temperature, in few letters."""
    try:
        return f"{value:g}"
    except Exception:  # no number, or one too large to be written
        return reprlib.repr(value) if isinstance(value, str) else type(value).__name__


def policy_of(base: float, delta: float, exponent: float) -> Policy:
    """llama.cpp's three numbers as a policy."""
    if delta <= 0:
        return Fixed(base)
    low, high = (float(f"{bound:.9g}") for bound in (base - delta, base + delta))  # 0.8 - 0.5 is 0.30000000000000004
    return Entropy(max(low, 0.0), high, exponent)


def _distribution(array: Any) -> tuple[Sequence[float], float]:
    """The probabilities of the live candidates, the likeliest first, and their entropy in nats.

    H = ln(sum w) - sum(w d) / sum w, with d = l - max and w = exp(d).
    """
    size = array.size
    if size > _FEW:
        return _large_distribution(array)
    logits = memoryview(ctypes.string_at(array.data, size * _ROW)).cast("f")[1::3].tolist()
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
    """The same over a whole vocabulary."""
    import numpy as np  # 80 ms, only where no sampler cut candidates off before

    logits = rows_of(array)["logit"]
    below = np.sort(logits[logits > -math.inf])[::-1]
    if not len(below):
        return (), 0.0
    below = below - below[0]
    weights = np.exp(below)
    total = float(weights.sum(dtype=np.float64))
    nats = math.log(total) - float(np.dot(weights, below)) / total
    return weights / total, max(nats, 0.0)
