"""What tests share: a home of their own, the starter model, and the program as a user runs it."""

import ctypes
import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from _pytest.runner import runtestprotocol
from filelock import FileLock

from llmcli.engine.events import Cancellation
from llmcli.engine.llama.probe import probe_record
from llmcli.inference.local import LocalEngine
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.models.locations import ModelFile
from llmcli.models.notes import record_probed
from llmcli.models.sources.starter import ensure_starter
from llmcli.params.settings import Settings
from tests.cli_result import CliResult, shell_status
from tests.in_process import run_in_process
from tests.models.short_model import shortened
from tests.models.tiny_models import full_attention

ROOT = Path(__file__).parent.parent

gc.disable()  # until all tests are collected: what is made until then stays

# Where the outside forbids to keep byte code, each of some hundred starts would compile the whole program anew.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    sys.dont_write_bytecode = False

# The disk would be waited for a thousand times; tests of what must be synced put a function of their own here.
os.fsync = lambda fd: None  # noqa: ARG005

# Tests that run side by side use one core: llama.cpp's threads wait by spinning, and would starve each other.
_worker = os.environ.get("PYTEST_XDIST_WORKER", "")
if _worker and hasattr(os, "sched_setaffinity"):
    _cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_cores[int(_worker.removeprefix("gw")) % len(_cores)]})

# On a busy machine an example can take long. Here, because a test takes what is the default when it is imported.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")

_NOTABLE_S = 0.005  # as `--durations-min`
_PROCESSES = frozenset({"run", "place", "there", "index"})  # the fixtures that start llmcli or pip
_PREFIXES = (
    "LLMCLI_",
    "COLUMNS",
    "LINES",
    "HF_",
    "HUGGING",
    "OLLAMA_",
    "TRANSFORMERS_",
    "XDG_",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
)
_OUTSIDE = [name for name in os.environ if name.upper().startswith(_PREFIXES) or name in ("HOME", "USERPROFILE")]


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run named files in this process, as workers take two seconds to start; else there is one more than cores.

    Tests of servers and terminals wait for a quarter of their time, in which the core has another worker.
    """
    if any(".py" in argument for argument in config.args):
        return 0
    return 1 + (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """`--dist=loadfile` without its searches: for each test it looks through all of them. None = as xdist does it."""
    if config.getoption("dist") != "loadfile":
        return None
    from tests.file_scheduling import FileScheduling

    return FileScheduling(config, log)


@pytest.hookimpl(tryfirst=True)  # the markers must stand before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that use the starter (`model`), a pseudo-terminal (`terminal`), or processes of their own (`slow`)."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "starter" in fixtures:
            item.add_marker("model")
        if not _PROCESSES.isdisjoint(fixtures):
            item.add_marker("slow")
        code = getattr(getattr(item, "function", None), "__code__", None)
        if code and "Talk" in code.co_names:
            item.add_marker("terminal")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave what is loaded by now to no collection of garbage, and collect seldom: that is a tenth of the time."""
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    gc.enable()


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """In a worker: log the calls of tests, and of the rest only what fails or takes long.

    Else xdist sends six messages for each test, and reading them takes the program that starts the workers seconds.
    """
    if not _worker:
        return None
    for report in runtestprotocol(item, log=False, nextitem=nextitem):
        if report.when == "call" or not report.passed or report.duration > _NOTABLE_S:
            item.ihook.pytest_runtest_logreport(report=report)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable(
    report: pytest.CollectReport | pytest.TestReport,
) -> Generator[None, dict[str, Any] | None, dict[str, Any] | None]:
    """Spare xdist keywords and output of tests that pass: nobody reads them, and they are most of what it sends."""
    data = yield
    if data and report.passed:
        data["keywords"], data["sections"] = {}, []
    return data


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for each test, made by whoever writes there."""
    top = tmp_path_factory.mktemp("machines")
    return (top / str(number) for number in count())


@pytest.fixture(autouse=True)
def home(machines: Iterator[Path]) -> Iterator[Path]:
    """A private LLMCLI_HOME and home folder, both below `tmp_path`, and no setting from outside."""
    machine = next(machines)
    folder = machine / "llmcli home"  # with a space, as on many users' machines
    user = str(machine / "user")  # no model of the user's may be found
    inside = {
        "LLMCLI_HOME": str(folder),
        "HOME": user,
        "USERPROFILE": user,
        "HF_ENDPOINT": "http://127.0.0.1:9",  # nobody there: no test reaches the real hub
    }
    outside = {name: os.environ.pop(name) for name in _OUTSIDE if name in os.environ}
    os.environ.update(inside)
    yield folder
    for name in inside:
        os.environ.pop(name, None)
    os.environ.update(outside)


@pytest.fixture
def tmp_path(home: Path) -> Path:
    """As that of pytest, which counts and links the folders of each name: some seconds in all."""
    home.parent.mkdir(exist_ok=True)
    return home.parent


@pytest.fixture(scope="session")
def starter() -> Path:
    """The starter model, fetched once per checkout; the only thing tests take from the network."""
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    with FileLock(cache / "fetching.lock"):  # tests may run side by side
        return ensure_starter(cache)


@pytest.fixture(scope="session")
def short_starter(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first layers of the starter: as exact as the whole, and three times as fast."""
    return shortened(starter, tmp_path_factory.mktemp("short") / "short.gguf", 4)


@pytest.fixture(scope="session")
def target(starter: Path) -> ResolvedModel:
    return ResolvedModel(ModelFile(starter, (starter,), "starter", trusted=True))


@pytest.fixture(scope="session")
def local(target: ResolvedModel) -> Iterator[LocalEngine]:
    """The starter with a small context, loaded once."""
    model = LocalEngine(target, Settings(n_ctx=512), Cancellation())
    yield model
    model.close()


@pytest.fixture
def settings() -> Settings:
    """A short, greedy answer; one thread, because two wait for each other on a busy machine."""
    return Settings(n_ctx=512, n_threads=1, max_tokens=8, seed=1, samplers=("top_k",), top_k=1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is loaded in no time and talks noise; its template is `PLAIN_TEMPLATE`."""
    return full_attention(tmp_path_factory.mktemp("tiny") / "tiny.gguf", PLAIN_TEMPLATE)


Run = Callable[..., CliResult]
PLAIN_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "


@pytest.fixture
def ordinary_user() -> Iterator[None]:
    """Modes of files count for root too. Linux lets a thread give up that right and take it again."""
    if not hasattr(os, "geteuid"):
        pytest.skip("Windows has no such modes")
    if os.geteuid():
        yield
        return
    if not sys.platform.startswith("linux"):
        pytest.skip("root may write everywhere")
    libc = ctypes.CDLL(None)
    header, rights = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, rights) == 0
    effective = rights[0]
    rights[0] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    assert libc.capset(header, rights) == 0
    yield
    rights[0] = effective
    assert libc.capset(header, rights) == 0


@pytest.fixture
def run() -> Run:
    """Runs the real program: `run("generate", "hi", stdin="...", env={...})`."""

    def call(
        *args: str, stdin: str | bytes | None = None, env: dict[str, str] | None = None, timeout: float = 120
    ) -> CliResult:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            [sys.executable, "-m", "llmcli", *args],
            input=data,
            stdin=subprocess.DEVNULL if data is None else None,
            capture_output=True,
            env=os.environ | (env or {}),
            timeout=timeout,
        )
        return CliResult(done.stdout, done.stderr.decode("utf-8", "replace"), shell_status(done.returncode))

    return call


@pytest.fixture
def inside() -> Run:
    """As `run`, in this process, in a fifth of the time: where the process itself is not the point."""
    return run_in_process


@pytest.fixture
def with_tiny(home: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny model as the one that the environment names, tried before; for tests that do not care what is said."""
    monkeypatch.setenv("LLMCLI_MODEL", str(tiny))
    (home / "cache").mkdir(parents=True, exist_ok=True)
    record_probed(home / "data", [tiny], probe_record())
    return tiny


@pytest.fixture
def with_starter(home: Path, starter: Path) -> Path:
    """The starter under this test's home, as `llmcli` itself would have put it there."""
    folder = home / "cache" / "starter"
    folder.mkdir(parents=True)
    (home / "data").mkdir(exist_ok=True)
    (home / "data" / "welcomed").touch()  # the first run is over
    try:
        os.link(starter, folder / starter.name)
    except OSError:  # another file system
        shutil.copy(starter, folder / starter.name)
    return folder / starter.name
