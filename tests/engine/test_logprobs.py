"""Log-probabilities: the distribution of the model, before any sampler."""

import math

import pytest

from llmcli.engine.llama.context import Context
from llmcli.engine.sampling.python_samplers import token_logprob
from llmcli.engine.scheduler import generate
from tests.engine.drive import GREEDY, start

PROMPT = "The capital of France is"


def test_logprobs_equal_the_log_softmax_of_the_logits(context: Context) -> None:
    vocab = context.model.vocab
    tokens = vocab.tokenize(PROMPT)
    context.prefill(0, tokens)
    api = context._api
    logits = api.llama_get_logits_ith(context.handle, -1)[: vocab.n_tokens]
    best = max(logits)
    total = math.log(math.fsum(math.exp(value - best) for value in logits)) + best
    ranked = sorted(range(vocab.n_tokens), key=lambda token: -logits[token])[:4]
    got = token_logprob(context.handle, -1, vocab.n_tokens, 42, 4)
    assert got.id == 42
    assert got.logprob == pytest.approx(logits[42] - total, abs=1e-4)
    assert [token for token, _ in got.top] == ranked
    assert [value for _, value in got.top] == pytest.approx([logits[token] - total for token in ranked], abs=1e-4)


def test_each_drawn_token_has_its_logprobs(context: Context) -> None:
    generation = start(context, PROMPT, max_tokens=8, logprobs=2, **GREEDY)
    list(generate(context, [generation]))
    drawn = generation.tokens[len(generation.request.prompt.tokens) :]
    assert [entry.id for entry in generation.logprobs] == drawn
    assert all(entry.top[0] == (entry.id, entry.logprob) for entry in generation.logprobs)


def test_removed_tokens_lose_their_logprobs(context: Context) -> None:
    generation = start(context, PROMPT, max_tokens=8, logprobs=1, banned_strings=("Paris",), **GREEDY)
    list(generate(context, [generation]))
    assert [entry.id for entry in generation.logprobs] == generation.tokens[len(generation.request.prompt.tokens) :]


def test_logprobs_are_empty_by_default(context: Context) -> None:
    generation = start(context, PROMPT, max_tokens=2)
    list(generate(context, [generation]))
    assert generation.logprobs == []
