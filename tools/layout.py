"""The layout of the code in figures: `python -m tools.layout`. The tests of the layout read it too."""

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
PACKAGE = "llmcli"
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / PACKAGE).rglob("*.py"))


@cache
def tree(module: str) -> ast.Module:
    """The syntax tree of a module, given by its path from the root."""
    return ast.parse((ROOT / module).read_text(encoding="utf-8"))


@cache
def nodes(module: str) -> tuple[ast.AST, ...]:
    """All nodes of the syntax tree of a module."""
    return tuple(ast.walk(tree(module)))


def lines(module: str) -> int:
    """The number of lines of a module."""
    return len((ROOT / module).read_text(encoding="utf-8").splitlines())


def layer(module: str) -> str:
    """`chat` for llmcli/chat/turn.py, `errors` for llmcli/errors.py."""
    return Path(module).parts[1].removesuffix(".py")


@cache
def imports(module: str) -> tuple[str, ...]:
    """The dotted names that a module imports, anywhere: statements, lazy ones too, and strings that name a module."""
    return tuple(imported(nodes(module)))


def imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """The dotted names that these nodes of a syntax tree import."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isascii():
            head, dot, tail = node.value.partition(".")
            if head in {PACKAGE, "llama_cpp", "huggingface_hub", "typer", "prompt_toolkit"} and (
                not dot or tail.replace(".", "").isidentifier()
            ):
                yield node.value


def graph() -> dict[str, set[str]]:
    """Each module with the modules of the package that it imports, at its start, later, or for types only."""
    names = {_dotted(module): module for module in MODULES}
    found: dict[str, set[str]] = {module: set() for module in MODULES}
    for module in MODULES:
        for name in imports(module):
            target = names.get(name) or names.get(name.rpartition(".")[0])
            if target and target.rpartition("/")[2] != "__init__.py":
                found[module].add(target)
    return found


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """The groups of modules that import each other, directly or by way of others."""
    reachable: dict[str, set[str]] = {}
    for start in edges:
        seen, pending = set[str](), [*edges[start]]
        while pending:
            module = pending.pop()
            if module not in seen:
                seen.add(module)
                pending += edges[module]
        reachable[start] = seen
    groups = {
        frozenset(other for other in reachable[module] if module in reachable[other])
        for module in edges
        if module in reachable[module]
    }
    return sorted(map(sorted, groups))


def same_names() -> list[list[str]]:
    """Modules of one layer that have the same name, which an editor cannot tell apart."""
    named: dict[tuple[str, str], list[str]] = defaultdict(list)
    for module in MODULES:
        if not module.endswith("__init__.py"):
            named[layer(module), Path(module).stem].append(module)
    return [modules for modules in named.values() if len(modules) > 1]


def main() -> None:
    """Print the figures."""
    sizes = {module: lines(module) for module in MODULES}
    chapters = [size for module, size in sizes.items() if not module.endswith("__init__.py")]
    longest = max(sizes, key=lambda module: sizes[module])
    print(f"files in {PACKAGE}/: {len(MODULES)} ({len(chapters)} without __init__.py)")
    print(
        f"lines: {sum(sizes.values()):,}; of a file: median {median(chapters):.0f}, most {sizes[longest]} ({longest})"
    )
    print(f"circles of imports: {len(circles(graph()))}")
    print(f"modules of one name in one layer: {len(same_names())}")


def _dotted(module: str) -> str:
    return module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


if __name__ == "__main__":
    main()
