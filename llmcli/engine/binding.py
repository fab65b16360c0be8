"""The C API of llama.cpp, bound without running the package's heavy `__init__`."""

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

# The release whose structures and signatures this floor is written for; pyproject.toml pins the same range.
TESTED_BINDINGS = "0.3.36"


@cache
def load() -> Any:
    """The module `llama_cpp.llama_cpp`, ready for use (backends registered, log captured).

    The package's own `__init__` brings numpy, jinja2 and diskcache (120 ms); the bindings alone take 30 ms.
    They import through a bare stand-in for the package, which is taken away again so that a later plain
    `import llama_cpp` still finds everything.

    Raises:
        LlmcliError: when the package is missing or its library does not load.
    """
    api = submodule("llama_cpp")
    from llmcli.engine import log  # it needs nothing of this module, and only from here on

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
        raise LlmcliError("llama-cpp-python is not installed", "pip install llama-cpp-python==" + TESTED_BINDINGS)
    real = sys.modules.get("llama_cpp")
    stand_in = types.ModuleType("llama_cpp")
    stand_in.__path__ = list(spec.submodule_search_locations)
    sys.modules["llama_cpp"] = real or stand_in
    try:
        return importlib.import_module(full)
    except (ImportError, OSError, RuntimeError) as error:
        raise LlmcliError(f"llama.cpp's library does not load: {error}", "reinstall llama-cpp-python") from error
    finally:
        if real is None:
            del sys.modules["llama_cpp"]


@cache
def ggml() -> ctypes.CDLL:
    """The ggml library, for what the bindings leave out (devices). Lies beside libllama."""
    folder = Path(str(load().__file__)).parent / "lib"
    names = {"win32": ["ggml.dll", "libggml.dll"], "darwin": ["libggml.dylib", "libggml.so"]}
    for name in names.get(sys.platform, ["libggml.so"]):
        if (folder / name).exists():
            return ctypes.CDLL(str(folder / name))
    raise LlmcliError(f"llama.cpp's ggml library is not in {folder}", "reinstall llama-cpp-python")


def bindings_version() -> str:
    """The installed llama-cpp-python release, from its source text: importlib.metadata would cost 20 ms."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return "not installed"
    found = re.search(r'__version__ = "([^"]+)"', Path(spec.origin).read_text(encoding="utf-8"))
    return found[1] if found else "unknown"


def llama_build() -> str:
    """The llama.cpp version and the ggml commit of the library in use."""
    library, core = ctypes.CDLL(load()._lib._name), ggml()
    parts = []
    for owner, name in ((library, "llama_version"), (core, "ggml_version"), (core, "ggml_commit")):
        function = getattr(owner, name, None)
        if function is not None:
            function.restype, function.argtypes = ctypes.c_char_p, []
            parts.append(f"{name.replace('_', ' ')} {function().decode('utf-8', 'replace')}")
    return ", ".join(parts).replace("llama version", "llama.cpp").replace("ggml version", "ggml")
