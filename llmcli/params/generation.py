"""Settings of a request, of its answer, and of the chat around it."""

import codecs
import json
import math
import re
from contextlib import suppress
from keyword import iskeyword

from llmcli.params.param import (
    LARGEST_FLOAT,
    InvalidValueError,
    format_value,
    is_int,
    is_number,
    setting,
    settings_group,
    unescape,
)

Bias = tuple[int | str, float]
_BIAS_SHAPE = 'TOKEN=BIAS, such as 1234=+1.5, "text"=-2 or 1234=-inf'
_FOR_HOSTS = ("idna", "punycode")  # codecs of Python for names of hosts, not for texts

_ARG_SHAPE = 'KEY=JSON, such as reasoning_effort="high" or keep_past_thinking=true'
# What a chat template gets from the program, and what Jinja defines or reserves.
NOT_TEMPLATE_ARGS = (
    *("messages", "add_generation_prompt", "bos_token", "eos_token", "raise_exception", "strftime_now"),
    *("caller", "cycler", "dict", "joiner", "kwargs", "loop", "namespace", "range", "self", "super", "varargs"),
)


def _think_from_data(value: object) -> str:
    """`/think on`, Ollama's `--think=false` and TOML's `think = false` mean a choice too."""
    return {"on": "show", "true": "show", "false": "off"}.get(text := str(value).lower(), text)


def template_args_from_data(value: object) -> tuple[str, ...]:
    """`KEY=JSON`, a list of them, or a JSON object as in llama-server's `chat_template_kwargs`; as `KEY=JSON` texts."""
    if isinstance(value, str) and value.strip() in ("", "none"):
        return ()
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        value = _template_json(value)
    if isinstance(value, str):
        key, equals, text = value.partition("=")
        if not equals:
            raise ValueError(_ARG_SHAPE)
        value = {key.strip(): _template_json(text, key)}
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return tuple(one for item in value for one in template_args_from_data(item))
    if not isinstance(value, dict):
        raise ValueError(_ARG_SHAPE)
    for key in value:
        if not key.isidentifier() or iskeyword(key):
            raise ValueError(_ARG_SHAPE)
        if key in NOT_TEMPLATE_ARGS:
            raise InvalidValueError("a variable of your own", f"the template gets {key} from llmcli")
    return tuple(f"{key}={json.dumps(one, ensure_ascii=False)}" for key, one in value.items())


def _template_json(text: str, key: str = "KEY") -> object:
    def no_number(name: str) -> object:
        raise InvalidValueError(_ARG_SHAPE, f"{name} is not JSON")

    try:
        return json.loads(text, parse_constant=no_number)
    except InvalidValueError:
        raise
    except (ValueError, RecursionError):  # also a number with thousands of digits
        pair = f'{key.strip()}="{text.strip()}"'
        is_word = text.strip().replace("-", "_").isidentifier()
        hint = f"a text has quotes: {pair}; in a shell '{pair}'" if is_word else ""
        raise InvalidValueError(_ARG_SHAPE, hint=hint) from None


def template_args_as_data(arguments: tuple[str, ...]) -> dict[str, object]:
    """The variables by name; of several values for one name the last one counts."""
    pairs = (one.partition("=") for one in arguments)
    return {key: json.loads(text) for key, _, text in pairs}


def _check_encoding(name: str) -> str:
    """The name of an encoding of Python in small letters. Raises ValueError for one that is not of texts."""
    try:
        "".encode(name)
        is_of_texts = codecs.lookup(name).name not in _FOR_HOSTS
    except (LookupError, ValueError):
        is_of_texts = False
    if not is_of_texts:
        raise ValueError("a text encoding, such as utf-8, latin-1, cp1252 or utf-16-le")
    return name.lower().replace("_", "-")


@settings_group("Request")
class RequestParams:
    prompt: str | None = setting(None, "Prompt text (`-` = stdin).", names="-p")
    file: tuple[str, ...] = setting(
        (), "File to add to the prompt (`-` = stdin). Repeatable.", names="-f", metavar="FILE", path=True
    )
    system: str | None = setting(
        None,
        "System prompt: text or @FILE (`-` = stdin).",
        names="--system -s -sys --system-prompt",
        metavar="TEXT|@FILE",
    )
    encoding: str = setting(
        "utf-8",
        "Encoding of stdin and of the files of a request; a byte order mark counts more.",
        metavar="NAME",
        suggest=("utf-8", "latin-1", "cp1252", "utf-16-le"),
        check=_check_encoding,
    )
    preset: str | None = setting(
        None, "Preset of settings: creative, precise, code, ..., or one from the configuration file.", metavar="NAME"
    )
    prefill: str | None = setting(None, "Text that the answer starts with.")
    raw: bool = setting(False, "Raw completion of the prompt, without the chat template.")
    chat_template: str | None = setting(
        None,
        "Chat template to use instead of the model's: Jinja text, a file (`-` = stdin), or a name of llama.cpp such as "
        "chatml.",
        metavar="JINJA|FILE|NAME",
        path=True,
    )
    template_arg: tuple[str, ...] = setting(
        (),
        'Variable of the chat template: keep_past_thinking=true, reasoning_effort="high". Repeatable.',
        names="--template-arg --chat-template-kwargs",
        metavar="KEY=JSON",
        data=template_args_from_data,
    )
    think: str = setting(
        "show",
        "Reasoning of the model: turn it on and show it, turn it on and hide it, or ask the model for none (off).",
        choices=("show", "hide", "off"),
        data=_think_from_data,
    )
    think_budget: int = setting(
        -1,
        "Number of tokens after which reasoning is ended and the answer begins (-1 = no limit).",
        names="--think-budget --reasoning-budget",
        min=-1,
        unit="tokens",
    )


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
    found = re.fullmatch(r"(\d+)([+-].+)", text) or re.fullmatch(r"(.+?)\s*=([^=]*)", text, re.DOTALL)
    if not found:
        raise ValueError(_BIAS_SHAPE)
    token, bias = found.groups()
    if len(token) < 2 or not token[0] == token[-1] == '"':
        return (_bias(int(token) if token.isdecimal() else token, bias),)
    with suppress(json.JSONDecodeError):
        return (_bias(str(json.loads(token)), bias),)
    return (_bias(unescape(token[1:-1]), bias),)  # it has llmcli's escapes


def bias_from_data(value: object) -> tuple[Bias, ...]:
    """`[[id or text, bias], ...]` or `{"id": bias}`, llama-server's forms; a bias of `false` bans the token."""
    if isinstance(value, str):
        return parse_bias(value)
    if isinstance(value, dict):
        value = [(int(key) if str(key).isdecimal() else key, bias) for key, bias in value.items()]
    biases: list[Bias] = []
    for item in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(item, str):
            biases += parse_bias(item)
        elif isinstance(item, (list, tuple)) and len(item) == 2:
            biases.append(_bias(*item))
        else:
            raise ValueError("a list of [token, bias] pairs")
    return tuple(biases)


def _bias(token: object, bias: object) -> Bias:
    if bias is False:
        bias = -math.inf
    if not (is_int(token) or isinstance(token, str)) or not (is_number(bias) or isinstance(bias, str)) or token == "":
        raise ValueError(_BIAS_SHAPE)
    try:
        value = float(bias)
    except ValueError:
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


def _check_constraint(text: str | None) -> str | None:
    """An empty text comes from an empty variable of a script, whose answers would match nothing."""
    if text is not None and not text.strip():
        raise InvalidValueError("a non-empty text", hint="write none for no constraint")
    return text


@settings_group("Generation")
class GenerationParams:
    max_tokens: int = setting(
        -1,
        "Maximum number of tokens to generate (-1 = until the model stops or the context is full).",
        min=0,
        extra_values=(-1,),
        unit="tokens",
        names="--max-tokens -n --predict --n-predict num_predict max_new_tokens max_completion_tokens max_length",
        suggest=("64", "256", "1024"),
    )
    stop: tuple[str, ...] = setting(
        (),
        "Stop string: generation ends before the earliest match. Repeatable.",
        names="--stop --reverse-prompt -r stop_sequence stopping_strings",
        check=_reject_empty,
    )
    ignore_eos: bool = setting(
        False, "Ignore end-of-sequence tokens: the model cannot end its answer.", names="ban_eos_token"
    )
    logit_bias: tuple[Bias, ...] = setting(
        (),
        'Logit bias of a token: ID=+1.5, "text"=-inf (-inf = never). Repeatable.',
        names="-l",
        metavar="TOKEN=BIAS",
        data=bias_from_data,
        show=show_bias,
    )
    banned_strings: tuple[str, ...] = setting(
        (),
        "Phrase to ban: generation backtracks when it appears. Repeatable, case-insensitive.",
        names="--ban banned_tokens",
        check=_reject_empty,
    )
    speculative: str = setting(
        "auto",
        "Speculative decoding: evaluate several likely tokens in a step, copied from earlier text or guessed by "
        "--draft-model (auto = where that is faster and cannot change the text, on = also where rounding can "
        "change it).",
        choices=("auto", "on", "off"),
    )
    grammar: str | None = setting(
        None,
        "GBNF grammar that the output must match.",
        metavar="GBNF",
        default_text="none",
        check=_check_constraint,
    )
    grammar_file: str | None = setting(
        None,
        "File with a GBNF grammar that the output must match (`-` = stdin).",
        metavar="FILE",
        path=True,
        default_text="none",
        check=_check_constraint,
    )
    json_schema: str | None = setting(
        None,
        "JSON schema that the output must match: inline JSON, a file (`-` = stdin), or short: "
        "'name: str, age: int, tags: [str]'.",
        metavar="SCHEMA|FILE",
        path=True,
        default_text="none",
        check=_check_constraint,
    )
    regex: str | None = setting(
        None,
        "Regular expression that the whole output must match (Rust syntax, no look-around).",
        metavar="REGEX",
        default_text="none",
        check=_check_constraint,
    )
    constraint_retries: int = setting(
        2,
        "Number of new tries when an answer does not match what only a finished answer can be checked for.",
        min=0,
        max=1000,
        unit="tries",
        needs_any=("json_schema",),
    )
    logprobs: int = setting(
        0,
        "Number of top log-probabilities per token in the JSON output (0 = off).",
        min=0,
        max=1000,
        unit="alternatives",
    )
    trace_top: int = setting(
        5, "Number of most likely alternatives per token in a trace (0 = none).", min=0, max=1000, unit="alternatives"
    )
    timeout: float = setting(
        0.0, "Time limit of one answer; the partial answer is kept (0 = none).", min=0, unit="seconds"
    )


@settings_group("Chat")
class InterfaceParams:
    overflow: str = setting(
        "ask",
        "What to do when a message does not fit the context: ask, reject it (error), omit the oldest turns, "
        "or summarize them (compact).",
        choices=("ask", "error", "oldest", "compact"),
    )
    markdown: bool = setting(True, "Render Markdown in answers on a terminal.")
    theme: str = setting(
        "auto",
        "Colors for a dark or a light terminal, of a Pygments style, or of a theme file of rich.",
        metavar="NAME|FILE",
        suggest=("auto", "dark", "light"),
        path=True,
    )
    editing_mode: str = setting("emacs", "Key bindings of the input line.", choices=("emacs", "vi"))
    character: str | None = setting(
        None,
        "Character to chat with: pirate, editor, tutor, a file, or a name in the folder `characters` "
        "of the configuration.",
        metavar="NAME|FILE",
        path=True,
    )
