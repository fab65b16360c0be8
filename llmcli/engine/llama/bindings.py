"""The C API of llama.cpp, without the heavy `__init__` of the package llama_cpp."""

import ctypes
import importlib
import importlib.machinery
import importlib.util
import re
import sys
import types
from functools import cache
from pathlib import Path
from typing import Any

from llmcli.errors import LlmcliError

# The release whose structures and signatures this package uses; pyproject.toml pins the same range.
TESTED_BINDINGS = "0.3.36"


@cache
def load() -> Any:
    """The module `llama_cpp.llama_cpp`, initialized: backends registered, log captured.

    The `__init__` of the package imports numpy, jinja2 and diskcache (120 ms); the bindings alone take 30 ms. They are
    imported through an empty module in place of the package. It is removed afterwards, so that a later
    `import llama_cpp` imports the real package.

    Raises:
        LlmcliError: when the package is missing or its library cannot be loaded.
    """
    api = submodule("llama_cpp")
    from llmcli.engine import log  # imported here: nothing before needs it

    log.install(api)
    api.llama_backend_init()
    return api


def submodule(name: str) -> Any:
    """The module `llama_cpp.<name>`, imported without the package's `__init__`."""
    full = "llama_cpp." + name
    if full in sys.modules:
        return sys.modules[full]
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.submodule_search_locations is None:
        raise LlmcliError("llama-cpp-python is not installed", f"run `pip install llama-cpp-python=={TESTED_BINDINGS}`")
    real = sys.modules.get("llama_cpp")
    placeholder = types.ModuleType("llama_cpp")
    placeholder.__path__ = list(spec.submodule_search_locations)
    sys.modules["llama_cpp"] = real or placeholder
    try:
        return importlib.import_module(full)
    except (ImportError, OSError, RuntimeError) as error:
        raise LlmcliError(f"cannot load the library of llama.cpp: {error}", "reinstall llama-cpp-python") from error
    finally:
        if real is None:
            del sys.modules["llama_cpp"]


@cache
def ggml() -> ctypes.CDLL:
    """The ggml library, for functions without bindings (devices). It is in the folder of libllama."""
    folder = Path(str(load().__file__)).parent / "lib"
    names = {"win32": ["ggml.dll", "libggml.dll"], "darwin": ["libggml.dylib", "libggml.so"]}
    for name in names.get(sys.platform, ["libggml.so"]):
        if (folder / name).exists():
            return ctypes.CDLL(str(folder / name))
    raise LlmcliError(f"ggml library of llama.cpp not found in {folder}", "reinstall llama-cpp-python")


def bindings_version() -> str:
    """The installed release of llama-cpp-python, from its source text: importlib.metadata takes 20 ms."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return "not installed"
    found = re.search(r'__version__ = "([^"]+)"', Path(spec.origin).read_text(encoding="utf-8"))
    return found[1] if found else "unknown"


def llama_build() -> str:
    """The llama.cpp version and the ggml commit of the loaded library."""
    library, core = ctypes.CDLL(load()._lib._name), ggml()
    parts = []
    for owner, name in ((library, "llama_version"), (core, "ggml_version"), (core, "ggml_commit")):
        function = getattr(owner, name, None)
        if function is not None:
            function.restype, function.argtypes = ctypes.c_char_p, []
            parts.append(f"{name.replace('_', ' ')} {function().decode('utf-8', 'replace')}")
    return ", ".join(parts).replace("llama version", "llama.cpp").replace("ggml version", "ggml")
