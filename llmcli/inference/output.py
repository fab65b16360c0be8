"""An answer as the JSON object that `--json` prints."""

from typing import Any

from llmcli.inference.answer import Answer
from llmcli.inference.replay_manifest import replay_data
from llmcli.params.generation import InterfaceParams
from llmcli.params.model import HubParams
from llmcli.params.param import describe
from llmcli.params.settings import Settings, to_data, without_effect

# The settings that no answer depends on: for downloads, the chat and the trace.
_UNRELATED = {*describe(HubParams), *describe(InterfaceParams), "trace_top"}


def answer_data(answer: Answer) -> dict[str, Any]:
    """The answer as JSON data, names and timings as in llama-server."""
    timings = answer.generation.timings
    reasoning = {"reasoning_content": answer.reasoning} if answer.reasoning else {}
    return {
        "text": answer.text,
        **reasoning,
        "model": answer.local.name,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": len(answer.prompt.tokens),
        "completion_tokens": timings.predicted_n,
        "seed": answer.settings.seed,
        "params": answer_params(answer.settings),
        "timings": answer.timings(),
        **({"tokens": _token_data(answer)} if answer.settings.logprobs else {}),
        "prompt" if answer.settings.raw else "messages": answer.prompt.asked,
        "replay": replay_data(answer),
    }


def _token_data(answer: Answer) -> list[dict[str, Any]]:
    """The tokens with their log-probabilities, in the form of llama-server's `completion_probabilities`."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        piece = answer.local.model.vocab.piece(token, special=True)
        return {"id": token, "token": piece.decode("utf-8", "replace"), "bytes": list(piece), "logprob": logprob}

    return [
        {**entry(token.id, token.logprob), "top_logprobs": [entry(*other) for other in token.top]}
        for token in answer.generation.logprobs
    ]


def answer_params(settings: Settings) -> dict[str, Any]:
    """The settings as JSON data, without those that cannot have changed the answer."""
    omitted = _UNRELATED | without_effect(settings)
    values = to_data(settings).items()
    return {key: value for key, value in values if key not in omitted and value not in (None, [], "")}
