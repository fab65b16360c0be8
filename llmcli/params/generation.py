"""Settings of one generation: its length, its stops and what the output must look like."""

import json
import math
import re
from dataclasses import dataclass
from typing import Annotated, Any

from llmcli.params.param import Param
from llmcli.params.values import LARGEST_FLOAT, show, unescape

Bias = tuple[int | str, float]
_BIAS_SHAPE = 'TOKEN=BIAS, as in 1234=+1.5, "text"=-2 or 1234=-inf'


def parse_bias(text: str) -> tuple[Bias, ...]:
    """`ID=+1.5`, `"text"=-inf`, or llama.cpp's `ID+1.5`; a JSON list or object is read as data.

    Raises:
        ValueError: whose text completes the sentence "must be ...".
    """
    text = text.strip()
    if text == "none":
        return ()
    if text.startswith(("[", "{")):
        return _bias_from_json(text)
    old = re.fullmatch(r"(\d+)([+-].+)", text)
    token, _, bias = old.group(1, 2, 2) if old else text.rpartition("=")
    token = token.rstrip()
    if not token:
        raise ValueError(_BIAS_SHAPE)
    quoted = len(token) > 1 and token[0] == token[-1] == '"'
    name = _unquote(token) if quoted else token
    return (_bias(int(name) if name.isdecimal() and not quoted else name, bias),)


def _unquote(text: str) -> str:
    """A quoted text, as JSON writes it or as a shell user types it."""
    try:
        return str(json.loads(text))
    except ValueError:
        return unescape(text[1:-1])


def bias_from_data(value: Any) -> tuple[Bias, ...]:
    """`[[id or text, bias], ...]` or `{"id": bias}` as llama-server takes them; `false` bans."""
    if isinstance(value, dict):
        return tuple(_bias(int(k) if str(k).isdecimal() else k, v) for k, v in value.items())
    if isinstance(value, str):
        return parse_bias(value)
    if not isinstance(value, (list, tuple)):
        raise ValueError("a list of [token, bias]")
    return tuple(bias for item in value for bias in _bias_item(item))


def _bias_item(item: Any) -> tuple[Bias, ...]:
    if isinstance(item, str):
        return parse_bias(item)
    if not isinstance(item, (list, tuple)) or len(item) != 2:
        raise ValueError("a list of [token, bias]")
    return (_bias(*item),)


def _bias_from_json(text: str) -> tuple[Bias, ...]:
    try:
        return bias_from_data(json.loads(text))
    except json.JSONDecodeError:
        raise ValueError(_BIAS_SHAPE) from None


def _bias(token: Any, bias: Any) -> Bias:
    if isinstance(token, bool) or not isinstance(token, (int, str)) or token == "":
        raise ValueError(_BIAS_SHAPE)
    if bias is True:
        raise ValueError(_BIAS_SHAPE)
    try:
        value = -math.inf if bias is False else float(bias)
    except (TypeError, ValueError):
        raise ValueError(_BIAS_SHAPE) from None
    except OverflowError:
        value = math.inf
    if value != -math.inf and not abs(value) <= LARGEST_FLOAT:
        raise ValueError("a token with a finite bias or -inf")
    return token, value


def show_bias(biases: tuple[Bias, ...]) -> str:
    """The text that `parse_bias` reads back."""
    if not biases:
        return "none"
    if len(biases) == 1:
        token, bias = biases[0]
        name, amount = token if isinstance(token, int) else json.dumps(token, ensure_ascii=False), show(bias)
        return f"{name}={amount if amount.startswith('-') else '+' + amount}"
    return json.dumps([[token, bias if math.isfinite(bias) else "-inf"] for token, bias in biases], ensure_ascii=False)


def _no_empty(texts: tuple[str, ...]) -> tuple[str, ...]:
    if not all(texts):
        raise ValueError("a text that is not empty")
    return texts


@dataclass(frozen=True, kw_only=True)
class GenerationParams:
    """Generation"""

    max_tokens: Annotated[
        int,
        Param(
            help="Stop after this many tokens (-1 = until the model stops or the context is full).",
            min=0,
            also=(-1,),
            unit="tokens",
            flags=("-n", "--predict", "--n-predict"),
            keys=("n_predict",),
            suggest=("64", "256", "1024"),
        ),
    ] = -1
    stop: Annotated[
        tuple[str, ...],
        Param(
            help="Stop before this text; repeatable, the earliest match wins.",
            flags=("--reverse-prompt", "-r"),
            metavar="TEXT",
            check=_no_empty,
        ),
    ] = ()
    ignore_eos: Annotated[bool, Param(help="Never let the model end its answer by itself.")] = False
    logit_bias: Annotated[
        tuple[Bias, ...],
        Param(
            help='Raise or lower tokens: ID=+1.5, "text"=-inf; repeatable.',
            flags=("-l",),
            metavar="TOKEN=BIAS",
            text=parse_bias,
            data=bias_from_data,
            show=show_bias,
        ),
    ] = ()
    banned_strings: Annotated[
        tuple[str, ...],
        Param(
            help="Never produce this phrase: the text is taken back and drawn again; repeatable, case ignored.",
            flag="--ban",
            metavar="TEXT",
            check=_no_empty,
        ),
    ] = ()
    grammar: Annotated[str | None, Param(help="Constrain the output to this GBNF grammar.", metavar="GBNF")] = None
    grammar_file: Annotated[
        str | None, Param(help="Constrain the output to the GBNF grammar in this file.", metavar="FILE", path=True)
    ] = None
    json_schema: Annotated[
        str | None,
        Param(
            help="Constrain the output to JSON that fits this schema, inline or a file.", metavar="SCHEMA", path=True
        ),
    ] = None
    logprobs: Annotated[
        int,
        Param(
            help="Add each token with its log-probability, and the N likeliest, to the JSON output (0 = off).",
            min=0,
            max=1000,
            unit="tokens",
        ),
    ] = 0
    trace_top: Annotated[
        int,
        Param(
            help="Alternatives that a trace shows for each token, the model's likeliest ones (0 = none).",
            min=0,
            max=1000,
            unit="tokens",
        ),
    ] = 5
    timeout: Annotated[
        float,
        Param(help="Stop after this many seconds, keeping what has come (0 = never).", min=0.0, unit="seconds"),
    ] = 0.0
