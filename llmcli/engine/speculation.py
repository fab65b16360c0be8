"""Several tokens a step: when a draft is evaluated with the last token, and of what length.

A step of several tokens draws from the logits of each row with the sampler of the answer, as if it had been evaluated
alone, until one differs from the draft. So an answer has the same distribution whatever is drafted. It has the same
tokens where the rows of such a step have exactly the logits of single steps, which depends on the kernels of llama.cpp
for this model and machine: it is compared before a width is used.
"""

from bisect import bisect_right
from collections.abc import Sequence

from llmcli.engine.drafting import Drafter
from llmcli.engine.llama.context import Context

WIDTHS = (2, 3, 4, 8, 16)  # tokens in a step that is drafted
_USUAL_COST = 0.4  # of a further token in a step, in single steps; measured on two cores
_LEAST_GAIN = 1.1  # tokens per cost of a single step; less is within the error of a measurement
# In single steps: a draft that is likely to cost more in vain, with those before it, is not evaluated.
_LARGEST_LOSS, _LOSS_PER_TOKEN = 2.5, 0.01
_LARGEST_GAIN = 16.0  # that a text which is easy to draft leaves for others
_ONE_THREAD = 256  # tokens; to attend to more of them, llama.cpp splits them among the threads if one token does it
_TRIAL_WIDTH = 8  # a wider step, which costs more, is tried after one of this width
_TRIAL_CHANCE = 0.4  # the share of the tokens of a trial that must be compared, or it shows nothing
_NEW_SINGLE, _NEW_WIDER, _LONGEST = 0.1, 0.3, 3.0  # weight of the last time in the mean, and its limit beside that
_REVIEW, _FALL = 64, 0.9  # after so many single steps, costs above the usual one fall so far
_KERNELS = ("short", "long")  # by which llama.cpp attends to few tokens, and to many


class StepCosts:
    """What steps of several tokens cost and whether their logits are exact, on this machine and for this model.

    `kept` is what was measured before; it is updated in place. A cost is in single steps.
    """

    def __init__(self, kept: dict[str, float] | None = None) -> None:
        self.kept = {} if kept is None else kept
        self.loss = 0.0  # what drafts have cost in vain, in single steps; negative: what they have gained
        self.debt = 0.0  # what the last trials have cost; the next one waits until that is saved
        self._seconds: dict[tuple[int, str], float] = {}
        self._costs = {(one, kernel): self._kept_cost(one, kernel) for one in WIDTHS for kernel in _KERNELS}
        self._exact = {kernel: self._known_exact(kernel) for kernel in _KERNELS}
        self._n_singles = 0

    def observe(self, width: int, kernel: str, seconds: float) -> None:
        """A step of so many tokens took so long."""
        known = self._seconds.get((width, kernel))
        share = _NEW_SINGLE if width == 1 else _NEW_WIDER
        new = min(seconds, _LONGEST * known) if known else seconds  # the machine may have done something else
        self._seconds[width, kernel] = known + (new - known) * share if known else new
        if width == 1:
            self._n_singles += 1
            if self._n_singles % _REVIEW == 0:
                self._review(kernel)
        elif single := self.single(kernel):
            self._keep_cost(width, kernel, self._seconds[width, kernel] / single)

    def _review(self, kernel: str) -> None:
        """A cost that was measured too high would never be measured again: it may have been noise."""
        for one in WIDTHS:
            if self.cost(one, kernel) > _usual_cost(one):
                self._keep_cost(one, kernel, max(self.cost(one, kernel) * _FALL, _usual_cost(one)))

    def single(self, kernel: str) -> float:
        """Seconds of a single step; 0 if they are not known."""
        return self._seconds.get((1, kernel), 0.0)

    def cost(self, width: int, kernel: str) -> float:
        return self._costs[width, kernel]

    def _kept_cost(self, width: int, kernel: str) -> float:
        return self.kept.get(f"cost {width} {kernel}", _usual_cost(width))

    def _keep_cost(self, width: int, kernel: str, cost: float) -> None:
        self._costs[width, kernel] = self.kept[f"cost {width} {kernel}"] = cost

    def is_exact(self, width: int, kernel: str) -> bool | None:
        """Whether such a step has the logits of single steps; None if it is not known."""
        return self._exact[kernel][width]

    def record_exact(self, width: int, kernel: str, is_exact: bool) -> None:
        self.kept[f"exact {width} {kernel}"] = float(is_exact)
        self._exact[kernel] = self._known_exact(kernel)

    def _known_exact(self, kernel: str) -> dict[int, bool | None]:
        """By width. Kernels for many rows are other ones than those for a few: a step tells the same of narrower ones
        if it is exact, and of wider ones if it is not."""
        known = [self.kept.get(f"exact {one} {kernel}") for one in WIDTHS]
        return {
            one: False if 0.0 in known[: at + 1] else (True if 1.0 in known[at:] else None)
            for at, one in enumerate(WIDTHS)
        }


def _usual_cost(width: int) -> float:
    return 1 + _USUAL_COST * (width - 1)


class _Trial:
    """The logits of a drafted step, which are compared with those of the single steps after it."""

    def __init__(self, kernel: str, n_tokens: int, draft: Sequence[int], rows: Sequence[bytes]) -> None:
        self.kernel, self.width = kernel, len(rows)
        self.n_tokens = n_tokens  # of the text at the next comparison
        self._draft, self._rows = list(draft), list(rows)
        self._n_equal = 0
        self.is_over = False

    def compare(self, logits: bytes) -> bool | None:
        """Whether the step is exact, by the logits of one more single step; None if that is not known yet."""
        is_equal = logits == self._rows[self._n_equal]
        self._n_equal += is_equal
        self.n_tokens += 1
        self.is_over = not is_equal or self._n_equal == self.width
        return is_equal if self.is_over else None

    def follow(self, token: int) -> bool | None:
        """The same after the draw of a token; behind one that was not drafted, there is nothing to compare."""
        self.is_over = token != self._draft[self._n_equal - 1]
        return True if self.is_over and self._n_equal >= max(2, _TRIAL_CHANCE * self.width) else None


class Speculation:
    """Drafts for one generation."""

    def __init__(self, costs: StepCosts, drafters: Sequence[Drafter], is_auto: bool = True) -> None:
        """`is_auto`: only what keeps the text the same and is faster; else every draft that may be faster."""
        self._costs, self._drafters, self._is_auto = costs, drafters, is_auto
        self._n_tokens = 0
        self._drafter: Drafter | None = None  # of the last draft
        self._trial: _Trial | None = None
        self.is_trial = False  # whether the last draft is only to be compared
        self._expected = -1  # the token that a draft would have had next, had it been allowed
        self.n_held = 0  # such tokens that were drawn

    def draft(self, tokens: Sequence[int], limit: int) -> list[int]:
        """At most `limit` tokens to evaluate after the last one of `tokens`; empty for a step of one.

        Where `is_trial` is set then, the step does not count: `begin_trial` takes its logits, and single steps follow.
        """
        relief = _LOSS_PER_TOKEN * max(len(tokens) - self._n_tokens, 0) if self._n_tokens else 0.0
        self._costs.loss = max(self._costs.loss - relief, -_LARGEST_GAIN)
        self._costs.debt = max(self._costs.debt - relief, 0.0)
        self._n_tokens, self._expected = len(tokens), -1
        if limit < 1:
            return []
        kernel = _kernel(self._n_tokens)
        best, width, most = _LEAST_GAIN, 0, min(limit, WIDTHS[-1] - 1)
        held: Drafter | None = None
        for drafter in self._drafters:
            drafter.follow(tokens)
            expected = drafter.expect(most)
            for one in WIDTHS[: bisect_right(WIDTHS, len(expected) + 1)]:
                cost = self._costs.cost(one, kernel) + drafter.cost(one - 1, self._costs.single(kernel))
                gain = (1 + expected[one - 2]) / cost
                is_affordable = self._costs.loss + (cost - 1) * (1 - expected[0]) <= _LARGEST_LOSS
                if gain <= best or not is_affordable:
                    continue
                if self._is_exact(one) is False:
                    held = drafter if not drafter.cost(1, 1.0) else held  # to know what it would say is free
                else:
                    best, width, self._drafter = gain, one, drafter
        if not width and held:
            self._expected = held.propose(1)[0]
        if not (width and self._drafter) or self._trial:
            return []
        self.is_trial = self._is_exact(width) is None
        if self.is_trial:
            width = 0 if self._costs.debt else self._trial_width(self._drafter.expect(most))
        return self._drafter.propose(width - 1) if width else []

    def _trial_width(self, expected: Sequence[float]) -> int:
        """The widest step that can be tried now, as one that is exact tells the same of narrower ones; 0 for none."""
        widths = WIDTHS[: bisect_right(WIDTHS, len(expected) + 1)]
        likely = [one for one in widths if expected[one - 2] >= _TRIAL_CHANCE * one]
        return max((one for one in likely if self._is_exact(one) is None), default=0)

    def _is_exact(self, width: int) -> bool | None:
        """Whether a step of this width keeps the text the same; None if that must be tried first."""
        kernel = _kernel(self._n_tokens)
        if not self._is_auto:
            return True
        if kernel != _kernel(self._n_tokens + width - 1):
            return False
        if width > _TRIAL_WIDTH and (self._costs.loss >= 0 or not self._costs.is_exact(_TRIAL_WIDTH, kernel)):
            return False
        return self._costs.is_exact(width, kernel)

    def observe(self, n_drafted: int, n_accepted: int, seconds: float) -> float:
        """A drafted step took so long; returns the seconds that it saved."""
        width, costs, drafter, kernel = n_drafted + 1, self._costs, self._drafter, _kernel(self._n_tokens)
        assert drafter
        costs.observe(width, kernel, seconds)
        drafter.learn(n_drafted, n_accepted)
        single = costs.single(kernel) or seconds / costs.cost(width, kernel)
        saved = (1 + n_accepted - drafter.cost(n_drafted, single)) * single - seconds
        if single:
            costs.loss = max(costs.loss - saved / single, -_LARGEST_GAIN)
            costs.debt = max(costs.debt - max(saved / single, 0.0), 0.0)
        return saved

    def observe_single(self, context: Context, n_tokens: int, seconds: float) -> None:
        """A step evaluated the last of so many tokens alone; its logits are in the context, and nothing is drawn."""
        self._costs.observe(1, _kernel(n_tokens), seconds)
        if not self._trial:
            return
        if n_tokens != self._trial.n_tokens:  # tokens were removed
            self._trial = None
        else:
            self._end_trial(self._trial.compare(context.logits_as_bytes(0)))

    def observe_token(self, token: int) -> None:
        """The token that was drawn after `observe_single`."""
        self.n_held += token == self._expected
        if self._trial:
            self._end_trial(self._trial.follow(token))

    def begin_trial(self, tokens: Sequence[int], draft: Sequence[int], context: Context, seconds: float) -> None:
        """Take the logits of a step that was drafted as a trial, and must be removed again.

        What it shows is kept, so that there are some trials for a model on a machine, and no more.
        """
        width, kernel = len(draft) + 1, _kernel(len(tokens))
        self._costs.observe(width, kernel, seconds)
        self._costs.debt += self._costs.cost(width, kernel)
        rows = [context.logits_as_bytes(row) for row in range(width)]
        self._trial = _Trial(kernel, len(tokens), draft, rows)

    def _end_trial(self, result: bool | None) -> None:
        if self._trial and not self._trial.is_over:
            return
        if self._trial and result is not None:
            self._costs.record_exact(self._trial.width, self._trial.kernel, result)
        self._trial = None


def _kernel(n_cells: int) -> str:
    """A name for the kernels with which llama.cpp attends to so many tokens."""
    return "long" if n_cells > _ONE_THREAD else "short"
