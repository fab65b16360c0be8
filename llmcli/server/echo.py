"""Completions with `echo`: the prompt comes back before its continuation, with the log-probability of each token."""

from collections.abc import Sequence
from dataclasses import dataclass

from llmcli.engine.events import Request, ScoredPrompt
from llmcli.inference.answer_json import token_entry
from llmcli.inference.engine import check_scores
from llmcli.params.sampler_chain import build_chain, is_random
from llmcli.server.http import Values
from llmcli.server.served_model import ServedModel

# Samplers that never remove the most likely token.
_KEEP_THE_FIRST = {"temperature", "dist", "top_k", "top_p", "min_p", "top_n_sigma"}


@dataclass(frozen=True)
class Echo:
    """A prompt as it comes back."""

    text: str
    tokens: Sequence[Values]  # in the form of `token_data`; empty without log-probabilities
    following: Values | None = None  # the data of the answer, if it is a single token that needs no generation


async def read_echoes(model: ServedModel, requests: Sequence[Request]) -> list[Echo]:
    """The prompts of some requests. With the setting `logprobs`, they are evaluated. Raises UsageError."""
    return [await _read_echo(model, request) for request in requests]


async def _read_echo(model: ServedModel, request: Request) -> Echo:
    engine, tokens, settings = model.engine, request.prompt.tokens, request.settings
    text = request.prompt.text or engine.tokenizer.detokenize([*tokens])
    if not settings.logprobs:
        return Echo(text, [])
    check_scores(engine, "echo with logprobs")
    scored = await model.worker.call(lambda stop: engine.score_prompt(tokens, settings.logprobs, stop))
    first: Values = {**token_entry(engine.tokenizer, tokens[0], None), "top_logprobs": None}
    others = [
        {
            **token_entry(engine.tokenizer, one.id, one.logprob),
            "top_logprobs": [token_entry(engine.tokenizer, *other) for other in one.top],
        }
        for one in scored.logprobs
    ]
    return Echo(text, [first, *others], _following(model, request, scored))


def _following(model: ServedModel, request: Request, scored: ScoredPrompt) -> Values | None:
    """The answer of one token without sampling, as programs ask for it that only want the prompt's log-probabilities.

    Its distribution is known by now, so that the prompt need not be evaluated a second time.
    """
    settings, tokenizer = request.settings, model.engine.tokenizer
    is_plain = request.constraint is None and not settings.logit_bias and not settings.banned_strings
    is_plain &= {step.name for step in build_chain(settings)} <= _KEEP_THE_FIRST
    if settings.max_tokens not in (0, 1) or (settings.max_tokens and (is_random(settings) or not is_plain)):
        return None
    if not settings.max_tokens:
        return {"text": "", "finish_reason": "length", "tokens": []}
    token, _ = scored.following[0]
    if tokenizer.ends(token):
        return {"text": "", "finish_reason": "stop", "tokens": []}
    entries = [token_entry(tokenizer, *one) for one in scored.following]
    text = tokenizer.piece(token).decode("utf-8", "replace")
    return {"text": text, "finish_reason": "length", "tokens": [{**entries[0], "top_logprobs": entries}]}
