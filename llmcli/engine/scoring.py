"""Log-probabilities of given tokens: a prefix is evaluated once, and its continuations as sequences side by side."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from llmcli.engine.events import ScoredPrompt, TokenLogprob
from llmcli.engine.llama import bindings
from llmcli.engine.llama.context import Context
from llmcli.engine.sampling.python_samplers import token_logprob

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Logprobs = NDArray[np.float64]  # of all tokens of the vocabulary

WIDTH = 32  # continuations at a time
_PREFIX = 0  # the sequence that has the prefix, also after the call
_LOGITS = 1 << 26  # bytes of the logits of one evaluation


def score(
    context: Context, n_cells: int, prefix: Sequence[int], continuations: Sequence[Sequence[int]]
) -> list[list[float]]:
    """The natural log-probability of each token of each continuation, after the prefix and the tokens before it.

    It is that of the model over the whole vocabulary, without any sampler. The prefix has a token at least; what it has
    in common with that of the last call is not evaluated again. The context has WIDTH + 1 sequences, which share
    `n_cells` tokens: there must be room for the prefix and the longest continuation.

    Raises AbortedError when what the context watches is cancelled.
    """
    context.prefill(_PREFIX, prefix)
    after_prefix = _logprobs(context, -1)
    results = [[float(after_prefix[tokens[0]])] if tokens else [] for tokens in continuations]
    # The last token of a continuation need not be evaluated: nothing is asked about what follows it.
    pending = [index for index, tokens in enumerate(continuations) if len(tokens) > 1]
    for group in _groups([len(continuations[index]) - 1 for index in pending], n_cells - len(prefix)):
        _score_group(context, [(continuations[pending[at]], results[pending[at]]) for at in group])
    return results


def score_prompt(
    context: Context, tokens: Sequence[int], n_top: int, known: Sequence[TokenLogprob] = ()
) -> ScoredPrompt:
    """The log-probability of each token of a prompt after those before it, with the `n_top` most likely in its place.

    `known` are those of the first tokens after the very first, from an earlier call with the same `n_top`: where the
    context still has these tokens, they are not evaluated again. Raises as `score`.
    """
    keep = min(context.keep_prefix(_PREFIX, tokens), len(known))
    keep = context.cut(_PREFIX, keep)
    logprobs, n_vocab = [*known[:keep]], context.model.vocab.n_tokens
    n_rows = max(1, min(context.n_batch, _LOGITS // (4 * n_vocab)))
    following = TokenLogprob(0, 0.0, ())
    for start in range(keep, len(tokens), n_rows):
        batch = tokens[start : start + n_rows]
        context.extend([(_PREFIX, token) for token in batch])
        for row, at in enumerate(range(start, start + len(batch))):
            following = token_logprob(context.handle, row, n_vocab, tokens[min(at + 1, len(tokens) - 1)], n_top)
            logprobs.append(following)
    return ScoredPrompt(tokens, logprobs[: len(tokens) - 1], following.top)


def _groups(sizes: Sequence[int], n_free: int) -> Iterator[Sequence[int]]:
    """The indexes of continuations that are evaluated side by side: at most WIDTH, and as many as there is room for."""
    group: list[int] = []
    n_tokens = 0
    for index, size in enumerate(sizes):
        if group and (len(group) == WIDTH or n_tokens + size > n_free):
            yield group
            group, n_tokens = [], 0
        group.append(index)
        n_tokens += size
    if group:
        yield group


def _score_group(context: Context, group: Sequence[tuple[Sequence[int], list[float]]]) -> None:
    """Append to the results of each continuation, which has that of its first token, those of the others."""
    rows = []
    for seq_id, (tokens, result) in enumerate(group, _PREFIX + 1):
        context.share(_PREFIX, seq_id)
        rows += [(seq_id, token, following, result) for token, following in pairwise(tokens)]
    n_rows = max(1, min(context.n_batch, _LOGITS // (4 * context.model.vocab.n_tokens)))
    try:
        for start in range(0, len(rows), n_rows):
            batch = rows[start : start + n_rows]
            context.extend([(seq_id, token) for seq_id, token, _, _ in batch])
            for row, (_, _, following, result) in enumerate(batch):
                result.append(float(_logprobs(context, row)[following]))
    finally:
        for seq_id in range(_PREFIX + 1, _PREFIX + 1 + len(group)):
            context.cut(seq_id)


def _logprobs(context: Context, row: int) -> "Logprobs":
    """log softmax(x) = x - max - log sum exp(x - max), in float64: the sum over a vocabulary has many small terms."""
    import numpy as np  # 60 ms, which only scores need

    logits = np.ctypeslib.as_array(
        bindings.load().llama_get_logits_ith(context.handle, row), (context.model.vocab.n_tokens,)
    )
    shifted = logits.astype(np.float64)
    shifted -= shifted.max()
    shifted -= np.log(np.exp(shifted).sum())
    return shifted
