"""The sandbox of chat templates: Jinja as they expect it, with a budget of time and text that hostile ones run into."""

import itertools
import json
import re
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Sequence, ValuesView
from datetime import datetime
from functools import partial, wraps
from string import Formatter
from time import monotonic, thread_time
from typing import Any, NoReturn, TypeVar

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.filters import do_indent, make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Namespace, pass_context
from jinja2.visitor import NodeTransformer

_T = TypeVar("_T")
_OBJECT = 64  # cost of an object or of one iteration of a loop, in characters
_SECONDS = 2.0  # of the processor for one rendering: a process can be stopped
_COMPILE_ROOM = 1 << 20  # characters that the constants of a template may produce while it is compiled
_MAX_INDENT = 64  # columns of one level of JSON
_NOTHING = object()
_LAZY = ("map", "reject", "rejectattr", "select", "selectattr", "unique")
_FILTERS = (
    *_LAZY,
    *("abs", "attr", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float"),
    *("groupby", "int", "items", "last", "length", "list", "lower", "max", "min", "reverse", "safe", "sort", "string"),
    *("title", "trim", "truncate", "upper"),
)
# No method of these produces much more text than it gets, except `replace` and `join`, which are charged.
_TEXT_METHODS = (
    *("capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii", "isdecimal"),
    *("isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "join", "lower", "lstrip", "partition"),
    *("removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split"),
    *("splitlines", "startswith", "strip", "swapcase", "title", "upper"),
)
_METHODS = (
    *((str, _TEXT_METHODS), (dict, ("get", "items", "keys", "values")), ((list, tuple), ("count", "index"))),
    (tuple, ("grouper", "list")),  # of `groupby`
)
# What `%` and `str.format` take: fields of at most 999 characters, so that no field makes a text of any length.
_PERCENT = re.compile(
    r"[^%]+|%(?P<name>\(\w+\))?[-#0 +]*\d{0,3}(?:\.\d{0,3})?(?P<kind>[diouxXeEfFgGcrsa%])|(?P<other>%)", re.DOTALL
)
_FIELD = re.compile(r"(?:.?[<>=^])?[-+ ]?#?0?\d{0,3}[,_]?(?:\.\d{1,3})?[bcdeEfFgGnosxX%]?", re.DOTALL)


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


class Sandbox(ImmutableSandboxedEnvironment):
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
        self.start(_COMPILE_ROOM)
        self.filters = {name: self._charged(name) for name in _FILTERS} | {
            "each": self._each,
            "weigh": self._weigh,
            "cut": self._cut,
            "join": self._join,
            "replace": self._replace,
            "indent": self._indent,
            "format": self._format_filter,
            "sum": self._sum,
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
        self._room, self._end, self._end_of_work = room, monotonic() + _SECONDS, thread_time() + _SECONDS

    def _spend(self, amount: int) -> None:
        self._room -= max(amount, 0)
        if self._room < 0:
            raise SecurityError("it produces too much text or loops too often")
        if monotonic() > self._end and thread_time() > self._end_of_work:  # to ask for the second takes long
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

    def is_safe_attribute(self, obj: object, attr: str, value: object) -> bool:
        """Allow only what chat templates need: a few methods, `loop`, `namespace` and `cycler`."""
        if isinstance(obj, (LoopContext, Namespace, Cycler)):
            return super().is_safe_attribute(obj, attr, value)
        return any(attr in names for kinds, names in _METHODS if isinstance(obj, kinds))

    def unsafe_undefined(self, obj: object, attribute: str) -> NoReturn:
        """Raise at once: Jinja's undefined value could be printed as an empty text."""
        raise SecurityError(f"{attribute!r} of {type(obj).__name__!r} is not allowed")

    def wrap_str_format(self, value: object) -> Callable[..., str] | None:
        """A replacement for `str.format`; Jinja calls this for each attribute of a text."""
        owner = getattr(value, "__self__", None)
        if not isinstance(owner, str) or getattr(value, "__name__", "") != "format":
            return None
        return partial(self._format, owner)

    def call(self, context: Context, function: object, /, *args: object, **kwargs: object) -> object:
        self._spend(_OBJECT)
        owner, values = getattr(function, "__self__", None), list[Any](args)
        if isinstance(owner, str) and function == owner.join:
            return self._join(values[0] if values else (), owner)
        if isinstance(owner, str) and function == owner.replace:
            return self._replace(owner, *values)
        return self._weigh(super().call(context, function, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: object, right: object) -> object:
        if operator == "%" and isinstance(left, str):
            return self._percent(left, right)
        if operator == "*":
            self._spend(max(_repeated(left, right), _repeated(right, left)))
        number: Any = right
        if operator == "**" and isinstance(left, int) and left.bit_length() * abs(number) > 64:
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

    def _sum(self, values: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
        """The sum, each step of it charged: it can also join lists."""
        if attribute is not None:
            values = map(make_attrgetter(self, attribute), values)
        for value in self._each(values):
            start = self._weigh(start + value)
        return start

    def _format(self, text: str, *args: Any, **kwargs: Any) -> str:
        """`str.format` with plain fields only: no attribute, no field within a field, no width above 999."""
        pieces, positions = [], itertools.count()
        for literal, name, spec, conversion in Formatter().parse(text):
            pieces.append(self._output(None, literal))
            if name is None:
                continue
            if conversion or not (name == "" or name.isidentifier() or name.isdecimal()):
                raise SecurityError("only plain fields are allowed in format()")
            value = kwargs[name] if name.isidentifier() else args[int(name) if name else next(positions)]
            if spec:
                if not (_FIELD.fullmatch(spec) and isinstance(value, (str, int, float))):
                    raise SecurityError("only plain fields are allowed in format()")
                value = format(str(value) if isinstance(value, str) else value, spec)
            pieces.append(self._output(None, value))
        return "".join(pieces)

    def _format_filter(self, text: Any, *args: Any, **kwargs: Any) -> str:
        if args and kwargs:
            raise TemplateError("the filter format takes positional or named values, not both")
        return self._percent(str(text), kwargs or args)

    def _percent(self, text: str, values: Any) -> str:
        """`text % values`, field by field, so that each is charged before the next one is made."""
        pieces, rest = [], iter(values if isinstance(values, tuple) else (values,))
        for found in _PERCENT.finditer(text):
            name, kind = found["name"], found["kind"]
            if found["other"]:
                raise SecurityError("only plain fields, at most 999 characters wide, are allowed after %")
            if kind is None or kind == "%":
                pieces.append(self._output(None, "%" if kind else found[0]))
                continue
            if name and not isinstance(values, dict):
                raise TemplateError("a field with a name needs a mapping")
            value = values[name[1:-1]] if name else next(rest, _NOTHING)
            if value is _NOTHING:
                raise TemplateError("not enough values for the fields of a text")
            pieces.append(self._output(None, found[0].replace(name or "", "", 1) % (value,)))
        if not isinstance(values, dict) and next(rest, _NOTHING) is not _NOTHING:
            raise TemplateError("more values than fields in a text")
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
