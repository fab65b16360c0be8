"""`llmcli score`: how probable a model finds a text."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from llmcli.cli.command_line import Argument, Option
from llmcli.cli.options import with_settings
from llmcli.cli.questions import warn_file_name
from llmcli.cli.stdin import read_stdin, stdin_as_file
from llmcli.config.presets import base_layers
from llmcli.errors import UsageError
from llmcli.files import is_stdin, read_text
from llmcli.params.model import EndpointParams, HubParams, ModelParams, StateParams
from llmcli.params.param import fields_of
from llmcli.params.settings import Layer, Settings, resolve
from llmcli.text import plural, without_line_feed
from llmcli.ui.terminal.console import console, is_terminal
from llmcli.ui.terminal.output import print_facts, print_json, print_line, print_rows
from llmcli.ui.terminal.progress import ProgressLine

if TYPE_CHECKING:
    from llmcli.inference.engine import Engine
    from llmcli.inference.score import Score

_HEADS = "LINE", "LOGPROB", "BITS/BYTE", "PERPLEXITY", "TOKENS"


@with_settings(
    only={
        *fields_of(ModelParams),
        *fields_of(StateParams),
        *fields_of(EndpointParams),
        *fields_of(HubParams),
        "encoding",
        "timeout",
    }
)
@stdin_as_file()
def score(
    flags: Layer,
    text: Annotated[str | None, Argument(help="Text to score; without it, or with `-`, all of stdin.")] = None,
    file: Annotated[
        str | None, Option("--file", "-f", metavar="FILE", help="File to score instead of a text (`-` = stdin).")
    ] = None,
    lines: Annotated[bool, Option("--lines", help="Score each line as a text of its own.")] = False,
    prefix: Annotated[
        str | None, Option("--prefix", metavar="TEXT", help="Text before the scored one, which does not count itself.")
    ] = None,
    tokens: Annotated[bool, Option("--tokens", help="Print the log-probability of each token.")] = False,
    as_json: Annotated[
        bool, Option("--json", help="Print a JSON object; with --lines one for each line (JSON Lines).")
    ] = False,
) -> None:
    resolved = resolve(base_layers(flags))
    settings = resolved.settings
    texts = _texts(text, file, lines, settings)
    from llmcli.cli.open_model import find_target, open_model, welcome
    from llmcli.inference.resolved_model import ResolvedModel
    from llmcli.inference.score import WINDOW, score_texts

    target = find_target(settings)
    welcome(resolved)
    # The setting is the size of a window: a text that needs none has as much context as it is long.
    is_stretched = isinstance(target, ResolvedModel) and settings.n_ctx > (target.header.n_ctx_train or 0)
    loaded = replace(settings, n_ctx=settings.n_ctx if is_stretched else 0)
    with open_model(target, loaded, ProgressLine()) as (engine, cancellation):
        window = settings.n_ctx or min(WINDOW, engine.n_ctx_train)
        scores = score_texts(engine, texts, prefix or "", window, cancellation)
        if as_json:
            _print_data(engine, scores, lines, tokens)
        elif lines:
            _print_lines(engine, scores, tokens)
        else:
            (only,) = scores
            _print_score(engine, only, tokens)


def _texts(text: str | None, file: str | None, lines: bool, settings: Settings) -> Sequence[str]:
    """The texts to score. Raises UsageError if there is none."""
    if text is not None and file is not None:
        raise UsageError("a text and --file cannot be used together", "remove one of them")
    if text is None and file is None and is_terminal(sys.stdin):
        raise UsageError("the text is missing", 'give one, as in `llmcli score "Hello"`')
    warn_file_name(text)
    if file is not None and not is_stdin(file):
        text = without_line_feed(read_text(file, settings.encoding))
    elif file or text in (None, "-"):
        text = without_line_feed(read_stdin(encoding=settings.encoding))
    if not text:
        raise UsageError("the text is empty", 'give one, as in `llmcli score "Hello"`')
    return [line.removesuffix("\r") for line in text.split("\n")] if lines else [text]


def _print_score(engine: "Engine", score: "Score", tokens: bool) -> None:
    if score.bits_per_byte is None and score.is_windowed:
        raise UsageError("no token counts: its window has no token before it", "raise --ctx-size")
    if score.bits_per_byte is None:
        raise UsageError(
            f"a text of one token has no score: {engine.name} has no BOS token before it",
            "give a longer text, or what stands before it with --prefix",
        )
    if tokens:
        _print_tokens(engine, score)
        return
    n_tokens = len(score.counted)
    print_facts([
        ("logprob", f"{score.logprob:.4f}"),
        ("bits per byte", _number(score.bits_per_byte)),
        ("perplexity", _number(score.perplexity)),
        ("tokens", str(n_tokens)),
    ])  # fmt: skip
    if score.is_windowed:
        console.note(f"{n_tokens} of {plural(len(score.tokens), 'token')} count: the second half of each window")


def _print_tokens(engine: "Engine", score: "Score") -> None:
    """A row for each token: its log-probability, `-` where it does not count, and its text."""
    for token in score.tokens:
        piece = engine.tokenizer.piece(token.id, special=True).decode("utf-8", "replace")
        print_line(f"{_number(token.logprob):>12}  {json.dumps(piece, ensure_ascii=False)}")


def _print_lines(engine: "Engine", scores: Iterator["Score"], tokens: bool) -> None:
    if not tokens:
        rows, texts = [], []
        for number, one in enumerate(scores, 1):
            figures = one.logprob, one.bits_per_byte, one.perplexity
            rows.append([str(number), *map(_number, figures), str(len(one.counted))])
            texts.append(one.text)
        print_rows(_HEADS, rows, right=_HEADS, below=texts)
        return
    for index, score in enumerate(scores):
        if index:
            print_line("")
        _print_tokens(engine, score)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _print_data(engine: "Engine", scores: Iterator["Score"], lines: bool, tokens: bool) -> None:
    for number, score in enumerate(scores, 1):
        data = {"line": number, "text": score.text} if lines else {"model": engine.name}
        data |= score.data()
        if tokens:
            data["tokens"] = [_token_data(engine, token.id, token.logprob) for token in score.tokens]
        print_json(data, indent=None)


def _token_data(engine: "Engine", token: int, logprob: float | None) -> dict[str, object]:
    """In the form of the tokens of `generate --logprobs`."""
    piece = engine.tokenizer.piece(token, special=True)
    return {"id": token, "token": piece.decode("utf-8", "replace"), "bytes": list(piece), "logprob": logprob}
