"""The same seed gives the same tokens as a chain built with the C API."""

import math
from typing import Any

import pytest

from llmcli.engine.llama.context import Context
from llmcli.engine.llama.model import Model
from llmcli.params.policies.policy import Entropy, Fixed
from llmcli.params.sampler_chain import DEFAULT_ORDER
from tests.engine.drive import run
from tests.engine.reference import N_VOCAB, VOCAB, Calls, reference_tokens

SEED, COUNT = 1234, 20
PROMPT = "In it he found a map, a coin, a map, a coin, and"
INF = math.inf
BREAKERS = (b"\n", b":", b'"', b"*")
JSON = r"""root ::= "{" pair ("," pair)* "}"
pair ::= "\"" [a-z]+ "\":" [0-9]+"""
LIST = 'root ::= " " [a-z ]{12,40} "."'

# What llama.cpp builds with nothing set, the samplers that are off among them.
BEFORE: Calls = [
    ("penalties", N_VOCAB, 64, 1.0, 0.0, 0.0),
    ("dry", VOCAB, 0.0, 1.75, 2, 64, BREAKERS, 4),
    ("top_n_sigma", -1.0),
]
CUT: Calls = [("top_k", 40), ("typical", 1.0, 0), ("top_p", 0.95, 0), ("min_p", 0.05, 0), ("xtc", 0.0, 0.1, 0, SEED)]
WARM: Calls = [("temp_ext", 0.8, 0.0, 1.0)]
DIST: Calls = [("dist", SEED)]

CASES: dict[str, tuple[dict[str, Any], Calls]] = {
    "defaults": ({}, [*BEFORE, *CUT, *WARM, *DIST]),
    "greedy": ({"temperature": Fixed(0)}, [*BEFORE, *CUT, ("temp_ext", 0.0, 0.0, 1.0), *DIST]),
    "hot": (
        {"temperature": Fixed(1.7), "top_k": 0, "min_p": 0.0},
        [("top_p", 0.95, 0), ("temp_ext", 1.7, 0.0, 1.0), *DIST],
    ),
    "dynatemp": (
        {"dynatemp_range": 0.5, "dynatemp_exponent": 1.4},
        [*BEFORE, *CUT, ("temp_ext", 0.8, 0.5, 1.4), *DIST],
    ),
    "temperature range": (
        {"temperature": Entropy(0.3, 1.3, 0.7)},
        [*BEFORE, *CUT, ("temp_ext", 0.8, 0.5, 0.7), *DIST],
    ),
    "penalties": (
        {"repeat_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.3, "repeat_last_n": 16},
        [("penalties", N_VOCAB, 16, 1.3, 0.3, 0.4), *BEFORE[1:], *CUT, *WARM, *DIST],
    ),
    "dry": (
        {"dry_multiplier": 0.8, "dry_base": 2.0, "dry_allowed_length": 1, "dry_sequence_breakers": (".", "and")},
        [BEFORE[0], ("dry", VOCAB, 0.8, 2.0, 1, 64, (b".", b"and"), 2), BEFORE[2], *CUT, *WARM, *DIST],
    ),
    "top_n_sigma": ({"top_n_sigma": 1.0}, [*BEFORE[:2], ("top_n_sigma", 1.0), *CUT, *WARM, *DIST]),
    "typical": ({"typical_p": 0.6}, [*BEFORE, ("top_k", 40), ("typical", 0.6, 0), *CUT[2:], *WARM, *DIST]),
    "infill": (
        {"samplers": ("top_k", "infill", "temperature"), "top_k": 12},
        [("top_k", 12), ("infill", VOCAB), *WARM, *DIST],
    ),
    "min_p alone": (
        {"samplers": ("min_p", "temperature"), "min_p": 0.02},
        [("min_p", 0.02, 0), *WARM, *DIST],
    ),
    "xtc": (
        {"xtc_probability": 0.6, "xtc_threshold": 0.08},
        [*BEFORE, *CUT[:4], ("xtc", 0.6, 0.08, 0, SEED), *WARM, *DIST],
    ),
    "mirostat 1": (
        {"mirostat": 1, "mirostat_tau": 4.0, "mirostat_eta": 0.2},
        [("temp", 0.8), ("mirostat", N_VOCAB, SEED, 4.0, 0.2, 100)],
    ),
    "mirostat 2": ({"mirostat": 2}, [("temp", 0.8), ("mirostat_v2", SEED, 5.0, 0.1)]),
    "adaptive_p": (
        {"samplers": ("adaptive_p", *DEFAULT_ORDER), "adaptive_target": 0.3, "adaptive_decay": 0.8},
        [*BEFORE, *CUT, *WARM, ("adaptive_p", 0.3, 0.8, SEED)],
    ),
    "another order": (
        {"samplers": ("temperature", "xtc", "min_p", "top_k"), "xtc_probability": 0.5, "top_k": 12},
        [*WARM, ("xtc", 0.5, 0.1, 0, SEED), ("min_p", 0.05, 0), ("top_k", 12), *DIST],
    ),
    "min_keep": (
        {"min_keep": 8, "top_p": 0.2, "min_p": 0.5},
        [("top_k", 40), ("top_p", 0.2, 8), ("min_p", 0.5, 8), *WARM, *DIST],
    ),
    "logit_bias": (
        {"logit_bias": ((260, -INF), (28, -INF), (3575, 4.0))},
        [("logit_bias", N_VOCAB, 3, ((260, -INF), (28, -INF), (3575, 4.0))), *BEFORE, *CUT, *WARM, *DIST],
    ),
    "ignore_eos": (
        {"ignore_eos": True},
        [("logit_bias", N_VOCAB, 3, ((0, -INF), (2, -INF), (4, -INF))), *BEFORE, *CUT, *WARM, *DIST],
    ),
    "grammar by rejection": ({}, [*BEFORE, *CUT, *WARM, *DIST]),
    "grammar with xtc and dynatemp": (
        {"xtc_probability": 0.5, "dynatemp_range": 0.3},
        [*BEFORE, *CUT[:4], ("xtc", 0.5, 0.1, 0, SEED), ("temp_ext", 0.8, 0.3, 1.0), *DIST],
    ),
    "everything": (
        {"repeat_penalty": 1.1, "dry_multiplier": 0.5, "top_n_sigma": 2.5, "typical_p": 0.95, "xtc_probability": 0.3}
        | {"temperature": Entropy(0.5, 1.5), "top_k": 60},
        [
            ("penalties", N_VOCAB, 64, 1.1, 0.0, 0.0),
            ("dry", VOCAB, 0.5, 1.75, 2, 64, BREAKERS, 4),
            ("top_n_sigma", 2.5),
            ("top_k", 60),
            ("typical", 0.95, 0),
            *CUT[2:4],
            ("xtc", 0.3, 0.1, 0, SEED),
            ("temp_ext", 1.0, 0.5, 1.0),
            *DIST,
        ],
    ),
}
GRAMMARS = {"grammar by rejection": JSON, "grammar with xtc and dynatemp": LIST}
seen: dict[str, tuple[int, ...]] = {}


@pytest.mark.parametrize("name", CASES)
def test_the_tokens_equal_those_of_a_chain_built_by_hand(context: Context, model: Model, name: str) -> None:
    values, calls = CASES[name]
    prompt = model.vocab.tokenize(PROMPT)
    grammar = GRAMMARS.get(name)
    expected = reference_tokens(model.handle, prompt, calls, COUNT, grammar)
    answer = run(context, prompt, grammar, **values, seed=SEED, max_tokens=COUNT)
    assert answer.ids == expected
    seen[name] = tuple(expected)


def test_the_tested_settings_give_different_answers() -> None:
    assert len(set(seen.values())) >= 0.8 * len(seen)
