"""The house: imports only point down, each heavy package has one floor, and a module is short and says what it is."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "llmcli"
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py"))
FOLDERS = {
    folder: [module for module in MODULES if module.rpartition("/")[0] == folder]
    for folder in sorted({module.rpartition("/")[0] for module in MODULES})
}

# What each floor may import; models and engine stand side by side.
BELOW = {
    "cli": {"cli", "ui", "chat", "engine", "models", "params", "errors"},
    "ui": {"ui", "chat", "engine", "models", "params", "errors"},
    "chat": {"chat", "engine", "models", "params", "errors"},
    "engine": {"engine", "params", "errors"},
    "models": {"models", "params", "errors"},
    "params": {"params", "errors"},
    "errors": set(),
    "__init__": set(),
    "__main__": {"cli"},
}
ONLY_IN = {"llama_cpp": {"engine"}, "huggingface_hub": {"models"}, "typer": {"cli"}, "prompt_toolkit": {"ui"}}
ONLY_STANDARD = {"params", "errors"}
# Not on Windows, or only there: such a module is imported where it is known to exist.
ONE_SYSTEM = {"crypt", "fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"} | {
    "msvcrt",
    "nt",
    "winreg",
}
MOST_LINES = 300


@cache
def tree(module: str) -> ast.Module:
    return ast.parse((ROOT / module).read_text(encoding="utf-8"))


def floor(module: str) -> str:
    """`chat` for llmcli/chat/local.py, `errors` for llmcli/errors.py."""
    return Path(module).parts[1].removesuffix(".py")


def imports(module: str, nodes: Iterator[ast.AST] | None = None) -> Iterator[str]:
    """The dotted names a module imports anywhere: as a statement, or as a text that names one of our modules."""
    for node in nodes or ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isascii():
            head, dot, tail = node.value.partition(".")
            if head in {"llmcli", *ONLY_IN} and (not dot or tail.replace(".", "").isidentifier()):
                yield node.value


def at_start(module: str) -> Iterator[ast.AST]:
    """The statements that run when the module is imported, those under `if sys.platform` and TYPE_CHECKING left out."""
    pending: list[ast.AST] = [*tree(module).body]
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, (ast.ClassDef, ast.Try, ast.With)):
            pending += node.body


def test_the_floors_are_all_there() -> None:
    assert {floor(module) for module in MODULES} == set(BELOW)


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_only_point_down(folder: str) -> None:
    for module in FOLDERS[folder]:
        ours = {name.split(".")[1] for name in imports(module) if name.startswith("llmcli.")}
        ours &= set(BELOW)
        assert ours <= BELOW[floor(module)], f"{module} imports {sorted(ours - BELOW[floor(module)])}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_package_with_one_floor_is_imported_there_only(folder: str) -> None:
    for module in FOLDERS[folder]:
        for name in imports(module):
            allowed = ONLY_IN.get(name.partition(".")[0])
            assert allowed is None or floor(module) in allowed, f"{module} imports {name}"


@pytest.mark.parametrize("module", [module for module in MODULES if floor(module) in ONLY_STANDARD])
def test_the_ground_needs_the_standard_library_only(module: str) -> None:
    tops = {name.partition(".")[0] for name in imports(module)}
    assert tops <= {*sys.stdlib_module_names, "llmcli"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_module_of_one_system_is_imported_at_the_start(folder: str) -> None:
    for module in FOLDERS[folder]:
        tops = {name.partition(".")[0] for name in imports(module, at_start(module))}
        assert not tops & ONE_SYSTEM, module


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_module_begins_with_one_line_that_says_what_it_is(folder: str) -> None:
    for module in FOLDERS[folder]:
        text = ast.get_docstring(tree(module))
        assert text, f"{module} has no docstring"
        first, *rest = text.splitlines()
        assert first[-1] in ".:?)", f"{module}: the first line is no sentence: {first}"
        assert not rest or not rest[0], f"{module}: the first line goes on in the second"


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_module_is_longer_than_a_reader_s_patience(folder: str) -> None:
    for module in FOLDERS[folder]:
        assert len((ROOT / module).read_text(encoding="utf-8").splitlines()) <= MOST_LINES, module


@pytest.mark.parametrize("name", ["utils", "util", "helpers", "common", "misc", "tools"])
def test_no_module_is_named_after_nothing(name: str) -> None:
    assert not [module for module in MODULES if Path(module).stem == name]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import llmcli.cli.app", {"llmcli.cli.app"}),
        ("from llmcli.cli import app", {"llmcli.cli.app"}),
        ("def f():\n    from llmcli.text import clean", {"llmcli.text.clean"}),
        ("if TYPE_CHECKING:\n    import llama_cpp", {"llama_cpp"}),
        ("importlib.import_module('llama_cpp.llama_cpp')", {"llama_cpp.llama_cpp"}),
        ("x = 'llmcli generate', 'llmcli'", {"llmcli"}),
    ],
)
def test_the_reader_of_imports_sees_every_way_to_import(source: str, found: set[str]) -> None:
    assert set(imports("", ast.walk(ast.parse(source)))) == found
