"""Truncation samplers, against distributions calculated by hand."""

import math
from typing import Any

import pytest

from tests.engine.candidates import apply_chain, apply_samplers, log_probabilities, make_chain, make_steps

HALVES = log_probabilities([0.0625, 0.5, 0.125, 0.0625, 0.25])  # ids by probability: 1, 4, 2, then 0 and 3


@pytest.mark.parametrize(("k", "ids"), [(1, [1]), (2, [1, 4]), (3, [1, 4, 2]), (9, [0, 1, 2, 3, 4])])
def test_top_k_keeps_the_k_most_likely_tokens(k: int, ids: list[int]) -> None:
    assert sorted(apply_samplers(HALVES, top_k=k).ids) == sorted(ids)


@pytest.mark.parametrize(
    ("p", "min_keep", "ids"),
    [(0.0, 0, {1}), (0.4, 0, {1}), (0.6, 0, {1, 4}), (0.8, 0, {1, 4, 2}), (0.4, 2, {1, 4}), (0.4, 9, {0, 1, 2, 3, 4})],
)
def test_top_p_keeps_the_smallest_set_that_adds_up_to_p(p: float, min_keep: int, ids: set[int]) -> None:
    assert set(apply_samplers(HALVES, top_p=p, min_keep=min_keep).ids) == ids


def test_top_p_of_one_keeps_every_token() -> None:
    assert len(apply_samplers(HALVES, top_p=1.0).ids) == 5


@pytest.mark.parametrize(
    ("p", "min_keep", "ids"),
    [(0.1, 0, {0, 1, 2, 3, 4}), (0.2, 0, {1, 2, 4}), (0.3, 0, {1, 4}), (0.6, 0, {1}), (1.0, 0, {1}), (0.6, 2, {1, 4})],
)
def test_min_p_keeps_tokens_relative_to_the_most_likely(p: float, min_keep: int, ids: set[int]) -> None:
    assert set(apply_samplers(HALVES, min_p=p, min_keep=min_keep).ids) == ids


# In units of ln 2 the entropy is 1.875 and the surprises are 4, 1, 3, 4, 2: the nearest come in the order 4, 1, 2.
@pytest.mark.parametrize(
    ("p", "min_keep", "ids"), [(0.2, 0, [4]), (0.5, 0, [4, 1]), (0.8, 0, [4, 1, 2]), (0.2, 3, [4, 1, 2])]
)
def test_typical_p_keeps_the_tokens_nearest_to_the_entropy(p: float, min_keep: int, ids: list[int]) -> None:
    assert apply_samplers(HALVES, typical_p=p, min_keep=min_keep).ids == ids


# Mean 1, standard deviation sqrt(5); the masked token counts for neither.
@pytest.mark.parametrize(("n", "live"), [(0.5, {0}), (1.0, {0, 1}), (2.0, {0, 1, 2}), (3.0, {0, 1, 2, 3})])
def test_top_n_sigma_masks_logits_n_deviations_below_the_best(n: float, live: set[int]) -> None:
    left = apply_samplers([4.0, 2.0, 0.0, -2.0, -math.inf], top_n_sigma=n)
    assert left.live == live
    assert all(left.logits[token] == [4.0, 2.0, 0.0, -2.0][token] for token in live)


@pytest.mark.parametrize(
    ("a", "min_keep", "ids"),
    [
        (0.2, 0, {0, 1, 2, 3, 4}),  # 0.2 * 0.5^2 = 0.05
        (0.3, 0, {1, 2, 4}),  # 0.075
        (0.6, 0, {1, 4}),  # 0.15
        (0.99, 0, {1, 4}),  # 0.2475
        (0.6, 3, {1, 2, 4}),
    ],
)
def test_top_a_keeps_tokens_relative_to_the_square_of_the_best(a: float, min_keep: int, ids: set[int]) -> None:
    assert set(apply_samplers(HALVES, top_a=a, min_keep=min_keep).ids) == ids


def test_top_a_of_one_keeps_only_a_certain_token() -> None:
    assert apply_samplers(log_probabilities([0.04, 0.9, 0.06]), top_a=1.0).ids == [1]


def test_top_a_uses_only_the_remaining_candidates() -> None:
    # Of 0.5 and 0.25 the best has 2/3: 0.9 * 4/9 = 0.4 is more than 1/3.
    assert apply_samplers(HALVES, samplers=("top_k", "top_a"), top_k=2, top_a=0.9).ids == [1]
    assert set(apply_samplers(HALVES, samplers=("top_k", "top_a"), top_k=2, top_a=0.7).ids) == {1, 4}


def test_top_a_draws_no_token_and_ignores_masked_ones() -> None:
    left = apply_samplers([*HALVES, -math.inf], top_a=0.2)
    assert left.drawn is None
    assert left.live == {0, 1, 2, 3, 4}


# Sorted 1/2, 1/4, 1/8, 1/16, 1/16: the slopes are 1/4, 1/8, 1/16, 0 and the curvatures 1/8, 1/16, 1/16, of which the
# sums are 1/2, 3/4 and 1 of the whole. One candidate is always kept, for KoboldCpp does not look at the first sum.
@pytest.mark.parametrize(
    ("z", "min_keep", "ids"),
    [
        (0.0, 0, [1]),
        (0.4, 0, [1]),
        (0.7, 0, [1]),
        (0.8, 0, [1, 4]),
        (0.999, 0, [1, 4]),
        (0.4, 2, [1, 4]),
        (0.4, 3, [1, 4, 2, 0, 3]),  # there is no fourth sum
    ],
)
def test_tfs_z_keeps_the_tokens_before_the_flat_tail(z: float, min_keep: int, ids: list[int]) -> None:
    assert apply_samplers(HALVES, tfs_z=z, min_keep=min_keep).ids == ids


def test_tfs_z_of_one_keeps_every_token() -> None:
    assert apply_samplers(HALVES, tfs_z=1.0).ids == [0, 1, 2, 3, 4]


# Slopes 0.3, 0.1, 0.02, 0.03, 0.01 and curvatures 0.2, 0.08, 0.01, 0.02: the sums are 0.645, 0.903, 0.935 and 1.
@pytest.mark.parametrize(("z", "n_left"), [(0.6, 1), (0.9, 1), (0.92, 2), (0.95, 3), (0.99, 3)])
def test_tfs_z_uses_the_size_of_a_curvature_not_its_sign(z: float, n_left: int) -> None:
    p = [0.52, 0.22, 0.12, 0.1, 0.07, 0.06]
    p = [x / sum(p) for x in p]
    assert apply_samplers(log_probabilities(p), tfs_z=z).ids == list(range(n_left))


# Without curvature, each of the n - 2 sums counts the same.
@pytest.mark.parametrize(("size", "z", "n_left"), [(4, 0.3, 1), (6, 0.3, 1), (6, 0.6, 2), (6, 0.9, 3)])
def test_tfs_z_cuts_equal_probabilities_by_their_number(size: int, z: float, n_left: int) -> None:
    assert len(apply_samplers([1.0] * size, tfs_z=z).ids) == n_left


@pytest.mark.parametrize("p", [[1.0], [0.9, 0.1], [0.9, 0.09, 0.01]])
def test_tfs_z_keeps_up_to_three_candidates(p: list[float]) -> None:
    assert len(apply_samplers(log_probabilities(p), tfs_z=0.0).ids) == len(p)


def test_tfs_z_removes_masked_candidates_and_draws_none() -> None:
    left = apply_samplers([*HALVES, -math.inf, -math.inf], tfs_z=0.8)
    assert (left.ids, left.drawn) == ([1, 4], None)
    assert apply_samplers([-math.inf] * 4, tfs_z=0.5).live == set()


@pytest.mark.parametrize(
    ("threshold", "min_keep", "ids"),
    [
        (0.1, 0, {2, 0, 3}),
        (0.2, 0, {4, 2, 0, 3}),
        (0.3, 0, {1, 4, 2, 0, 3}),
        (0.1, 3, {2, 0, 3}),
        (0.1, 4, {1, 4, 2, 0, 3}),
    ],
)
def test_xtc_keeps_the_least_likely_top_choice(threshold: float, min_keep: int, ids: set[int]) -> None:
    assert set(apply_samplers(HALVES, xtc_probability=1.0, xtc_threshold=threshold, min_keep=min_keep).ids) == ids


def test_xtc_applies_with_its_probability() -> None:
    chain = make_chain(make_steps(xtc_probability=0.3, xtc_threshold=0.1), 5)
    struck = sum(len(apply_chain(chain, HALVES).ids) == 3 for _ in range(1000))
    chain.close()
    assert 240 < struck < 360


@pytest.mark.parametrize(
    "values",
    [
        {"top_k": 1},
        {"top_p": 0.9},
        {"min_p": 0.9},
        {"typical_p": 0.9},
        {"top_n_sigma": 1.0},
        {"top_a": 0.9},
        {"tfs_z": 0.5},
        {"xtc_probability": 1.0},
        {"smoothing_factor": 0.5},
        {"mirostat": 1},
        {"mirostat": 2},
    ],
)
def test_a_single_candidate_survives_every_sampler(values: dict[str, Any]) -> None:
    assert apply_samplers([-3.0], **values).ids == [0]


@pytest.mark.parametrize("p", [0.0, 0.3, 0.9])
def test_typical_p_ignores_masked_candidates(p: float) -> None:
    alive = log_probabilities([0.5, 0.25, 0.25])
    masked = [alive[0], -math.inf, alive[1], -math.inf, alive[2], *[-math.inf] * 3000]
    position_of = {0: 0, 2: 1, 4: 2}
    assert [position_of[i] for i in apply_samplers(masked, typical_p=p).ids] == apply_samplers(alive, typical_p=p).ids
