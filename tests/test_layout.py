"""The layout of the code: imports point down and in no circle, and a module is a chapter that says what it is."""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tools.layout import MODULES, circles, graph, imported, imports, layer, lines, nodes, same_names, tree

# What each layer may import; engine and models stand side by side.
GROUND = {"errors", "files", "text"}
BELOW = {
    "cli": {"cli", "ui", "server", "pipelines", "chat", "inference", "engine", "models", "config", "params", *GROUND},
    "ui": {"ui", "chat", "inference", "engine", "models", "config", "params", *GROUND},
    "server": {"server", "pipelines", "inference", "engine", "models", "config", "params", *GROUND},
    "pipelines": {"pipelines", "chat", "inference", "engine", "models", "config", "params", *GROUND},
    "chat": {"chat", "inference", "engine", "models", "config", "params", *GROUND},
    "inference": {"inference", "engine", "models", "config", "params", *GROUND},
    "engine": {"engine", "params", *GROUND},
    "models": {"models", "config", "params", *GROUND},
    "config": {"config", "params", *GROUND},
    "params": {"params", *GROUND},
    "files": {"errors"},
    "text": set(),
    "errors": set(),
    "__init__": set(),
    "__main__": {"cli"},
}
ONLY_IN = {"llama_cpp": {"engine"}, "huggingface_hub": {"models"}, "typer": {"cli"}, "prompt_toolkit": {"ui"}} | {
    "starlette": {"server"}
}
ONLY_STANDARD = {"params", "text", "errors"}
# Not on Windows, or only there: such a module is imported where it is known to exist.
ONE_SYSTEM = {"crypt", "fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"} | {
    "msvcrt",
    "nt",
    "winreg",
}
MOST_LINES = 400
FOLDERS = {
    folder: [module for module in MODULES if module.rpartition("/")[0] == folder]
    for folder in sorted({module.rpartition("/")[0] for module in MODULES})
}


def at_start(module: str) -> Iterator[ast.AST]:
    """The statements that run when the module is imported, those under `if sys.platform` and TYPE_CHECKING left out."""
    pending: list[ast.AST] = [*tree(module).body]
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, (ast.ClassDef, ast.Try, ast.With)):
            pending += node.body


def test_every_layer_is_known() -> None:
    assert {layer(module) for module in MODULES} == set(BELOW)


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_only_point_down(folder: str) -> None:
    for module in FOLDERS[folder]:
        targets = {name.split(".")[1] for name in imports(module) if name.startswith("llmcli.")} & set(BELOW)
        assert targets <= BELOW[layer(module)], f"{module} imports {sorted(targets - BELOW[layer(module)])}"


def test_only_one_module_waits_for_typer() -> None:
    assert [module for module in MODULES if "typer" in imports(module)] == ["llmcli/cli/typer_app.py"]


# Above inference/ nobody knows llama.cpp, apart from these two, which look at the installation itself.
KNOW_LLAMA = {"cli/doctor.py", "cli/model_preload.py"}
PLAIN_DATA = "llmcli.engine.events"


@pytest.mark.parametrize(
    "module", [module for module in MODULES if layer(module) in ("cli", "ui", "server", "pipelines", "chat")]
)
def test_above_inference_only_plain_engine_data_is_known(module: str) -> None:
    found = {name for name in imports(module) if name.startswith("llmcli.engine")}
    engine = {name for name in found if not name.startswith(PLAIN_DATA)}
    assert not engine or module.removeprefix("llmcli/") in KNOW_LLAMA, f"{module} imports {sorted(engine)}"


def test_no_imports_go_in_a_circle_not_even_lazy_ones() -> None:
    assert circles(graph()) == []


def test_the_downloader_knows_nothing_of_the_hub() -> None:
    for module in FOLDERS["llmcli/models/download"]:
        assert not [name for name in imports(module) if "huggingface_hub" in name or "models.hub" in name], module


def test_a_circle_of_imports_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": {"e"}}) == [["a", "b", "c"], ["e"]]


def test_no_two_modules_of_a_layer_share_a_name() -> None:
    assert same_names() == []


def test_imports_are_absolute() -> None:
    for module in MODULES:
        assert not [node for node in nodes(module) if isinstance(node, ast.ImportFrom) and node.level], module


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_package_of_one_layer_is_imported_there_only(folder: str) -> None:
    for module in FOLDERS[folder]:
        for name in imports(module):
            allowed = ONLY_IN.get(name.partition(".")[0])
            assert allowed is None or layer(module) in allowed, f"{module} imports {name}"


@pytest.mark.parametrize("module", [module for module in MODULES if layer(module) in ONLY_STANDARD])
def test_settings_and_ground_need_the_standard_library_only(module: str) -> None:
    tops = {name.partition(".")[0] for name in imports(module)}
    assert tops <= {*sys.stdlib_module_names, "llmcli"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_module_of_one_system_is_imported_at_the_start(folder: str) -> None:
    for module in FOLDERS[folder]:
        tops = {name.partition(".")[0] for name in imported(at_start(module))}
        assert not tops & ONE_SYSTEM, module


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_module_begins_with_one_sentence_about_itself(folder: str) -> None:
    for module in FOLDERS[folder]:
        text = ast.get_docstring(tree(module))
        assert text, f"{module} has no docstring"
        first, *rest = text.splitlines()
        assert first[-1] in ".:?)", f"{module}: the first line is not a sentence: {first}"
        assert not rest or not rest[0], f"{module}: the first line continues in the second"


def public_annotations(body: Iterable[ast.stmt]) -> Iterator[ast.expr]:
    """The types in the public signatures and fields of a module or a class."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_annotations(node.body)
            fields = [one for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)]
            yield from (one.annotation for one in fields if not ast.unparse(one.target).startswith("_"))
        elif isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name == "__init__"):
            arguments = node.args
            every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
            yield from (one.annotation for one in every if one and one.annotation)
            yield from [node.returns] if node.returns else []


@pytest.mark.parametrize("module", [module for module in MODULES if layer(module) in ("engine", "inference", "params")])
def test_public_signatures_below_chat_are_typed(module: str) -> None:
    untyped = [one for one in map(ast.unparse, public_annotations(tree(module).body)) if re.search(r"\bAny\b", one)]
    assert untyped == []


def test_no_module_is_longer_than_a_chapter() -> None:
    assert [module for module in MODULES if lines(module) > MOST_LINES] == []


@pytest.mark.parametrize("name", ["utils", "util", "helpers", "common", "misc", "tools"])
def test_no_module_is_called_utils_or_helpers(name: str) -> None:
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
    assert set(imported(ast.walk(ast.parse(source)))) == found
