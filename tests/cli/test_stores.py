"""The models of Ollama and LM Studio, in their real layouts: listed, shown and run in place, and never changed."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmcli.models.locations import STARTER_SHA256, STARTER_SIZE
from tests.cli.test_hub_end_to_end import ASK, CUT_OFF, Place, error_line, facts_of, sole, tree_of
from tests.cli_result import CliResult
from tests.hub.server import FakeHub
from tests.models.gguf_writer import write_gguf
from tests.models.stores import add_lmstudio_model, add_ollama_model

REPO, FILE = "lmstudio-community/SmolLM2-GGUF", "SmolLM2-135M-Instruct-Q4_1.gguf"


@dataclass(frozen=True)
class Stores:
    """A machine with both programs' models, and a third folder."""

    place: Place
    ollama: Path
    studio: Path
    folder: Path
    imported: CliResult

    def run(self, *args: str) -> CliResult:
        return self.place.run(*args, OLLAMA_MODELS=str(self.ollama))

    def names(self) -> list[tuple[str, int, int]]:
        """What lies in the stores: names, sizes and times."""
        found = [path for place in (self.ollama, self.studio, self.folder) for path in sorted(place.rglob("*"))]
        return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in found]

    def contents(self) -> list[object]:
        """The contents of all files too."""
        return [self.names(), *map(tree_of, (self.ollama, self.studio, self.folder))]


@pytest.fixture(scope="module")
def stores(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    top = tmp_path_factory.mktemp("machine")
    ollama, studio, folder = top / "ollama models", top / "user/.lmstudio/models", top / "my models"
    folder.mkdir()
    tiny = write_gguf(folder / "tiny-Q8_0.gguf")
    add_ollama_model(ollama, "smollm2/135m", starter, projector=tiny)
    add_ollama_model(ollama, "registry.ollama.ai/me/other/latest", tiny)
    add_lmstudio_model(studio, REPO, starter, FILE)
    add_lmstudio_model(studio, REPO, tiny, "mmproj-model-f16.gguf")
    with FakeHub() as hub:
        place = Place(top, hub)
        imported = place.run("models", "import", OLLAMA_MODELS=str(ollama))
        yield Stores(place, ollama, studio, folder, imported)
        assert hub.log == []


def test_import_lists_models_of_both_programs(stores: Stores) -> None:
    ran = stores.imported
    assert ran.status == 0
    rows = [line.split() for line in ran.text.splitlines()]
    assert rows == [
        ["NAME", "SIZE", "FROM"],
        ["ollama:me/other:latest", "0", "kB", "ollama"],
        ["ollama:smollm2:135m", "98", "MB", "ollama"],
        [FILE.removesuffix(".gguf"), "98", "MB", "lmstudio"],
    ]
    assert sole(ran.stderr) == "3 models imported in place; use one with --model NAME"
    kept = (stores.place.home / "config/config.toml").read_text()
    assert str(stores.ollama) in kept
    assert str(stores.studio) in kept


def test_imported_models_are_listed_and_shown(stores: Stores) -> None:
    items = {item["name"]: item for item in json.loads(stores.run("models", "list", "--json").text)}
    assert list(items) == ["ollama:me/other:latest", "ollama:smollm2:135m", FILE.removesuffix(".gguf")]
    mine, studio = items["ollama:smollm2:135m"], items[FILE.removesuffix(".gguf")]
    assert (mine["source"], mine["size"], mine["sha256"]) == ("ollama", STARTER_SIZE, [STARTER_SHA256])
    assert mine["files"] == [str(stores.ollama / "blobs" / f"sha256-{STARTER_SHA256}")]
    assert (studio["source"], studio["quantization"]) == ("lmstudio", "Q4_1")
    shown = facts_of(stores.run("models", "show", "ollama:smollm2:135m").text)
    assert shown["parameters"] == "135M"
    assert shown["file"] == mine["files"][0]
    assert shown["mmproj"].startswith(str(stores.ollama / "blobs"))
    verified = stores.run("models", "verify")
    assert verified.status == 0
    assert [line.split()[:2] for line in verified.text.splitlines()[1:]] == [
        ["ok", "ollama:me/other:latest"],
        ["ok", "ollama:smollm2:135m"],
        ["unknown", FILE.removesuffix(".gguf")],
    ]


NAMES = ("ollama:smollm2:135m", f"{REPO}:Q4_1", FILE.removesuffix(".gguf"))


def test_imported_models_generate_in_place(stores: Stores) -> None:
    before = stores.contents()
    answers = [stores.run(*ASK, "-m", name) for name in NAMES]
    assert [(ran.status, ran.stderr) for ran in answers] == [(0, CUT_OFF)] * 3
    assert len({ran.text for ran in answers}) == 1
    assert answers[0].text.strip()
    assert stores.contents() == before
    ours = [path for path in stores.place.home.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in ours) < 1 << 20
    assert not stores.place.cache.exists()


@pytest.mark.parametrize("name", NAMES[:2])
def test_rm_refuses_models_of_other_programs(stores: Stores, name: str) -> None:
    before = stores.names()
    ran = stores.run("models", "rm", "--yes", name)
    assert (ran.status, ran.stdout) == (2, b"")
    owner = "Ollama" if name.startswith("ollama") else "LM Studio"
    assert error_line(ran.stderr).endswith(f" belongs to {owner}")
    assert stores.names() == before


def test_ollama_names_work_without_import(stores: Stores, tmp_path: Path) -> None:
    fresh = Place(tmp_path, stores.place.hub)
    env = {"OLLAMA_MODELS": str(stores.ollama)}
    assert fresh.run(*ASK, "-m", "ollama:smollm2:135m", **env).status == 0
    near = fresh.run(*ASK, "-m", "ollama:smollm2", **env)
    assert near.status == 3
    assert "ollama:smollm2:135m" in near.stderr


def test_ollama_model_is_asked_through_the_template_of_ollama(stores: Stores, starter: Path, tmp_path: Path) -> None:
    template = "{{ if .System }}{{ .System }}\n{{ end }}Q: {{ .Prompt }}\nA: {{ .Response }}<|im_end|>\n"
    add_ollama_model(tmp_path / "store", "qa/latest", starter, template=template)
    fresh, env = Place(tmp_path, stores.place.hub), {"OLLAMA_MODELS": str(tmp_path / "store")}
    asked = fresh.run("generate", "Who?", "--system", "Be brief.", "-m", "ollama:qa", "--show-prompt", **env)
    assert (asked.status, asked.text) == (0, "Be brief.\nQ: Who?\nA: \n")
    shown = json.loads(fresh.run("models", "show", "ollama:qa", "--json", **env).text)
    assert "{{ Prompt }}" in shown["chat_template"]
    assert shown["sampling"] == {"stop": ["</s>"]}


def test_folder_is_imported_in_place_and_forgotten(stores: Stores, tmp_path: Path) -> None:
    fresh = Place(tmp_path, stores.place.hub)
    os.link(stores.studio / REPO / FILE, stores.folder / "mine.gguf")
    try:
        assert fresh.run("models", "import", str(stores.folder)).status == 0
        ran = fresh.run(*ASK, "-m", "mine")
        assert (ran.status, ran.stderr) == (0, CUT_OFF)
        refused = fresh.run("models", "rm", "--yes", "mine")
        assert refused.status == 2
        assert (stores.folder / "mine.gguf").exists()
        assert fresh.run("models", "import", "--forget", str(stores.folder)).status == 0
        assert fresh.run(*ASK, "-m", "mine").status == 3
        again = fresh.run("models", "import", "--forget", str(stores.folder))
        assert (again.status, again.stderr.splitlines()[-1]) == (2, "  hint: imported: no folder")
    finally:
        (stores.folder / "mine.gguf").unlink()


def test_import_error_names_the_searched_folders(stores: Stores, tmp_path: Path) -> None:
    fresh = Place(tmp_path, stores.place.hub)
    none = fresh.run("models", "import", OLLAMA_MODELS=str(tmp_path / "none"))
    assert none.status == 3
    assert error_line(none.stderr).startswith(f"no models of Ollama or LM Studio found in {tmp_path / 'none'}, ")
    assert str(tmp_path / "user/.lmstudio/models") in none.stderr
    assert "give a folder with .gguf files" in none.stderr
    empty = fresh.run("models", "import", str(tmp_path))
    assert empty.status == 3
    assert "no models found in" in error_line(empty.stderr)
