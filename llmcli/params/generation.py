"""Settings of a request, of its answer, and of the chat around it."""

import json
import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from llmcli.params.param import LARGEST_FLOAT, Param, format_value, is_int, unescape

Bias = tuple[int | str, float]
_BIAS_SHAPE = 'TOKEN=BIAS, such as 1234=+1.5, "text"=-2 or 1234=-inf'


@dataclass(frozen=True, kw_only=True)
class RequestParams:
    """Settings of a request: the prompt and what is around it."""

    TITLE: ClassVar[str] = "Request"

    prompt: Annotated[str | None, Param("Prompt text (`-` = stdin).", flags=("-p",), metavar="TEXT")] = None
    file: Annotated[
        tuple[str, ...],
        Param("File to add to the prompt (`-` = stdin). Repeatable.", flags=("-f",), metavar="FILE", path=True),
    ] = ()
    system: Annotated[str | None, Param("System prompt: text or @FILE.", flags=("-s",), metavar="TEXT|@FILE")] = None
    preset: Annotated[
        str | None,
        Param("Preset of settings: creative, precise, code, ..., or one from the configuration file.", metavar="NAME"),
    ] = None
    prefill: Annotated[str | None, Param("Text that the answer starts with.", metavar="TEXT")] = None
    raw: Annotated[bool, Param("Raw completion of the prompt, without the chat template.")] = False
    chat_template: Annotated[
        str | None,
        Param("Jinja chat template to use instead of the model's: inline or a file.", metavar="JINJA|FILE", path=True),
    ] = None
    think: Annotated[
        str,
        Param(
            "Reasoning of the model: show it, hide it, or ask the model for none (off).",
            choices=("show", "hide", "off"),
        ),
    ] = "show"


def parse_bias(text: str) -> tuple[Bias, ...]:
    """`ID=+1.5`, `"text"=-inf`, or llama.cpp's `ID+1.5`; or a JSON list or object."""
    text = text.strip()
    if text == "none":
        return ()
    if text.startswith(("[", "{")):
        try:
            return bias_from_data(json.loads(text))
        except json.JSONDecodeError:
            raise ValueError(_BIAS_SHAPE) from None
    compact = re.fullmatch(r"(\d+)([+-].+)", text)  # llama.cpp's form
    token, _, bias = compact.group(1, 2, 2) if compact else text.rpartition("=")
    token = token.rstrip()
    if not token:
        raise ValueError(_BIAS_SHAPE)
    quoted = len(token) > 1 and token[0] == token[-1] == '"'
    name = _unquote(token) if quoted else token
    return (_bias(int(name) if name.isdecimal() and not quoted else name, bias),)


def _unquote(text: str) -> str:
    """The content of a quoted text, written as JSON or with llmcli's escapes."""
    try:
        return str(json.loads(text))
    except ValueError:
        return unescape(text[1:-1])


def bias_from_data(value: Any) -> tuple[Bias, ...]:
    """`[[id or text, bias], ...]` or `{"id": bias}`, llama-server's forms; a bias of `false` bans the token."""
    if isinstance(value, dict):
        return tuple(_bias(int(k) if str(k).isdecimal() else k, v) for k, v in value.items())
    if isinstance(value, str):
        return parse_bias(value)
    if not isinstance(value, (list, tuple)):
        raise ValueError("a list of [token, bias] pairs")
    return tuple(bias for item in value for bias in _bias_item(item))


def _bias_item(item: Any) -> tuple[Bias, ...]:
    if isinstance(item, str):
        return parse_bias(item)
    if not isinstance(item, (list, tuple)) or len(item) != 2:
        raise ValueError("a list of [token, bias] pairs")
    return (_bias(*item),)


def _bias(token: Any, bias: Any) -> Bias:
    if not (is_int(token) or isinstance(token, str)) or token == "" or bias is True:
        raise ValueError(_BIAS_SHAPE)
    try:
        value = -math.inf if bias is False else float(bias)
    except (TypeError, ValueError):
        raise ValueError(_BIAS_SHAPE) from None
    except OverflowError:
        value = math.inf
    if value != -math.inf and not abs(value) <= LARGEST_FLOAT:
        raise ValueError("a token with a finite bias, or -inf")
    return token, value


def show_bias(biases: tuple[Bias, ...]) -> str:
    """The text that `parse_bias` reads back."""
    if not biases:
        return "none"
    if len(biases) == 1:
        token, bias = biases[0]
        name, amount = token if isinstance(token, int) else json.dumps(token, ensure_ascii=False), format_value(bias)
        return f"{name}={amount if amount.startswith('-') else '+' + amount}"
    return json.dumps([[token, bias if math.isfinite(bias) else "-inf"] for token, bias in biases], ensure_ascii=False)


def _reject_empty(texts: tuple[str, ...]) -> tuple[str, ...]:
    if not all(texts):
        raise ValueError("a non-empty text")
    return texts


@dataclass(frozen=True, kw_only=True)
class GenerationParams:
    """Settings of an answer: where it ends, and what it may contain."""

    TITLE: ClassVar[str] = "Generation"

    max_tokens: Annotated[
        int,
        Param(
            "Maximum number of tokens to generate (-1 = until the model stops or the context is full).",
            min=0,
            extra_values=(-1,),
            unit="tokens",
            flags=("-n", "--predict", "--n-predict"),
            keys=("n_predict", "num_predict", "max_new_tokens", "max_completion_tokens", "max_length"),
            suggest=("64", "256", "1024"),
        ),
    ] = -1
    stop: Annotated[
        tuple[str, ...],
        Param(
            "Stop string: generation ends before the earliest match. Repeatable.",
            flags=("--reverse-prompt", "-r"),
            keys=("stop_sequence", "stopping_strings"),
            metavar="TEXT",
            check=_reject_empty,
        ),
    ] = ()
    ignore_eos: Annotated[
        bool, Param("Ignore end-of-sequence tokens: the model cannot end its answer.", keys=("ban_eos_token",))
    ] = False
    logit_bias: Annotated[
        tuple[Bias, ...],
        Param(
            'Logit bias of a token: ID=+1.5, "text"=-inf (-inf = never). Repeatable.',
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
            "Phrase to ban: generation backtracks when it appears. Repeatable, case-insensitive.",
            flag="--ban",
            keys=("ban",),
            metavar="TEXT",
            check=_reject_empty,
        ),
    ] = ()
    grammar: Annotated[str | None, Param("GBNF grammar that the output must match.", metavar="GBNF")] = None
    grammar_file: Annotated[
        str | None, Param("File with a GBNF grammar that the output must match.", metavar="FILE", path=True)
    ] = None
    json_schema: Annotated[
        str | None,
        Param("JSON schema that the output must match: inline JSON or a file.", metavar="SCHEMA|FILE", path=True),
    ] = None
    logprobs: Annotated[
        int,
        Param(
            "Number of top log-probabilities per token in the JSON output (0 = off).",
            min=0,
            max=1000,
            unit="alternatives",
        ),
    ] = 0
    trace_top: Annotated[
        int,
        Param(
            "Number of most likely alternatives per token in a trace (0 = none).", min=0, max=1000, unit="alternatives"
        ),
    ] = 5
    timeout: Annotated[
        float, Param("Time limit of one answer; the partial answer is kept (0 = none).", min=0, unit="seconds")
    ] = 0.0


@dataclass(frozen=True, kw_only=True)
class InterfaceParams:
    """Settings of the chat and its screen."""

    TITLE: ClassVar[str] = "Chat"

    overflow: Annotated[
        str,
        Param(
            "What to do when a message does not fit the context: ask, reject it (error), omit the oldest turns, "
            "or summarize them (compact).",
            choices=("ask", "error", "oldest", "compact"),
        ),
    ] = "ask"
    markdown: Annotated[bool, Param("Render Markdown in answers on a terminal.")] = True
    theme: Annotated[
        str,
        Param(
            "Colors for a dark or a light terminal, of a Pygments style, or of a theme file of rich.",
            metavar="NAME|FILE",
            suggest=("auto", "dark", "light"),
            path=True,
        ),
    ] = "auto"
    editing_mode: Annotated[str, Param("Key bindings of the input line.", choices=("emacs", "vi"))] = "emacs"
    character: Annotated[
        str | None,
        Param(
            "Character to chat with: pirate, editor, tutor, a file, or a name in the folder `characters` "
            "of the configuration.",
            metavar="NAME|FILE",
            path=True,
        ),
    ] = None
