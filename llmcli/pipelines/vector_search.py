"""What is alike in a store of vectors: the texts nearest to a query, and copies. The memory it takes is bounded."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmcli.pipelines.vector_store import ROUNDING, StoredText, VectorStore

if TYPE_CHECKING:  # numpy takes 60 ms
    from numpy import int64
    from numpy.typing import NDArray

    from llmcli.inference.embedding import Vector

    Numbers = NDArray[int64]

_ROWS = 1024  # of a block that is compared with all later blocks: the similarities take 16 MB
Report = Callable[[int], None]  # gets the number of vectors that are done


@dataclass(frozen=True)
class Hit:
    """A text with its cosine similarity: to the query, or to the first text of its group."""

    score: float
    text: StoredText


def search(store: VectorStore, query: "Vector", k: int, report: Report = lambda _done: None) -> list[Hit]:
    """The `k` texts whose vectors have the largest cosine with that of the query, the best first."""
    import numpy

    from llmcli.inference.embedding import normalized

    direction = normalized(query)
    ids, scores = numpy.empty(0, numpy.int64), numpy.empty(0, numpy.float32)
    n_done = 0
    for block_ids, matrix in store.blocks():
        ids, scores = numpy.concatenate([ids, block_ids]), numpy.concatenate([scores, matrix @ direction])
        best = numpy.argsort(-scores, kind="stable")[:k]
        ids, scores = ids[best], scores[best]
        n_done += len(block_ids)
        report(n_done)
    texts = store.texts([int(number) for number in ids])
    return [Hit(float(score), texts[int(number)]) for number, score in zip(ids, scores, strict=True)]


def similar_pairs(
    store: VectorStore, above: float, report: Report = lambda _done: None
) -> Iterator[tuple[int, "Numbers", "Vector"]]:
    """For each text that has later ones with a cosine of at least `above`: its number, theirs, and the cosines.

    The time grows with the square of the number of texts.
    """
    import numpy

    n_done = 0
    for ids, rows in store.blocks(size=_ROWS):
        for later_ids, later in store.blocks(after=int(ids[0]) - 1):
            scores = rows @ later.T
            is_hit = (scores >= above - ROUNDING) & (later_ids[None, :] > ids[:, None])
            for row in numpy.flatnonzero(is_hit.any(axis=1)):
                hits = is_hit[row]
                yield int(ids[row]), later_ids[hits], scores[row, hits]
        n_done += len(ids)
        report(n_done)


def duplicate_groups(store: VectorStore, above: float, report: Report = lambda _done: None) -> Iterator[list[Hit]]:
    """The groups of texts that a chain of pairs with a cosine of at least `above` connects.

    The scores of a group are the cosines to its first text, so that those of a long chain can be lower.
    """
    import numpy

    ids = store.ids()
    parents = numpy.arange(len(ids))  # of each text in a forest, whose trees are the groups

    def roots(places: "Numbers") -> "Numbers":
        while (parents[above_them := parents[places]] != above_them).any():
            parents[places] = parents[above_them]
        return parents[places]

    for number, others, _ in similar_pairs(store, above, report):
        found = roots(numpy.searchsorted(ids, numpy.append(others, number)))
        parents[found] = found.min()
    tops = roots(numpy.arange(len(ids)))
    order = numpy.argsort(tops, kind="stable")  # the texts of a group in a row, each group at the place of its first
    starts = numpy.flatnonzero(numpy.diff(tops[order], prepend=-1))
    for group in numpy.split(ids[order], starts[1:]) if len(ids) else []:
        if len(group) > 1:
            yield _with_scores(store, [int(number) for number in group])


def _with_scores(store: VectorStore, ids: list[int]) -> list[Hit]:
    hits: list[Hit] = []
    first = store.vectors(ids[:1])[0]
    for start in range(0, len(ids), _ROWS):
        part = ids[start : start + _ROWS]
        scores, texts = store.vectors(part) @ first, store.texts(part)
        hits += [Hit(float(score), texts[number]) for number, score in zip(part, scores, strict=True)]
    return hits
