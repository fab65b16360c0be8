"""llama.cpp's own tests of its server, run against `llmcli serve`.

The tests stay in llama.cpp; nothing of them is copied into this repository. What they need: the sources of llama.cpp
(those in the source package of llama-cpp-python are enough), and a small chat model as a GGUF file.

    python -m benchmarks.llama_server_tests prepare LLAMA_CPP FOLDER      # once: copy the tests, make their environment
    python -m benchmarks.llama_server_tests run FOLDER MODEL.gguf         # all files, one after the other
    python -m benchmarks.llama_server_tests run FOLDER MODEL.gguf unit/test_completion.py -k n_probs

`run` starts pytest with a stand-in for llama-server: `FOLDER/llama-server`, which calls `serve` of this module. That
maps the options of llama-server to those of `llmcli serve` and becomes it. docs/serve.md says which tests differ.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parents[1]
_TESTS = Path("tools/server/tests")
# The files whose subject llmcli has, without those of the router, its own tools, LoRA adapters and pictures.
_FILES = (
    *("basic", "chat_completion", "completion", "tokenize", "security", "stream", "ctx_shift", "infill", "ignore_eos"),
    *("compat_oai_responses", "template", "metrics", "kv_keep_only_active", "speculative", "tool_call"),
    *("compat_anthropic", "embedding", "rerank"),
)
_PACKAGES = (
    *("pytest~=8.3.3", "pytest-timeout", "aiohttp", "filelock", "numpy~=2.2.6", "openai~=2.14.0"),
    *("prometheus-client~=0.20.0", "requests~=2.32.3", "wget"),
)
# Every test has the one model, unless it starts a server without any; none is downloaded before the tests.
_LOCAL_MODEL = """

def _start_with_local_model(self, *args, **kwargs):
    if self.model_hf_repo:
        self.model_hf_repo = self.model_hf_file = None
        self.model_file = os.environ["LLAMA_TEST_MODEL"]
    _start(self, *args, **kwargs)


_start, ServerProcess.start = ServerProcess.start, _start_with_local_model
ServerPreset.load_all = staticmethod(lambda: None)
"""


def prepare(sources: Path, folder: Path) -> None:
    """Copy the tests and the chat templates of llama.cpp to a folder, and make the environment in which they run."""
    for part in (_TESTS, Path("models/templates")):
        shutil.copytree(sources / part, folder / part, dirs_exist_ok=True)
    utils = folder / _TESTS / "utils.py"
    if _LOCAL_MODEL not in (text := utils.read_text()):
        utils.write_text(text + _LOCAL_MODEL)
    venv.create(folder / "venv", with_pip=True)
    subprocess.run([folder / "venv/bin/pip", "install", "--quiet", *_PACKAGES], check=True)


def run(folder: Path, model: Path, arguments: Sequence[str]) -> int:
    """Run test files, all of them by default; returns the status of pytest."""
    server = folder / "llama-server"
    command = shlex.join([sys.executable, "-m", "benchmarks.llama_server_tests", "serve"])
    server.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(_REPOSITORY))} exec {command} "$@"\n')
    server.chmod(0o755)
    environment = {"LLAMA_SERVER_BIN_PATH": str(server.resolve()), "LLAMA_TEST_MODEL": str(model.resolve())}
    files = [] if any(one.startswith("unit/") for one in arguments) else [f"unit/test_{one}.py" for one in _FILES]
    pytest = [str(folder.resolve() / "venv/bin/python"), "-m", "pytest", "-m", "not slow", "--timeout=60", "--tb=short"]
    return subprocess.run(
        [*pytest, *files, *arguments], cwd=folder / _TESTS, env={"PORT": "8093", **os.environ, **environment}
    ).returncode


def serve(arguments: Sequence[str]) -> None:
    """Become `llmcli serve` with these options of llama-server."""
    # Its own configuration would change the answers.
    os.environ.setdefault("LLMCLI_HOME", tempfile.mkdtemp(prefix="llmcli-serve-"))
    command = [sys.executable, "-m", "llmcli", "serve", *_options(arguments)]
    os.execv(sys.executable, command)


def _options(arguments: Sequence[str]) -> list[str]:
    given = dict(_pairs(arguments))
    options = ["--threads", given.pop("--threads", "1")]
    for name, convert in _CONVERTERS.items():
        if name in given:
            options += convert(given.pop(name))
    n_parallel, is_unified = int(given.pop("--parallel", "1")), given.pop("--kv-unified", None) is not None
    if n_ctx := int(given.pop("--ctx-size", "0")):  # of all answers at a time; here of one of them
        options += ["--ctx-size", str(n_ctx if is_unified else n_ctx // n_parallel)]
    options += ["--parallel", str(n_parallel)]
    options += [] if "--metrics" in given else ["--no-metrics"]
    options += ["--cors-origin", given.pop("--cors-origins", "*")]
    options += ["--no-slots"] if "--no-slots" in given else []
    for name, value in given.items():
        if name not in _WITHOUT_MEANING:
            raise SystemExit(f"llmcli serve has no option for {name} {value}")
    return options


def _pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The options with their values; a switch has an empty one."""
    at = 0
    while at < len(arguments):
        has_value = at + 1 < len(arguments) and not re.match(r"-[-a-zA-Z]", arguments[at + 1])
        yield arguments[at], arguments[at + 1] if has_value else ""
        at += 1 + has_value


def _same(name: str) -> Callable[[str], list[str]]:
    return lambda value: [name, value]


def _aliases(value: str) -> list[str]:
    """llama-server calls the model by the first name of the alphabet, and answers whatever model a client names."""
    return ["--alias", ",".join([*sorted(value.split(",")), *_NAMED_BY_CLIENTS])]


def _reasoning(value: str) -> list[str]:
    return ["--think", "off"] if value == "off" else []


def _key_file(value: str) -> list[str]:
    file = tempfile.NamedTemporaryFile("w", prefix="llmcli-keys-", suffix=".txt", delete=False)  # noqa: SIM115
    with file:
        file.write(f"test: {value}\n")
    return ["--api-key-file", file.name]


_CONVERTERS: dict[str, Callable[[str], list[str]]] = {
    **{
        name: _same(name) for name in ("--host", "--port", "--seed", "--batch-size", "--ubatch-size", "--chat-template")
    },
    "--temp": _same("--temperature"),
    "--model": _same("--model"),
    "--n-predict": _same("--max-tokens"),
    "--chat-template-file": _same("--chat-template"),
    "--alias": _aliases,
    "--reasoning": _reasoning,
    "--api-key": _key_file,
    "--pooling": _same("--pooling"),
    "-fa": _same("--flash-attn"),
    "--verbose": lambda _: ["--verbose"],
}
_NAMED_BY_CLIENTS = (
    *("test", "gpt-3.5-turbo", "gpt-3.5-turbo-instruct", "gpt-4.1", "davinci-002", "codellama70b"),
    "text-embedding-3-small",
)
# llmcli has a template in Jinja always, never downloads while it serves, keeps prefixes of idle answers always, and has
# vectors and ranks of each model.
_WITHOUT_MEANING = {
    *("--embedding", "--reranking"),
    *("--jinja", "--no-jinja", "--offline", "--slots", "--no-slots", "--metrics", "--cont-batching"),
    *("--cache-ram", "--no-cache-idle-slots", "--backend_sampling", "--swa-full", "--no-ui"),
}


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["prepare", sources, folder]:
            prepare(Path(sources), Path(folder))
        case ["run", folder, model, *arguments]:
            sys.exit(run(Path(folder), Path(model), arguments))
        case ["serve", *arguments]:
            serve(arguments)
        case _:
            sys.exit(__doc__)
