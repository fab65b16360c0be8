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
_KERNELS = ("short", "long")  # by which llama.cpp attends to few tokens, and to many
_TRIAL_WIDTH = 8  # a wider step, which costs more, is tried after one of this width
_TRIAL_SHARE = 0.3  # of the tokens of a trial, which must be compared, or it shows nothing
# How a mean of durations follows them: the weight of the last one, and its limit beside the mean.
_SINGLE_WEIGHT, _WIDER_WEIGHT, _LONGEST = 0.1, 0.3, 3.0
_REVIEW, _FALL = 64, 0.9  # after so many single steps, costs above the usual one fall so far


class StepCosts:
    """What steps of several tokens cost, whether their logits are exact, and what drafts have gained or lost.

    It is of one model on this machine, and lasts from answer to answer. A cost is the time of a step in single steps:
    those of one token, at the same kernel. `kept` has what was measured before, and is updated in place: costs under
    "cost WIDTH KERNEL", 1.0 or 0.0 under "exact WIDTH KERNEL", and the `debt`, without which each process with a short
    answer would try a step again that shows nothing in so few tokens.
    """

    def __init__(self, kept: dict[str, float] | None = None) -> None:
        self.kept = {} if kept is None else kept
        self.loss = 0.0  # what drafts have cost in vain, in single steps; negative: what they have gained
        self._seconds: dict[tuple[int, str], float] = {}  # means, by width and kernel
        self._costs = {(width, kernel): self._kept_cost(width, kernel) for width in WIDTHS for kernel in _KERNELS}
        self._exact = {kernel: self._known_exact(kernel) for kernel in _KERNELS}
        self._n_singles = 0

    @property
    def debt(self) -> float:
        """What the last trials have cost, in single steps; the next one waits until that is saved."""
        return self.kept.get("debt", 0.0)

    @debt.setter
    def debt(self, steps: float) -> None:
        if steps or "debt" in self.kept:
            self.kept["debt"] = steps

    def observe(self, width: int, kernel: str, seconds: float) -> None:
        """Count the duration of a step of so many tokens, 1 among them."""
        known = self._seconds.get((width, kernel))
        weight = _SINGLE_WEIGHT if width == 1 else _WIDER_WEIGHT
        new = min(seconds, _LONGEST * known) if known else seconds  # the machine may have done something else
        self._seconds[width, kernel] = known + (new - known) * weight if known else new
        if width == 1:
            self._n_singles += 1
            if self._n_singles % _REVIEW == 0:
                self._review(kernel)
        elif single := self.single(kernel):
            self._keep_cost(width, kernel, self._seconds[width, kernel] / single)

    def _review(self, kernel: str) -> None:
        """A cost that was measured too high would never be measured again: it may have been noise."""
        for width in WIDTHS:
            if self.cost(width, kernel) > _usual_cost(width):
                self._keep_cost(width, kernel, max(self.cost(width, kernel) * _FALL, _usual_cost(width)))

    def single(self, kernel: str) -> float:
        """Seconds of a single step; 0 if they are not known."""
        return self._seconds.get((1, kernel), 0.0)

    def cost(self, width: int, kernel: str) -> float:
        """Of one step, in single steps; a usual value until it is measured."""
        return self._costs[width, kernel]

    def _kept_cost(self, width: int, kernel: str) -> float:
        return self.kept.get(f"cost {width} {kernel}", _usual_cost(width))

    def _keep_cost(self, width: int, kernel: str, cost: float) -> None:
        self._costs[width, kernel] = self.kept[f"cost {width} {kernel}"] = cost

    def forgive(self, n_tokens: int) -> None:
        """So many tokens later, a part of the losses does not count any more: the text may be another one by now."""
        relief = _LOSS_PER_TOKEN * n_tokens
        self.loss = max(self.loss - relief, -_LARGEST_GAIN)
        self.debt = max(self.debt - relief, 0.0)

    def settle(self, saved: float) -> None:
        """Count what a draft has saved, in single steps; negative where it has cost more than it gave."""
        self.loss = max(self.loss - saved, -_LARGEST_GAIN)
        self.debt = max(self.debt - max(saved, 0.0), 0.0)

    def is_exact(self, width: int, kernel: str) -> bool | None:
        """Whether such a step has the logits of single steps; None if it is not known."""
        return self._exact[kernel][width]

    def record_exact(self, width: int, kernel: str, is_exact: bool) -> None:
        """Keep the result of a trial."""
        self.kept[f"exact {width} {kernel}"] = float(is_exact)
        self._exact[kernel] = self._known_exact(kernel)

    def _known_exact(self, kernel: str) -> dict[int, bool | None]:
        """By width. Kernels for many rows are other ones than those for a few: a step tells the same of narrower ones
        if it is exact, and of wider ones if it is not."""
        tried, known = [self.kept.get(f"exact {width} {kernel}") for width in WIDTHS], dict[int, bool | None]()
        for at, width in enumerate(WIDTHS):
            known[width] = True if 1.0 in tried[at:] else None
            if 0.0 in tried[: at + 1]:
                known[width] = False
        return known


def _usual_cost(width: int) -> float:
    return 1 + _USUAL_COST * (width - 1)


class _Trial:
    """The logits of a drafted step, which are compared with those of the single steps after it.

    When it `is_over`, `is_exact` has its result: None if too few of its tokens were drawn to tell.
    """

    def __init__(self, kernel: str, n_tokens: int, draft: Sequence[int], rows: Sequence[bytes]) -> None:
        """`rows` are the logits behind the last of the `n_tokens` tokens of the text, and behind each of the draft."""
        self.kernel, self.width = kernel, len(rows)
        self.is_over = False
        self.is_exact: bool | None = None
        self._n_tokens, self._draft, self._rows = n_tokens, list(draft), list(rows)
        self._n_equal = 0  # rows

    def compare(self, context: Context, n_tokens: int) -> None:
        """Compare the next row with the logits of a single step, which has evaluated the last of so many tokens."""
        if n_tokens != self._n_tokens + self._n_equal:  # tokens were removed
            self.is_over = True
        elif context.logits_as_bytes(0) != self._rows[self._n_equal]:
            self.is_over, self.is_exact = True, False
        else:
            self._n_equal += 1
            if self._n_equal == self.width:
                self.is_over = self.is_exact = True

    def follow(self, token: int) -> None:
        """See which token is drawn: behind one that was not drafted, there is nothing to compare."""
        if token != self._draft[self._n_equal - 1]:
            self.is_over = True
            if self._n_equal >= max(2, _TRIAL_SHARE * self.width):
                self.is_exact = True


class Speculation:
    """Drafts for one generation.

    Before each step, `draft` is asked. Then comes `observe` after a step with a draft, `begin_trial` after one whose
    draft `is_trial`, and otherwise `observe_single` and `observe_token`, before and after the draw.
    """

    def __init__(self, costs: StepCosts, drafters: Sequence[Drafter], is_auto: bool = True) -> None:
        """`is_auto`: only what keeps the text the same and is faster; else every draft that may be faster."""
        self._costs, self._drafters, self._is_auto = costs, drafters, is_auto
        self._n_tokens = 0  # of the text at the last step
        self._drafter: Drafter | None = None  # of the last draft
        self.is_trial = False  # whether the last draft is only to be compared
        self._trial: _Trial | None = None  # the one that single steps are compared with now
        self._held_token = -1  # the one that a draft would have had next, had rounding allowed it; -1 for none
        self.n_held = 0  # such tokens that were drawn

    def draft(self, tokens: Sequence[int], limit: int) -> list[int]:
        """At most `limit` tokens to evaluate after the last one of `tokens`; empty for a step of one.

        Where `is_trial` is set then, the step does not count: `begin_trial` takes its logits, and single steps follow.
        """
        n_new = max(len(tokens) - self._n_tokens, 0) if self._n_tokens else 0
        self._costs.forgive(n_new)
        self._n_tokens, self._held_token = len(tokens), -1
        if limit < 1:
            return []
        most = min(limit, WIDTHS[-1] - 1)
        drafter, width = self._best_draft(tokens, most)
        if not drafter or self._trial:
            return []
        self._drafter, self.is_trial = drafter, self._is_exact(width) is None
        if self.is_trial:
            width = 0 if self._costs.debt else self._trial_width(drafter.expect(most))
        return drafter.propose(width - 1) if width else []

    def _best_draft(self, tokens: Sequence[int], most: int) -> tuple[Drafter | None, int]:
        """What gains most, and the width of its step; None where no draft of at most `most` tokens pays."""
        best, held = _LEAST_GAIN, None
        found: tuple[Drafter | None, int] = (None, 0)
        for drafter in self._drafters:
            drafter.follow(tokens)
            expected = drafter.expect(most)
            for width in _widths(expected):
                gain = self._gain(drafter, expected, width)
                if gain <= best:
                    continue
                if self._is_exact(width) is not False:
                    best, found = gain, (drafter, width)
                elif not drafter.cost(1, 1.0):  # to know what it would say is free
                    held = drafter
        if held and not found[0]:
            self._held_token = held.propose(1)[0]
        return found

    def _gain(self, drafter: Drafter, expected: Sequence[float], width: int) -> float:
        """The expected tokens of a step for each single step that it costs; 0 where it could cost too much in vain."""
        kernel = _kernel(self._n_tokens)
        cost = self._costs.cost(width, kernel) + drafter.cost(width - 1, self._costs.single(kernel))
        is_affordable = self._costs.loss + (cost - 1) * (1 - expected[0]) <= _LARGEST_LOSS
        return (1 + expected[width - 2]) / cost if is_affordable else 0.0

    def _trial_width(self, expected: Sequence[float]) -> int:
        """The widest step that can be tried now, as one that is exact tells the same of narrower ones; 0 for none.

        Most of its tokens must be likely: a draft model that is right in 7 of 10 tokens gets no trial.
        """
        likely = [width for width in _widths(expected) if expected[width - 2] >= _TRIAL_SHARE * width]
        return max((width for width in likely if self._is_exact(width) is None), default=0)

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
        """Count a step with a draft, and its duration; returns the seconds that it saved beside single steps."""
        width, costs, drafter, kernel = n_drafted + 1, self._costs, self._drafter, _kernel(self._n_tokens)
        assert drafter
        costs.observe(width, kernel, seconds)
        drafter.learn(n_drafted, n_accepted)
        single = costs.single(kernel) or seconds / costs.cost(width, kernel)
        saved = (1 + n_accepted - drafter.cost(n_drafted, single)) * single - seconds
        if single:
            costs.settle(saved / single)
        return saved

    def observe_single(self, context: Context, n_tokens: int, seconds: float) -> None:
        """Count a step that evaluated the last of so many tokens alone; the context has its logits, not drawn from."""
        self._costs.observe(1, _kernel(n_tokens), seconds)
        if self._trial:
            self._trial.compare(context, n_tokens)
            self._end_trial(self._trial)

    def observe_token(self, token: int) -> None:
        """See the token that was drawn after `observe_single`."""
        self.n_held += token == self._held_token
        if self._trial:
            self._trial.follow(token)
            self._end_trial(self._trial)

    def begin_trial(self, tokens: Sequence[int], draft: Sequence[int], context: Context, seconds: float) -> None:
        """Take the logits of a step that was drafted as a trial, and must be removed again.

        What it shows is kept, so that there are some trials for a model on a machine, and no more.
        """
        width, kernel = len(draft) + 1, _kernel(len(tokens))
        self._costs.observe(width, kernel, seconds)
        self._costs.debt += self._costs.cost(width, kernel)
        rows = [context.logits_as_bytes(row) for row in range(width)]
        self._trial = _Trial(kernel, len(tokens), draft, rows)

    def _end_trial(self, trial: _Trial) -> None:
        """Keep the result of a trial that is over."""
        if trial.is_over:
            self._trial = None
            if trial.is_exact is not None:
                self._costs.record_exact(trial.width, trial.kernel, trial.is_exact)


def _widths(expected: Sequence[float]) -> Sequence[int]:
    """The widths of steps for which there are enough tokens to draft."""
    return WIDTHS[: bisect_right(WIDTHS, len(expected) + 1)]


def _kernel(n_cells: int) -> str:
    """A name for the kernels with which llama.cpp attends to so many tokens."""
    return "long" if n_cells > _ONE_THREAD else "short"
