"""Models of other servers, from the URL of a .gguf file: downloaded and verified, found, listed and removed."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from llmcli.errors import LlmcliError, ModelNotFoundError, NetworkError
from llmcli.files import make_private_folder
from llmcli.models.download.partial_file import PartialFile, bytes_downloaded, partial_path
from llmcli.models.file_records import sha256_of
from llmcli.models.gguf.parser import read_header, stem_of
from llmcli.models.hub.environment import check_online
from llmcli.models.hub.repo_files import is_safe_path
from llmcli.models.locations import MOVE_HINT, ModelFile, ModelLocations, Notify, Progress
from llmcli.models.reference import FORMS, Reference, RemoteReference
from llmcli.models.sources.source import DownloadPlan, InstalledModel, ProgressFor, RemovalPlan, Source

_ATTEMPTS = 3
_VERSION, _DIGEST = ".version", ".sha256"  # suffixes of small files beside the model


@dataclass(frozen=True)
class UrlReference(RemoteReference):
    """A .gguf file at a URL outside the Hub, with its sha256 if the URL ends in #sha256=HEX."""

    url: str
    sha256: str | None = None

    def __str__(self) -> str:
        return self.url + (f"#sha256={self.sha256}" if self.sha256 else "")


class Url(Source):
    """Any server. A file is in the cache folder, under a name that comes from its URL."""

    name, label = "url", "URL"
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
        return UrlReference(parts._replace(fragment="").geturl(), digest[1].lower() if digest else None)

    def find(self, reference: Reference, locations: ModelLocations) -> ModelFile | None:
        if not isinstance(reference, UrlReference):
            return None
        path = _download_path(reference, locations.cache_dir)
        return ModelFile(path, (path,), stem_of(path)) if path.is_file() else None

    def models(self, locations: ModelLocations) -> Iterator[InstalledModel]:
        for path in sorted((locations.cache_dir / "urls").glob("*/*.gguf")):
            yield InstalledModel(str(path), self, (path,), path.stat().st_size, (_read_note(path, _DIGEST),))

    def plan(
        self, reference: Reference, locations: ModelLocations, memory: int, notify: Notify, projector: bool = False
    ) -> DownloadPlan | None:
        """Ask for the size of the file, with a request for its first byte."""
        if not isinstance(reference, UrlReference):
            return None
        from llmcli.models.download.http import RetryPolicy  # 8 ms, only for downloads

        check_online(locations.offline, str(reference))
        size, version = RetryPolicy(notify, _ATTEMPTS).run(lambda: _size_and_version(reference))
        path = _download_path(reference, locations.cache_dir)
        downloaded = size if path.is_file() else bytes_downloaded(partial_path(path), size)
        if _read_note(path, _VERSION) != version:
            downloaded = 0
        return UrlPlan(reference, path.name, size, size - downloaded, reason="", update="", path=path, version=version)

    def plan_removal(self, item: InstalledModel, locations: ModelLocations) -> RemovalPlan:
        """Plan the removal of the file and the notes beside it: its folder contains nothing else."""
        beside = (path for path in item.path.parent.iterdir() if path != item.path)
        return RemovalPlan(item, (item.path, *beside), item.size)


SOURCE = Url()


@dataclass(frozen=True)
class UrlPlan(DownloadPlan):
    """A download from a URL to `path`. `version` is the server's ETag or Last-Modified."""

    reference: UrlReference
    path: Path
    version: str

    def download(self, progress_for: ProgressFor, notify: Notify) -> ModelFile:
        """Download the file, and verify its sha256 (if the URL has one) and its header.

        Raises:
            LlmcliError: the download failed; nothing is published.
        """
        from llmcli.models.download.partial_file import check_free_space, write_error
        from llmcli.models.download.transfer import exclusive

        path, progress, expected = self.path, progress_for(self.path.name), self.reference.sha256
        try:
            make_private_folder(path.parent)
            check_free_space(path.parent, self.missing, MOVE_HINT)
            with exclusive(path.with_suffix(".lock"), path.name, notify, lambda: None):
                has_size = path.is_file() and path.stat().st_size == self.size
                is_current = has_size and _read_note(path, _VERSION) == self.version
                if not is_current or (expected and sha256_of(path, progress) != expected):
                    _download(self, progress, notify)
        except OSError as error:
            raise write_error(error, path.parent, path, MOVE_HINT) from None
        return ModelFile(path, (path,), stem_of(path))


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


def _download(plan: UrlPlan, progress: Progress, notify: Notify) -> None:
    from llmcli.models.download.http import RemoteFile, host_of
    from llmcli.models.download.transfer import check_sha256, download_file

    partial = partial_path(plan.path)
    if _read_note(plan.path, _VERSION) != plan.version:  # the partial file is of another version
        PartialFile(partial, plan.size).discard()
        plan.path.with_suffix(_VERSION).write_text(plan.version)
    expected = plan.reference.sha256

    def verify(digest: str) -> None:
        try:
            if expected:
                check_sha256(digest, expected, plan.path.name, "")
            read_header(partial)
        except LlmcliError as error:
            message = str(error).replace(str(partial), plan.reference.url)
            raise type(error)(message, "check the URL") from None

    remote = RemoteFile(plan.reference.url, {}, plan.size)
    digest = download_file(remote, plan.path, verify, progress, notify)
    if expected:
        plan.path.with_suffix(_DIGEST).write_text(expected)
    else:
        host = host_of(plan.reference.url)
        notify(f"not verified: {host} publishes no checksum; the file has sha256={digest}")


def _download_path(reference: UrlReference, cache_dir: Path) -> Path:
    """The path at which the file of a URL is stored."""
    name = unquote(urlsplit(reference.url).path).rpartition("/")[2]
    key = hashlib.sha256(reference.url.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return cache_dir / "urls" / key / (name if is_safe_path(name) else "model.gguf")


def _read_note(path: Path, suffix: str) -> str:
    """The text of a small file beside a model; "" if there is none."""
    try:
        return path.with_suffix(suffix).read_text()[:200]
    except (OSError, UnicodeDecodeError):
        return ""
