"""The whole way of a model with the real commands: search, files, show, pull, list, use, verify, and remove.

`Place` and `on_terminal` serve the other tests of real commands too.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmcli.models.locations import STARTER_SHA256, STARTER_SIZE
from tests.cli_result import CliResult, shell_status
from tests.hub.server import FakeHub, Fault
from tests.models.gguf_writer import MODEL, write_gguf

REPO, TINY = "test/Smol-GGUF", "test/tiny-GGUF"
ASK = ("generate", "The capital of France is", "--raw", "-n", "4", "--temp", "0")
CUT_OFF = "cut off: max_tokens is 4; raise it with -n\n"  # what ASK writes to stderr
_OUTSIDE = ("LLMCLI_", "HF_", "HUGG", "OLLAMA_", "TRANSFORMERS_", "XDG_", "HTTP", "ALL_PROXY", "NO_PROXY")
_HOSTILE = "\x1b[2J\x1b]0;title\x07\x9b31m\x85\u202eevil\u2066\x7f"


@dataclass(frozen=True)
class Place:
    """A user's machine: a home of their own, and the hub that HF_ENDPOINT names."""

    folder: Path
    hub: FakeHub

    @property
    def env(self) -> dict[str, str]:
        """The whole environment: of the outside only what has nothing to do with models."""
        kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(_OUTSIDE)}
        user, home = str(self.folder / "user"), str(self.folder / "llmcli home")
        return kept | {"HOME": user, "USERPROFILE": user, "LLMCLI_HOME": home, "HF_ENDPOINT": self.hub.endpoint}

    @property
    def home(self) -> Path:
        return self.folder / "llmcli home"

    @property
    def cache(self) -> Path:
        return self.folder / "user/.cache/huggingface/hub"

    def run(self, *args: str, stdin: str = "", **env: str) -> CliResult:
        """The real program, as in a pipe."""
        return self.python("-m", "llmcli", *args, stdin=stdin, **env)

    def runs(self, *lines: tuple[str, ...], **env: str) -> list[CliResult]:
        """Several of them side by side; two that load a model would only take the cores from each other."""
        with ThreadPoolExecutor(3) as pool:
            return list(pool.map(lambda line: self.run(*line, **env), lines))

    def python(self, *args: str, stdin: str = "", **env: str) -> CliResult:
        done = subprocess.run(
            [sys.executable, *args], input=stdin.encode(), capture_output=True, env=self.env | env, timeout=120
        )
        return CliResult(done.stdout, done.stderr.decode("utf-8", "replace"), shell_status(done.returncode))

    def twin(self, folder: Path) -> "Place":
        """Another machine with the same files; a file that is changed in place changes on both."""
        shutil.copytree(self.folder, folder, symlinks=True, copy_function=os.link, dirs_exist_ok=True)
        return Place(folder, self.hub)


def on_terminal(
    place: Place, *args: str, columns: int = 80, keys: str | None = None, env: Mapping[str, str] | None = None
) -> tuple[bytes, int]:
    """All bytes that the program writes to a terminal, and its status; `keys` answer a question (`[Y/n]`)."""
    if sys.platform == "win32":
        pytest.skip("needs a POSIX terminal")
    pexpect = pytest.importorskip("pexpect")
    terminal = place.env | {"TERM": "xterm"} | dict(env or {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on: a fork beside the threads of the hub
        child = pexpect.spawn(
            sys.executable, ["-m", "llmcli", *args], env=terminal, dimensions=(40, columns), timeout=120
        )
    before = b""
    if keys is not None:
        child.expect([r"\[Y/n\] ", r"\[y/N\] "])
        before = child.before + child.after
        child.send(keys)
    text = before + child.read()
    child.wait()
    child.close()
    return text, child.exitstatus if child.signalstatus is None else shell_status(-child.signalstatus)


def sole(text: str) -> str:
    """The only line of a text."""
    assert text.count("\n") == 1, text
    return text.rstrip("\n")


def error_line(text: str) -> str:
    """The error line of a text that is an error and at most one hint, without `error: `."""
    first, *hints = text.splitlines()
    assert first.startswith("error: "), text
    assert len(hints) <= 1, text
    assert all(hint.startswith("  hint: ") for hint in hints), text
    return first.removeprefix("error: ")


def facts_of(text: str) -> dict[str, str]:
    """The pairs that `show` prints."""
    return {name.strip(): value for name, value in re.findall(r"^(\S+(?: \S+)?) {2,}(.*)$", text, re.M)}


def tree_of(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Every file and link below a folder: size, time, and target or content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or path.is_file():
            info = path.lstat()
            what = os.readlink(path) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(folder))] = (info.st_size, info.st_mtime_ns, what)
    return found


@pytest.fixture(scope="module")
def hub(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    tiny = write_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
    same: dict[str, bytes | Path] = {"Smol-Q4_1.gguf": starter, "Smol-Q4_K_M.gguf": starter}
    more: dict[str, bytes | Path] = {"Smol-Q8_0.gguf": tiny, "mmproj-Smol-f16.gguf": tiny, "README.md": b"# Smol\n"}
    with FakeHub() as hub:
        hub.add(REPO, same | more, downloads=4321, likes=3, parameters=134_515_008)
        hub.add(TINY, {"tiny-Q4_0.gguf": tiny}, license_id="mit", downloads=9)
        yield hub


@pytest.fixture
def fresh(hub: FakeHub, tmp_path: Path) -> Place:
    """A machine without models."""
    hub.log.clear()
    return Place(tmp_path, hub)


@pytest.fixture(scope="module")
def pulled(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, CliResult]:
    """A machine that has pulled the repository without naming a quantization, and what that said."""
    place = Place(tmp_path_factory.mktemp("pulled"), hub)
    return place, place.run("pull", REPO)


@pytest.fixture
def there(pulled: tuple[Place, CliResult]) -> Place:
    """The same machine, for looking only."""
    pulled[0].hub.log.clear()
    return pulled[0]


def test_search_lists_repositories_the_most_downloaded_first(fresh: Place) -> None:
    search = ("models", "search")
    ran, data, none = fresh.runs((*search, "gguf"), (*search, "smol", "--json"), (*search, "no", "such"))
    assert ran.status == 0
    assert ran.text.splitlines() == [
        "NAME            DOWNLOADS  LICENSE     UPDATED",
        "test/Smol-GGUF      4.32k  apache-2.0  2026-01-01",
        "test/tiny-GGUF          9  mit         2026-01-01",
    ]
    assert sole(ran.stderr) == "list the quantizations of a repository with `llmcli models files NAME`"
    facts = {"license": "apache-2.0", "gated": False, "updated": "2026-01-01"}
    [item] = json.loads(data.text)
    assert item == {"name": REPO, "downloads": 4321, "likes": 3} | facts
    assert (none.status, none.stdout) == (0, b"")
    assert sole(none.stderr) == "no GGUF repositories found for 'no such'"


def test_files_lists_each_quantization_with_size_bits_and_fit(fresh: Place) -> None:
    ran, as_json = fresh.runs(("models", "files", REPO), ("models", "files", REPO, "--json"))
    rows = [line.split() for line in ran.text.splitlines()]
    assert ran.status == 0
    assert rows[0] == ["QUANT", "SIZE", "BITS", "FITS", "FILE"]
    assert [row[:4] + row[5:] for row in rows[2:]] == [
        [q, "98", "MB", "5.8", f"Smol-{q}.gguf"] for q in ("Q4_1", "Q4_K_M")
    ]
    assert {row[4] for row in rows[1:]} <= {"yes", "no"}
    assert "mmproj" not in ran.stderr
    assert f"`llmcli pull {REPO}` downloads Q4_K_M: Q4_K_M is the default" in ran.stderr
    data = json.loads(as_json.text)
    assert "text model, architecture llama" in ran.stderr
    assert (data["kind"], data["architecture"]) == ("text", "llama")
    assert data["commit"] == fresh.hub.repos[REPO].head
    assert [(one["quantization"], one["chosen"]) for one in data["models"]] == [
        ("Q8_0", False),
        ("Q4_1", False),
        ("Q4_K_M", True),
    ]
    assert data["models"][1]["files"] == [{"path": "Smol-Q4_1.gguf", "size": STARTER_SIZE, "sha256": STARTER_SHA256}]
    assert data["projectors"][0]["path"] == "mmproj-Smol-f16.gguf"


def test_show_describes_a_model_of_the_hub_from_its_header_alone(fresh: Place) -> None:
    ran = fresh.run("models", "show", f"{REPO}:Q4_1")
    facts = facts_of(ran.text)
    assert (ran.status, ran.stderr) == (0, "")
    assert facts["name"] == f"{REPO}:Q4_1"
    assert facts["architecture"] == "llama"
    assert (facts["parameters"], facts["quantization"]) == ("135M", "Q4_1, 5.8 bits per weight")
    assert facts["trained context"] == "8192 tokens"
    assert facts["license"] == "apache-2.0"
    assert facts["commit"] == fresh.hub.repos[REPO].head
    assert facts["checksum"] == f"sha256 {STARTER_SHA256} (published)"
    assert "last used" not in facts
    assert 0 < fresh.hub.served <= 4 << 20
    assert not fresh.cache.exists()


def test_pull_downloads_default_and_prints_only_its_path(pulled: tuple[Place, CliResult]) -> None:
    place, ran = pulled
    path = Path(sole(ran.text))
    lines = ran.stderr.splitlines()
    assert ran.status == 0
    assert path.name == "Smol-Q4_K_M.gguf"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == STARTER_SHA256
    reason = "(Q4_K_M is the default)"
    assert lines[0] == f"{REPO}/Smol-Q4_K_M.gguf, 98 MB {reason}: text model, architecture llama"
    assert lines[1:]
    assert all(line.startswith("Smol-Q4_K_M.gguf: ") for line in lines[1:])
    assert path.is_relative_to(place.cache)


def test_list_and_show_name_the_pulled_model(there: Place) -> None:
    show = ("models", "show", REPO)
    lines = ("models", "list"), ("models", "list", "--json"), show, (*show, "--json"), (*show, "--template")
    ran, listed, shown, described, template = there.runs(*lines)
    assert (ran.status, ran.stderr) == (0, "")
    head, row = ran.text.splitlines()
    assert head.split() == ["NAME", "KIND", "ARCH", "QUANT", "SIZE", "CONTEXT", "USED", "FROM"]
    assert row.split()[:7] == [f"{REPO}:Q4_K_M", "text", "llama", "Q4_K_M", "98", "MB", "8192"]
    assert row.endswith("Hub cache")
    [item] = json.loads(listed.text)
    assert set(item) == {
        "name",
        "aliases",
        "damage",
        "kind",
        "architecture",
        "quantization",
        "size",
        "n_ctx_train",
        "used",
        "source",
        "repo",
        "commit",
        "files",
        "sha256",
    }
    assert (item["size"], item["sha256"], item["commit"]) == (
        STARTER_SIZE,
        [STARTER_SHA256],
        there.hub.repos[REPO].head,
    )
    facts = facts_of(shown.text)
    assert (shown.status, shown.stderr) == (0, "")
    assert (facts["name"], facts["file"]) == (f"{REPO}:Q4_K_M", item["files"][0])
    assert facts["checksum"] == f"sha256 {STARTER_SHA256}, verified just now"
    data = json.loads(described.text)
    assert (data["downloaded"], data["n_ctx_train"], data["memory"]["n_ctx"]) == (True, 8192, 8192)
    assert template.text == data["chat_template"] + "\n"


def test_model_answers_by_every_reference(there: Place) -> None:
    answers = [there.run(*ASK, "-m", name) for name in (REPO, f"{REPO}/Smol-Q4_K_M.gguf")]
    assert [(ran.status, ran.stderr) for ran in answers] == [(0, CUT_OFF)] * 2
    assert [ran.text.strip()[:5] for ran in answers] == ["Paris"] * 2
    assert " just now " in there.run("models", "list").text


def test_verify_compares_the_published_checksum(there: Place) -> None:
    ran, data = there.runs(("models", "verify"), ("models", "verify", REPO, "--json"))
    assert ran.status == 0
    assert [line.split() for line in ran.text.splitlines()] == [
        ["STATE", "MODEL", "SHA256"],
        ["ok", f"{REPO}:Q4_K_M", STARTER_SHA256],
    ]
    [one] = json.loads(data.text)
    assert (one["state"], one["sha256"]) == ("ok", STARTER_SHA256)


def hugging(place: Place, *args: str) -> CliResult:
    """The hub's own tool or client; it asks nobody but the test hub."""
    return place.python(*args, HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_UPDATE_CHECK="1", HF_HUB_DISABLE_XET="1")


def scanned(place: Place) -> dict[str, Any]:
    code = """
import json
from huggingface_hub import scan_cache_dir
found = scan_cache_dir()
print(json.dumps({"warnings": [str(warning) for warning in found.warnings], "files": {
    f"{repo.repo_id}@{revision.commit_hash}/{file.file_name}": file.size_on_disk
    for repo in found.repos for revision in repo.revisions for file in revision.files}}))
"""
    ran = hugging(place, "-c", code)
    assert ran.status == 0, ran.stderr
    data: dict[str, Any] = json.loads(ran.text)
    return data


def test_hub_tools_see_the_same_files(there: Place) -> None:
    listed = hugging(there, "-m", "huggingface_hub.cli.hf", "cache", "ls", "--format", "json")
    assert listed.status == 0, listed.stderr
    [repo] = json.loads(listed.text)
    assert (repo["repo_id"], repo["repo_type"], repo["refs"]) == (REPO, "model", ["main"])
    head = there.hub.repos[REPO].head
    assert scanned(there) == {"warnings": [], "files": {f"{REPO}@{head}/Smol-Q4_K_M.gguf": STARTER_SIZE}}
    there.hub.log.clear()
    code = f"from huggingface_hub import hf_hub_download as get; print(get({REPO!r}, 'Smol-Q4_K_M.gguf'))"
    got = hugging(there, "-c", code)
    assert got.text == there.run("pull", REPO).text
    asked = [(request.origin, request.method, request.path) for request in there.hub.log]
    assert asked[0] == ("hub", "HEAD", f"/{REPO}/resolve/main/Smol-Q4_K_M.gguf")
    assert {origin for origin, _, _ in asked} == {"hub"}


def test_pull_verifies_file_of_the_hub_client(fresh: Place) -> None:
    fresh.hub.faults.append(Fault("corrupt", at=STARTER_SIZE // 2))
    code = f"from huggingface_hub import hf_hub_download as get; print(get({REPO!r}, 'Smol-Q4_1.gguf'))"
    assert hugging(fresh, "-c", code).status == 0  # it does not notice
    fresh.hub.log.clear()
    shown, used = fresh.run("models", "show", REPO), fresh.run(*ASK, "-m", REPO)
    assert facts_of(shown.text)["checksum"].endswith("(published), not verified yet: run `llmcli models verify`")
    assert (used.status, used.stderr) == (0, CUT_OFF)
    assert fresh.hub.log == []
    mended = fresh.run("pull", f"{REPO}:Q4_1")
    assert mended.status == 0
    assert "Smol-Q4_1.gguf in the cache is damaged: downloading it again" in mended.stderr
    assert hashlib.sha256(Path(sole(mended.text)).read_bytes()).hexdigest() == STARTER_SHA256


def test_rm_frees_only_unshared_files(there: Place, tmp_path: Path) -> None:
    place = there.twin(tmp_path)
    second = place.run("pull", f"{REPO}:Q4_1")  # the same bytes under another name
    assert second.status == 0
    assert place.hub.requests("cdn") == []
    first = place.run("models", "rm", "--yes", f"{REPO}:Q4_1")
    assert first.status == 0
    assert re.search(r"^will keep .*/blobs/\w{64} \(shared with another model\)$", first.stderr, re.M)
    assert first.stderr.endswith(f"removed {REPO}:Q4_1, 0 kB freed\n")
    last = place.run("models", "rm", "--yes", REPO)
    assert (last.status, last.stdout) == (0, b"")
    assert last.stderr.endswith(f"removed {REPO}:Q4_K_M, 98 MB freed\n")
    assert scanned(place) == {"warnings": [], "files": {}}
    assert not any(path.stat().st_size > 1 << 20 for path in place.folder.rglob("*") if path.is_file())


def harmless(written: bytes) -> str:
    """What a terminal shows of these bytes, after a proof that nothing but our own colours could drive it."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", written.decode())
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text), text
    return text


def screen_of(written: bytes, columns: int) -> list[str]:
    """The lines that stand on a screen of this width in the end."""
    pyte: Any = pytest.importorskip("pyte")
    screen = pyte.Screen(columns, 40)
    pyte.ByteStream(screen).feed(written)
    return [line.rstrip() for line in screen.display if line.strip()]


@pytest.mark.terminal
def test_a_list_fits_the_terminal_in_columns_or_stacked(there: Place) -> None:
    wide, _ = on_terminal(there, "models", "list")
    head, row = screen_of(wide, 80)
    assert head.split() == ["NAME", "KIND", "ARCH", "QUANT", "SIZE", "CONTEXT", "USED", "FROM"]
    assert row.startswith(f"{REPO}:Q4_K_M  text  llama  Q4_K_M  98 MB     8192  ")
    assert b"\x1b[1mNAME" in wide
    narrow, _ = on_terminal(there, "models", "list", columns=40, env={"NO_COLOR": "1"})
    name, *facts = screen_of(narrow, 40)
    assert name == f"{REPO}:Q4_K_M"
    assert facts[:3] == ["  kind     text", "  arch     llama", "  quant    Q4_K_M"]
    assert b"\x1b" not in narrow


@pytest.mark.terminal
def test_hostile_hub_texts_cannot_control_the_terminal(fresh: Place) -> None:
    tags = [f"license:{_HOSTILE}", _HOSTILE]
    model = {"id": "a/b-GGUF", "tags": tags, "createdAt": _HOSTILE, "downloads": 5}
    evil = {"id": f"a/{_HOSTILE}", "tags": tags}
    fresh.hub.faults.append(Fault("bad_json", api=True, body=json.dumps([model, evil]).encode()))
    written, status = on_terminal(fresh, "models", "search", "x", columns=40)
    assert status == 0
    assert "a/b-GGUF" in harmless(written)
    assert "␛[2J␛]0;title␇" in "".join(harmless(written).split())
    assert screen_of(written, 40)[0] == "a/b-GGUF"
    names = ("good-Q4_0.gguf", f"{_HOSTILE}.gguf", "../up-Q4_0.gguf", "wide-Q8_0\u3000\u754c.gguf")
    files = [{"rfilename": name, "size": 9, "lfs": {"size": 9, "sha256": "0" * 64}} for name in names]
    value = {"sha": "0" * 40, "tags": tags, "siblings": files, "gated": _HOSTILE, "gguf": {"architecture": _HOSTILE}}
    fresh.hub.faults.append(Fault("bad_json", api=True, body=json.dumps(value).encode()))
    written, status = on_terminal(fresh, "models", "files", "a/b-GGUF")
    assert status == 0
    assert "good-Q4_0.gguf" in harmless(written)
    assert "evil" not in harmless(written)
    assert "up-Q4_0" not in harmless(written)


@pytest.mark.terminal
def test_hostile_metadata_cannot_control_the_terminal(hub: FakeHub, fresh: Place, tmp_path: Path) -> None:
    texts = ("general.name", "general.license", "tokenizer.chat_template")
    folder = tmp_path / "models"
    folder.mkdir()
    evil = write_gguf(folder / f"m{_HOSTILE}.gguf", MODEL | dict.fromkeys(texts, _HOSTILE))
    hub.add("test/evil-GGUF", {"evil-Q4_0.gguf": evil}, license_id=_HOSTILE)
    for args in (
        ("list", "--model-folder", str(folder)),
        ("show", str(evil)),
        ("show", "test/evil-GGUF"),
    ):
        written, status = on_terminal(fresh, "models", *args, env={"TERM": "dumb"})
        assert (status, "␛[2J␛]0;title␇" in "".join(harmless(written).split())) == (0, True), written
    piped = fresh.run("models", "show", "test/evil-GGUF", "--template")
    assert piped.text == _HOSTILE + "\n"


@pytest.mark.terminal
@pytest.mark.parametrize("command", [("pull",), ("generate", "hi", "-m")])
def test_hostile_names_in_errors_cannot_control_the_terminal(fresh: Place, command: tuple[str, ...]) -> None:
    written, status = on_terminal(fresh, *command, f"/no/such/{_HOSTILE}.gguf")
    assert status == 3
    assert harmless(written).startswith("error: ")
    piped = fresh.run(*command, f"a/{_HOSTILE}")
    assert piped.status == 3
    assert harmless(error_line(piped.stderr).encode())
