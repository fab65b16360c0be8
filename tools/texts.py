"""Collects what the program can print: every help text, and every message and hint.

`python -m tools.docs` writes them to tests/snapshots/, so that a change of wording is one diff.
"""

import ast
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple, cast

import typer

from llmcli.cli.help_texts import front_page, help_page
from llmcli.cli.typer_app import make_app
from llmcli.ui.commands.registry import commands, dispatch
from tools.layout import MODULES, tree

ROOT = Path(__file__).parent.parent
SNAPSHOTS = ROOT / "tests" / "snapshots"
COLUMNS = "80"
_METHODS = {
    ("console", "error"): "error",
    ("console", "warn"): "warning",
    ("console", "note"): "note",
    ("console", "detail"): "note",
    ("chat", "say"): "output",
    ("notes", "append"): "warning",  # lists of texts that are printed later
    ("", "warn"): "warning",  # a function that the caller gave
    ("problems", "append"): "error",
}
_WITHOUT_HINT = ("say",)  # their second argument is something else
_PLAIN = ast.Constant | ast.JoinedStr | ast.IfExp | ast.BinOp | ast.BoolOp | ast.Dict | ast.DictComp
_OF_STRINGS = ("strip", "lstrip", "rstrip", "upper", "lower", "partition", "rpartition", "replace", "splitlines")


class Message(NamedTuple):
    """A text of the program: its module, its kind (error, warning, note, output or reason), its text and its hint.

    An output is what a slash command prints, a reason the text of an error that another error quotes.
    """

    module: str
    kind: str
    text: str
    hint: str = ""


# -- help


def help_snapshot() -> str:
    """Every help text of the command line and of the chat, as on a terminal of 80 columns."""
    with _terminal():
        parts = [_part("$ llmcli", front_page())]
        for path, text in _command_line_helps():
            parts.append(_part(f"$ llmcli {path}", text))
        for argument in ("", "all", *commands()):
            parts.append(_part(f"> /help {argument}".rstrip(), _chat_help(argument)))
    return "\n".join(parts)


def _part(title: str, text: str) -> str:
    return f"{title}\n\n{text.rstrip()}\n\n"


@contextmanager
def _terminal() -> Iterator[None]:
    """Within this block a terminal has 80 columns and no color."""
    before = dict(os.environ)
    os.environ.update(COLUMNS=COLUMNS, NO_COLOR="1")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _command_line_helps() -> Iterator[tuple[str, str]]:
    program: Any = typer.main.get_command(make_app())
    yield from _helps_of(program, program.context_class(program, info_name="llmcli"), "")


def _helps_of(command: Any, context: Any, path: str) -> Iterator[tuple[str, str]]:
    """The helps of a command and of those below it, by command line."""
    for everything in (False, True):
        flag = "--help-all" if everything else "--help"
        yield f"{path} {flag}".strip(), help_page(context, everything)
    for name, child in getattr(command, "commands", {}).items():
        child_context = child.context_class(child, parent=context, info_name=name)
        yield from _helps_of(child, child_context, f"{path} {name}".strip())


def _chat_help(argument: str) -> str:
    from llmcli.ui.chat.app import ChatApp

    chat = ChatApp(cast("Any", None), live=False, model_names=list, ensure_model=lambda _settings: None)
    with TemporaryFile("w+", encoding="utf-8") as output, redirect_stderr(output):
        dispatch(chat, "help", argument)
        output.seek(0)
        return output.read()


# -- messages


def messages_snapshot() -> str:
    """Every message and hint of the source, by module."""
    blocks: dict[str, set[str]] = {}
    for one in messages():
        line = f"  {one.kind}: {one.text}" + (f"\n    hint: {one.hint}" if one.hint else "")
        blocks.setdefault(one.module, set()).add(line)
    return "\n".join("\n".join([module, *sorted(lines), ""]) for module, lines in blocks.items())


@cache
def messages() -> list[Message]:
    """The messages of every module, in the order of the files; read once."""
    trees = {module: tree(module) for module in MODULES}
    errors = _error_classes(trees.values())
    return [message for name, code in trees.items() for message in MessageReader(name, code, errors).messages()]


def _error_classes(trees: Iterable[ast.Module]) -> set[str]:
    """The names of the classes that take a message and a hint."""
    classes = [node for code in trees for node in code.body if isinstance(node, ast.ClassDef)]
    found = {"LlmcliError"}
    for _ in classes:
        found |= {one.name for one in classes if any(_name_of(base) in found for base in one.bases)}
    return found


Values = dict[str, list[ast.expr]]  # what is assigned to each name


class MessageReader:
    """Reads the messages of one module."""

    def __init__(self, name: str, tree: ast.Module, errors: set[str]) -> None:
        self.name, self.tree, self.errors = name, tree, errors
        self.functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        self.constants = _assigned(tree.body)

    def messages(self) -> Iterator[Message]:
        """The messages of the module, in the order of the lines."""
        yield from self._below(self.tree, {})

    def _below(self, node: ast.AST, local: Values) -> Iterator[Message]:
        if isinstance(node, ast.FunctionDef):
            local = _assigned(ast.walk(node))
            if isinstance(node.returns, ast.Subscript) and ast.unparse(node.returns) == "tuple[str, str]":
                pairs = [pair for value in _returned(node) for pair in self._pairs("error", [value], local)]
                yield from (pair for pair in pairs if has_words(pair.text))
        elif isinstance(node, ast.Call):
            yield from self._of_call(node, local)
        elif isinstance(node, ast.Assign) and _is_hint(node.targets[0]):
            yield from (Message(self.name, "error", "{error}", hint) for hint in self._texts(node.value, local))
        for child in ast.iter_child_nodes(node):
            yield from self._below(child, local)

    def _of_call(self, call: ast.Call, local: Values) -> Iterator[Message]:
        name = _name_of(call.func)
        owner = _name_of(call.func.value) if isinstance(call.func, ast.Attribute) else ""
        kind = _METHODS.get((owner, name), "")
        if name in self.errors:
            kind = "error"
        elif name.endswith("Error") and name != "OSError":
            yield from self._pairs("reason", call.args[:1], local)
            return
        hints = [keyword.value for keyword in call.keywords if keyword.arg == "hint"]
        if kind and call.args:
            yield from self._pairs(kind, [*(call.args[:1] if name in _WITHOUT_HINT else call.args), *hints], local)

    def _pairs(self, kind: str, arguments: list[ast.expr], local: Values) -> Iterator[Message]:
        """Each message with each hint that these arguments may be."""
        if arguments and isinstance(arguments[0], ast.Tuple):
            arguments = arguments[0].elts
        texts = self._texts(arguments[0], local) if arguments else []
        hints = self._texts(arguments[1], local) if arguments[1:] else [""]
        for text in texts:
            yield from (Message(self.name, kind, text, hint) for hint in hints if text and has_words(text + hint))

    def _texts(self, node: ast.expr, local: Values) -> list[str]:
        """What an expression may be, with {name} for each part that is not known before the program runs."""
        if isinstance(node, ast.IfExp):
            return [*self._texts(node.body, local), *self._texts(node.orelse, local)]
        if isinstance(node, ast.BoolOp):
            return [text for value in node.values for text in self._texts(value, local)]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return [left + right for left in self._texts(node.left, local) for right in self._texts(node.right, local)]
        if isinstance(node, ast.DictComp):  # of a table that is written out
            node = next((part for part in ast.walk(node) if isinstance(part, ast.Dict)), node)
        if isinstance(node, ast.Dict):
            return [text for value in node.values for text in self._texts(value, local)]
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in self.constants:
            return self._texts(node.value, local)
        values: list[ast.expr] = []
        if isinstance(node, ast.Name):
            values = local.get(node.id) or self.constants.get(node.id) or []
            local = {name: assigned for name, assigned in local.items() if name != node.id}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in self.functions:
            function = self.functions[node.func.id]
            values, local = [value for value in _returned(function) if isinstance(value, _PLAIN | ast.Call)], {}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _OF_STRINGS:
            values = [] if isinstance(node.func.value, ast.Name) else [node.func.value]
        texts = [text for value in values for text in self._texts(value, local)]
        is_known = any(map(has_words, texts)) or (texts and not _name_of(node))
        return texts if is_known else [_text_of(node)]


def _assigned(nodes: Iterable[ast.AST]) -> Values:
    """The texts that are assigned to each name."""
    found: Values = {}
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, _PLAIN):
            found.setdefault(node.targets[0].id, []).append(node.value)
    return found


def _returned(function: ast.FunctionDef) -> list[ast.expr]:
    return [node.value for node in ast.walk(function) if isinstance(node, ast.Return) and node.value]


def _text_of(node: ast.expr) -> str:
    """A constant or an f-string as text: {name} for a value, in the quotes that `!r` adds."""
    if isinstance(node, ast.Constant):
        return "" if node.value is None else str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text_of(piece) for piece in node.values)
    if isinstance(node, ast.FormattedValue):
        return f"'{_text_of(node.value)}'" if node.conversion == ord("r") else _text_of(node.value)
    if isinstance(node, ast.IfExp):
        return "{" + "|".join(_text_of(one).strip("{}") for one in (node.body, node.orelse)) + "}"
    if isinstance(node, ast.Call) and _name_of(node.func) == "plural" and isinstance(node.args[1], ast.Constant):
        return f"{{n}} {node.args[1].value!s}s"
    return "{" + _name_of(node).lstrip("_") + "}"


def _is_hint(target: ast.expr) -> bool:
    """Whether it is `error.hint`; ast.unparse, for every assignment of the package, took most of the time."""
    return isinstance(target, ast.Attribute) and target.attr == "hint" and ast.unparse(target) == "error.hint"


def _name_of(node: ast.AST) -> str:
    """A name for an expression: `count` for `self.parts.count`, `error` for `str(error)`."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Call):
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if method in _OF_STRINGS and isinstance(node.func, ast.Attribute):
            return _name_of(node.func.value)
        inner = _name_of(node.args[0]) if node.args and (not method or method == "join") else ""
        return inner or _name_of(node.func)
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
        return node.slice.value
    if isinstance(node, ast.Subscript | ast.Starred):
        return _name_of(node.value)
    if isinstance(node, ast.BinOp):
        return _name_of(node.left)
    if isinstance(node, ast.BoolOp):
        return _name_of(node.values[0])
    return ""


def has_words(text: str) -> bool:
    """Whether a text is more than values."""
    return bool(re.search("[a-z]{2}", re.sub(r"\{[^}]*\}", "", text)))


def snapshots() -> dict[Path, str]:
    """Each snapshot file and its content."""
    return {SNAPSHOTS / "help.txt": help_snapshot(), SNAPSHOTS / "messages.txt": messages_snapshot()}
