"""`llmcli rerank`: documents in the order of how well they answer a query."""

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Annotated

from llmcli.cli.command_line import Argument, Option
from llmcli.cli.embed import EMBEDDING_KEYS, EmbeddingRun, Truncate, Whole, print_texts, text_data, text_source
from llmcli.cli.options import Json, with_settings
from llmcli.cli.stdin import stdin_as_file
from llmcli.config.presets import resolve_settings
from llmcli.errors import UsageError
from llmcli.params.param import as_utf8
from llmcli.params.settings import Layer, Settings
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import print_json
from llmcli.ui.terminal.progress import ProgressLine

if TYPE_CHECKING:
    from llmcli.inference.resolved_model import ResolvedModel
    from llmcli.pipelines.text_source import Text, TextSource

_METHODS = {
    "reranker": "outputs of a reranking model",
    "similarity": "cosines of vectors",
    "likelihood": "mean log-probabilities of the query after each document",
}
_Ranked = list[tuple[float, int, "Text"]]  # score, number of the document, document


@with_settings(only=EMBEDDING_KEYS)
@stdin_as_file()
def rerank(
    flags: Layer,
    query: Annotated[str, Argument(help="What the documents should answer.")],
    file: Annotated[list[str], Argument(metavar="FILE...", help="Files with a document on each line (`-` = stdin).")],
    number: Annotated[
        int | None, Option("--number", "-k", metavar="N", min=1, help="Number of results; without it, all documents.")
    ] = None,
    whole: Whole = False,
    truncate: Truncate = False,
    as_json: Json = False,
) -> int:
    settings = resolve_settings(flags)
    query = as_utf8(query)
    if not query.strip():
        raise UsageError("the query is empty", "give a text to look for")
    source = text_source([], file, settings, whole)
    from llmcli.cli.open_model import find_model

    target = find_model(settings, for_text=False)
    method = {"text": "likelihood", "reranker": "reranker"}.get(target.kind.name, "similarity")
    ranked, status = _rank(target, settings, method, query, source, truncate)
    ranked = sorted(ranked, key=lambda one: -one[0])[:number]
    console.note(f"scores: {_METHODS[method]}")
    if as_json:
        results = [{"index": index, "score": round(score, 6), **text_data(text)} for score, index, text in ranked]
        print_json({"model": target.file.name, "method": method, "results": results}, indent=None)
    else:
        print_texts([text for _, _, text in ranked], [score for score, _, _ in ranked])
    return status


def _rank(
    target: "ResolvedModel", settings: Settings, method: str, query: str, source: "TextSource", truncate: bool
) -> tuple[_Ranked, int]:
    """The score of each document, those with an error left out; and the exit status."""
    from llmcli.cli.open_model import open_embedding_model, open_model
    from llmcli.inference.embedding import query_likelihoods

    status = ProgressLine()
    with ExitStack() as stack:
        if method == "likelihood":
            engine, cancellation = stack.enter_context(open_model(target, settings, status))
            n_ctx = (settings.n_ctx or engine.n_ctx_train) * truncate
            evaluate = partial(query_likelihoods, engine, query, cancellation=cancellation, n_ctx=n_ctx)
        else:
            pooling = "rank" if method == "reranker" else ""
            model, cancellation = stack.enter_context(open_embedding_model(target, settings, status, pooling))
            evaluate = partial(model.rank, query, truncate=truncate)
        run = EmbeddingRun(status, cancellation)
        found = enumerate(run.results(source, evaluate))
        ranked = [(one.score, index, text) for index, (text, one) in found if one.score is not None]
        return ranked, run.report(source.n_empty)
