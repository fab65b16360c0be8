"""Statistics of an answer: its length, its variety and its probability."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmcli.inference.answer import Answer


@dataclass(frozen=True)
class Statistics:
    """Of one answer. A share is from 0 to 1, and None where the answer is too short for it.

    Attributes:
        tokens: of the answer and its reasoning, without the one that ended it.
        words: texts between blanks in the answer.
        distinct_1, distinct_2, distinct_3: see `distinct`.
        mean_p: mean probability of the tokens, in the distributions that they were sampled from.
        repetition: 1 - distinct of 4: seq-rep-4 of Welleck et al. 2020, Neural Text Generation with Unlikelihood
            Training; 0 means that no run of four tokens occurs twice.
    """

    tokens: int
    words: int
    distinct_1: float | None
    distinct_2: float | None
    distinct_3: float | None
    mean_p: float | None
    repetition: float | None

    def to_data(self) -> dict[str, Any]:
        """As JSON data."""
        return {key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(self).items()}


def statistics_of(answer: "Answer") -> Statistics:
    """The statistics of an answer that has started; `mean_p` needs its trace."""
    tokens = answer.generation.tokens[len(answer.prompt.tokens) :]
    probabilities = [token.p for token in answer.traces if token.p is not None]
    four = distinct(tokens, 4)
    return Statistics(
        tokens=len(tokens),
        words=len(answer.text.split()),
        distinct_1=distinct(tokens, 1),
        distinct_2=distinct(tokens, 2),
        distinct_3=distinct(tokens, 3),
        mean_p=sum(probabilities) / len(probabilities) if probabilities else None,
        repetition=None if four is None else 1 - four,
    )


def distinct(tokens: Sequence[int], n: int) -> float | None:
    """Distinct runs of `n` tokens over all runs of `n` tokens (Li et al. 2016, A Diversity-Promoting Objective Function
    for Neural Conversation Models); None for fewer tokens than that.
    """
    runs = [tuple(tokens[at : at + n]) for at in range(len(tokens) - n + 1)]
    return len(set(runs)) / len(runs) if runs else None
