"""Log-probabilities of given tokens at an endpoint: the server echoes a prompt with them, as lm-eval asks for it."""

from collections.abc import Callable, Mapping, Sequence

from llmcli.errors import NetworkError
from llmcli.params.param import is_number

Ask = Callable[[Mapping[str, object]], object]  # a body of /completions -> JSON data
_TOGETHER = 16  # prompts of one request


def score(ask: Ask, prefix: Sequence[int], continuations: Sequence[Sequence[int]], host: str) -> list[list[float]]:
    """As `Engine.score`. Raises NetworkError if the server does not give the log-probabilities of a prompt."""
    found: list[list[float]] = []
    for start in range(0, len(continuations), _TOGETHER):
        group = continuations[start : start + _TOGETHER]
        prompts = [[*prefix, *one] for one in group]
        data = ask({"prompt": prompts, "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0})
        choices = data.get("choices") if isinstance(data, dict) else None
        by_index = {one.get("index"): one for one in choices or () if isinstance(one, dict)}
        found += [_values(by_index.get(at, {}), len(prefix), len(one), host) for at, one in enumerate(group)]
    return found


def _values(choice: Mapping[str, object], n_prefix: int, n_tokens: int, host: str) -> list[float]:
    logprobs = choice.get("logprobs")
    values = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
    own = values[n_prefix : n_prefix + n_tokens] if isinstance(values, list) else []
    if len(own) < n_tokens or not all(is_number(value) for value in own):
        raise NetworkError(f"{host} gave no log-probabilities of the prompt", "use a model on this machine")
    return [float(value) for value in own]
