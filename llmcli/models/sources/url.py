"""Models of other servers, from the URL of a .gguf file: downloaded and verified, found, listed and removed."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from llmcli.errors import ModelInvalidError, ModelNotFoundError, NetworkError
from llmcli.files import make_private_folder
from llmcli.models import notes
from llmcli.models.download.partial_file import PartialFile, bytes_downloaded, partial_path, writing
from llmcli.models.gguf.header import GGUFHeader
from llmcli.models.gguf.parser import read_header, read_remote_header, stem_of
from llmcli.models.hub.environment import check_online
from llmcli.models.hub.repo_files import is_safe_path
from llmcli.models.locations import MOVE_HINT, ModelFile, ModelLocations, Notify, Progress
from llmcli.models.reference import FORMS, Reference, RemoteReference
from llmcli.models.sources.source import DownloadPlan, InstalledModel, ProgressFor, RemovalPlan, Source


@dataclass(frozen=True)
class UrlReference(RemoteReference):
    """A .gguf file at a URL outside the Hub, with its sha256 if the URL ends in #sha256=HEX.

    A site can have references of another form: a class below this one with another `str` and another path.
    """

    url: str
    sha256: str = ""

    def __str__(self) -> str:
        return self.url + (f"#sha256={self.sha256}" if self.sha256 else "")

    def path(self, cache_dir: Path) -> Path:
        """Where the file is after its download."""
        import hashlib  # 3 ms that a list does not need

        name = unquote(urlsplit(self.url).path).rpartition("/")[2]
        key = hashlib.sha256(self.url.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return cache_dir / "urls" / key / (name if is_safe_path(name) else "model.gguf")


class Url(Source):
    """Any server. A subclass is a site that has references of its own, to single files."""

    name, label = "url", "URL"
    folder = "urls"  # in the cache folder
    reference_type = UrlReference
    is_removable = True

    def parse(self, text: str) -> Reference | None:
        """The URL of a file; the Hub has its own URLs already."""
        if "://" not in text:
            return None
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ModelNotFoundError(f"'{text}' is not the URL of a model", "give an http or https URL")
        if not parts.path.lower().endswith(".gguf"):
            raise ModelNotFoundError(f"'{text}' does not end in .gguf", FORMS)
        if parts.username or parts.password:
            raise ModelNotFoundError("a URL with a user name or password is not allowed", "remove them from the URL")
        digest = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", parts.fragment)
        if parts.fragment.startswith("sha256") and not digest:
            raise ModelNotFoundError(
                f"'{text}' does not end in a valid sha256", "write #sha256=HEX with 64 hexadecimal digits"
            )
        return UrlReference(parts._replace(fragment="").geturl(), digest[1].lower() if digest else "")

    def find(self, reference: Reference, locations: ModelLocations) -> ModelFile | None:
        if not isinstance(reference, self.reference_type):
            return None
        path = reference.path(locations.cache_dir)
        return ModelFile(path, (path,), stem_of(path)) if path.is_file() else None

    def models(self, locations: ModelLocations) -> Iterator[InstalledModel]:
        for path in sorted((locations.cache_dir / self.folder).rglob("*.gguf")):
            note = notes.read(locations.data_dir, path)
            digest = note.get("published") or note.get("received") or ""
            yield InstalledModel(str(path), self, (path,), path.stat().st_size, (digest,))

    def plan(self, reference: Reference, locations: ModelLocations, memory: int, notify: Notify) -> DownloadPlan | None:
        if not isinstance(reference, self.reference_type):
            return None
        from llmcli.models.download.http import RetryPolicy  # 8 ms, only for downloads

        check_online(locations.offline, str(reference))
        size, version = RetryPolicy(notify, attempts=3).run(lambda: _size_and_version(reference))
        path, data_dir = reference.path(locations.cache_dir), locations.data_dir
        if path.is_file():
            missing = 0 if _is_version(data_dir, path, version) else size
        else:
            partial = partial_path(path)
            is_same = notes.read(data_dir, partial).get("version") == version
            missing = size - bytes_downloaded(partial, size) if is_same else size
        return FilePlan(reference, path.name, size, missing, "", "", path, version, data_dir)

    def plan_removal(self, item: InstalledModel, locations: ModelLocations) -> RemovalPlan:
        """Plan the removal of the file and of what its downloads left beside it: x.lock, x.gguf.llmcli.incomplete."""
        model = item.path
        others = (path for path in model.parent.iterdir() if path != model)
        beside = [path for path in others if path.stem == model.stem or path.name.startswith(f"{model.name}.")]
        return RemovalPlan(item, (model, *beside), item.size)

    def repair_hint(self, item: InstalledModel, locations: ModelLocations) -> str:
        reference = notes.read(locations.data_dir, item.path).get("reference", "URL")  # older notes do not have it
        return f"download it again with `llmcli pull {shlex.quote(reference)}`"


SOURCE = Url()


@dataclass(frozen=True)
class FilePlan(DownloadPlan):
    """A download of one file to `path`. `version` is the ETag or Last-Modified."""

    reference: UrlReference
    path: Path
    version: str
    data_dir: Path

    def header(self) -> GGUFHeader:
        from llmcli.models.download.http import RemoteFile

        return read_remote_header(RemoteFile(self.reference.url, {}, self.size, "").read, self.size, self.path.name)

    def download(self, progress_for: ProgressFor, notify: Notify) -> ModelFile:
        """Download the file, and verify its sha256 (if it is known) and its header."""
        from llmcli.models.download.transfer import exclusive

        path, progress, sha256 = self.path, progress_for(self.path.name), self.reference.sha256
        with writing(path.parent, self.missing, MOVE_HINT):
            make_private_folder(path.parent)
            with exclusive(path.with_suffix(".lock"), path.name, notify, lambda: None):
                has_size = path.is_file() and path.stat().st_size == self.size
                if not has_size or not _is_version(self.data_dir, path, self.version):
                    self._download(progress, notify)
                elif not self._is_sound(progress):
                    notify(f"{path.name} is damaged, or another file: downloading it again")
                    self._download(progress, notify)
        notes.update(self.data_dir, path, reference=str(self.reference))
        if sha256:
            notes.update(self.data_dir, path, published=sha256)
        return ModelFile(path, (path,), stem_of(path))

    def replaces(self, partial: Path) -> bool:
        is_other = notes.read(self.data_dir, partial).get("version") != self.version
        return partial == partial_path(self.path) and is_other

    def _is_sound(self, progress: Progress) -> bool:
        """Whether the file has the sha256 of the URL, otherwise that of the bytes that the server sent, if known."""
        note = notes.read(self.data_dir, self.path)
        expected = self.reference.sha256 or note.get("received")
        if not expected:
            return True
        if not note.get("sha256"):
            notes.record_sha256(self.data_dir, self.path, notes.sha256_of(self.path, progress))
        return notes.read(self.data_dir, self.path).get("sha256", expected) == expected

    def _download(self, progress: Progress, notify: Notify) -> None:
        from llmcli.models.download.http import RemoteFile, host_of
        from llmcli.models.download.transfer import download_file

        url, sha256, partial = self.reference.url, self.reference.sha256, partial_path(self.path)
        remote = RemoteFile(url, {}, self.size, sha256)
        if notes.read(self.data_dir, partial).get("version") != self.version:
            PartialFile(partial, self.size).discard()
        notes.update(self.data_dir, partial, reference=str(self.reference), size=self.size, version=self.version)
        try:
            digest = download_file(remote, self.path, self.path.name, progress, notify, check=read_header)
        except ModelInvalidError as error:
            raise ModelInvalidError(str(error).replace(str(partial), url), "check the URL") from None
        notes.forget(self.data_dir, partial)
        notes.update(self.data_dir, self.path, version=self.version, received=digest)
        notes.record_sha256(self.data_dir, self.path, digest)
        if not sha256:
            notify(f"not verified: {host_of(url)} publishes no checksum; the file has sha256={digest}")


def _is_version(data_dir: Path, path: Path, version: str) -> bool:
    """Whether a file is of this version, as far as is known."""
    return notes.read(data_dir, path).get("version", version) == version


def _size_and_version(reference: UrlReference) -> tuple[int, str]:
    """The size of the file in bytes, and its ETag or Last-Modified."""
    from llmcli.models.download.http import host_of, request

    with request(reference.url, {"range": "bytes=0-0"}, to_other_hosts=True) as response:
        host = host_of(reference.url)
        if response.status_code in (404, 410):
            raise ModelNotFoundError(f"{host} has no such file", f"check the URL {reference}")
        if response.status_code not in (200, 206):
            raise NetworkError(f"{host} returned status {response.status_code}", f"open {reference} in a browser")
        match = re.fullmatch(r"bytes 0-0/(\d+)", response.headers.get("content-range", ""))
        length = match[1] if match else response.headers.get("content-length", "")
        version = response.headers.get("etag", "") or response.headers.get("last-modified", "")
    if not length.isdigit() or not 0 < int(length) < 1 << 50 or "text/html" in response.headers.get("content-type", ""):
        raise NetworkError(f"{host} did not return a file", f"open {reference} in a browser")
    return int(length), version[:200]
