"""Limits of chat templates: a budget for time and text, and the code that charges it."""

import time
from collections.abc import ItemsView, Iterable, Iterator, KeysView, ValuesView
from typing import Any

from jinja2 import TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.visitor import NodeTransformer

OBJECT = 64  # cost of an object or of one iteration of a loop, in characters
_CONTAINERS = (list, tuple, set, KeysView, ValuesView, ItemsView)


class OverLimitError(SecurityError):
    """The template exceeds its limits of time or text."""


class Meter:
    """The budget of one rendering: seconds, and characters to produce; an object or an iteration costs 64."""

    def __init__(self, room: int, seconds: float) -> None:
        self._room = room
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def spend(self, amount: int) -> None:
        """Charge for `amount` characters before they are produced."""
        self._room -= max(amount, 0)
        if self._room < 0:
            raise OverLimitError("it produces too much text or loops too often")
        if time.monotonic() > self._end:
            raise OverLimitError(f"it takes longer than {self._seconds:g} seconds")

    def weigh(self, value: Any) -> Any:
        """`value`, charged with everything in it, so that it cannot be expensive to print or compare."""
        pending = [value]
        while pending:
            item = pending.pop()
            self.spend(OBJECT + (len(item) if isinstance(item, str) else 0))
            if isinstance(item, dict):
                pending += (*item.keys(), *item.values())
            elif isinstance(item, _CONTAINERS):
                pending += item
            elif isinstance(item, int) and item.bit_length() > 64:
                raise OverLimitError("it computes a number that is too large")
        return value

    def each(self, values: Iterable[Any], text: int = 0) -> Iterator[Any]:
        """The values of a loop, each charged with the `text` fixed characters of the loop body."""
        for value in values:
            self.spend(OBJECT + text)
            yield value

    def cut(self, value: Any) -> Any:
        """A slice, charged for its copy only: its items exist already."""
        self.spend(len(value) * (1 if isinstance(value, str) else 8))
        return value


class Metering(NodeTransformer):
    """Adds charges where a sandbox has no hook: loops, `~`, lists, slices."""

    def visit(self, node: nodes.Node, *_args: Any, **_kwargs: Any) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node, nodes.For):
            return _metered_loop(node)
        if isinstance(node, nodes.Concat):
            return _filter(nodes.List(node.nodes, lineno=node.lineno), "join")
        if isinstance(node, (nodes.List, nodes.Dict)):
            return _filter(node, "weigh")
        if isinstance(node, nodes.Tuple) and node.ctx == "load":  # not a target, as in `for key, value in`
            return _filter(node, "weigh")
        if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
            return _filter(node, "cut")
        return node


def _metered_loop(node: nodes.For) -> nodes.For:
    if node.recursive:
        raise TemplateSyntaxError("recursive loops are not allowed", node.lineno)
    fixed = sum(len(part.data) for part in node.find_all(nodes.TemplateData))
    node.iter = _filter(node.iter, "each", nodes.Const(fixed))
    return node


def _filter(node: Any, name: str, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)
