"""The bindings, without the `__init__` of the package llama_cpp."""

import subprocess
import sys

import pytest

from llmcli.engine.llama import bindings
from llmcli.errors import LlmcliError


def run_python(code: str) -> str:
    """The output of a new Python process."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_the_bindings_load_without_numpy_jinja2_and_diskcache() -> None:
    code = """
import sys
from llmcli.engine.llama import bindings
before = "llama_cpp.llama_cpp" in sys.modules
api = bindings.load()
heavy = [name for name in ("numpy", "jinja2", "diskcache", "llama_cpp") if name in sys.modules]
print(before, heavy, api.__name__, api is bindings.load())
"""
    assert run_python(code) == "False [] llama_cpp.llama_cpp True"


@pytest.mark.slow
@pytest.mark.parametrize("first", ["bindings.load()", "import llama_cpp"])
def test_the_real_package_can_be_imported_before_and_after(first: str) -> None:
    code = f"""
import warnings
from llmcli.engine.llama import bindings
with warnings.catch_warnings(action="ignore"):
    {first}
    import llama_cpp
import llama_cpp.llama_cpp as low
print(llama_cpp.Llama.__name__, low is bindings.load(), low.llama_supports_mmap() in (True, False))
"""
    assert run_python(code) == "Llama True True"


def test_a_missing_package_is_an_error_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(LlmcliError, match="llama-cpp-python is not installed") as caught:
        bindings.submodule("no_such_module")
    assert caught.value.hint.startswith("run `pip install llama-cpp-python==")


def test_a_failed_import_leaves_no_placeholder_module() -> None:
    had = "llama_cpp" in sys.modules
    with pytest.raises(LlmcliError, match=r"cannot load the library of llama\.cpp"):
        bindings.submodule("no_such_module")
    assert ("llama_cpp" in sys.modules) == had


def test_the_versions_of_llama_cpp_are_known() -> None:
    assert bindings.bindings_version().startswith("0.3.36")
    assert "ggml" in bindings.llama_build()


@pytest.fixture
def quiet() -> None:
    bindings.clear_log()


def log_line(level: int, text: str) -> None:
    bindings._on_log(level, text.encode(), None)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], ""),
        ([(2, "loading\n"), (3, "careful\n")], ""),
        ([(4, "load_it: bad magic\n"), (4, "failed to load model\n")], "bad magic"),
        ([(4, "failed to load model\n"), (4, "x: the real one\n")], "the real one"),
        ([(4, "first"), (5, " and the rest")], "first"),
        ([(2, "dots"), (5, ".")], ""),
        ([(4, "\n")], ""),
    ],
)
def test_the_reason_is_the_first_specific_error(quiet: None, lines: list[tuple[int, str]], reason: str) -> None:
    for level, text in lines:
        log_line(level, text)
    assert bindings.last_log_error() == reason


def test_a_listener_gets_every_line_of_the_log(quiet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    monkeypatch.setattr(bindings, "_listeners", [])
    bindings.subscribe_log(heard.append)
    log_line(2, "info\n")
    bindings._on_log(4, b"bad \xff bytes\n", None)
    assert heard == ["info", "bad \ufffd bytes"]
    assert bindings.last_log_error() == "bad \ufffd bytes"
