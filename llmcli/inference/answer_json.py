"""An answer as JSON data."""

from typing import TYPE_CHECKING

from llmcli.params.decision import DecisionParams
from llmcli.params.generation import InterfaceParams
from llmcli.params.model import EndpointParams, HubParams, ModelParams, PlacementParams, RopeParams, StateParams
from llmcli.params.param import fields_of
from llmcli.params.result import ResultParams
from llmcli.params.settings import Settings, fields, ineffective_keys, to_data

if TYPE_CHECKING:
    from llmcli.inference.answer import Answer
    from llmcli.inference.decision import Decision
    from llmcli.inference.engine import Engine, Vocab

# The settings that no answer depends on: for downloads, devices, the chat, the trace, and files that are read already.
_UNRELATED = {
    *fields_of(HubParams),
    *fields_of(InterfaceParams),
    *fields_of(PlacementParams),
    *fields_of(StateParams),
    *fields_of(EndpointParams),
}
_UNRELATED |= {"trace_top", "encoding"}


def answer_data(answer: "Answer", is_full: bool = True) -> dict[str, object]:
    """The answer as JSON data, names and timings as in llama-server; only with `is_full` what it was asked with."""
    timings = answer.record.timings
    reasoning = {"reasoning_content": answer.reasoning} if answer.reasoning else {}
    return {
        "text": answer.text,
        **reasoning,
        "model": answer.engine.name,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.n_prompt,
        "completion_tokens": timings.predicted_n,
        "seed": answer.settings.seed,
        **({"params": _effective_params(answer.settings, answer.engine)} if is_full else {}),
        "timings": answer.timings(),
        **({"tokens": token_data(answer)} if answer.settings.logprobs else {}),
        **({("prompt" if answer.settings.raw else "messages"): answer.prompt.request} if is_full else {}),
        **({"replay": _replay_data(answer)} if is_full else {}),
    }


def _replay_data(answer: "Answer") -> dict[str, object]:
    from llmcli.inference.replay_manifest import replay_data  # msgspec takes 8 ms, which a plain answer does without

    return replay_data(answer)


def decision_data(engine: "Engine", decision: "Decision", is_full: bool = True) -> dict[str, object]:
    """A decision as JSON data: that of an answer, as far as it has it, and the probabilities."""
    n_prompt, elapsed_ms = len(decision.prompt.tokens), round(decision.elapsed_ms, 3)
    return {
        "text": decision.text,
        "model": engine.name,
        "finish_reason": "stop",
        **decision.data(),
        "prompt_tokens": n_prompt,
        "completion_tokens": decision.choice.n_tokens,
        **({"params": _effective_params(decision.settings, engine)} if is_full else {}),
        "timings": {"prompt_n": n_prompt, "prompt_ms": elapsed_ms, "load_ms": round(engine.load_ms, 3)},
        **({("prompt" if decision.settings.raw else "messages"): decision.prompt.request} if is_full else {}),
    }


def _effective_params(settings: Settings, engine: "Engine") -> dict[str, object]:
    """The settings that can have changed the answer."""
    omitted = _UNRELATED | ineffective_keys(settings)
    if engine.capabilities.own_defaults:
        omitted |= {*fields_of(ModelParams), *engine.capabilities.unsupported(settings)}
        omitted |= {key for key, one in fields().items() if getattr(settings, key) == one.default} - {*settings.given}
    for group in (RopeParams, DecisionParams, ResultParams):
        omitted |= {key for key, one in fields_of(group).items() if getattr(settings, key) == one.default}
    values = to_data(settings).items()
    return {key: value for key, value in values if key not in omitted and value not in (None, [], "")}


def token_entry(tokenizer: "Vocab", token: int, logprob: float | None) -> dict[str, object]:
    """A token with its log-probability; `bytes` are exact where a token is a part of a character."""
    piece = tokenizer.piece(token, special=True)
    number = {"id": token} if token >= 0 else {}  # an endpoint may give the text only
    return {**number, "token": piece.decode("utf-8", "replace"), "bytes": list(piece), "logprob": logprob}


def token_data(answer: "Answer", start: int = 0, end: int | None = None) -> list[dict[str, object]]:
    """These tokens with their log-probabilities, in the form of llama-server's `completion_probabilities`."""
    tokenizer = answer.engine.tokenizer
    return [
        {
            **token_entry(tokenizer, token.id, token.logprob),
            "top_logprobs": [token_entry(tokenizer, *other) for other in token.top],
        }
        for token in answer.record.logprobs[start:end]
    ]
