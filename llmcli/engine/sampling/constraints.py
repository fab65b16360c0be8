"""The matcher of a constraint, which the draw of each token asks."""

from typing import TYPE_CHECKING, Protocol

from llmcli.engine.events import Constraint

if TYPE_CHECKING:
    from llmcli.engine.llama.bindings import Candidates
    from llmcli.engine.llama.model import Vocab


class Matcher(Protocol):
    """A constraint and the position in it."""

    def allows(self, token: int) -> bool:
        """Whether `token` can be next."""

    def accept(self, token: int) -> None:
        """Advance by `token`, which must be allowed. Raises ConstraintError when the constraint is too complex."""

    def may_end(self) -> bool:
        """Whether the answer can end now."""

    def must_end(self) -> bool:
        """Whether nothing can follow, as far as is known without a look at the vocabulary."""

    def apply(self, candidates: "Candidates") -> None:
        """Mask the candidates that cannot be next: all tokens of the vocabulary, not sorted."""

    def copy(self) -> "Matcher":
        """A matcher at the same position that advances alone."""

    def close(self) -> None:
        """Free it; a second call has no effect."""


def make_matcher(vocab: "Vocab", constraint: Constraint) -> Matcher:
    """A matcher at the start. Raises UsageError when the constraint is not valid."""
    if constraint.kind == "grammar":
        from llmcli.engine.sampling.grammar import Grammar

        return Grammar.parse(vocab, constraint.text)
    from llmcli.engine.sampling.guidance import GuidanceMatcher

    return GuidanceMatcher(vocab, constraint.kind, constraint.text)
