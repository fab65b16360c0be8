"""What a model can be called: aliases, names of the catalog, addresses; and what is kept in order by name."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmcli.models import notes
from llmcli.models.download.partial_file import partial_path
from llmcli.models.locations import STARTER_SHA256, STARTER_SIZE
from llmcli.models.sources.url import UrlReference
from llmcli.text import format_size
from tests.cli.test_hub_end_to_end import Place, error_line, facts_of, harmless, on_terminal, sole
from tests.hub.server import FakeHub, Fault
from tests.models.gguf_writer import MODEL, write_gguf
from tests.waiting import wait_until

REPO, BIG = "test/tiny-GGUF", "test/big-GGUF"
HALF = 40 << 20
CONFIG = """\
# my settings, with a comment
top_p = 0.9  # not too wild

[aliases]
# for work
old = "test/tiny-GGUF:Q4_0"  # keep this one
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="module")
def server(tiny: Path, starter: Path) -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add(REPO, {"tiny-Q4_0.gguf": tiny, "tiny-Q8_0.gguf": tiny.read_bytes() + b"more"})
        hub.add(BIG, {"big-Q4_0.gguf": starter})
        hub.add("unsloth/Qwen3-0.6B-GGUF", {"Qwen3-0.6B-Q4_K_M.gguf": tiny})
        yield hub


@pytest.fixture
def hub(server: FakeHub, tiny: Path) -> FakeHub:
    server.log.clear()
    server.faults.clear()
    server.hold_at, server.other_serves = None, tiny
    return server


@pytest.fixture
def place(hub: FakeHub, tmp_path: Path) -> Place:
    """A machine without models."""
    return Place(tmp_path, hub)


@pytest.fixture(scope="module")
def pulled(server: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A machine with one model of the hub."""
    place = Place(tmp_path_factory.mktemp("pulled"), server)
    assert place.run("pull", f"{REPO}:Q4_0").status == 0
    return place


@pytest.fixture
def there(pulled: Place, hub: FakeHub, tmp_path: Path) -> Place:
    """A machine of the test's own with that model; its files may be changed."""
    shutil.copytree(pulled.folder, tmp_path, symlinks=True, dirs_exist_ok=True)
    return Place(tmp_path, hub)


def config_of(place: Place, text: str | None = None) -> Path:
    path = place.home / "config" / "config.toml"
    if text is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return path


def complete(place: Place, line: str) -> list[str]:
    """What bash would offer for the last word of `line`."""
    count = str(len(line.split(" ")) - 1)
    ran = place.run(_LLMCLI_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=count)
    assert ran.stderr == ""
    return ran.text.splitlines()


def test_an_alias_is_added_used_listed_and_removed(there: Place) -> None:
    config = config_of(there, CONFIG)
    added = there.run("models", "alias", "mine", f"{REPO}:Q4_0")
    assert (added.status, added.stdout, added.stderr) == (0, b"", "")
    assert facts_of(there.run("models", "show", "mine").text)["name"] == f"{REPO}:Q4_0"
    listed, old = there.runs(("models", "alias"), ("models", "alias", "old"))
    assert [line.split() for line in listed.text.splitlines()[1:]] == [
        ["old", f"{REPO}:Q4_0"],
        ["mine", f"{REPO}:Q4_0"],
    ]
    assert old.text == f"{REPO}:Q4_0\n"
    table, data = there.runs(("models", "list"), ("models", "list", "--json"))
    _heads, row, target = table.text.splitlines()
    assert row.startswith("old, mine  text  llama  Q4_0  ")
    assert target == f"  alias of {REPO}:Q4_0"
    assert [(item["name"], item["aliases"]) for item in json.loads(data.text)] == [(f"{REPO}:Q4_0", ["old", "mine"])]
    assert there.run("config", "set", "top_k", "7").status == 0  # after a table, and yet not inside of it
    assert there.run("config", "get", "top_k").text == "7\n"
    assert there.run("models", "alias", "--remove", "mine").status == 0
    for comment in ("# my settings, with a comment", "# not too wild", "# for work", "# keep this one"):
        assert comment in config.read_text()
    gone = there.run("models", "alias", "mine")
    assert gone.status == 2
    assert error_line(gone.stderr) == "unknown alias 'mine'"
    assert there.hub.log == []


def test_an_alias_of_a_model_elsewhere_is_pulled_by_its_name(place: Place) -> None:
    assert place.run("models", "alias", "far", f"{REPO}:Q8_0").status == 0
    pulled = place.run("pull", "far")
    assert pulled.status == 0
    assert sole(pulled.text).endswith("/tiny-Q8_0.gguf")


def test_a_name_that_cannot_be_an_alias_is_refused(place: Place) -> None:
    for ran in place.runs(*(("models", "alias", "--", name, REPO) for name in ("starter", "a/b", "\x1b[2J", ""))):
        assert ran.status == 2
        harmless(error_line(ran.stderr).encode())
    assert not config_of(place).exists()


def test_models_and_aliases_complete_in_the_shell(there: Place) -> None:
    config_of(there, CONFIG)
    for line in ("llmcli generate -m ", "llmcli models rm "):
        assert {"starter", "old", f"{REPO}:Q4_0"} <= set(complete(there, line)), line
    assert complete(there, "llmcli models show test/") == [f"{REPO}:Q4_0"]
    assert complete(there, "llmcli models show ol") == ["old"]
    config_of(there, "this is [no TOML")
    assert complete(there, "llmcli models show s") == ["starter"]
    assert there.hub.log == []


def test_catalog_name_is_a_model_of_the_hub(place: Place) -> None:
    recommended, missing = place.runs(("models", "recommend"), ("generate", "hi", "-m", "qwen3-0.6b"))
    assert recommended.status == 0
    assert "own catalog of" in recommended.stderr
    assert missing.status == 3
    assert "`llmcli pull unsloth/Qwen3-0.6B-GGUF:Q4_K_M`" in missing.stderr
    assert place.hub.log == []
    assert place.run("pull", "Qwen3-0.6B").status == 0
    shown, wrong = place.runs(("models", "show", "qwen3-0.6b"), ("pull", "qwen3-0.6"))
    assert facts_of(shown.text)["name"] == "unsloth/Qwen3-0.6B-GGUF:Q4_K_M"
    assert wrong.status == 3
    assert "did you mean 'unsloth/Qwen3-0.6B-GGUF' (on this machine) or" in wrong.stderr


def test_url_is_downloaded_shown_and_removed(place: Place, tiny: Path) -> None:
    url = f"{place.hub.other}/models/x.gguf"
    missing = place.run("models", "show", url)
    assert missing.status == 3
    assert f"`llmcli pull {url}`" in missing.stderr
    ran = place.run("pull", url)
    path = Path(sole(ran.text))
    digest = hashlib.sha256(tiny.read_bytes()).hexdigest()
    assert (ran.status, path.name, path.read_bytes()) == (0, "x.gguf", tiny.read_bytes())
    assert ran.stderr.endswith(f" publishes no checksum; the file has sha256={digest}\n")
    asked = len(place.hub.log)
    shown, listed = place.runs(("models", "show", url), ("models", "list"))
    assert facts_of(shown.text)["architecture"] == "llama"
    assert listed.text.count(str(path)) == 1
    assert place.run("models", "rm", "-y", url).status == 0
    assert not path.exists()
    assert len(place.hub.log) == asked


def test_url_with_a_sha256_is_verified(place: Place, tiny: Path) -> None:
    url, digest = f"{place.hub.other}/x.gguf", hashlib.sha256(tiny.read_bytes()).hexdigest()
    wrong = place.run("pull", f"{url}#sha256={'0' * 64}")
    assert (wrong.status, wrong.stdout) == (8, b"")
    assert f"got {digest}, expected {'0' * 64}" in wrong.stderr
    assert not [*place.home.rglob("*.gguf"), *place.home.rglob("*.incomplete")]
    right = place.run("pull", f"{url}#sha256={digest.upper()}")
    assert right.status == 0
    assert "publishes no checksum" not in right.stderr
    later = place.run("pull", f"{url}#sha256={'0' * 64}")  # it is here, and not what was promised
    assert (later.status, later.stdout) == (8, b"")


def test_url_with_changed_file_is_downloaded_again(place: Place, tmp_path: Path) -> None:
    url = f"{place.hub.other}/changing.gguf"
    for name in ("the first", "the later"):  # of the same length
        place.hub.other_serves = write_gguf(tmp_path / "served.gguf", MODEL | {"general.name": name}).read_bytes()
        assert place.run("pull", url).status == 0
        assert facts_of(place.run("models", "show", url).text)["model"] == name


def test_url_without_a_note_is_not_downloaded_again(place: Place) -> None:
    url = f"{place.hub.other}/x.gguf"
    path = Path(sole(place.run("pull", url).text))
    shutil.rmtree(place.home / "data" / "notes")
    before = path.stat().st_mtime_ns
    again = place.run("pull", url)
    assert (again.status, again.stderr) == (0, f"x.gguf, {format_size(path.stat().st_size)}, already downloaded\n")
    assert path.stat().st_mtime_ns == before


def test_url_without_a_model_is_refused(place: Place, tmp_path: Path) -> None:
    page = tmp_path / "page.gguf"
    page.write_bytes(b"<!DOCTYPE html><p>Log in first." * 9)
    place.hub.other_serves = page
    html = place.run("pull", f"{place.hub.other}/x.gguf")
    assert (html.status, html.stdout) == (8, b"")
    assert "web page" in html.stderr
    place.hub.faults.append(Fault("html", origin="other", times=None))
    html = place.run("pull", f"{place.hub.other}/y.gguf")
    assert html.status == 5
    assert "did not return a file" in error_line(html.stderr)
    place.hub.faults.clear()
    place.hub.other_serves = None
    missing = place.run("pull", f"{place.hub.other}/x.gguf")
    assert missing.status == 3
    assert "has no such file" in missing.stderr
    assert not [*place.home.rglob("*.gguf"), *place.home.rglob("*.incomplete")]


def interrupt_a_pull(place: Place, at: int) -> None:
    """Kill a download when the hub has sent `at` bytes and no more come."""
    place.hub.hold_at = at
    command = [sys.executable, "-m", "llmcli", "pull", "--quiet", BIG]
    with subprocess.Popen(command, env=place.env) as child:
        wait_until(lambda: any(path.stat().st_size == at for path in place.cache.rglob("*.incomplete")))
        child.kill()
    place.hub.hold_at = None
    place.hub.log.clear()


def test_an_interrupted_download_is_listed_resumed_and_removed(place: Place, tmp_path: Path) -> None:
    interrupt_a_pull(place, HALF)
    partials = ("models", "partials")
    flags = (), ("--json",), ("--resume", "no-such"), ("--resume", "--remove")
    listed, data, *wrong = place.runs(*((*partials, *more) for more in flags))
    assert [ran.status for ran in (listed, data, *wrong)] == [0, 0, 3, 2]
    assert re.search(rf"^{BIG} +42 MB of 98 MB \(43%\) +just now$", listed.text, re.M), listed.text
    [one] = json.loads(data.text)
    assert (one["name"], one["bytes"], one["size"]) == (BIG, HALF, STARTER_SIZE)
    assert place.hub.log == []
    other = Place(tmp_path / "copy", place.hub)
    shutil.copytree(place.folder / "user", other.folder / "user", symlinks=True)
    shutil.copytree(place.home, other.home)
    resumed = place.run(*partials, "--resume", BIG)
    assert resumed.status == 0, resumed.stderr
    assert hashlib.sha256(Path(sole(resumed.text)).read_bytes()).hexdigest() == STARTER_SHA256
    assert place.hub.served == STARTER_SIZE - HALF
    assert not [*place.cache.rglob("*.incomplete*")]
    removed = other.run(*partials, "--remove")
    assert removed.status == 0
    assert sole(removed.stderr).endswith(", 42 MB freed")
    assert not [*other.cache.rglob("*.incomplete*")]


def test_interrupted_download_from_a_url_is_listed_and_resumed(place: Place, tiny: Path) -> None:
    url, content = f"{place.hub.other}/x.gguf", tiny.read_bytes()
    partial = partial_path(UrlReference(url).path(place.home / "cache"))
    partial.parent.mkdir(parents=True)
    partial.write_bytes(content[:100])
    version = f'"{hashlib.sha256(content).hexdigest()}"'
    notes.update(place.home / "data", partial, reference=url, size=len(content), version=version)
    assert place.run("models", "partials").text.splitlines()[1].startswith(url)
    resumed = place.run("models", "partials", "--resume", url)
    assert Path(sole(resumed.text)).read_bytes() == content
    assert place.hub.log[-1].headers["range"].startswith("bytes=100-")
    assert "no interrupted downloads" in place.run("models", "partials").stderr


def test_verify_finds_a_damaged_file_and_pull_repairs_it(there: Place) -> None:
    [blob] = there.cache.glob("models--*/blobs/*")
    good = blob.read_bytes()
    blob.write_bytes(good[:-1] + b"x")
    bad = there.run("models", "verify")
    assert bad.status == 8
    assert bad.text.splitlines()[1].split()[:2] == ["damaged", f"{REPO}:Q4_0"]
    assert f"download it again with `llmcli pull {REPO}:Q4_0`" in bad.stderr
    assert there.hub.log == []
    assert there.run("pull", f"{REPO}:Q4_0").status == 0
    assert blob.read_bytes() == good
    assert there.run("models", "verify", f"{REPO}:Q4_0").status == 0


@pytest.mark.terminal
def test_rm_asks_on_a_terminal_and_refuses_in_a_pipe(there: Place) -> None:
    [blob] = there.cache.glob("models--*/blobs/*")
    refused = there.run("models", "rm", REPO, stdin="y\n")
    assert (refused.status, refused.stdout) == (2, b"")
    assert refused.stderr.splitlines()[-2:] == [
        f"error: refusing to remove {REPO}:Q4_0 without confirmation",
        "  hint: use --yes",
    ]
    for keys in ("n\r", "\r"):
        written, status = on_terminal(there, "models", "rm", REPO, keys=keys, columns=200)
        assert status == 1
        assert f"Remove {REPO}:Q4_0 and free 0 kB? [y/N]" in harmless(written)
    assert on_terminal(there, "models", "rm", REPO, keys="\x03")[1] == 130
    assert blob.exists()
    written, status = on_terminal(there, "models", "rm", REPO, keys="y\r", columns=200)
    assert status == 0
    assert f"removed {REPO}:Q4_0" in harmless(written)
    assert not blob.exists()
    assert there.hub.log == []
