"""llama-server's own route for text: /completion, with the tokens, the settings and the probabilities of an answer."""

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response

from llmcli.engine.events import TokenTrace
from llmcli.errors import UsageError
from llmcli.inference.answer import Answer
from llmcli.inference.answer_json import token_data
from llmcli.inference.engine import Engine, Vocab
from llmcli.inference.openai_format import native_values
from llmcli.params.generation import GenerationParams
from llmcli.params.param import fields_of
from llmcli.params.sampler_chain import SamplingParams
from llmcli.params.settings import Settings, fields, to_datum
from llmcli.server.answer_group import AnswerGroup
from llmcli.server.errors import error_data
from llmcli.server.http import Values, event, event_stream, json_response, read_body, take, unless_gone
from llmcli.server.served_model import Question
from llmcli.server.text_requests import TextRequest, answer_timings, take_request

# A chain may remove the likeliest tokens: so many more are traced, so that those that are left are among them.
_MORE_TRACED = 64


class _Asked:
    """A request in llama-server's form: what it adds to the others."""

    def __init__(self, request: TextRequest, body: Values) -> None:
        self.request = request
        self.has_tokens = take(body, "return_tokens", bool, False)
        self.n_probs = take(body, "logprobs", int, 0)
        self.is_after = take(body, "post_sampling_probs", bool, False)
        self.fields = [str(name) for name in take(body, "response_fields", list, [])]
        if self.n_probs and self.is_after:
            request.trace = self.n_probs + _MORE_TRACED
        request.own = native_values(body, is_chat=False)
        request.own |= {"logprobs": self.n_probs} if self.n_probs and not self.is_after else {}
        request.questions = [_question(one) for one in _split(request.own.pop("prompt", None))]

    def probabilities(self, answer: Answer, start: int = 0, end: int | None = None) -> Sequence[Values]:
        """Those of the tokens from `start` to `end`: of the model, or those after the sampler chain."""
        if not self.n_probs:
            return []
        if not self.is_after:
            return token_data(answer, start, end)
        tokenizer = answer.engine.tokenizer
        end = len(answer.tokens) if end is None else end  # the token that ends an answer is traced too
        return [_traced(tokenizer, one, self.n_probs) for one in answer.record.traces[start:end]]


async def completion(request: Request) -> Response:
    """Continuations of texts, in llama-server's own form."""
    body = await read_body(request)
    asked = _Asked(await take_request(request, body), body)
    group = asked.request.start(await asked.request.read())
    if asked.request.is_streamed:
        return await event_stream(_events(asked, group))
    await unless_gone(request, group.end())
    results = [await _result(asked, group, index) for index in range(len(group.answers))]
    return json_response(results[0] if len(results) == 1 else [*results])


def _split(prompt: object) -> Sequence[object]:
    """The prompts of a body: one, or a list of them. A list of texts is several, one of tokens and texts is one."""
    if not isinstance(prompt, list) or any(_is_token(one) for one in prompt):
        return [prompt]
    if not prompt:
        raise UsageError("prompt must not be an empty list")
    return prompt


def _question(prompt: object) -> Question:
    if isinstance(prompt, dict):
        if prompt.get("multimodal_data"):
            raise UsageError("multimodal_data is not supported: this model reads texts")
        prompt = prompt.get("prompt_string")
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and prompt and all(_is_token(one) or isinstance(one, str) for one in prompt):
        return prompt
    raise UsageError("prompt must be a string, a list of tokens and strings, or a list of prompts")


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


async def _result(asked: _Asked, group: AnswerGroup, index: int, is_end_of_stream: bool = False) -> Values:
    answer = group.answers[index]
    data = answer_data(asked.request, answer, index) | await asked.request.extra_data(answer)
    data |= {"id_slot": group.running[index].slot, "tokens": [*answer.tokens] if asked.has_tokens else []}
    if is_end_of_stream:
        data |= {"content": "", "tokens": []}
    elif probabilities := asked.probabilities(answer):
        data["completion_probabilities"] = probabilities
    settings = {**_settings(asked.request, answer), "n_probs": asked.n_probs, "post_sampling_probs": asked.is_after}
    data["generation_settings"] = settings
    return _selected(data, asked.fields) if asked.fields else data


def answer_data(request: TextRequest, answer: Answer, index: int) -> Values:
    """A finished answer in llama-server's form."""
    tokenizer, tokens, timings = answer.engine.tokenizer, answer.prompt.tokens, answer.record.timings
    failure = answer.constraint_failure()
    data: Values = {"error": error_data(failure)["error"]} if failure else {}
    return data | {
        "index": index,
        "content": answer.text,
        "tokens": [],
        "stop": True,
        "model": request.model.name,
        "tokens_predicted": timings.predicted_n,
        "tokens_evaluated": len(tokens),
        "generation_settings": _settings(request, answer),
        "prompt": b"".join(tokenizer.piece(token, special=True) for token in tokens).decode("utf-8", "replace"),
        "has_new_line": "\n" in answer.text,
        "truncated": answer.finish_reason == "length" and answer.fills_context,
        "stop_type": _stop_type(answer),
        "stopping_word": answer.record.stop_string,
        "tokens_cached": len(answer.record.tokens),
        "timings": answer_timings(answer),
    }


def verbose_data(request: TextRequest, answer: Answer) -> Values:
    """The field `__verbose` in the forms of others, if the client asked for it: the prompt, the settings and more."""
    return {"__verbose": answer_data(request, answer, 0)} if request.is_verbose else {}


def _stop_type(answer: Answer) -> str:
    if answer.finish_reason != "stop":
        return "limit" if answer.finish_reason == "length" else "none"
    return "word" if answer.record.stop_string else "eos"


def _selected(data: Values, names: Sequence[str]) -> Values:
    """The fields with these names; `a/b` is field b of field a."""
    found: Values = {}
    for name in names:
        value: object = data
        for key in name.split("/"):
            value = value.get(key, ...) if isinstance(value, Mapping) else ...
        found |= {} if value is ... else {name: value}
    return found


def _settings(request: TextRequest, answer: Answer) -> Values:
    return {
        **sampling_data(answer.settings, answer.engine),
        "stream": request.is_streamed,
        "timings_per_token": request.has_timings,
    }


def sampling_data(settings: Settings, engine: Engine) -> Values:
    """The settings of an answer under llama-server's names, in which a bias of null is that of a banned token."""
    keys = {*fields_of(SamplingParams), *fields_of(GenerationParams)} - {"grammar_file", "temp_policy_file", "timeout"}
    data: Values = {key: to_datum(fields()[key], getattr(settings, key)) for key in sorted(keys)}
    biases: dict[int, float] = {}
    for name, bias in settings.logit_bias:
        for token in [name] if isinstance(name, int) else engine.tokenizer.tokenize(name):
            biases[token] = biases.get(token, 0.0) + bias
    if settings.ignore_eos:
        biases |= dict.fromkeys(engine.tokenizer.end_tokens, -math.inf)
    return data | {
        "logit_bias": [
            {"token": token, "bias": bias if math.isfinite(bias) else None} for token, bias in biases.items()
        ],
        "n_predict": settings.max_tokens,
        "n_probs": settings.logprobs,
        "grammar": settings.grammar or "",
    }


def _traced(tokenizer: Vocab, trace: TokenTrace, count: int) -> Values:
    """A token with its probability after the sampler chain, and the most likely ones there."""

    def entry(token: int, p: float) -> Values:
        piece = tokenizer.piece(token, special=True)
        return {"id": token, "token": piece.decode("utf-8", "replace"), "bytes": list(piece), "prob": p}

    left = sorted((one for one in trace.top if one.p > 0), key=lambda one: -one.p)[:count]
    # A token that was given, not drawn, has the whole probability.
    return {
        **entry(trace.id or 0, 1.0 if trace.p is None else trace.p),
        "top_probs": [entry(one.id, one.p) for one in left],
    }


async def _events(asked: _Asked, group: AnswerGroup) -> AsyncIterator[bytes]:
    """The events of a stream. Raises an error that comes before the first one."""
    n_sent = [0] * len(group.answers)
    async with aclosing(asked.request.pieces(group)) as pieces:
        async for piece in pieces:
            index, answer = piece.index, group.answers[piece.index]
            start = n_sent[index]
            n_sent[index] += len(piece.tokens)
            if piece.error:
                yield event(error_data(piece.error))
                return
            if piece.text or piece.tokens or piece.progress:
                data: Values = {
                    "index": index,
                    "content": piece.text,
                    "tokens": piece.tokens,
                    "stop": False,
                    "id_slot": group.running[index].slot,
                    "tokens_predicted": n_sent[index],
                    "tokens_evaluated": len(answer.prompt.tokens),
                    **piece.additions,
                }
                if piece.tokens and (probabilities := asked.probabilities(answer, start, n_sent[index])):
                    data["completion_probabilities"] = probabilities
                yield event(data)
            if piece.is_last:
                yield event(await _result(asked, group, index, is_end_of_stream=True))
