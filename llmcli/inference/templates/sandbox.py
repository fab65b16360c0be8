"""The sandbox of chat templates: a Jinja environment with limits on loops, calls and values."""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial, wraps
from string import Formatter
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.filters import do_indent, make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Namespace, pass_context

from llmcli.chat.metering import OBJECT, Meter, Metering, OverLimitError

_WIDEST = 64  # columns of one level of JSON
_LAZY = ("map", "reject", "rejectattr", "select", "selectattr", "unique")
_FILTERS = (
    *_LAZY,
    *("abs", "attr", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "int"),
    *("items", "last", "length", "list", "lower", "max", "min", "reverse", "safe", "sort", "string", "title"),
    *("trim", "upper"),
)
_OF_TEXT = frozenset((
    *("capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii", "isdecimal"),
    *("isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "join", "lower", "lstrip", "partition"),
    *("removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split"),
    *("splitlines", "startswith", "strip", "swapcase", "title", "upper"),
))  # fmt: skip
# No method of these produces much more text than it gets, except `replace` and `join`, which are charged.
_METHODS: dict[type, frozenset[str]] = {
    str: _OF_TEXT,
    dict: frozenset(("get", "items", "keys", "values")),
    list: frozenset(("count", "index")),
    tuple: frozenset(("count", "index")),
}


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja as `transformers` configures it for chat templates. `meter` belongs to one rendering or compilation."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self, meter: Meter) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
            finalize=self._output,
        )
        self.meter = meter
        self.moment = 0.0  # the time for the template, in seconds since 1970
        filters = {name: self._lazy(self.filters[name]) if name in _LAZY else self._metered(self.filters[name])
                   for name in _FILTERS}  # fmt: skip
        self.filters = filters | {
            "each": lambda values, text: self.meter.each(values, text),
            "weigh": lambda value: self.meter.weigh(value),
            "cut": lambda value: self.meter.cut(value),
            "join": self._join,
            "replace": self._replace,
            "indent": self._indent,
            "tojson": self._tojson,
        }
        del self.globals["lipsum"]
        self.globals |= {"namespace": _Namespace, "raise_exception": _raise, "strftime_now": self._strftime_now}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Allow only what chat templates need: a few methods, `loop`, `namespace` and `cycler`."""
        if isinstance(obj, (LoopContext, Namespace, Cycler)):
            return super().is_safe_attribute(obj, attr, value)
        return any(attr in names for kind, names in _METHODS.items() if isinstance(obj, kind))

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
        self.meter.spend(OBJECT)
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str) and function.__name__ == "join":
            return self._join(args[0] if args else (), owner)
        if isinstance(owner, str) and function.__name__ == "replace":
            return self._replace(owner, *args)
        return self.meter.weigh(super().call(context, function, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            raise SecurityError("text formatting is not allowed")
        if operator == "*":
            self.meter.spend(max(_repeated(left, right), _repeated(right, left)))
        if operator == "**" and isinstance(left, int) and left.bit_length() * abs(right) > 64:
            raise OverLimitError("it computes a number that is too large")
        return self.meter.weigh(super().call_binop(context, operator, left, right))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        Metering().generic_visit(tree)
        tree.set_environment(self)
        return tree

    @pass_context  # so that the compiler does not print constants without this
    def _output(self, _context: Any, value: Any) -> str:
        text = value if isinstance(value, str) else str(value)
        self.meter.spend(len(text))
        return text

    def _metered(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The filter with a charge for its result; for an iterator, while it is read."""

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            return map(self.meter.weigh, result) if isinstance(result, Iterator) else self.meter.weigh(result)

        return call

    def _lazy(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same for lazy filters, which may read many values before they yield one."""

        @wraps(function)
        def call(context: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
            return map(self.meter.weigh, function(context, self.meter.each(values or ()), *args, **kwargs))

        return call

    def _join(self, values: Iterable[Any], separator: Any = "", attribute: str | None = None) -> str:
        if attribute is not None:
            values = map(make_attrgetter(self, attribute), values)
        texts = [str(value) for value in self.meter.each(values)]
        self.meter.spend(len(texts) * len(str(separator)) + sum(map(len, texts)))
        return str(separator).join(texts)

    def _replace(self, text: Any, old: Any, new: Any, count: int | None = None) -> str:
        text, old, new = str(text), str(old), str(new)
        self.meter.spend(len(text) + text.count(old) * len(new))
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
        self.meter.spend(len(text) + (text.count("\n") + 1) * pad)
        return do_indent(text, width, first, blank)

    def _strftime_now(self, shape: str) -> str:
        return datetime.fromtimestamp(self.moment).strftime(shape[:200])

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
            indent = indent[:_WIDEST] if isinstance(indent, str) else min(indent, _WIDEST)
        encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        pieces = []
        for piece in encoder.iterencode(value):
            self.meter.spend(len(piece))
            pieces.append(piece)
        return "".join(pieces)


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
