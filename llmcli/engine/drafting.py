"""Drafts: tokens that are likely to come next, from an earlier part of the text or from a smaller model."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import accumulate, cycle, islice
from operator import mul
from time import perf_counter
from typing import Protocol

from llmcli.engine.events import Cancellation
from llmcli.engine.llama import bindings
from llmcli.engine.llama.context import AbortedError, Context
from llmcli.engine.llama.model import Vocab
from llmcli.errors import ContextOverflowError, UsageError

_KEYS = (4, 2)  # tokens that must agree before a place is copied from, the best first
# The chance that a copied token is right, by how well its place is known: found by 2 tokens, found by 4, and then by
# how many tokens before it were right. A start value counts as so many draws.
_PRIOR, _PRIOR_DRAWS = (0.3, 0.5, 0.6, 0.75, 0.85, 0.92), 6
PRIOR_OF_MODEL = 0.7
_FADING = 0.985  # of what was seen, at each draw
# Of a token, in steps of one token: what drafts save, and what a token of a prompt takes. Both are careful guesses.
_SAVING, _READING = 0.3, 0.3
_FEW = 32  # tokens that are read between two drafts
_MAX_PADDING = 128  # tokens without a text that models of one family have at the end
_SYNC = 4  # tokens copied in succession after which one that differs counts as replaced


class Drafter(Protocol):
    """Proposes the next tokens of one text. `follow` comes first in each step."""

    def follow(self, tokens: Sequence[int]) -> None:
        """Look at the text as it is now: most often it has grown by some tokens."""

    def expect(self, count: int) -> Sequence[float]:
        """How many of 1, 2, ... up to `count` proposed tokens will be right, on average; empty where it has none."""

    def cost(self, count: int, single: float) -> float:
        """How long a proposal of so many tokens takes, in steps of the target, one of which takes `single` seconds."""

    def propose(self, count: int) -> list[int]:
        """At most `count` tokens."""

    def learn(self, n_drafted: int, n_accepted: int) -> None:
        """Of the last proposal so many were evaluated, and so many were right."""


class Chances:
    """How often tokens of several kinds were right; the last ones count most."""

    def __init__(self, rates: Sequence[float] = _PRIOR) -> None:
        self.rates = list(rates)  # by kind
        self._weights = [float(_PRIOR_DRAWS)] * len(rates)

    def observe(self, kind: int, is_right: bool) -> None:
        """Count one token of a kind."""
        weight = self._weights[kind] * _FADING + 1
        self.rates[kind] += (is_right - self.rates[kind]) / weight
        self._weights[kind] = weight


class PromptLookup:
    """Copies what stood after the last tokens where they stood before: in the prompt, the session or the answer.

    What it would have proposed is compared with each token that is drawn, so that it knows its chances before anything
    is evaluated. A token costs two look-ups in a dictionary.
    """

    def __init__(self, chances: Chances | None = None) -> None:
        """`chances` are those of earlier texts, which are updated."""
        self._tokens: Sequence[int] = ()
        self._ends: tuple[dict[tuple[int, ...], int], ...] = tuple({} for _ in _KEYS)  # tokens -> index behind the last
        self._n_read = 0
        self._at = -1  # index of the token that is copied next; -1 for none
        self._trust = 0  # in this place, as in _PRIOR: 0 or 1 where it was just found, then the tokens right so far
        self._chances = chances or Chances()

    def follow(self, tokens: Sequence[int]) -> None:
        self._tokens = tokens
        if not self._n_read:
            self._read_prompt(tokens)
            return
        if len(tokens) < self._n_read:  # tokens were removed
            self._n_read, self._at, self._trust = len(tokens), -1, 0
        for n in range(self._n_read + 1, len(tokens) + 1):
            self._judge(tokens[n - 1])
            self._find_place(n)
            self._remember(n)
        self._n_read = len(tokens)

    def _read_prompt(self, tokens: Sequence[int]) -> None:
        """The same for all tokens of a prompt, at C speed (2 ms for 4,000)."""
        n = len(tokens)
        for size, ends in zip(_KEYS, self._ends, strict=True):
            n_keys = max(n - size, 0)  # without the last one: its place is the end, where nothing stands yet
            keys = zip(*(tokens[skip : n_keys + skip] for skip in range(size)), strict=True)
            ends.update(zip(keys, range(size, size + n_keys), strict=True))
        self._n_read = n
        self._find_place(n)
        self._remember(n)

    def _remember(self, n: int) -> None:
        """Let later look-ups find the end of the first `n` tokens."""
        for size, ends in zip(_KEYS, self._ends, strict=True):
            if n >= size:
                ends[tuple(self._tokens[n - size : n])] = n

    def _judge(self, token: int) -> None:
        """Compare a token with the one that would have been copied, and go on behind it."""
        if self._at < 0:
            return
        is_right = self._tokens[self._at] == token
        self._chances.observe(min(self._trust, len(_PRIOR) - 1), is_right)
        if is_right:
            self._at, self._trust = self._at + 1, max(self._trust + 1, 2)
        else:
            # A copy in which one token was replaced goes on behind it: so corrections of a text read.
            self._at, self._trust = (self._at + 1 if self._trust >= _SYNC else -1), 0

    def _find_place(self, n: int) -> None:
        """Find where the last of the first `n` tokens stood before, unless it copies from a place that was right."""
        if self._trust >= 2:
            return
        for rank, (size, ends) in enumerate(zip(_KEYS, self._ends, strict=True)):
            last = self._tokens[n - size : n] if n >= size else ()
            at = ends.get(tuple(last), -1)
            if 0 <= at < n and self._tokens[at - size : at] == last:  # else it stood in removed tokens
                self._at, self._trust = at, len(_KEYS) - 1 - rank
                return

    def expect(self, count: int) -> Sequence[float]:
        if self._at < 0:
            return ()
        rates = self._chances.rates
        first = min(self._trust, len(rates) - 1)
        kinds = [first, *(min(max(self._trust + more, 2), len(rates) - 1) for more in range(1, count))]
        return list(accumulate(accumulate((rates[kind] for kind in kinds), mul)))

    def cost(self, *_args: float) -> float:
        return 0.0

    def propose(self, count: int) -> list[int]:
        if self._at < 0:
            return []
        found = self._tokens[self._at : self._at + count]
        return list(islice(cycle(found), count))  # a text that repeats its end goes on so

    def learn(self, n_drafted: int, n_accepted: int) -> None:
        """What was drawn tells it already."""


class DraftModel:
    """A smaller model with the same vocabulary, whose likeliest tokens are proposed.

    It has to read the prompt first. That begins when the answer has so many tokens that as many more would pay it.
    """

    def __init__(
        self,
        context_of: Callable[[int], Context],
        cancellation: Cancellation,
        chances: Chances | None = None,
        share: float = 0.0,
        n_read: Callable[[Sequence[int]], int] = lambda _tokens: 0,
    ) -> None:
        """`context_of` gives a context of the model with room for so many tokens, and `n_read` tells how many of some
        tokens are evaluated in it. `share` is the size of the model beside that of the target: its guess for a step.
        """
        self._context_of, self._cancellation = context_of, cancellation
        api = bindings.load()
        self._greedy = bindings.OwnedSampler(api.llama_sampler_init_greedy())
        self._sample = api.llama_sampler_sample
        self._tokens: Sequence[int] = ()
        self._n_read = n_read
        self._n_first = self._n_unread = 0  # tokens before the answer, and those of them that are to be read
        self._share = share
        self._seconds = 0.0  # of a token that it drafts; 0 if that is not known
        self._chances = chances or Chances((PRIOR_OF_MODEL,))

    def follow(self, tokens: Sequence[int]) -> None:
        self._tokens = tokens
        if not self._n_first:
            self._n_first = len(tokens)
            self._n_unread = len(tokens) - self._n_read(tokens)

    def expect(self, count: int) -> Sequence[float]:
        n_new = len(self._tokens) - self._n_first
        if _SAVING * n_new < _READING * self._share * self._n_unread:
            return ()
        return list(accumulate(self._chances.rates[0] ** n for n in range(1, count + 1)))

    def cost(self, count: int, single: float) -> float:
        each = self._seconds / single if self._seconds and single else self._share
        return each * (count + 1)  # and what was drawn since the last proposal

    def propose(self, count: int) -> list[int]:
        context, drafted = self._context_of(len(self._tokens) + count), list[int]()
        context.watch([self._cancellation])
        begin = perf_counter()
        with suppress(AbortedError, ContextOverflowError):  # the target model meets the same, and says so
            n_evaluated = context.prefill(0, self._tokens)
            while True:
                drafted.append(self._sample(self._greedy.pointer, context.handle, -1))
                if len(drafted) == count:
                    break
                context.step([(0, drafted[-1])])
            if n_evaluated <= _FEW:  # else it has read the prompt, once for all drafts
                self._seconds = (perf_counter() - begin) / (count + 1)
        self._n_unread = 0
        return drafted

    def learn(self, n_drafted: int, n_accepted: int) -> None:
        for n in range(min(n_accepted + 1, n_drafted)):  # those behind a wrong one say nothing
            self._chances.observe(0, n < n_accepted)


def check_vocabulary(target: Vocab, draft: Vocab, name: str) -> None:
    """Raise UsageError if the tokens of a draft model with this name are not those of the target."""
    n_common = min(target.n_tokens, draft.n_tokens)
    is_same = (target.bos, target.eos) == (draft.bos, draft.eos)
    is_same = is_same and abs(target.n_tokens - draft.n_tokens) <= _MAX_PADDING
    if not (is_same and all(target.piece(n, True) == draft.piece(n, True) for n in range(n_common))):
        raise UsageError(f"the draft model {name} has another vocabulary", "use a smaller model of the same family")
