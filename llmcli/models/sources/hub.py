"""Models of the Hugging Face Hub: parse a reference; find, list and remove models in the cache of all its tools."""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from llmcli.errors import LlmcliError, ModelNotFoundError
from llmcli.models import notes
from llmcli.models.gguf.parser import stem_of
from llmcli.models.hub import cache
from llmcli.models.hub.cache import CachedModel, cached_models, models_of_repo
from llmcli.models.hub.environment import endpoint
from llmcli.models.hub.repo_files import RepoFile, canonical_quantization, select_quantization
from llmcli.models.locations import ModelFile, ModelLocations, Notify
from llmcli.models.reference import FORMS, MAIN, HubReference, Reference, is_repo, parse_hub, parse_local
from llmcli.models.sources.source import DownloadPlan, InstalledModel, RemovalPlan, Source, remove_empty
from llmcli.text import plural

_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_SHORT_COMMIT = re.compile(r"[0-9a-f]{7,40}")


class Hub(Source):
    """The Hub, and the cache with the models that llmcli or any other Hugging Face tool downloaded."""

    name, label = "hub", "Hub cache"
    is_removable = True

    def parse(self, text: str) -> Reference | None:
        """owner/repo with its marks, or the URL of a page or file of the Hub or of its mirror (HF_ENDPOINT)."""
        if text.startswith("hf://"):
            return parse_hub(text.removeprefix("hf://").removeprefix("models/"), text)
        if "://" not in text and re.split(r"[/:?#]", text.lower(), maxsplit=1)[0] not in _HOSTS:
            has_prefix = ":" in text.partition("/")[0]  # as in ollama:NAME
            return None if has_prefix or parse_local(text) else parse_hub(text, text)
        try:
            parts, mirror = urlsplit(text if "://" in text else f"https://{text}"), urlsplit(endpoint())
        except ValueError:  # brackets without an IPv6 address between them
            raise ModelNotFoundError(f"'{text}' is not a valid URL", FORMS) from None
        host, base = parts.netloc.lower(), mirror.path.rstrip("/") + "/"
        if parts.scheme not in ("http", "https"):
            return None
        # The page of a repository shows the facts of the file that its query names.
        shown = parse_qs(parts.query).get("show_file_info", [""])[0]
        if host in _HOSTS:
            return _parse_page(parts.path, shown, text)
        is_mirror = mirror.netloc and host == mirror.netloc.lower() and parts.path.startswith(base)
        return _parse_page(parts.path.removeprefix(base), shown, text) if is_mirror else None

    def find(self, reference: Reference, locations: ModelLocations) -> ModelFile | None:
        """The model as it was pulled; otherwise the best match."""
        if not isinstance(reference, HubReference):
            return None
        here = _in_cache(reference, locations)
        for name in dict.fromkeys((str(reference), str(here))):
            if pulled := cache.read_revision(cache.revision_path(locations.data_dir, name)):
                folder = locations.hub, pulled.repo, pulled.commit
                parts = tuple(cache.pointer_path(*folder, file.path) for file in pulled.files)
                if all(path.is_file() for path in parts):
                    return ModelFile(parts[0], parts, stem_of(parts[0]))
        model = _best_match(here, locations)
        return ModelFile(model.parts[0], model.parts, model.variant.name) if model else None

    def models(self, locations: ModelLocations) -> Iterator[InstalledModel]:
        """The models of the cache, by the shortest reference; a model that is the same at several commits is one."""
        pulled = cache.all_revisions(locations.data_dir)
        recorded = {(record.repo, file.path): file.sha256 for record in pulled for file in record.files}
        seen: dict[tuple[str, str], list[CachedModel]] = {}
        for model in cached_models(locations.hub):
            others = seen.setdefault((model.repo, model.variant.path), [])
            if any(model.is_same(other) for other in others):
                continue
            others.append(model)
            name = self._shortest_reference(model, locations)
            digests = tuple(part.sha256 or recorded.get((model.repo, part.path), "") for part in model.variant.parts)
            yield InstalledModel(name, self, model.parts, model.variant.size, digests, cached=model)

    def plan(self, reference: Reference, locations: ModelLocations, memory: int, notify: Notify) -> DownloadPlan | None:
        if not isinstance(reference, HubReference):
            return None
        from llmcli.models.hub.repo_download import plan_pull  # 8 ms that a downloaded model does not need

        return plan_pull(reference, locations, memory, notify)

    def plan_removal(self, item: InstalledModel, locations: ModelLocations) -> RemovalPlan:
        """Plan the removal: the same bytes can be in the cache at several commits, and all of them are this model.

        A projector that another program downloaded stays, unless that program downloaded the model too.

        Raises DiskError if a link leads out of the cache.
        """
        model = item.cached
        assert model  # every item of this source has it
        of_repo = models_of_repo(locations.hub, model.repo, model.variant.complete)
        same = [other for other in of_repo if other.is_same(model)]
        pointers = [part for other in same for part in other.parts]
        commits = [other.commit for other in models_of_repo(model.cache, model.repo)]
        is_foreign = not any(_is_pulled(other, other.variant.parts, locations) for other in same)
        for other in same:
            projector = other.projector if commits.count(other.commit) <= 1 else None  # of no other model of the commit
            if projector and (is_foreign or _is_pulled(other, [projector], locations)):
                pointers.append(other.path_of(projector))
        blobs = dict.fromkeys(_blob_of(pointer) for pointer in pointers if pointer.is_symlink())
        folder = cache.folder_of(locations.hub, model.repo)
        for path in (*pointers, *blobs):
            cache.check_inside(path.parent, locations.hub)
        links = (path for path in (folder / "snapshots").rglob("*") if path.is_symlink())
        used = {_blob_of(link) for link in links if link not in pointers}
        top = Path(os.path.realpath(folder)) / "blobs"
        unused = [blob for blob in blobs if blob not in used and blob.parent == top]
        freed = sum(path.stat().st_size for path in (*unused, *pointers) if not path.is_symlink())
        shared = [Path(os.path.realpath(blob)) for blob in unused if blob.is_symlink()]
        kept = (*(blob for blob in blobs if blob not in unused), *shared)
        return RemovalPlan(item, (*pointers, *unused), freed, kept, is_foreign)

    def repair_hint(self, item: InstalledModel, locations: ModelLocations) -> str:
        model = item.cached
        assert model  # every item of this source has it
        name, at, _ = item.name.partition("@")
        if not is_repo(_repo_of(name)):  # no reference leads to it: the name is its path
            name, at = f"{model.repo}/{model.variant.path}", "@"
        return f"download it again with `llmcli pull {name}{at and f'@{model.commit}'}`"

    def clean_up(self, plan: RemovalPlan, locations: ModelLocations) -> None:
        model = plan.item.cached
        assert model
        folder = cache.folder_of(locations.hub, model.repo)
        for path in plan.files:
            remove_empty(path.parent, folder / "snapshots")
        _remove_refs(folder)
        # An empty repository is removed completely. In another one `snapshots` stays: the Hub's tools need it.
        with contextlib.suppress(OSError):
            for name in ("blobs", "refs"):
                if (folder / name).exists():
                    (folder / name).rmdir()
            if os.listdir(folder) == ["snapshots"]:
                (folder / "snapshots").rmdir()
                folder.rmdir()
        records = (record for record in cache.all_revisions(locations.data_dir) if record.repo == model.repo)
        for reference in [record.reference for record in records if record.files[0] in model.variant.parts]:
            with contextlib.suppress(OSError):
                cache.revision_path(locations.data_dir, reference).unlink(missing_ok=True)

    def all_named(self, reference: HubReference, locations: ModelLocations) -> list[InstalledModel]:
        """All models that a reference can mean, and the parts that an interrupted pull of a split model left behind.

        If there are several, each has a name that means only it.
        """
        here = _in_cache(reference, locations)
        models = [item.cached for item in self.models(locations) if item.cached and item.cached.repo == here.repo]
        models += models_of_repo(locations.hub, here.repo, whole=False)
        of_repo = [one for whole in (True, False) for one in models_of_repo(locations.hub, here.repo, whole)]
        fitting = [model for model in _of_revision(of_repo, here, locations) if _is_exact(model, here)]
        found = [model for model in models if any(model.is_same(other) for other in fitting)]
        paths = [model.variant.path for model in found]
        items = []
        for model in found:
            variant, missing = model.variant, len(model.variant.missing)
            same_type = {other.variant.path for other in found if other.variant.quantization == variant.quantization}
            is_by_type = variant.quantization and len(same_type) == 1
            name = f"{model.repo}:{variant.quantization}" if is_by_type else f"{model.repo}/{variant.path}"
            name += f"@{model.commit[:8]}" if paths.count(variant.path) > 1 else ""
            name += f" (incomplete: {plural(missing, 'part')} missing)" if missing else ""
            digests = tuple(part.sha256 for part in variant.parts)
            items.append(InstalledModel(name, self, model.parts, variant.size, digests, cached=model))
        return items

    def _shortest_reference(self, model: CachedModel, locations: ModelLocations) -> str:
        """The shortest reference that finds this model, and not a similar one or another commit; or else its path."""
        quantization, path = model.variant.quantization, os.path.realpath(model.parts[0])
        names = [*([f"{model.repo}:{quantization}"] if quantization else []), f"{model.repo}/{model.variant.path}"]
        commits = ("", f"@{model.commit[:8]}", f"@{model.commit}")
        for name in (name + commit for commit in commits for name in names):
            with contextlib.suppress(LlmcliError):
                found = self.find(parse_hub(name, name), locations)
                if found and os.path.realpath(found.path) == path:
                    return name
        return str(model.parts[0])


SOURCE = Hub()


def _parse_page(path: str, shown: str, text: str) -> HubReference:
    """Parse owner/repo, owner/repo:Q4_K_M, or .../blob|resolve|tree|raw/REVISION[/FILE]; `shown` is FILE on a page."""
    pieces = [unquote(piece) for piece in path.strip("/").split("/", 4)]  # split first: a revision can contain %2F
    if pieces[0] in ("datasets", "spaces"):
        raise ModelNotFoundError(f"'{text}' is not a model", "give the URL of a model repository")
    shown = shown if shown.lower().endswith(".gguf") else ""
    if len(pieces) < 4 or pieces[2] not in ("blob", "resolve", "tree", "raw"):
        return parse_hub("/".join(pieces) + (f"/{shown}" if shown and len(pieces) == 2 else ""), text)
    repo, revision = "/".join(pieces[:2]), pieces[3]
    file = pieces[4] if len(pieces) > 4 and pieces[4].lower().endswith(".gguf") else shown
    return parse_hub(repo + (f"/{file}" if file else "") + ("" if revision == MAIN else f"@{revision}"), text)


def _in_cache(reference: HubReference, locations: ModelLocations) -> HubReference:
    """The reference with the name of its repository in the cache: in its own case, and the new one of a renamed one."""
    repo = cache.repo_in_cache(locations.hub, reference.repo)
    if not cache.folder_of(locations.hub, repo).is_dir():
        pulled, typed = cache.all_revisions(locations.data_dir), reference.repo.casefold()
        repo = next((record.repo for record in pulled if _repo_of(record.reference).casefold() == typed), repo)
    return replace(reference, repo=repo)


def _repo_of(reference: str) -> str:
    """The repository in the text of a reference to the Hub."""
    return "/".join(re.split(r"[/:@]", reference, maxsplit=2)[:2])


def _best_match(reference: HubReference, locations: ModelLocations) -> CachedModel | None:
    """The matching model of the cache. With several commits: an exact match first, then one that llmcli pulled."""
    models = _of_revision(models_of_repo(locations.hub, reference.repo), reference, locations)
    exact = {model.commit for model in models if _is_exact(model, reference)}
    commits = dict.fromkeys(model.commit for model in models)
    if len(commits) > 1:
        pulled = [record.commit for record in cache.all_revisions(locations.data_dir) if record.repo == reference.repo]
        commits = dict.fromkeys([*(commit for commit in pulled if commit in commits), *commits])
    for commit in sorted(commits, key=lambda commit: commit not in exact):
        found = {model.variant: model for model in models if model.commit == commit}
        with contextlib.suppress(ModelNotFoundError):
            return found[select_quantization(list(found), reference.quant, reference.file, reference.repo)]
    return None


def _of_revision(models: list[CachedModel], reference: HubReference, locations: ModelLocations) -> list[CachedModel]:
    """The models at the revision of the reference; all of them if it has none."""
    if not reference.revision:
        return models
    commit = cache.read_ref(locations.hub, reference.repo, reference.revision)
    short = reference.revision if _SHORT_COMMIT.fullmatch(reference.revision) else "-"
    return [model for model in models if model.commit == commit or model.commit.startswith(short)]


def _is_pulled(model: CachedModel, files: Iterable[RepoFile], locations: ModelLocations) -> bool:
    """Whether llmcli downloaded one of these files of a model: a note or a record says so."""
    if any(notes.read(locations.data_dir, model.path_of(file)).get("reference") for file in files):
        return True
    records = (record for record in cache.all_revisions(locations.data_dir) if record.repo == model.repo)
    pulled = {file.path: file for record in records for file in (*record.files, *filter(None, [record.projector]))}
    return any(file.path in pulled and file.sha256 in ("", pulled[file.path].sha256) for file in files)


def _is_exact(model: CachedModel, reference: HubReference) -> bool:
    """Whether the model matches exactly: `select_quantization` also takes UD-Q4_K_M for Q4_K_M when that is missing."""
    if reference.file:
        return any(part.path == reference.file for part in model.variant.parts)
    return reference.quant is None or model.variant.quantization == canonical_quantization(reference.quant)


def _blob_of(pointer: Path) -> Path:
    """The target of a pointer, one step only: a blob can itself be a link into a store that repositories share."""
    target = pointer.parent / os.readlink(pointer)
    return Path(os.path.realpath(target.parent), target.name)


def _remove_refs(folder: Path) -> None:
    """Remove the refs of commits that are no longer in the cache, and the folders that are empty then."""
    refs = folder / "refs"
    if refs.is_symlink():
        return
    for path in sorted(refs.rglob("*"), reverse=True):  # what is in a folder before the folder
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if path.is_dir():
                path.rmdir()
            elif not (folder / "snapshots" / path.read_text()[:64].strip()).is_dir():
                path.unlink()
