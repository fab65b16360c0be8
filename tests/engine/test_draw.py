"""The draw at the end of a chain: dist, Mirostat, adaptive-p; and the speed of the Python samplers."""

import ctypes
import gc
import math
import random
from collections.abc import Sequence
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import pytest

from llmcli.engine.draw_state import DrawState
from llmcli.engine.llama import bindings
from llmcli.engine.sampling.chain import ChainHooks, TokenSampler
from llmcli.engine.sampling.python_samplers import CustomSampler
from llmcli.params.policies.policy import Fixed
from llmcli.params.sampler_chain import SamplerStep
from tests.engine.candidates import apply_chain, apply_samplers, log_probabilities, make_chain, make_steps

P = [0.5, 0.3, 0.15, 0.05]
HALVES = log_probabilities([0.5, 0.25, 0.125, 0.0625, 0.0625])


def draws(count: int, logits: Sequence[float] = tuple(log_probabilities(P)), **settings: Any) -> list[int | None]:
    chain = make_chain(make_steps(draw=True, **settings), len(logits))
    try:
        return [apply_chain(chain, logits).drawn for _ in range(count)]
    finally:
        chain.close()


@pytest.mark.parametrize("values", [{}, {"mirostat": 1}, {"mirostat": 2}, {"samplers": ("adaptive_p",)}])
def test_a_seed_determines_the_draws(values: dict[str, Any]) -> None:
    assert draws(50, seed=1, **values) == draws(50, seed=1, **values)
    assert draws(50, seed=1, **values) != draws(50, seed=2, **values)


def test_the_largest_seed_is_reproducible() -> None:
    assert draws(50, seed=2**32 - 1) == draws(50, seed=2**32 - 1)


def test_tokens_are_drawn_by_their_probability() -> None:
    drawn = draws(4000)
    for token, p in enumerate(P):
        assert drawn.count(token) / 4000 == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / 4000))


def test_a_masked_token_is_never_drawn() -> None:
    assert set(draws(500, [0.0, -math.inf, 0.0])) == {0, 2}


# At first mu is twice tau: what surprises by more bits than that is cut. The surprises are 1, 2, 3, 4, 4 bits.
@pytest.mark.parametrize(
    ("tau", "ids"), [(0.2, [0]), (0.7, [0]), (1.2, [0, 1]), (1.7, [0, 1, 2]), (2.5, [0, 1, 2, 3, 4])]
)
def test_mirostat_2_first_truncates_at_twice_its_target(tau: float, ids: list[int]) -> None:
    left = apply_samplers(HALVES, mirostat=2, mirostat_tau=tau)
    assert sorted(left.ids) == ids
    assert left.drawn in ids


@pytest.mark.parametrize("tau", [0.5, 1.0, 1.5, 2.0])
def test_mirostat_1_first_keeps_the_k_of_its_formula(tau: float) -> None:
    p = [2.0 ** -(i + 1) for i in range(8)]
    t = [math.log((i + 2) / (i + 1)) for i in range(7)]
    s = sum(x * math.log(2) for x in t) / sum(x * x for x in t)
    k = (((s - 1) * 2 ** (2 * tau)) / (1 - 8 ** -(s - 1))) ** (1 / s)
    assert sorted(apply_samplers(log_probabilities(p), mirostat=1, mirostat_tau=tau).ids) == list(range(max(int(k), 1)))


def test_mirostat_adapts_to_the_drawn_tokens() -> None:
    chain = make_chain(make_steps(draw=True, mirostat=2, mirostat_tau=1.2, mirostat_eta=1.0), 5)
    sizes = {len(apply_chain(chain, HALVES).ids) for _ in range(20)}
    chain.close()
    assert len(sizes) > 1


def test_adaptive_p_draws_most_often_near_its_target() -> None:
    drawn = draws(500, samplers=("adaptive_p",), adaptive_target=0.3)
    assert drawn.count(1) > 250


def test_adaptive_p_without_a_target_does_not_change_draws() -> None:
    assert draws(1000, samplers=("adaptive_p",)).count(0) == pytest.approx(500, abs=80)


def seconds(made: Sequence[SamplerStep], rows: Any, n: int) -> float:
    """The shortest time of several applications to the same candidates."""
    api = bindings.load()
    chain, best = make_chain(made, n), math.inf
    for _ in range(30):
        copy = type(rows).from_buffer_copy(rows)
        array = api.llama_token_data_array(ctypes.cast(copy, ctypes.POINTER(api.llama_token_data)), n, -1, False)
        begin = perf_counter()
        api.llama_sampler_apply(chain.pointer, ctypes.byref(array))
        best = min(best, perf_counter() - begin)
        chain.raise_failure()
    chain.close()
    return best


@pytest.mark.parametrize("values", [{"top_a": 0.2}, {"smoothing_factor": 0.3}])
def test_python_samplers_are_fast_on_a_large_vocabulary(values: dict[str, Any]) -> None:
    api, n, rng = bindings.load(), 50_000, random.Random(1)
    rows = (api.llama_token_data * n)(*[api.llama_token_data(i, rng.gauss(0, 3), 0.0) for i in range(n)])
    # A loop in Python over the candidates takes some 500 times as long as llama.cpp's top-k.
    assert seconds(make_steps(**values), rows, n) < 50 * seconds(make_steps(top_k=40), rows, n)


def test_an_exception_in_a_python_sampler_is_raised_once() -> None:
    def fail(_candidates: Any) -> None:
        raise ZeroDivisionError("inside C")

    chain = make_chain((), 2)
    chain.python_samplers.append(CustomSampler("failing", fail))
    bindings.load().llama_sampler_chain_add(chain.pointer, chain.python_samplers[0].pointer)
    with pytest.raises(ZeroDivisionError, match="inside C"):
        apply_chain(chain, [0.0, 1.0])
    chain.raise_failure()
    chain.close()


def test_all_samplers_are_freed_with_their_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()  # samplers of other tests
    api = bindings.load()
    free, freed = api.llama_sampler_free, []

    def count(pointer: Any) -> None:
        freed.append(pointer)
        free(pointer)

    monkeypatch.setattr(api, "llama_sampler_free", count)
    only_size: Any = SimpleNamespace(n_tokens=5)
    chain = TokenSampler(only_size, make_steps(temperature=Fixed(0.5)), hooks=ChainHooks(DrawState()))
    clone = chain.clone()
    chain.close()
    chain.close()
    assert len(freed) == 1
    del clone
    assert len(freed) == 2
    del chain
    gc.collect()  # a sampler in Python and its callback refer to each other
    assert len(freed) == 3  # and the sampler that the temperature step uses


def test_a_clone_of_a_chain_continues_like_the_chain() -> None:
    made = make_steps(draw=True, xtc_probability=0.5, top_a=0.1, smoothing_factor=0.2, presence_penalty=0.5)
    chain = make_chain(made, 5)
    for token in (0, 1, 1):
        apply_chain(chain, HALVES)
        chain.accept([token])
    before = chain.clone()
    first = [apply_chain(chain, HALVES) for _ in range(20)]
    chain.replace(before)
    assert [apply_chain(chain, HALVES) for _ in range(20)] == first
    chain.close()
