"""Chat templates: Jinja texts, rendered in a sandbox with limits."""

import itertools
import json
import time
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, ValuesView
from datetime import datetime
from functools import partial, wraps
from string import Formatter
from typing import Any, NoReturn, TypeVar

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.filters import do_indent, make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Namespace, pass_context
from jinja2.visitor import NodeTransformer

from llmcli.engine.events import Message
from llmcli.errors import LlmcliError, ModelInvalidError, UsageError

_T = TypeVar("_T")
_OBJECT = 64  # cost of an object or of one iteration of a loop, in characters
_HINT = "use another template with --chat-template"
_GIVEN_HINT = "correct the template, which gets messages, add_generation_prompt, bos_token and eos_token"
_SECONDS = 2.0  # for one rendering
_MAX_SOURCE = 1 << 17  # characters; the longest published template has 20,000
_ROOM = 1 << 25  # characters that a rendering may produce in all, beyond 128 times its input
_SPARE_OUTPUT = 1 << 20  # characters of output beyond eight times the input
_MAX_INDENT = 64  # columns of one level of JSON
_LAZY = ("map", "reject", "rejectattr", "select", "selectattr", "unique")
_FILTERS = (
    *_LAZY,
    *("abs", "attr", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "int"),
    *("items", "last", "length", "list", "lower", "max", "min", "reverse", "safe", "sort", "string", "title"),
    *("trim", "upper"),
)
# No method of these produces much more text than it gets, except `replace` and `join`, which are charged.
_TEXT_METHODS = (
    *("capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii", "isdecimal"),
    *("isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "join", "lower", "lstrip", "partition"),
    *("removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split"),
    *("splitlines", "startswith", "strip", "swapcase", "title", "upper"),
)
_METHODS = ((str, _TEXT_METHODS), (dict, ("get", "items", "keys", "values")), ((list, tuple), ("count", "index")))


class ChatTemplate:
    """A compiled chat template. Raises ModelInvalidError when it is not Jinja; UsageError, when the user gave it."""

    def __init__(self, source: str, special: Mapping[str, str], origin: str, is_given: bool = False) -> None:
        """`special` has `bos_token` and `eos_token`; `origin` names the template in errors."""
        self.source = source
        self.time: float | None = None  # the time for the template (seconds since 1970); None: now
        self._special = dict(special)
        self._origin, self._is_given = origin, is_given
        self._sandbox = _Sandbox()
        if len(source) > _MAX_SOURCE:
            raise self._error(ModelInvalidError(f"{origin} has more than {_MAX_SOURCE} characters", _HINT))
        try:
            self._template = self._sandbox.from_string(source)
        except Exception as error:  # of Jinja, or of Python, which compiles the code that Jinja makes
            raise self._error(ModelInvalidError(f"{origin} is not valid Jinja: {_line(error)}", _HINT)) from None

    def render(self, messages: Sequence[Message], thinking: bool = True) -> str:
        """The prompt text for `messages` of {"role", "content"}.

        Where a template refuses a system message, it comes before the first user message, as in llama.cpp. Raises
        LlmcliError when the template fails, or exceeds the limits of time and text.
        """
        variables = {"add_generation_prompt": True, **self._special}
        if not thinking:
            variables |= {"enable_thinking": False, "thinking": False}
        self._sandbox.time = time.time() if self.time is None else self.time
        attempts = [messages]
        if messages and messages[0]["role"] == "system":
            content, rest = messages[0]["content"], messages[1:]
            if rest and rest[0]["role"] == "user":
                content, rest = f"{content}\n\n{rest[0]['content']}", rest[1:]
            attempts.append([{"role": "user", "content": content}, *rest])
        for attempt in attempts:
            try:
                return self._render(attempt, variables)
            except Exception as error:  # of the template, or of Python code that it runs
                failure = error
            if not isinstance(failure, TemplateError) or isinstance(failure, SecurityError):
                break
        raise self._error(LlmcliError(f"{self._origin} fails: {_line(failure)}", f"{_HINT}, or use --raw"))

    def _error(self, error: LlmcliError) -> LlmcliError:
        return UsageError(str(error), _GIVEN_HINT) if self._is_given else error

    def _render(self, messages: Sequence[Message], variables: Mapping[str, object]) -> str:
        size = sum(len(str(message["content"])) for message in messages)
        self._sandbox.start(_ROOM + 128 * size)
        limit = 8 * size + _SPARE_OUTPUT
        pieces = []
        for piece in self._template.generate(messages=[dict(m) for m in messages], **variables):
            pieces.append(piece)
            limit -= len(piece)
            if limit < 0:
                raise SecurityError("it produces too much text")
        return "".join(pieces)


def _line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:160]


class _BudgetInjector(NodeTransformer):
    """Adds charges where a sandbox has no hook: loops, `~`, lists, slices."""

    def visit(self, node: nodes.Node, *_args: Any, **_kwargs: Any) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node, nodes.For):
            if node.recursive:
                raise TemplateSyntaxError("recursive loops are not allowed", node.lineno)
            fixed = sum(len(part.data) for part in node.find_all(nodes.TemplateData))
            node.iter = _filter(node.iter, "each", nodes.Const(fixed))
        if isinstance(node, nodes.Concat):
            return _filter(nodes.List(node.nodes, lineno=node.lineno), "join")
        is_target = isinstance(node, nodes.Tuple) and node.ctx != "load"  # as in `for key, value in`
        if isinstance(node, (nodes.List, nodes.Dict, nodes.Tuple)) and not is_target:
            return _filter(node, "weigh")
        if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
            return _filter(node, "cut")
        return node


def _filter(node: nodes.Node, name: str, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja as `transformers` configures it for chat templates, with a budget for one rendering or compilation.

    The budget is seconds, and characters to produce; an object or an iteration costs `_OBJECT`.
    """

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
            finalize=self._output,
        )
        self.time = 0.0  # the time for the template, in seconds since 1970
        self.start(_SPARE_OUTPUT)
        self.filters = {name: self._charged(name) for name in _FILTERS} | {
            "each": self._each,
            "weigh": self._weigh,
            "cut": self._cut,
            "join": self._join,
            "replace": self._replace,
            "indent": self._indent,
            "tojson": self._tojson,
        }
        del self.globals["lipsum"]
        self.globals |= {
            "namespace": _Namespace,
            "raise_exception": _raise,
            "strftime_now": lambda shape: datetime.fromtimestamp(self.time).strftime(shape[:200]),
        }

    def start(self, room: int) -> None:
        """Begin a new budget of `room` characters."""
        self._room, self._end = room, time.monotonic() + _SECONDS

    def _spend(self, amount: int) -> None:
        self._room -= max(amount, 0)
        if self._room < 0:
            raise SecurityError("it produces too much text or loops too often")
        if time.monotonic() > self._end:
            raise SecurityError(f"it takes longer than {_SECONDS:g} seconds")

    def _weigh(self, value: _T) -> _T:
        """`value`, charged with everything in it, so that it cannot be expensive to print or compare."""
        pending: list[object] = [value]
        while pending:
            item = pending.pop()
            self._spend(_OBJECT + (len(item) if isinstance(item, str) else 0))
            if isinstance(item, dict):
                pending += (*item.keys(), *item.values())
            elif isinstance(item, (list, tuple, set, KeysView, ValuesView, ItemsView)):
                pending += item
            elif isinstance(item, int) and item.bit_length() > 64:
                raise SecurityError("it computes a number that is too large")
        return value

    def _each(self, values: Iterable[_T], text: int = 0) -> Iterator[_T]:
        """The values of a loop, each charged with the `text` fixed characters of the loop body."""
        for value in values:
            self._spend(_OBJECT + text)
            yield value

    def _cut(self, value: Sequence[object]) -> Sequence[object]:
        """A slice, charged for its copy only: its items exist already."""
        self._spend(len(value) * (1 if isinstance(value, str) else 8))
        return value

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Allow only what chat templates need: a few methods, `loop`, `namespace` and `cycler`."""
        if isinstance(obj, (LoopContext, Namespace, Cycler)):
            return super().is_safe_attribute(obj, attr, value)
        return any(attr in names for kinds, names in _METHODS if isinstance(obj, kinds))

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        """Raise at once: Jinja's undefined value could be printed as an empty text."""
        raise SecurityError(f"{attribute!r} of {type(obj).__name__!r} is not allowed")

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """A replacement for `str.format`; Jinja calls this for each attribute of a text."""
        owner = getattr(value, "__self__", None)
        if not isinstance(owner, str) or value.__name__ != "format":
            return None
        return partial(self._format, owner)

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        self._spend(_OBJECT)
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str) and function.__name__ == "join":
            return self._join(args[0] if args else (), owner)
        if isinstance(owner, str) and function.__name__ == "replace":
            return self._replace(owner, *args)
        return self._weigh(super().call(context, function, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            raise SecurityError("text formatting is not allowed")
        if operator == "*":
            self._spend(max(_repeated(left, right), _repeated(right, left)))
        if operator == "**" and isinstance(left, int) and left.bit_length() * abs(right) > 64:
            raise SecurityError("it computes a number that is too large")
        return self._weigh(super().call_binop(context, operator, left, right))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _BudgetInjector().generic_visit(tree)
        tree.set_environment(self)
        return tree

    @pass_context  # so that the compiler does not print constants without this
    def _output(self, _context: Any, value: Any) -> str:
        text = value if isinstance(value, str) else str(value)
        self._spend(len(text))
        return text

    def _charged(self, name: str) -> Callable[..., Any]:
        """The filter with a charge for its result; for an iterator, while it is read."""
        function = self.filters[name]

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if name in _LAZY:  # it may read many values before it yields one
                context, values, *others = args
                args = (context, self._each(values or ()), *others)
            result = function(*args, **kwargs)
            return map(self._weigh, result) if isinstance(result, Iterator) else self._weigh(result)

        return call

    def _join(self, values: Iterable[Any], separator: Any = "", attribute: str | None = None) -> str:
        if attribute is not None:
            values = map(make_attrgetter(self, attribute), values)
        texts = [str(value) for value in self._each(values)]
        self._spend(len(texts) * len(str(separator)) + sum(map(len, texts)))
        return str(separator).join(texts)

    def _replace(self, text: Any, old: Any, new: Any, count: int | None = None) -> str:
        text, old, new = str(text), str(old), str(new)
        self._spend(len(text) + text.count(old) * len(new))
        return str(text.replace(old, new, -1 if count is None else count))

    def _format(self, text: str, *args: Any, **kwargs: Any) -> str:
        """`str.format` with plain fields only: a width in a field could make a text of any length."""
        pieces, positions = [], itertools.count()
        for literal, name, spec, conversion in Formatter().parse(text):
            pieces.append(self._output(None, literal))
            if name is None:
                continue
            if spec or conversion or not (name == "" or name.isidentifier() or name.isdecimal()):
                raise SecurityError("only plain fields are allowed in format()")
            value = kwargs[name] if name.isidentifier() else args[int(name) if name else next(positions)]
            pieces.append(self._output(None, value))
        return "".join(pieces)

    def _indent(self, text: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        text = str(text)
        pad = len(width) if isinstance(width, str) else width
        self._spend(len(text) + (text.count("\n") + 1) * pad)
        return do_indent(text, width, first, blank)

    def _tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | str | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        """JSON with the arguments of `transformers`: no HTML escapes, and ASCII escapes only with `ensure_ascii`."""
        if indent is not None:
            indent = indent[:_MAX_INDENT] if isinstance(indent, str) else min(indent, _MAX_INDENT)
        encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        return "".join(self._output(None, piece) for piece in encoder.iterencode(value))


class _Generation(Extension):
    """`{% generation %}` marks the text of the model for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(Namespace):
    """A namespace with a fixed text: namespaces can contain each other, and printing could never end."""

    def __repr__(self) -> str:
        return "namespace"


def _repeated(value: Any, times: Any) -> int:
    return len(value) * times if isinstance(value, (str, list, tuple)) and isinstance(times, int) else 0


def _raise(message: str = "raise_exception() without a message") -> NoReturn:
    raise TemplateError(message)
