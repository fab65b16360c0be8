"""Log-probabilities of given tokens: a prefix is evaluated once, and its continuations as sequences side by side."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from llmcli.engine.events import ScoredPrompt, TokenLogprob
from llmcli.engine.llama import bindings
from llmcli.engine.llama.batches import BLOCK
from llmcli.engine.llama.context import Context
from llmcli.engine.sampling.python_samplers import token_logprob

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Logprobs = NDArray[np.float64]  # of all tokens of the vocabulary

WIDTH = 32  # continuations at a time
_PREFIX = 0  # the sequence that has the prefix, also after the call
_LOGITS = 1 << 26  # bytes of the logits of one evaluation
_Asked = tuple[Sequence[int], list[float]]  # a continuation with its result
_Following = tuple[int, list[float]]  # a token of a continuation, and the result that it belongs to


def score(
    context: Context, n_cells: int, prefix: Sequence[int], continuations: Sequence[Sequence[int]]
) -> list[list[float]]:
    """The natural log-probability of each token of each continuation, after the prefix and the tokens before it.

    It is that of the model over the whole vocabulary, without any sampler. The prefix has a token at least; what it has
    in common with that of the last call is not evaluated again. The context has WIDTH + 1 sequences, which share
    `n_cells` tokens: there must be room for the prefix and the longest continuation.

    Raises AbortedError when what the context watches is cancelled.
    """
    results = [list[float]() for _ in continuations]
    asked = [(tokens, result) for tokens, result in zip(continuations, results, strict=True) if tokens]
    firsts = [(tokens[0], result) for tokens, result in asked]
    # The last token of a continuation need not be evaluated: nothing is asked about what follows it.
    groups = [*_groups([one for one in asked if len(one[0]) > 1], n_cells - len(prefix))]
    context.begin(_PREFIX, prefix)
    if len(prefix) - context.evaluated(prefix, _PREFIX) > 2 * BLOCK:  # batches that another process can use
        end = context.plan.last_end(prefix, len(prefix) - 1)
        while context.evaluated(prefix, _PREFIX) < end:
            context.prefill_batch(_PREFIX, prefix[:end])
    # One batch for the rest of the prefix and the first group is faster than two: the weights are read once.
    rest = prefix[context.keep_prefix(_PREFIX, prefix) :]
    n_rows = sum(len(tokens) - 1 for group in groups[:1] for tokens, _ in group)
    is_one_batch = 0 < n_rows < _most_rows(context) and len(rest) + n_rows <= context.n_batch
    if not is_one_batch or context.model.is_recurrent:  # a state cannot be shared before it is computed
        context.prefill(_PREFIX, prefix)
        _read(context, -1, firsts)
        rest = []
    for group in groups:
        _score_group(context, group, rest, firsts)
        rest = []
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
    n_rows, following = _most_rows(context), TokenLogprob(0, 0.0, ())
    for start in range(keep, len(tokens), n_rows):
        batch = tokens[start : start + n_rows]
        context.extend([(_PREFIX, token) for token in batch])
        for row, at in enumerate(range(start, start + len(batch))):
            following = token_logprob(context.handle, row, n_vocab, tokens[min(at + 1, len(tokens) - 1)], n_top)
            logprobs.append(following)
    return ScoredPrompt(tokens, logprobs[: len(tokens) - 1], following.top)


def _groups(asked: Sequence[_Asked], n_free: int) -> Iterator[Sequence[_Asked]]:
    """Those that are evaluated side by side: at most WIDTH, and as many as there is room for."""
    group: list[_Asked] = []
    n_tokens = 0
    for tokens, result in asked:
        size = len(tokens) - 1
        if group and (len(group) == WIDTH or n_tokens + size > n_free):
            yield group
            group, n_tokens = [], 0
        group.append((tokens, result))
        n_tokens += size
    if group:
        yield group


def _score_group(context: Context, group: Sequence[_Asked], rest: Sequence[int], firsts: Sequence[_Following]) -> None:
    """Append to the results of continuations those of all but their first tokens.

    With a `rest` of the prefix, it is evaluated in the same batch, and `firsts` are what is asked after it.
    """
    rows, followings = list[tuple[int, int]](), list[_Following]()
    for seq_id, (tokens, result) in enumerate(group, _PREFIX + 1):
        context.share(_PREFIX, seq_id)
        rows += [(seq_id, token) for token in tokens[:-1]]
        followings += [(token, result) for token in tokens[1:]]
    n_rows = _most_rows(context)
    try:
        for start in range(0, len(rows), n_rows):
            context.extend(rows[start : start + n_rows], rest)
            if rest:
                _read(context, len(rest) - 1, firsts)
            for row, following in enumerate(followings[start : start + n_rows], len(rest)):
                _read(context, row, [following])
    finally:
        for seq_id in range(_PREFIX + 1, _PREFIX + 1 + len(group)):
            context.cut(seq_id)


def _most_rows(context: Context) -> int:
    return max(1, min(context.n_batch, _LOGITS // (4 * context.model.vocab.n_tokens)))


def _read(context: Context, row: int, followings: Sequence[_Following]) -> None:
    """Append the log-probabilities of tokens that follow a row to their results."""
    logprobs = _logprobs(context, row)
    for token, result in followings:
        result.append(float(logprobs[token]))


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
