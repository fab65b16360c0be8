"""A completion that a command offers while the user types."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Suggestion:
    """`text` goes in place of the `back` characters before the cursor; `note` is shown beside it."""

    text: str
    back: int
    note: str = ""


Suggest = Callable[[str], Iterable[Suggestion]]  # given the text before the cursor
