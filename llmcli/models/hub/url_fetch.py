"""A .gguf file behind a plain address: fetched like a file of the hub, checked as far as its publisher allows."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from llmcli.errors import DiskError, LlmcliError, ModelInvalidError, ModelNotFoundError, NetworkError
from llmcli.models.find import ModelFile
from llmcli.models.gguf.reader import read_header
from llmcli.models.gguf.splits import stem_of
from llmcli.models.hub.fetch import check_room, sync
from llmcli.models.hub.http import check_online, host_of, requested
from llmcli.models.hub.layout import PARTIAL
from llmcli.models.hub.lock import only_one
from llmcli.models.hub.partial import Partial, bytes_here
from llmcli.models.hub.retries import PassingError, Patience, Say
from llmcli.models.hub.source import Source
from llmcli.models.hub.transfer import Transfer
from llmcli.models.hub.variants import is_safe_path
from llmcli.models.private_files import make_private_folder
from llmcli.models.reference import HubReference, UrlReference
from llmcli.models.starter import Progress
from llmcli.models.verified import sha256_of

_TRIES = 3
_VERSION, _DIGEST = ".version", ".sha256"  # of small files beside the model


def place_of(reference: UrlReference, cache_dir: Path) -> Path:
    """Where the file of an address lies, once it was fetched."""
    name = unquote(urlsplit(reference.url).path).rpartition("/")[2]
    key = hashlib.sha256(reference.url.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return cache_dir / "urls" / key / (name if is_safe_path(name) else "model.gguf")


@dataclass(frozen=True)
class UrlPlan:
    """What fetching an address would bring; bytes."""

    reference: UrlReference
    place: Path
    size: int
    missing: int
    version: str  # what the server calls this state of the file (ETag, or the time it changed)


def plan_url(reference: UrlReference, cache_dir: Path, offline: bool, say: Say) -> UrlPlan:
    """Ask how long the file is, by its first byte.

    Raises:
        ModelNotFoundError: when there is no such file.
        NetworkError: when the server cannot be asked.
    """
    check_online(offline, str(reference))
    patience = Patience(say, _TRIES)
    while True:
        try:
            size, version = _look(reference)
            break
        except PassingError as fault:
            patience.wait(fault)
    place = place_of(reference, cache_dir)
    here = size if place.is_file() else bytes_here(_partial(place), size)
    if _told(place, _VERSION) != version:
        here = 0
    return UrlPlan(reference, place, size, size - here, version)


def pull_url(plan: UrlPlan, progress: Progress, say: Say) -> ModelFile:
    """Fetch the file, check it by its sha256 where the address gives one and by its header in any case.

    Raises:
        LlmcliError: of the kind that fits; nothing was published then.
    """
    place = plan.place
    try:
        make_private_folder(place.parent)
        check_room(place.parent, plan.missing)
        with only_one(place.with_suffix(".lock"), place.name, say, lambda: None):
            if not _is_here(plan, progress):
                _fetch(plan, progress, say)
    except OSError as error:
        raise DiskError(
            f"cannot write {place}: {error.strerror or error}", "Move the cache with LLMCLI_HOME."
        ) from None
    return ModelFile(place, (place,), stem_of(place), trusted=False)


def _is_here(plan: UrlPlan, progress: Progress) -> bool:
    """Whether the file is there, as the address promises it; without a promise its length and version must do."""
    place, expected = plan.place, plan.reference.sha256
    if not place.is_file() or place.stat().st_size != plan.size or _told(place, _VERSION) != plan.version:
        return False
    return expected is None or sha256_of(place, progress) == expected


def _fetch(plan: UrlPlan, progress: Progress, say: Say) -> None:
    partial = Partial(_partial(plan.place), plan.size)
    if _told(plan.place, _VERSION) != plan.version:  # what came before is of another file
        partial.discard()
        plan.place.with_suffix(_VERSION).write_text(plan.version)
    wanted = HubReference(host_of(plan.reference.url), file=plan.place.name)
    digest = Transfer(Source(plan.reference.url, {}, wanted, plan.size), partial, progress, say).run()
    expected = plan.reference.sha256
    try:
        if expected and digest != expected:
            raise ModelInvalidError(f"{plan.place.name} has the sha256 {digest}, the address promised {expected}")
        read_header(partial.path)
    except LlmcliError as error:
        partial.discard()
        told = str(error).replace(str(partial.path), plan.reference.url)
        raise type(error)(told, "Nothing was kept. Check the address.") from None
    sync(partial.path)
    os.replace(partial.path, plan.place)
    partial.forget_notes()
    if expected:
        plan.place.with_suffix(_DIGEST).write_text(expected)
    else:
        say(f"{wanted.repo} publishes no checksum; this file has sha256={digest}")


def _look(reference: UrlReference) -> tuple[int, str]:
    """The length of the file, and the version the server gives it."""
    with requested(reference.url, {"range": "bytes=0-0"}, to_other_hosts=True) as (response, _hops):
        host = host_of(reference.url)
        if response.status_code in (404, 410):
            raise ModelNotFoundError(f"{host} has no such file", f"Check the address {reference}.")
        if response.status_code not in (200, 206):
            raise NetworkError(f"{host} answers status {response.status_code}", "Download the file by hand.")
        match = re.fullmatch(r"bytes 0-0/(\d+)", response.headers.get("content-range", ""))
        length = match[1] if match else response.headers.get("content-length", "")
        version = response.headers.get("etag", "") or response.headers.get("last-modified", "")
    if not length.isdigit() or not 0 < int(length) < 1 << 50 or "text/html" in response.headers.get("content-type", ""):
        raise NetworkError(f"{host} does not answer with a file", f"Open {reference} in a browser.")
    return int(length), version[:200]


def promised(place: Path) -> str:
    """The sha256 that the address of a fetched file gave; "" when it gave none."""
    return _told(place, _DIGEST)


def _told(place: Path, ending: str) -> str:
    try:
        return place.with_suffix(ending).read_text()[:200]
    except (OSError, UnicodeDecodeError):
        return ""


def _partial(place: Path) -> Path:
    return place.with_name(place.name + PARTIAL)


def fetched_urls(cache_dir: Path) -> list[Path]:
    """The files that were fetched from addresses."""
    return sorted((cache_dir / "urls").glob("*/*.gguf"))
