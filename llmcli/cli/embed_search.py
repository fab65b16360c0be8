"""`llmcli embed search` and `llmcli embed duplicates`: what is alike in a store of vectors."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from llmcli.cli.command_line import Argument, Option
from llmcli.cli.embed import EMBEDDING_KEYS, identity_of, print_texts, text_data
from llmcli.cli.options import Json, with_settings
from llmcli.cli.questions import is_file_name
from llmcli.config.presets import resolve_settings
from llmcli.errors import DiskError, ExitStatus, UsageError
from llmcli.params.param import as_utf8
from llmcli.params.settings import Layer
from llmcli.text import plural
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import print_json, print_line
from llmcli.ui.terminal.progress import ProgressLine

if TYPE_CHECKING:
    from llmcli.pipelines.vector_search import Hit
    from llmcli.pipelines.vector_store import StoredText

Number = Annotated[int, Option("--number", "-k", metavar="N", min=1, help="Number of results.")]
_Store = Annotated[str, Argument(metavar="STORE", help="Store of vectors, which `llmcli embed -o` has made.")]


@with_settings(only=EMBEDDING_KEYS - {"encoding"})
def search(
    flags: Layer,
    query: Annotated[str, Argument(help="What to look for.")],
    store: _Store,
    number: Number = 5,
    as_json: Json = False,
) -> int:
    from llmcli.cli.open_model import find_model, open_embedding_model
    from llmcli.pipelines.vector_search import search as search_store
    from llmcli.pipelines.vector_store import VectorStore

    if not query.strip():
        raise UsageError("the query is empty", "give a text to look for")
    if is_file_name(query) and not os.path.exists(os.path.expanduser(store)):
        raise DiskError(f"store not found: {store}", "give the query first, then the store")
    status = ProgressLine()
    vectors = VectorStore(Path(os.path.expanduser(store)))
    try:
        own = vectors.identity
        model_flag = {} if "model" in flags.values else {"model": own.reference}
        settings = resolve_settings(Layer("flag", {**flags.values, **model_flag}))
        target = find_model(settings, for_text=False)
        with open_embedding_model(target, settings, status, own.pooling) as (model, cancellation):
            vectors.check(identity_of(model, settings, status, cancellation))
            found = next(model.embed([as_utf8(query)]), None)
            if found is None:
                return ExitStatus.TIMEOUT if cancellation.reason == "timeout" else ExitStatus.INTERRUPTED
            if found.error:
                raise found.error
            assert found.vector is not None
            hits = search_store(vectors, found.vector, number, lambda n: status.update(f"{plural(n, 'text')} compared"))
    finally:
        status.clear()
        vectors.close()
    if as_json:
        print_json([hit_data(hit) for hit in hits], indent=None)
    else:
        print_texts([hit.text for hit in hits], [hit.score for hit in hits])
    return ExitStatus.OK if hits else ExitStatus.FAILED


def duplicates(
    store: _Store,
    above: Annotated[
        float, Option("--above", metavar="X", min=-1, max=1, help="Smallest cosine of two texts that are alike.")
    ] = 0.95,
    pairs: Annotated[bool, Option("--pairs", help="Print pairs instead of groups.")] = False,
    as_json: Json = False,
) -> int:
    from llmcli.pipelines.vector_search import duplicate_groups, similar_pairs
    from llmcli.pipelines.vector_store import VectorStore

    if math.isnan(above):
        raise UsageError("--above must be between -1 and 1, got nan")
    status, n_found = ProgressLine(), 0
    vectors = VectorStore(Path(os.path.expanduser(store)))
    report = lambda n: status.update(f"{plural(n, 'text')} compared")  # noqa: E731
    try:
        if pairs:
            for number, others, scores in similar_pairs(vectors, above, report):
                texts = vectors.texts([number, *map(int, others)])
                status.clear()
                for other, score in zip(others, scores, strict=True):
                    n_found += 1
                    pair = texts[number], texts[int(other)]
                    if as_json:
                        print_json(_pair_data(*pair, float(score)), indent=None)
                    else:
                        print_line(f"{score:.4f}")
                        print_texts(pair)
        else:
            for group in duplicate_groups(vectors, above, report):
                status.clear()
                n_found += 1
                if as_json:
                    print_json({"group": n_found, "texts": [hit_data(hit) for hit in group]}, indent=None)
                else:
                    print_line(f"group {n_found}: {plural(len(group), 'text')}")
                    print_texts([hit.text for hit in group], [hit.score for hit in group])
    finally:
        status.clear()
        vectors.close()
    if not n_found:
        console.note(f"no two texts have a cosine of {above:g} or more")
    return ExitStatus.OK if n_found else ExitStatus.FAILED


def hit_data(hit: "Hit") -> Mapping[str, object]:
    """A result as JSON data."""
    return {"score": round(hit.score, 6), "id": hit.text.id, **text_data(hit.text)}


def _pair_data(first: "StoredText", second: "StoredText", score: float) -> Mapping[str, object]:
    return {"score": round(score, 6), "texts": [{"id": one.id, **text_data(one)} for one in (first, second)]}
