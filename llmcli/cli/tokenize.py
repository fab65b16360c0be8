"""`llmcli tokenize`: the tokens of a text."""

import json
import sys
from typing import Annotated

from llmcli.cli.command_line import Argument, Option
from llmcli.cli.options import with_settings
from llmcli.cli.questions import warn_file_name
from llmcli.cli.stdin import read_stdin
from llmcli.config.presets import resolve_settings
from llmcli.errors import UsageError
from llmcli.params.settings import Layer
from llmcli.ui.terminal.console import is_terminal
from llmcli.ui.terminal.output import print_line


@with_settings(only=("model", "encoding", "pull", "offline", "model_folders"))
def tokenize(
    flags: Layer,
    text: Annotated[str | None, Argument(help="Text to tokenize; without it, or with `-`, all of stdin.")] = None,
    as_json: Annotated[bool, Option("--json", help="Print one JSON object with ids, texts and their number.")] = False,
    ids: Annotated[bool, Option("--ids", help="Print the token ids only, in one line.")] = False,
    count: Annotated[bool, Option("--count", help="Print the number of tokens only.")] = False,
    special: Annotated[
        bool, Option("--special/--no-special", help="Parse texts such as <|im_end|> as special tokens.")
    ] = False,
    bos: Annotated[bool, Option("--bos/--no-bos", help="Add the BOS and EOS tokens that the model expects.")] = False,
) -> None:
    if as_json + ids + count > 1:
        raise UsageError("--json, --ids and --count cannot be used together", "remove all but one of them")
    if text is None and is_terminal(sys.stdin):
        raise UsageError("the text is missing", 'give one, as in `llmcli tokenize "Hello"`')
    settings = resolve_settings(flags)
    warn_file_name(text, "give it on stdin")
    text = read_stdin(encoding=settings.encoding) if text is None or text == "-" else text
    from llmcli.cli.open_model import find_model
    from llmcli.inference.prompt_renderer import open_tokenizer

    target = find_model(settings, for_text=False)
    with open_tokenizer(target.file.parts) as tokenizer:
        tokens = tokenizer.tokenize(text, add_special=bos, parse_special=special)
        pieces = [tokenizer.piece(token, special=True).decode("utf-8", "replace") for token in tokens]
    if count:
        print_line(str(len(tokens)))
    elif ids:
        print_line(" ".join(map(str, tokens)))
    elif as_json:
        print_line(json.dumps({"model": target.file.name, "count": len(tokens), "ids": tokens, "pieces": pieces}))
    else:
        for token, piece in zip(tokens, pieces, strict=True):
            print_line(f"{token:>8}  {json.dumps(piece, ensure_ascii=False)}")
