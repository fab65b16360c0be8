"""Which models does Ollama have here, and where is each one's file?

A store holds manifests/HOST/NAMESPACE/MODEL/TAG, small JSON files, and blobs/sha256-HEX, the files they name.
What a user types is only compared with the names in the store, and a digest must look like one before it
becomes a path (CVE-2024-37032), so that neither leads elsewhere. A blob may be a link: people move stores.
"""

import json
import os
import re
import stat
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from llmcli.errors import DiskError, LlmcliError, ModelInvalidError, ModelNotFoundError
from llmcli.models.folders import MOST_ENTRIES, FoundModel, is_ollama_store
from llmcli.models.gguf.values import quote

HOST, NAMESPACE, TAG = "registry.ollama.ai", "library", "latest"
MAX_MANIFEST = 1 << 20

# Ollama as a service: its installer's, a Debian package's, NixOS's, Arch Linux's and the snap's.
_SERVICES = (
    Path("/usr/share/ollama/.ollama/models"),
    Path("/var/lib/ollama/.ollama/models"),
    Path("/var/lib/ollama/models"),
    Path("/var/lib/ollama"),
    Path("/var/snap/ollama/common/models"),
)
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_PIECES = (
    re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}"),
    re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"),
    _PART,
    _PART,
)
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_KIND = "application/vnd.ollama.image."
_SHOWN = 3  # names in one message


class Name(NamedTuple):
    """A model's name in full; as text as short as Ollama shows it, always with the tag."""

    host: str
    namespace: str
    model: str
    tag: str

    def __str__(self) -> str:
        last = f"{self.model}:{self.tag}"
        if self.host != HOST:
            return f"{self.host}/{self.namespace}/{last}"
        return last if self.namespace == NAMESPACE else f"{self.namespace}/{last}"

    def folded(self) -> tuple[str, ...]:
        """For comparing names in any case, as Ollama does."""
        return tuple(map(str.casefold, self))


class _Layer(NamedTuple):
    kind: str
    digest: str
    size: int | None


def stores() -> list[Path]:
    """The stores on this machine: $OLLAMA_MODELS or ~/.ollama/models, then those of Ollama run as a service."""
    places = _own_stores()
    if os.name != "nt":  # there anyone may make \usr\share
        places += _SERVICES
    found: dict[str, Path] = {}
    for place in places:
        if is_ollama_store(place):
            found.setdefault(os.path.realpath(place), place)
    return list(found.values())


def _own_stores() -> list[Path]:
    given = os.environ.get("OLLAMA_MODELS", "").strip().strip("\"'")  # as Ollama reads it
    if given:
        return [Path(given)]
    try:
        return [Path.home() / ".ollama" / "models"]
    except RuntimeError:  # a user without a home
        return []


def models(store: Path) -> list[FoundModel]:
    """The models of a store that can be used, by name. Never raises: `find` says what is wrong with the others."""
    found = []
    for name in _names(store):
        try:
            found.append(_model(store, name))
        except LlmcliError:
            continue
    return sorted(found, key=lambda model: model.name)


def find(name: str, stores: Sequence[Path]) -> FoundModel:
    """The model that Ollama calls `name` (without `ollama:`); registry.ollama.ai/library and :latest may be left out.

    Raises:
        ModelNotFoundError: with the nearest names, when no store has it.
        ModelInvalidError: when its manifest is damaged, its file is missing, or it is no GGUF model.
        DiskError: when its files may not be read.
    """
    wanted = parse(name)
    if wanted is None:
        raise ModelNotFoundError(
            f"{quote(name)} cannot be a model of Ollama's", "A name is like llama3.2 or llama3.2:1b."
        )
    known = [(store, other) for store in stores for other in _names(store)]
    same = [pair for pair in known if pair[1].folded() == wanted.folded()]
    fault: LlmcliError | None = None
    for store, other in sorted(same, key=lambda pair: pair[1] != wanted):  # the exact name first
        try:
            return _model(store, other)
        except LlmcliError as error:
            fault = fault or error
    raise fault or _not_found(wanted, [other for _, other in known], stores)


def parse(name: str) -> Name | None:
    """The full name, with Ollama's defaults for what is left out; None for what cannot be one."""
    above, _, last = name.partition("://")[2].rpartition("/") if "://" in name else name.rpartition("/")
    model, colon, tag = last.partition(":")
    pieces = above.split("/") if "/" in name else []
    if len(pieces) > 2 or (colon and not tag):
        return None
    host, namespace = [HOST, NAMESPACE][: 2 - len(pieces)] + pieces
    full = Name(host, namespace, model, tag or TAG)
    return full if all(map(re.Pattern.fullmatch, _PIECES, full)) else None


def _names(store: Path) -> list[Name]:
    """The names of all manifests of a store, in order."""
    found: list[tuple[str, ...]] = [()]
    for pattern in _PIECES:
        below = ((*above, name) for above in found for name in _listed(store.joinpath("manifests", *above), pattern))
        found = list(islice(below, MOST_ENTRIES))
    return [Name(*pieces) for pieces in found]


def _listed(folder: Path, pattern: re.Pattern[str]) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in islice(entries, MOST_ENTRIES) if pattern.fullmatch(entry.name))
    except (OSError, ValueError):
        return []


def _model(store: Path, name: Name) -> FoundModel:
    layers = _layers(store, name)
    weights = [layer for layer in layers if layer.kind == "model"]
    kinds = {layer.kind for layer in layers}
    if not weights and "tensor" in kinds:
        raise _unusable(name, "is kept as safetensors, not as GGUF", "Take a GGUF version of it from the hub.")
    if not weights:
        raise _unusable(
            name, "has no model file here", "Ollama runs such a model elsewhere: take one that it has pulled."
        )
    if len(weights) > 1:
        raise _unusable(name, f"is kept in {len(weights)} files", "Take a GGUF version of it from the hub.")
    if "adapter" in kinds:
        raise _unusable(name, "is an adapter on a base model, which is not supported yet", "Use the base model.")
    path, size = _blob(store, name, weights[0])
    projectors = [_blob(store, name, layer)[0] for layer in layers if layer.kind == "projector"]
    digest = weights[0].digest.removeprefix("sha256:")
    return FoundModel(f"ollama:{name}", (path,), size, "ollama", digest, projectors[0] if projectors else None)


def _layers(store: Path, name: Name) -> list[_Layer]:
    path = store.joinpath("manifests", *name)
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            raise _damaged(name, f"{path} is no file")
        if info.st_size > MAX_MANIFEST:
            raise _damaged(name, f"{path} is larger than {MAX_MANIFEST} bytes")
        with path.open("rb") as file:
            listed = json.loads(file.read(info.st_size))["layers"] or []  # null for a model that runs elsewhere
        return [_layer(entry) for entry in listed]
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise _damaged(name, f"{path} is no manifest") from None


def _layer(entry: dict[str, Any]) -> _Layer:
    kind, digest, size = entry["mediaType"], entry["digest"], entry.get("size")
    return _Layer(kind.removeprefix(_KIND), str(digest), size if isinstance(size, int) else None)


def _blob(store: Path, name: Name, layer: _Layer) -> tuple[Path, int]:
    match = _DIGEST.fullmatch(layer.digest)
    if match is None:
        raise _damaged(name, f"{quote(layer.digest)} is no digest")
    path = store / "blobs" / f"sha256-{match[1]}"
    try:
        info = path.stat()
    except FileNotFoundError:
        raise _damaged(name, f"its file {path} is missing") from None
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(info.st_mode):
        raise _damaged(name, f"{path} is no file")
    if layer.size is not None and info.st_size != layer.size:
        raise _damaged(name, f"{path} has {info.st_size} bytes, not {layer.size}")
    if not os.access(path, os.R_OK):
        raise DiskError(f"{path} cannot be read: it belongs to another user", "Check its permissions.")
    return path, info.st_size


def _not_found(wanted: Name, known: Sequence[Name], stores: Sequence[Path]) -> ModelNotFoundError:
    pull = f"`ollama pull {wanted}`"
    if not stores:
        return ModelNotFoundError(
            f"there is no model {wanted}: Ollama keeps none where this user can read them",
            f"Set OLLAMA_MODELS to the folder of its models, or run {pull}.",
        )
    near = _nearest(wanted, known)
    hint = f"Did you mean {' or '.join(f'ollama:{name}' for name in near)}? Otherwise run" if near else "First run"
    return ModelNotFoundError(f"Ollama has no model {wanted} here", f"{hint} {pull}.")


def _nearest(wanted: Name, known: Sequence[Name]) -> list[str]:
    """The same model with other tags, or else names that look like it."""
    tags = [str(name) for name in known if name.folded()[:3] == wanted.folded()[:3]]
    import difflib  # 3 ms, for mistakes only

    by_name = {str(name).casefold(): str(name) for name in known}
    near = difflib.get_close_matches(str(wanted).casefold(), by_name, n=_SHOWN, cutoff=0.7)
    return tags[:_SHOWN] or [by_name[name] for name in near]


def _unusable(name: Name, why: str, hint: str) -> ModelInvalidError:
    return ModelInvalidError(f"Ollama's model {name} {why}", hint)


def _damaged(name: Name, why: str) -> ModelInvalidError:
    return ModelInvalidError(f"Ollama's model {name} is damaged: {why}", f"Run `ollama pull {name}` to mend it.")


def _unreadable(path: Path, error: OSError) -> DiskError:
    return DiskError(f"{path} cannot be read: {error.strerror}", "Check its permissions.")
