"""Ollama's chat templates, which are Go templates, as the Jinja that all other chat templates are.

Ollama's `template/template.go` gives a template `.Messages`, or turn by turn `.System`, `.Prompt` and `.Response`.
"""

import ast
import json
import re
from collections.abc import Sequence
from contextlib import suppress

from llmcli.errors import ModelInvalidError
from llmcli.models.gguf.header import GGUFHeader, quote
from llmcli.models.locations import ModelFile

# Of a Modelfile; the context and the seed are of the machine and of the user.
_PARAMETERS = ["temperature", "top_k", "top_p", "min_p", "typical_p", "tfs_z", "num_predict", "stop", "repeat_penalty"]
_PARAMETERS += ["repeat_last_n", "presence_penalty", "frequency_penalty", "mirostat", "mirostat_eta", "mirostat_tau"]
_MAX_SOURCE = 1 << 16  # characters; the longest of Ollama's library has 8,000
_MAX_DEPTH = 40  # blocks in blocks, or parentheses in parentheses
_TOKEN = re.compile(
    r'\s*(?:(?P<end>-?\}\})|(?P<text>"(?:\\.|[^"\\\n])*"|`[^`]*`)|(?P<number>-?\d+(?:\.\d+)?)'
    r"|(?P<name>\$?\w*(?:\.\w+)+|\$\w*|\.|\w+)|(?P<mark>:=|[=|(),]))",
    re.ASCII,
)
_COMMENT = re.compile(r"-?\s*/\*.*?\*/\s*-?\}\}", re.DOTALL)
_ROOT = ("System", "Prompt", "Response", "Messages", "Tools", "Think", "ThinkLevel", "IsThinkSet", "Suffix")
_COMPARED = {"ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_CONSTANTS = {"true": "true", "false": "false", "nil": "none"}
_SPACE = " \t\r\n"  # what the markers {{- and -}} remove
# Variables of Go live in a namespace: those of Jinja end with the loop that sets them.
_HEAD = (
    "{% set v = namespace() %}",
    "{% set Messages, Tools, Suffix, ThinkLevel = messages, [], '', '' %}",
    "{% set IsThinkSet, Think = enable_thinking is defined, enable_thinking is defined and enable_thinking %}",
)
_WHOLE = (
    "{% set System = messages|selectattr('role', 'equalto', 'system')|map(attribute='content')|join('\\n\\n') %}",
    "{% set Prompt, Response = '', '' %}",
)
_SEND = "{{ turn(s.system, s.prompt, s.response) }}{% set s.system, s.prompt, s.response = '', '', '' %}"
_TURNS = (
    "{% set s = namespace(system='', prompt='', response='') %}",
    "{% for m in messages %}",
    "{% if m.role == 'assistant' %}{% set s.response = m.content %}",
    "{% else %}",
    "{% if s.prompt and m.role == 'user' or s.response %}" + _SEND + "{% endif %}",
    "{% if m.role == 'system' %}{% if s.prompt %}" + _SEND + "{% endif %}",
    "{% set s.system = m.content %}{% else %}{% set s.prompt = m.content %}{% endif %}",
    "{% endif %}",
    "{% endfor %}",
    "{% set System, Prompt, Response = s.system, s.prompt, s.response %}",
)
_Token = tuple[str, str]  # its kind (the group of _TOKEN), and its text


def is_trivial(source: str) -> bool:
    """Whether a template only repeats the prompt: Ollama writes it where it does not know the template of a model."""
    return re.fullmatch(r"\s*(?:\{\{-?\s*\.Prompt\s*-?\}\}\s*)?", source) is not None


def chat_template_of(file: ModelFile, header: GGUFHeader) -> tuple[str, str]:
    """The chat template of a model, and a note for the user ("" for none).

    As in Ollama, the one that its store has for a model comes before the one in the file.
    """
    own = header.chat_template or ""
    if is_trivial(file.ollama_template):
        return own, ""
    try:
        return to_jinja(file.ollama_template), ""
    except ModelInvalidError as error:
        return own, f"{error}; {'that of the model file is used' if own else error.hint}"


def sampling_defaults_of(file: ModelFile) -> dict[str, object]:
    """The settings that Ollama has for a model, as far as they are about sampling; the caller must check the values."""
    with suppress(ValueError, RecursionError):
        parameters = json.loads(file.ollama_parameters or "{}")
        if isinstance(parameters, dict):
            return {key: value for key, value in parameters.items() if key in _PARAMETERS}
    return {}


def to_jinja(source: str) -> str:
    """The Jinja template that writes the prompts which Ollama makes with the Go template `source`.

    A template without `.Messages` gets turn after turn; the last one ends where its `.Response` begins. Tools are
    never given. Raises ModelInvalidError for what is not a template of Ollama, or needs a part that is not supported.
    """
    if len(source) > _MAX_SOURCE:
        raise _error(f"it has more than {_MAX_SOURCE} characters")
    items = _split(source)
    fields = {field for item in items if not isinstance(item, str) for kind, name in item for field in name.split(".")}
    if "Messages" in fields:
        return "\n".join((*_HEAD, *_WHOLE, _Translator(items).translate()))
    if "Response" not in fields:
        items.append([("name", ".Response")])
    turn = "{% macro turn(System, Prompt, Response) %}" + _Translator(items).translate() + "{% endmacro %}"
    return "\n".join((*_HEAD, turn, *_TURNS, _Translator(items, is_last=True).translate()))


class _Translator:
    """One pass over the items of a template. With `is_last`, nothing follows the first mention of `.Response`."""

    def __init__(self, items: Sequence[str | list[_Token]], is_last: bool = False) -> None:
        self._items = iter(items)
        self._is_last, self._is_cut = is_last, False
        self._out: list[str] = []
        self._depth = 0

    def translate(self) -> str:
        if self._block(""):
            raise _error("an {{ end }} or {{ else }} has no beginning")
        return "".join(self._out)

    def _block(self, dot: str) -> list[_Token]:
        """Translate up to the `end` or `else` of this block, and give it; [] at the end of the template.

        `dot` is the Jinja expression of Go's dot; "" is the root.
        """
        for item in self._items:
            is_kept = not self._is_cut  # the action that mentions .Response is kept itself
            if isinstance(item, str):
                self._write(f"{{{{ {_literal(item)} }}}}", is_kept)
            elif item[0][1] in ("end", "else"):
                return item
            elif item[0][1] in ("if", "range", "with"):
                self._depth += 1
                if self._depth > _MAX_DEPTH:
                    raise _error("its blocks are nested too deeply")
                self._nested(item, dot, is_kept)
                self._depth -= 1
            else:
                self._write(self._statement(item, dot), is_kept)
        return []

    def _statement(self, tokens: list[_Token], dot: str) -> str:
        word, names, rest = tokens[0][1], *_variables(tokens)
        if word in ("break", "continue") and len(tokens) == 1:
            return f"{{% {word} %}}"
        if word in ("define", "template", "block"):
            raise _error(f"{{{{ {word} }}}} is not supported")
        value = self._value(rest, dot)
        return f"{{% set {names[0]} = {value} %}}" if names else f"{{{{ {value} }}}}"

    def _nested(self, tokens: list[_Token], dot: str, is_kept: bool) -> None:
        """A block from `if`, `range` or `with` to its `end`."""
        word, names, rest = tokens[0][1], *_variables(tokens[1:])
        value, inner = self._value(rest, dot), dot if word == "if" else f"d{self._depth}"
        if word == "range":
            given = ["loop.index0", inner][-len(names) :] if names else []
            begin, end = f"{{% for {inner} in {value} %}}", "{% endfor %}"
        elif word == "with":
            given, begin = [inner], f"{{% with {inner} = {value} %}}{{% if {inner} %}}"
            end = "{% endif %}{% endwith %}"
        else:
            given, begin, end = [value], f"{{% if {value} %}}", "{% endif %}"
        sets = "".join(f"{{% set {name} = {one} %}}" for name, one in zip(names, given, strict=False))
        self._write(begin + sets, is_kept)
        last = self._block(inner)
        while last[:2] == [("name", "else"), ("name", "if")] and word == "if":
            self._write(f"{{% elif {self._value(last[2:], dot)} %}}", is_kept)
            last = self._block(dot)
        if last == [("name", "else")]:
            self._write("{% else %}", is_kept)
            last = self._block(dot)
        if last != [("name", "end")]:
            raise _error(f"{{{{ {word} }}}} has no {{{{ end }}}} of its own")
        self._write(end, is_kept)

    def _write(self, text: str, is_kept: bool) -> None:
        if is_kept:
            self._out.append(text)

    def _value(self, tokens: list[_Token], dot: str) -> str:
        """The Jinja expression of a whole pipeline."""
        position, value = self._pipeline(tokens, 0, dot, 0)
        if position < len(tokens):
            raise _error(f"{quote(tokens[position][1])} is not expected")
        return value

    def _pipeline(self, tokens: list[_Token], at: int, dot: str, depth: int) -> tuple[int, str]:
        """Commands between `|`, each of which gets the value of the one before as its last argument."""
        if depth > _MAX_DEPTH:
            raise _error("its parentheses are nested too deeply")
        value: str | None = None
        while True:
            name, operands = "", [] if value is None else [value]
            if at < len(tokens) and tokens[at][0] == "name" and tokens[at][1].isidentifier():
                name, at = tokens[at][1], at + 1
                if name in _CONSTANTS:
                    name, operands = "", [_CONSTANTS[name]]
            if value is not None and not name:
                raise _error("a function is missing after |")
            own: list[str] = []
            while at < len(tokens) and tokens[at] not in (("mark", "|"), ("mark", ")")):
                at, operand = self._operand(tokens, at, dot, depth)
                own.append(operand)
            operands = own + operands
            if name:
                value = _call(name, operands)
            elif len(operands) == 1:
                value = operands[0]
            else:
                raise _error("an action has no value, or several")
            if at == len(tokens) or tokens[at][1] == ")":
                return at, value
            at += 1  # the |

    def _operand(self, tokens: list[_Token], at: int, dot: str, depth: int) -> tuple[int, str]:
        kind, text = tokens[at]
        if text == "(":
            at, value = self._pipeline(tokens, at + 1, dot, depth + 1)
            if at == len(tokens):
                raise _error("a parenthesis is not closed")
            if at + 1 < len(tokens) and tokens[at + 1][1].startswith(".") and tokens[at + 1][1] != ".":
                return at + 2, _field(value, tokens[at + 1][1][1:].split("."))
            return at + 1, value
        if kind == "text":
            return at + 1, _literal(_string(text))
        if kind == "number":
            return at + 1, text
        if kind != "name":
            raise _error(f"{quote(text)} is not expected")
        if text in _CONSTANTS:
            return at + 1, _CONSTANTS[text]
        first, *fields = text.split(".")
        if first.startswith("$") and first != "$":
            return at + 1, _field(_variable(first), fields)
        if first not in ("", "$"):  # a function without arguments
            return at + 1, _call(first, [])
        if (base := "" if first == "$" else dot) or not any(fields):
            return at + 1, _field(base or _literal(""), list(filter(None, fields)))
        if "Response" in fields and self._is_last:
            self._is_cut = True
        return at + 1, _field(fields[0], fields[1:]) if fields[0] in _ROOT else _literal("")


def _split(source: str) -> list[str | list[_Token]]:
    """The texts, and the actions as their tokens; the markers `{{-` and `-}}` are applied to the texts."""
    items: list[str | list[_Token]] = []
    position, trims = 0, False
    while True:
        start = source.find("{{", position)
        text = source[position : start if start >= 0 else None]
        text = text.lstrip(_SPACE) if trims else text
        trims = start >= 0 and re.match(r"\{\{-\s", source[start : start + 4]) is not None
        if text := text.rstrip(_SPACE) if trims else text:
            items.append(text)
        if start < 0:
            return items
        position = start + (3 if trims else 2)
        if comment := _COMMENT.match(source, position):
            trims, position = comment[0].endswith("-}}"), comment.end()
            continue
        tokens: list[_Token] = []
        while match := _TOKEN.match(source, position):
            position = match.end()
            if match["end"]:
                break
            tokens.append((str(match.lastgroup), match[str(match.lastgroup)]))
        if not match or not tokens:
            line = source.count("\n", 0, position) + 1
            raise _error(f"line {line} cannot be read at {quote(source[position : position + 20])}")
        trims = match["end"].startswith("-")
        items.append(tokens)


def _variables(tokens: list[_Token]) -> tuple[list[str], list[_Token]]:
    """The variables that an action sets (`$i, $m := ...`), and the rest of it."""
    marks = [text for _, text in tokens[:4]]
    for count in (1, 2):
        if marks[2 * count - 1 : 2 * count] in ([":="], ["="]) and all(
            name[0] == "$" for name in marks[: 2 * count : 2]
        ):
            return [_variable(name) for name in marks[: 2 * count : 2]], tokens[2 * count :]
    return [], tokens


def _variable(name: str) -> str:
    return f"v.x{name[1:]}"  # `_` alone cannot be an attribute in the sandbox


def _field(value: str, names: Sequence[str]) -> str:
    """The fields of a value; those of a message are lower case in Jinja."""
    return value + "".join("." + re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower() for name in names)


def _call(name: str, values: Sequence[str]) -> str:
    """A call of a function of Go or Ollama. An unknown one fails only where it is reached: most are for tools."""
    if name in ("and", "or") and values:
        return f"({f' {name} '.join(values)})"
    if name == "eq" and len(values) > 1:
        return f"({' or '.join(f'{values[0]} == {other}' for other in values[1:])})"
    if name in _COMPARED and len(values) == 2:
        return f"({values[0]} {_COMPARED[name]} {values[1]})"
    if name == "index" and len(values) > 1:
        return values[0] + "".join(f"[{value}]" for value in values[1:])
    if name == "slice" and values and len(values) <= 3:
        return f"{values[0]}[{values[1] if len(values) > 1 else ''}:{values[2] if len(values) > 2 else ''}]"
    if name == "currentDate" and not values:
        return "strftime_now('%Y-%m-%d')"
    if len(values) == 1 and name in ("len", "json", "not"):
        return {"len": f"({values[0]})|length", "json": f"({values[0]})|tojson", "not": f"(not {values[0]})"}[name]
    return f"raise_exception({_literal(f'the function {name} of the template is not supported')})"


def _string(text: str) -> str:
    """The value of a string of Go."""
    if text.startswith("`"):
        return text[1:-1]
    try:
        return str(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        raise _error(f"{quote(text)} is not a valid string") from None


def _literal(text: str) -> str:
    """A string in Jinja, which knows the escapes of JSON."""
    return json.dumps(text, ensure_ascii=False)


def _error(why: str) -> ModelInvalidError:
    return ModelInvalidError(f"the template of Ollama is not supported: {why}", "give one with --chat-template")
