"""Download a .gguf file from a URL, and verify it with the sha256 of the URL (if given) and its header."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from llmcli.errors import LlmcliError, ModelInvalidError, ModelNotFoundError, NetworkError
from llmcli.files import make_private_folder
from llmcli.models.download.fetch import check_free_space, download, exclusive, write_error
from llmcli.models.download.http import Notify, RetryPolicy, host_of, request
from llmcli.models.download.partial_file import PARTIAL, PartialFile, bytes_downloaded
from llmcli.models.download.transfer import RemoteFile
from llmcli.models.file_records import sha256_of
from llmcli.models.gguf.parser import read_header
from llmcli.models.gguf.splits import stem_of
from llmcli.models.hub.environment import check_online
from llmcli.models.hub.repo_files import is_safe_path
from llmcli.models.locations import ModelFile, Progress
from llmcli.models.reference import UrlReference

_ATTEMPTS = 3
_VERSION, _DIGEST = ".version", ".sha256"  # suffixes of small files beside the model


@dataclass(frozen=True)
class UrlPlan:
    """What will be downloaded from a URL; sizes are in bytes."""

    reference: UrlReference
    path: Path
    size: int
    missing: int
    version: str  # the server's ETag or Last-Modified


def plan_url(reference: UrlReference, cache_dir: Path, offline: bool, notify: Notify) -> UrlPlan:
    """Ask for the size of the file, with a request for its first byte.

    Raises:
        ModelNotFoundError: the server does not have the file.
        NetworkError: the server cannot be reached.
    """
    check_online(offline, str(reference))
    size, version = RetryPolicy(notify, _ATTEMPTS).run(lambda: _size_and_version(reference))
    path = download_path(reference, cache_dir)
    downloaded = size if path.is_file() else bytes_downloaded(_partial(path), size)
    if _read_note(path, _VERSION) != version:
        downloaded = 0
    return UrlPlan(reference, path, size, size - downloaded, version)


def pull_url(plan: UrlPlan, progress: Progress, notify: Notify) -> ModelFile:
    """Download the file, and verify its sha256 (if the URL has one) and its header.

    Raises:
        LlmcliError: the download failed; nothing is published.
    """
    path = plan.path
    try:
        make_private_folder(path.parent)
        check_free_space(path.parent, plan.missing)
        with exclusive(path.with_suffix(".lock"), path.name, notify, lambda: None):
            if not _is_downloaded(plan, progress):
                _download(plan, progress, notify)
    except OSError as error:
        raise write_error(error, path.parent, path, "move the cache with LLMCLI_HOME") from None
    return ModelFile(path, (path,), stem_of(path), trusted=False)


def download_path(reference: UrlReference, cache_dir: Path) -> Path:
    """The path at which the file of a URL is stored."""
    name = unquote(urlsplit(reference.url).path).rpartition("/")[2]
    key = hashlib.sha256(reference.url.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return cache_dir / "urls" / key / (name if is_safe_path(name) else "model.gguf")


def downloaded_files(cache_dir: Path) -> list[Path]:
    """The files that were downloaded from URLs."""
    return sorted((cache_dir / "urls").glob("*/*.gguf"))


def expected_sha256(path: Path) -> str:
    """The sha256 in the URL of a downloaded file; "" if it had none."""
    return _read_note(path, _DIGEST)


def _size_and_version(reference: UrlReference) -> tuple[int, str]:
    """The size of the file in bytes, and its ETag or Last-Modified."""
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


def _is_downloaded(plan: UrlPlan, progress: Progress) -> bool:
    """Whether the file is downloaded: its size and version match, and its sha256 if the URL has one."""
    path, expected = plan.path, plan.reference.sha256
    if not path.is_file() or path.stat().st_size != plan.size or _read_note(path, _VERSION) != plan.version:
        return False
    return expected is None or sha256_of(path, progress) == expected


def _download(plan: UrlPlan, progress: Progress, notify: Notify) -> None:
    partial = PartialFile(_partial(plan.path), plan.size)
    if _read_note(plan.path, _VERSION) != plan.version:  # the partial file is of another version
        partial.discard()
        plan.path.with_suffix(_VERSION).write_text(plan.version)
    expected = plan.reference.sha256

    def verify(digest: str) -> None:
        try:
            if expected and digest != expected:
                raise ModelInvalidError(f"checksum mismatch for {plan.path.name}: got {digest}, expected {expected}")
            read_header(partial.path)
        except LlmcliError as error:
            message = str(error).replace(str(partial.path), plan.reference.url)
            raise type(error)(message, "check the URL") from None

    remote = RemoteFile(plan.reference.url, {}, plan.size)
    digest = download(remote, partial, plan.path, verify, progress, notify)
    if expected:
        plan.path.with_suffix(_DIGEST).write_text(expected)
    else:
        host = host_of(plan.reference.url)
        notify(f"not verified: {host} publishes no checksum; the file has sha256={digest}")


def _read_note(path: Path, suffix: str) -> str:
    try:
        return path.with_suffix(suffix).read_text()[:200]
    except (OSError, UnicodeDecodeError):
        return ""


def _partial(path: Path) -> Path:
    return path.with_name(path.name + PARTIAL)
