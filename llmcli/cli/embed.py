"""`llmcli embed`: vectors of texts, as JSON lines, in an array or in a store; the similarity of pairs."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Protocol

from llmcli.cli.command_line import Argument, Option
from llmcli.cli.options import Force, Json, output_path, with_settings
from llmcli.cli.questions import is_file_name, warn_file_name
from llmcli.cli.stdin import stdin_as_file, stdin_lines
from llmcli.config.presets import resolve_settings
from llmcli.errors import ExitStatus, LlmcliError, UsageError
from llmcli.params.model import HubParams, ModelParams
from llmcli.params.param import fields_of
from llmcli.params.settings import Layer, Settings
from llmcli.text import ellipsize, plural, sanitize
from llmcli.ui.terminal.cells import cells
from llmcli.ui.terminal.console import console, is_terminal
from llmcli.ui.terminal.output import print_json, print_line
from llmcli.ui.terminal.progress import ProgressLine

if TYPE_CHECKING:
    from llmcli.cli.open_model import VectorModel
    from llmcli.engine.events import Cancellation
    from llmcli.inference.embedding import Evaluation, Vector
    from llmcli.pipelines.text_source import Text, TextSource
    from llmcli.pipelines.vector_store import StoreIdentity

# A context for vectors keeps nothing, and all of its batch is one micro-batch.
_NOT_OF_VECTORS = {"n_batch", "cache_type_k", "cache_type_v", "swa_full"}
EMBEDDING_KEYS = (fields_of(ModelParams).keys() | fields_of(HubParams).keys() | {"timeout", "encoding"}) - (
    _NOT_OF_VECTORS
)
_BLOCK = 64  # vectors that are stored in one transaction; pairs that are compared together
_LONGEST = 200  # characters of a text beside its score
_POOLINGS = ("mean", "cls", "last", "rank", "none")  # engine.llama.structures.POOLING_TYPES, without its imports
Files = Annotated[
    list[str] | None, Option("--file", "-f", metavar="FILE", help="File with a text on each line (`-` = stdin).")
]
Whole = Annotated[bool, Option("--whole", help="Take each file as one text.")]
Truncate = Annotated[bool, Option("--truncate", help="Leave out the end of a text that is longer than the context.")]
Pooling = Annotated[
    str | None,
    Option(
        metavar="mean|cls|last|rank|none",
        show_default=False,
        help="How the vectors of the tokens become that of the text [default: as the model says].",
    ),
]


@with_settings(only=EMBEDDING_KEYS)
@stdin_as_file()
def embed(
    flags: Layer,
    text: Annotated[list[str] | None, Argument(help="Texts; without any, each line of stdin is one.")] = None,
    file: Files = None,
    whole: Whole = False,
    output: Annotated[
        str | None,
        Option(
            "--output",
            "-o",
            metavar="FILE",
            help="FILE.npy for numpy, or FILE.sqlite or FILE.db, a store to search; it is added to.",
        ),
    ] = None,
    pooling: Pooling = None,
    normalize: Annotated[bool, Option("--normalize/--no-normalize", help="Make the length of each vector 1.")] = True,
    truncate: Truncate = False,
    similarity: Annotated[
        bool, Option("--similarity", help="Print the cosine of pairs: of two TEXTs, or of each line of a file.")
    ] = False,
    as_json: Json = False,
    force: Force = False,
) -> int:
    settings = resolve_settings(flags)
    if pooling not in (None, *_POOLINGS):
        raise UsageError(f"pooling must be one of {', '.join(_POOLINGS)}, got {pooling!r}")
    source = text_source(text or [], file or [], settings, whole)
    if similarity:
        if output:
            raise UsageError("--similarity prints to stdout and stores no vectors", "remove --output")
        if pooling in ("rank", "none"):
            raise UsageError(f"pooling {pooling} gives no vector of a text to compare", "remove --pooling")
        return _print_similarities(source, settings, pooling or "", truncate, as_json)
    kind = _output_kind(output, force, pooling)
    from llmcli.cli.open_model import find_model, open_embedding_model

    target, status = find_model(settings, for_text=False), ProgressLine()
    with open_embedding_model(target, settings, status, pooling or "") as (model, cancellation):
        if output and model.pooling == "rank":
            raise UsageError("a reranking model gives scores, which are not stored", "use --pooling mean")
        writer: _Writer = _JsonLines()
        if kind == "array":
            writer = _Array(Path(os.path.expanduser(output or "")), model.n_dims)
        elif kind == "store":
            identity = identity_of(model, settings, status, cancellation)
            writer = _Store(Path(os.path.expanduser(output or "")), identity, force)
        run = EmbeddingRun(status, cancellation)
        evaluate = partial(model.embed, normalize=normalize, truncate=truncate)
        try:
            for index, (one, found) in enumerate(run.results(filter(writer.wants, source), evaluate)):
                writer.add(index, one, found)
        finally:
            status.clear()
            writer.end()
        return run.report(source.n_empty)


def text_source(arguments: Sequence[str], files: Sequence[str], settings: Settings, whole: bool) -> "TextSource":
    """The texts of a command; without any, the lines of stdin. Raises UsageError if there is none, or stdin twice."""
    from llmcli.files import is_stdin
    from llmcli.pipelines.text_source import TextSource

    if [*arguments] == ["-"]:
        arguments, files = [], ["-", *files]
    if not arguments and not files:
        if sys.stdin is None or is_terminal(sys.stdin):
            raise UsageError("the text is missing", 'give one, as in `llmcli embed "Hello"`, or a file with --file')
        files = ["-"]
    if sum(map(is_stdin, files)) > 1:
        raise UsageError("stdin can be read only once, and it is given twice", "remove one of them")
    if whole and not files:
        raise UsageError("--whole needs a file", "add --file FILE")
    for name in arguments:
        _check_not_a_file(name, files)
    source = TextSource(arguments, files, partial(stdin_lines, settings.encoding), settings.encoding, whole)
    source.check()
    return source


def _check_not_a_file(text: str, files: Sequence[str]) -> None:
    """Warn of a text that is the name of a file.

    Refuse that of a store, after which `search` was probably forgotten, and one beside --file, as in `--file *.txt`.
    """
    from llmcli.pipelines.vector_store import SUFFIXES

    if is_file_name(text) and text.lower().endswith(SUFFIXES):
        hint = "use `llmcli embed search QUERY STORE`, or `llmcli embed duplicates STORE`"
        raise UsageError(f"{text!r} is the name of a store, not a text", hint)
    if is_file_name(text) and files:
        raise UsageError(f"{text!r} is the name of a file, not a text", "give each file its own --file")
    warn_file_name(text)


def _output_kind(output: str | None, force: bool, pooling: str | None) -> str:
    """What a file of this name will be. Raises UsageError for another suffix, a folder, or an array that exists."""
    from llmcli.pipelines.vector_store import SUFFIXES

    if output is None:
        return ""
    if pooling in ("none", "rank"):
        raise UsageError(f"pooling {pooling} gives no vector of a text to store", "remove --output")
    suffix = Path(output).suffix.lower()
    if suffix == ".npy" or suffix in SUFFIXES:
        folder = output_path(output, force or suffix in SUFFIXES).parent  # a store is added to
        if not folder.is_dir():
            raise UsageError(f"the folder {str(folder)!r} does not exist", "create it")
        return "array" if suffix == ".npy" else "store"
    if suffix not in SUFFIXES:
        hint = f"use .npy, {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        raise UsageError(f"the suffix of {output!r} is not one of vectors", hint)
    return "store"


def identity_of(
    model: "VectorModel", settings: Settings, status: ProgressLine, cancellation: "Cancellation"
) -> "StoreIdentity":
    """What a store must have for vectors of this model. Raises KeyboardInterrupt when it is cancelled."""
    from llmcli.pipelines.vector_store import StoreIdentity

    sha256 = model.sha256(status.identifying)
    status.clear()
    if cancellation.is_set():
        raise KeyboardInterrupt
    reference = os.path.abspath(settings.model) if os.path.exists(settings.model) else settings.model
    return StoreIdentity(model.name, reference, sha256, model.pooling, model.n_dims)


class EmbeddingRun:
    """Texts that are evaluated one after another, with progress and errors on stderr, and an exit status at the end."""

    def __init__(self, status: ProgressLine, cancellation: "Cancellation") -> None:
        self._status, self._cancellation = status, cancellation
        self._n_done = self._n_tokens = self._n_truncated = 0
        self._errors: list[LlmcliError] = []

    def results(
        self, texts: "Iterable[Text]", evaluate: "Callable[[Iterable[str]], Iterable[Evaluation]]"
    ) -> "Iterator[tuple[Text, Evaluation]]":
        """Each text with its vector, or with its error, which is printed."""
        pending: deque[Text] = deque()

        def feed() -> Iterator[str]:
            for one in texts:
                pending.append(one)
                yield one.text

        begin = monotonic()
        for found in evaluate(feed()):
            one = pending.popleft()
            self._n_done += 1
            self._n_tokens += found.n_tokens
            self._n_truncated += found.is_truncated
            if found.error:
                self.fail(one, found.error)
            speed = self._n_tokens / max(monotonic() - begin, 1e-3)
            self._status.update(f"{plural(self._n_done, 'text')}, {speed:.0f} tokens/s")
            yield one, found

    def fail(self, text: "Text", error: LlmcliError) -> None:
        """Print the error of a text."""
        self._status.clear()
        console.error(f"{text.place or f'text {self._n_done}'}: {error}", error.hint)
        self._errors.append(error)

    def report(self, n_empty: int = 0) -> int:
        """Print what was left out; the exit status."""
        self._status.clear()
        if self._n_truncated:
            console.warn(f"left out the end of {plural(self._n_truncated, 'text')}: longer than the context")
        if n_empty:
            console.note(f"skipped {plural(n_empty, 'empty line')}")
        if self._cancellation.is_set():
            return ExitStatus.TIMEOUT if self._cancellation.reason == "timeout" else ExitStatus.INTERRUPTED
        if not self._errors:
            return ExitStatus.OK
        return self._errors[0].status if self._n_done == 1 else ExitStatus.LINES_FAILED


class _Writer(Protocol):
    """Where vectors go."""

    def wants(self, text: "Text") -> bool:
        """Whether the vector of this text is not there already."""

    def add(self, index: int, text: "Text", found: "Evaluation") -> None: ...
    def end(self) -> None:
        """Write the rest, also after an error or Ctrl-C, and say what is there."""


class _JsonLines:
    """A JSON object on each line of stdout."""

    def wants(self, _text: "Text") -> bool:
        return True

    def add(self, index: int, text: "Text", found: "Evaluation") -> None:
        data: dict[str, object] = {"index": index, **text_data(text)}
        if found.error:
            data["error"] = found.error.data()
        elif found.vector is not None:
            data["embedding"] = numbers(found.vector)
        print_json(data, indent=None)

    def end(self) -> None:
        pass


def text_data(text: "Text") -> Mapping[str, object]:
    """A text with its place as JSON data."""
    place = {"file": text.file} if text.file else {}
    line = {"line": text.line} if text.line else {}
    return {"text": text.text, **place, **line}


def print_texts(texts: "Sequence[Text]", scores: Sequence[float] = ()) -> None:
    """Print a line for each text: its score, its place and its beginning."""
    width = max((cells(one.place) for one in texts), default=0)
    for one, score in zip_longest(texts, scores):
        place = f"{one.place}{' ' * (width - cells(one.place))}  " if width else ""
        beginning = ellipsize(sanitize(" ".join(one.text.split())), _LONGEST)
        print_line(f"{'' if score is None else f'{score:.4f}'}  {place}{beginning}")


def numbers(vector: "Vector") -> list[object]:
    """A vector or a matrix as JSON data: the shortest numbers that are the same float32."""
    return [numbers(one) if one.ndim else float(str(one)) for one in vector]


class _Array:
    """A .npy file with a row for each text; that of a text with an error is NaN, so that rows and texts agree."""

    def __init__(self, path: Path, n_dims: int) -> None:
        from llmcli.pipelines.vector_store import ArrayFile

        self._file = ArrayFile(path, n_dims)

    def wants(self, _text: "Text") -> bool:
        return True

    def add(self, _index: int, _text: "Text", found: "Evaluation") -> None:
        import numpy

        missing = numpy.full(self._file.n_dims, numpy.nan, numpy.float32)
        self._file.add([missing if found.vector is None else found.vector])

    def end(self) -> None:
        try:
            self._file.save()
            console.note(f"{self._file.path}: {plural(self._file.n_rows, 'vector')} of {self._file.n_dims} numbers")
        finally:
            self._file.close()


class _Store:
    """A SQLite file; a text that is there already, at the same place, is skipped."""

    def __init__(self, path: Path, identity: "StoreIdentity", replace: bool) -> None:
        from llmcli.pipelines.vector_store import VectorStore, remove_store

        if replace:
            remove_store(path)
        self._store = VectorStore(path, identity)
        self._rows: list[tuple[Text, Vector]] = []
        self._n_added = self._n_skipped = 0

    def wants(self, text: "Text") -> bool:
        is_new = self._store.is_missing(text)
        self._n_skipped += not is_new
        return is_new

    def add(self, _index: int, text: "Text", found: "Evaluation") -> None:
        if found.vector is not None:
            self._rows.append((text, found.vector))
        if len(self._rows) >= _BLOCK:
            self._save()

    def _save(self) -> None:
        rows, self._rows = self._rows, []
        self._store.add(rows)
        self._n_added += len(rows)

    def end(self) -> None:
        try:
            self._save()
        finally:
            self._store.close()
            skipped = f", skipped {self._n_skipped} that it had" if self._n_skipped else ""
            console.note(f"{self._store.path}: added {plural(self._n_added, 'text')}{skipped}")


def _print_similarities(source: "TextSource", settings: Settings, pooling: str, truncate: bool, as_json: bool) -> int:
    """The cosine of each pair: of two arguments, or of the two texts on each line of the files."""
    from llmcli.cli.open_model import find_model, open_embedding_model
    from llmcli.pipelines.text_source import pair_of

    n_arguments = len(source.arguments)
    if (n_arguments or 2) != 2 or source.is_whole or (n_arguments and source.files):
        raise UsageError(
            f"--similarity needs two texts, or a file with two on each line, got {plural(n_arguments, 'text')}",
            "put a tab between the two texts of a line, or write it as a JSON list",
        )
    lines: Iterator[Sequence[Text]] = iter([[*source]]) if n_arguments else map(pair_of, source)
    target, status = find_model(settings, for_text=False), ProgressLine()
    with open_embedding_model(target, settings, status, pooling) as (model, cancellation):
        run = EmbeddingRun(status, cancellation)
        index = 0
        while pairs := [*islice(lines, _BLOCK)]:  # so many that their vectors are computed together
            texts = [one for pair in pairs if len(pair) == 2 for one in pair]
            found = [one for _, one in run.results(texts, partial(model.embed, truncate=truncate))]
            for pair in pairs[: len(found) // 2] if cancellation.is_set() else pairs:
                score, error = _similarity(pair, found, run)
                if as_json:
                    rest = {"error": error.data()} if error else {"similarity": score}
                    print_json({"index": index, "texts": [one.text for one in pair], **rest}, indent=None)
                else:
                    print_line("error" if score is None else f"{score:.4f}")
                index += 1
        return run.report(source.n_empty)


def _similarity(
    pair: "Sequence[Text]", found: "list[Evaluation]", run: EmbeddingRun
) -> tuple[float | None, LlmcliError | None]:
    """The cosine of a pair, whose vectors are the next of `found`; or the error of the line or of one of the texts."""
    from llmcli.inference.embedding import cosine

    if len(pair) != 2:
        hint = 'put a tab between two texts, or write them as ["one", "two"]'
        error = UsageError("the line does not have two texts", hint)
        run.fail(pair[0], error)
        return None, error
    a, b = found.pop(0), found.pop(0)
    if a.vector is None or b.vector is None:
        return None, a.error or b.error
    return cosine(a.vector, b.vector), None
