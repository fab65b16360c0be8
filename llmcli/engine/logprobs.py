"""Log-probabilities of a drawn token and of the most likely tokens, before sampling."""

from dataclasses import dataclass
from typing import Any

from llmcli.engine.llama import bindings


@dataclass(frozen=True)
class TokenLogprob:
    """Natural logarithms of probabilities over the whole vocabulary; `top` is sorted, the most likely first."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def token_logprob(ctx: Any, row: int, n_vocab: int, token: int, count: int) -> TokenLogprob:
    """The log-probability of `token` and of the `count` most likely tokens, in batch row `row` of the context `ctx`.

    log softmax: l_i - max - ln sum exp(l_j - max). The logits are not copied.
    """
    import numpy as np  # takes 80 ms, so only here

    pointer = bindings.load().llama_get_logits_ith(ctx, row)
    logits = np.ctypeslib.as_array(pointer, shape=(n_vocab,))
    best = logits.max()
    logprobs = logits - (best + np.log(np.exp(logits - best).sum()))
    count = min(count, n_vocab)
    top = np.argpartition(logprobs, -count)[-count:]
    top = top[np.argsort(-logprobs[top], kind="stable")]
    return TokenLogprob(token, float(logprobs[token]), tuple((int(i), float(logprobs[i])) for i in top))
