"""The llama.cpp library: loading it, its log, and the types of what it returns."""

import ctypes
import importlib.util
import os
import re
import sys
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from llmcli.errors import ExitStatus, LlmcliError

# The release whose structures and signatures this package uses; pyproject.toml pins the same range.
TESTED_BINDINGS = "0.3.36"
FAILURE = "llama.cpp stopped the program"  # the text that begins the error of an assertion
_INFO, _ERROR, _CONT = 2, 4, 5  # ggml.h, enum ggml_log_level
# The C library: some of its functions serve as callbacks without Python.
C_LIBRARY = ctypes.cdll.msvcrt if sys.platform == "win32" else ctypes.CDLL(None)
_errors: deque[str] = deque(maxlen=16)
_listeners: list[Callable[[str], None]] = []
_last_level = _INFO
# llama.cpp keeps only the pointers of callbacks, so these references keep the functions alive.
_callback: object = None
_failure_callbacks: tuple[object, ...] = ()
_RPC_SOURCE = "ggml-rpc.cpp"  # the file of an assertion that fails because of a server
serves_clients = False  # whether this process offers its devices: then a client has caused what ends it
is_process_ending = False  # then models and contexts are not freed: the system is faster (12 ms of a short answer)
_SET_TERMINATE = "_ZSt13set_terminatePFvvE"  # std::set_terminate, as GCC and Clang name it

if TYPE_CHECKING:  # the classes at run time are those of the bindings, and ctypes makes the types of pointers

    class TokenData(ctypes.Structure):
        """A candidate: llama.h, `llama_token_data`."""

        id: int
        logit: float
        p: float

    class CandidateArray(ctypes.Structure):
        """The candidates of a draw: llama.h, `llama_token_data_array`. `selected` is an index, -1 before the draw."""

        data: ctypes._Pointer[TokenData]
        size: int
        selected: int
        sorted: bool

    Pointer = ctypes._Pointer[ctypes.Structure]  # to an object of llama.cpp, such as a `llama_sampler`
    Candidates = ctypes._Pointer[CandidateArray]


@cache
def load() -> types.ModuleType:
    """The module `llama_cpp.llama_cpp`, initialized: backends registered, log captured.

    The `__init__` of the package imports numpy, jinja2 and diskcache (120 ms); the bindings alone take 30 ms. They are
    imported through an empty module in place of the package. It is removed afterwards, so that a later
    `import llama_cpp` imports the real package. Raises LlmcliError when the package or its library is missing.
    """
    global _callback
    os.environ["GGML_NO_BACKTRACE"] = "1"  # ggml reads it when it is loaded; where gdb is there, its trace is on stdout
    api = submodule("llama_cpp")
    _catch_failures(api)
    _callback = api.llama_log_callback(_on_log)
    api.llama_log_set(_callback, ctypes.c_void_p(0))  # by default the log goes to stderr
    api.llama_backend_init()
    return api


def _catch_failures(api: types.ModuleType) -> None:
    """Let a failed assertion of ggml or an uncaught C++ exception end the program with one error, not with abort()."""
    global _failure_callbacks
    failed = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(lambda text: _end((text or b"").decode("utf-8", "replace")))
    terminated = ctypes.CFUNCTYPE(None)(lambda: _end("C++ exception"))
    _failure_callbacks = failed, terminated
    for name, callback in (("ggml_set_abort_callback", failed), (_SET_TERMINATE, terminated)):
        install = getattr(api._lib, name, None)  # also what the library itself needs; not on Windows
        if install:
            install.restype, install.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
            install(ctypes.cast(callback, ctypes.c_void_p))


def _end(reason: str) -> None:
    """End the program at once, from any thread: after this call llama.cpp would abort, with a core dump."""
    reason = os.path.basename(reason.splitlines()[0] if reason else "")[:160]
    hint = "check the file with `llmcli models verify`, remove --override-kv, or use another model"
    if serves_clients:
        hint = "a client sent nonsense, or wanted more memory than there is: start it again, and look who reaches it"
        end_process(f"{FAILURE}: {reason}", hint, ExitStatus.NETWORK)
    if _RPC_SOURCE in reason:
        end_process("an RPC server has ended, or has sent a wrong answer", "look at its log", ExitStatus.NETWORK)
    end_process(f"{FAILURE}: {reason}", hint, ExitStatus.MODEL_INVALID)


def end_process(message: str, hint: str, status: ExitStatus) -> NoReturn:
    """End the program at once with an error, from any thread and while llama.cpp computes."""
    _reset_terminal()
    text = f"\nerror: {message}\n  hint: {hint}\n"
    os.write(2, text.encode("utf-8", "replace"))  # Python's streams may be locked by the thread that failed
    os._exit(status)


def _reset_terminal() -> None:
    """Leave the shell a terminal with echo and lines: a chat may have turned them off, and cannot turn them on now."""
    if sys.platform == "win32" or not (os.isatty(0) and os.isatty(2)):
        return
    import termios

    with suppress(termios.error, OSError):
        state = termios.tcgetattr(0)
        state[0] |= termios.ICRNL
        state[1] |= termios.OPOST
        state[3] |= termios.ECHO | termios.ICANON | termios.ISIG | termios.IEXTEN
        termios.tcsetattr(0, termios.TCSANOW, state)
        os.write(2, b"\x1b[?2004l\x1b[?25h")  # no brackets around pastes, and a cursor


def submodule(name: str) -> types.ModuleType:
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
    """The ggml library, for functions without bindings (devices). It is in the folder of libllama.

    It must be the one that libllama uses: a wheel has copies of it under several names, each with devices of its own.
    """
    used = ctypes.CDLL(load()._lib._name)
    if hasattr(used, "ggml_backend_dev_count"):  # on POSIX a library finds the functions of those that it needs
        return used
    folder = Path(str(load().__file__)).parent / "lib"
    names = {"win32": ["ggml.dll", "libggml.dll"], "darwin": ["libggml.dylib", "libggml.so"]}
    for name in names.get(sys.platform, ["libggml.so"]):
        if (folder / name).exists():
            return ctypes.CDLL(str(folder / name))
    raise LlmcliError(f"ggml library of llama.cpp not found in {folder}", "reinstall llama-cpp-python")


def path_bytes(path: Path) -> bytes:
    """A path as llama.cpp takes it: UTF-8 on Windows, else the bytes of the file system."""
    return str(path).encode() if sys.platform == "win32" else os.fsencode(path)


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


def _on_log(level: int, text: bytes | None, _user_data: object) -> None:
    global _last_level
    if level != _CONT:  # a continuation has the level of the line that it continues
        _last_level = level
    # A load logs hundreds of lines: without a listener, only errors are worth decoding.
    if not text or (_last_level != _ERROR and not _listeners):
        return
    line = text.decode("utf-8", "replace").rstrip("\n")
    for listener in _listeners:
        listener(line)
    if _last_level == _ERROR:
        _errors.append(line)


@contextmanager
def suppress_log(api: types.ModuleType) -> Iterator[None]:
    """Discard the log without a call into Python, for a load in parallel with a thread that has Python's lock.

    The callback is C's `abs`: it takes an int, as the level is, ignores the other arguments, and has no effect. A
    callback in Python would wait for the lock at each line, and the load with it.
    """
    api.llama_log_set(ctypes.cast(C_LIBRARY.abs, api.llama_log_callback), ctypes.c_void_p(0))
    try:
        yield
    finally:
        api.llama_log_set(_callback, ctypes.c_void_p(0))


def subscribe_log(listener: Callable[[str], None]) -> None:
    """Call `listener` with each further line of the log (`--verbose`)."""
    _listeners.append(listener)


@contextmanager
def recorded_log() -> Iterator[list[str]]:
    """The lines of the log of this block."""
    lines: list[str] = []
    _listeners.append(lines.append)
    try:
        yield lines
    finally:
        _listeners.remove(lines.append)


def clear_log() -> None:
    """Discard the captured errors, before a call that can fail."""
    _errors.clear()


def last_log_error() -> str:
    """llama.cpp's message for the last failure: the first error since `clear_log`, without function names."""
    lines = [re.sub(r"^\w+: ", "", line).strip() for line in _errors]
    specific = [line for line in lines if line and not re.fullmatch(r"failed to load model\W*", line)]
    return specific[0] if specific else ""


@cache
def chat_template_names() -> tuple[str, ...]:
    """The names of the chat templates that llama.cpp has built in."""
    api = load()
    names = (ctypes.c_char_p * api.llama_chat_builtin_templates(None, 0))()
    api.llama_chat_builtin_templates(names, len(names))
    return tuple(sorted(name.decode() for name in names if name))


def apply_chat_template(name: str, messages: Sequence[Mapping[str, object]], has_answer: bool = True) -> str:
    """The prompt for `messages` of {"role", "content"} under a template that llama.cpp has built in.

    With `has_answer` it ends where an answer begins. A NUL, at which texts of C end, becomes U+FFFD. Raises LlmcliError
    when llama.cpp does not know the name.
    """
    api = load()
    given = [[str(message[key]).replace("\0", "\ufffd") for key in ("role", "content")] for message in messages]
    texts = [[text.encode("utf-8", "replace") for text in one] for one in given]
    chat = (api.llama_chat_message * len(texts))(
        *(api.llama_chat_message(role=one[0], content=one[1]) for one in texts)
    )
    size = 0
    while True:  # a first call tells how many bytes the prompt has
        buffer = ctypes.create_string_buffer(size)
        length = api.llama_chat_apply_template(name.encode(), chat, len(texts), has_answer, buffer, size)
        if length < 0:
            raise LlmcliError(
                f"llama.cpp has no chat template {name!r}", f"use one of {', '.join(chat_template_names())}"
            )
        if length <= size:
            return buffer.raw[:length].decode("utf-8", "replace")
        size = length


class OwnedSampler:
    """A `llama_sampler` that is freed with this object, or before by `close`."""

    pointer: "Pointer | None" = None

    def __init__(self, pointer: "Pointer | None") -> None:
        self._api = load()
        self.pointer = pointer

    def clone(self) -> "OwnedSampler":
        """A copy with the whole state: random generators, penalties, the position in a grammar."""
        return OwnedSampler(self._api.llama_sampler_clone(self.pointer))

    def replace(self, clone: "OwnedSampler") -> None:
        """Continue with the state of a clone, which is empty afterwards."""
        OwnedSampler.close(self)
        self.pointer, clone.pointer = clone.pointer, None

    def close(self) -> None:
        """Free the sampler; a second call has no effect."""
        pointer, self.pointer = self.pointer, None
        if pointer:
            self._api.llama_sampler_free(pointer)

    # A clone is dropped in many places: when its token is final, taken back, or its draw fails. None has to free it.
    __del__ = close
