"""A site with single files is a class below `Url`: its files are found, listed and removed without more code."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from llmcli.models import notes
from llmcli.models.download.partial_file import partial_path
from llmcli.models.installed import remove
from llmcli.models.locations import ModelLocations
from llmcli.models.reference import Reference
from llmcli.models.sources.registry import sources
from llmcli.models.sources.url import Url, UrlReference


@dataclass(frozen=True)
class SiteReference(UrlReference):
    name: str = ""

    def path(self, cache_dir: Path) -> Path:
        return cache_dir / "site" / "owner" / self.name


def site_reference(name: str) -> SiteReference:
    return SiteReference(f"https://site.example/{name}", name=name)


class Site(Url):
    name, folder, reference_type = "site", "site", SiteReference

    def parse(self, text: str) -> Reference | None:
        return site_reference(text.removeprefix("site:")) if text.startswith("site:") else None


@pytest.fixture
def locations(tmp_path: Path) -> ModelLocations:
    """A machine with two models of the site, which are in one folder."""
    found = ModelLocations(tmp_path / "cache", tmp_path / "data", hub=tmp_path / "hub")
    for name in ("a.gguf", "a.b.gguf"):
        path = site_reference(name).path(found.cache_dir)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"model")
        for left in (path.with_suffix(".lock"), partial_path(path)):
            left.touch()
        notes.update(found.data_dir, path, published="1" * 64)
    return found


def test_file_of_a_site_is_found_by_its_own_reference_only(locations: ModelLocations) -> None:
    reference = Site().parse("site:a.gguf")
    assert reference is not None
    found = Site().find(reference, locations)
    assert found is not None
    assert (found.name, found.path.name) == ("a", "a.gguf")
    assert Site().find(site_reference("c.gguf"), locations) is None
    assert Site().find(UrlReference("https://example.org/a.gguf"), locations) is None


def test_files_of_a_site_are_listed_with_their_checksums(locations: ModelLocations) -> None:
    models = list(Site().models(locations))
    assert [(model.path.name, model.size, model.digests) for model in models] == [
        ("a.b.gguf", 5, ("1" * 64,)),
        ("a.gguf", 5, ("1" * 64,)),
    ]


def test_removal_keeps_other_files_of_the_folder(locations: ModelLocations) -> None:
    other, model = Site().models(locations)
    remove(Site().plan_removal(model, locations), locations)
    assert sorted(path.name for path in model.path.parent.iterdir()) == [
        "a.b.gguf",
        "a.b.gguf.llmcli.incomplete",
        "a.b.lock",
    ]
    assert notes.read(locations.data_dir, model.path) == {}
    remove(Site().plan_removal(other, locations), locations)
    assert not (locations.cache_dir / "site").exists()


def test_sources_that_take_what_is_left_are_asked_last() -> None:
    names = [source.name for source in sources()]
    assert names[:2] == ["starter", "hub"]
    assert names[-3:] == ["url", "lmstudio", "folder"]
