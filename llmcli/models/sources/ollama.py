"""The models in Ollama's stores: listed, and found by name.

A store contains manifests/HOST/NAMESPACE/MODEL/TAG (small JSON files) and blobs/sha256-HEX (the files they name).
The user's text is only compared with the names in the store, and a digest must be valid before it becomes a path
(CVE-2024-37032), so that neither leads out of the store. A blob can be a link: people move stores.
"""

import contextlib
import json
import os
import re
import stat
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from llmcli.errors import DiskError, LlmcliError, ModelInvalidError, ModelNotFoundError, UsageError
from llmcli.files import read_error, read_limited
from llmcli.models.gguf.header import quote
from llmcli.models.locations import ModelFile, ModelLocations
from llmcli.models.reference import LocalReference, Reference
from llmcli.models.sources.folder import MAX_ENTRIES, Program, home_folder, list_names
from llmcli.models.sources.source import InstalledModel, RemovalPlan
from llmcli.text import nearest

HOST, NAMESPACE, TAG = "registry.ollama.ai", "library", "latest"
MAX_MANIFEST = 1 << 20
# Stores of Ollama as a service: of its installer, a Debian package, NixOS, Arch Linux and the snap.
_SERVICE_STORES = (
    Path("/usr/share/ollama/.ollama/models"),
    Path("/var/lib/ollama/.ollama/models"),
    Path("/var/lib/ollama/models"),
    Path("/var/lib/ollama"),
    Path("/var/snap/ollama/common/models"),
)
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_PIECES = r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}", r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}", _PART, _PART
_NAME = re.compile(r"(?:\w+://)?(?:(?:({})/)?({})/)?({})(?::({}))?".format(*_PIECES))
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_MEDIA_TYPE = "application/vnd.ollama.image."
_MAX_NAMES = 3  # in one message
_PREFIX = "ollama:"


class OllamaName(NamedTuple):
    """The full name of a model; `str` gives the short form that Ollama shows, always with the tag."""

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
        """The key for a case-insensitive comparison, as in Ollama."""
        return tuple(map(str.casefold, self))


class _Layer(NamedTuple):
    kind: str
    digest: str
    size: Any  # an integer, if the manifest is valid


class OllamaReference(LocalReference):
    """A model in Ollama's store, by its name in Ollama."""

    def __str__(self) -> str:
        return f"{_PREFIX}{self.text}"


class Ollama(Program):
    """Ollama's stores: its own, and those that the user imported."""

    name = "ollama"
    owner = "Ollama"
    has_names = True

    def parse(self, text: str) -> Reference | None:
        if text == _PREFIX:
            raise ModelNotFoundError("'ollama:' needs a model name", "write ollama:NAME or ollama:NAME:TAG")
        return OllamaReference(text.removeprefix(_PREFIX)) if text.startswith(_PREFIX) else None

    def find(self, reference: Reference, locations: ModelLocations) -> ModelFile | None:
        if not isinstance(reference, OllamaReference):
            return None
        store, name, found = _find(reference.text, [*self.folders(), *filter(self.is_store, locations.folders)])
        template, parameters = (_text(store, name, kind) for kind in ("template", "params"))
        return ModelFile(found.path, found.parts, str(reference), False, template, parameters)

    def repair_hint(self, item: InstalledModel, locations: ModelLocations) -> str:
        # Ollama takes a blob that is there for sound, whatever its bytes or its size.
        name = item.name.removeprefix(_PREFIX) if item.name.startswith(_PREFIX) else "NAME"
        return f"delete {item.path}, then run `ollama pull {name}`: it keeps the damaged file otherwise"

    def search_paths(self) -> list[Path]:
        """$OLLAMA_MODELS or ~/.ollama/models, then the stores of Ollama as a service."""
        configured = os.environ.get("OLLAMA_MODELS", "").strip().strip("\"'")  # as Ollama reads it
        home = home_folder()
        usual = [home / ".ollama" / "models"] if home else []
        services = () if os.name == "nt" else _SERVICE_STORES  # on Windows any user can create \usr\share
        return [*([Path(configured)] if configured else usual), *services]

    def is_store(self, folder: Path) -> bool:
        return os.path.isdir(folder / "manifests") and os.path.isdir(folder / "blobs")

    def plan_removal(self, item: InstalledModel, locations: ModelLocations) -> RemovalPlan:
        raise UsageError(f"{item.name} belongs to Ollama", f"run `ollama rm {item.name.removeprefix(_PREFIX)}`")

    def models_in(self, folder: Path) -> list[InstalledModel]:
        """The usable models of a store, sorted by name. Never raises: `find` gives the errors of the others."""
        found = []
        for name in _names(folder):
            with contextlib.suppress(LlmcliError):
                found.append(_model(folder, name))
        return sorted(found, key=lambda model: model.name)


SOURCE = Ollama()


def find_in_stores(name: str, stores: Sequence[Path]) -> InstalledModel:
    """The model with this name in Ollama. Raises as `_find`."""
    return _find(name, stores)[2]


def _find(name: str, stores: Sequence[Path]) -> tuple[Path, OllamaName, InstalledModel]:
    """The store, the full name and the model of a name (without `ollama:`).

    registry.ollama.ai/library and :latest are the defaults of its pieces. Raises ModelNotFoundError (its hint has the
    nearest names), ModelInvalidError (the manifest is damaged, the file is missing, or it is not a GGUF model) or
    DiskError.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ModelNotFoundError(
            f"{quote(name)} is not a valid name of an Ollama model", "give a name like llama3.2 or llama3.2:1b"
        )
    host, namespace, model, tag = match.groups()
    requested = OllamaName(host or HOST, namespace or NAMESPACE, model, tag or TAG)
    known = [(store, other) for store in stores for other in _names(store)]
    same = [pair for pair in known if pair[1].folded() == requested.folded()]
    first_error: LlmcliError | None = None
    for store, other in sorted(same, key=lambda pair: pair[1] != requested):  # the exact name first
        try:
            return store, other, _model(store, other)
        except LlmcliError as error:
            first_error = first_error or error
    raise first_error or _not_found(requested, [other for _, other in known], stores)


def _names(store: Path) -> list[OllamaName]:
    """The names of all manifests of a store, sorted."""
    found: list[tuple[str, ...]] = [()]
    for pattern in _PIECES:
        folders = ((above, list_names(store.joinpath("manifests", *above), MAX_ENTRIES)) for above in found)
        below = ((*above, name) for above, names in folders for name in names if re.fullmatch(pattern, name))
        found = list(islice(below, MAX_ENTRIES))
    return [OllamaName(*pieces) for pieces in found]


def _model(store: Path, name: OllamaName) -> InstalledModel:
    layers = _layers(store, name)
    weights = [layer for layer in layers if layer.kind == "model"]
    kinds, fault, hint = [layer.kind for layer in layers], "", "pull a GGUF version of it from the Hub"
    if not weights and "tensor" in kinds:
        fault = "is in safetensors format, not GGUF"
    elif not weights:
        fault, hint = "has no model file on this machine (a cloud model)", "use a model that Ollama has pulled"
    elif len(weights) > 1:
        fault = f"is split into {len(weights)} files"
    elif "adapter" in kinds:
        fault, hint = "is an adapter (LoRA), which is not supported", "use its base model"
    if fault:
        raise ModelInvalidError(f"Ollama model '{name}' {fault}", hint)
    path, size = _blob(store, name, weights[0])
    projectors = [_blob(store, name, layer)[0] for layer in layers if layer.kind == "projector"]
    digest = weights[0].digest.removeprefix("sha256:")
    return InstalledModel(f"{_PREFIX}{name}", SOURCE, (path,), size, (digest,), next(iter(projectors), None))


def _text(store: Path, name: OllamaName, kind: str) -> str:
    """The text of the layer of this kind; "" if the model has none, or it cannot be read."""
    with contextlib.suppress(LlmcliError, OSError, ValueError):
        for layer in _layers(store, name):
            if layer.kind == kind:
                return read_limited(_blob(store, name, layer)[0]).decode()
    return ""


def _layers(store: Path, name: OllamaName) -> list[_Layer]:
    path = store.joinpath("manifests", *name)
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            raise _damaged(name, f"{path} is not a file")
        if info.st_size > MAX_MANIFEST:
            raise _damaged(name, f"{path} is larger than {MAX_MANIFEST} bytes")
        with path.open("rb") as file:
            listed = json.loads(file.read(info.st_size))["layers"] or []  # null for a cloud model
        return [
            _Layer(
                entry["mediaType"].removeprefix(_MEDIA_TYPE),
                str(entry["digest"]),
                entry.get("size"),
            )
            for entry in listed
        ]
    except OSError as error:
        raise read_error(path, error) from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise _damaged(name, f"{path} is not a valid manifest") from None


def _blob(store: Path, name: OllamaName, layer: _Layer) -> tuple[Path, int]:
    match = _DIGEST.fullmatch(layer.digest)
    if match is None:
        raise _damaged(name, f"{quote(layer.digest)} is not a valid digest")
    path = store / "blobs" / f"sha256-{match[1]}"
    try:
        info = path.stat()
    except FileNotFoundError:
        raise _damaged(name, f"its file {path} is missing") from None
    except OSError as error:
        raise read_error(path, error) from error
    if not stat.S_ISREG(info.st_mode):
        raise _damaged(name, f"{path} is not a file", "remove it, then ")
    if isinstance(layer.size, int) and info.st_size != layer.size:
        raise _damaged(name, f"{path} has {info.st_size} bytes, expected {layer.size}", "delete this file, then ")
    if not os.access(path, os.R_OK):
        raise DiskError(f"cannot read {path}: it belongs to another user", "check its permissions")
    return path, info.st_size


def _not_found(requested: OllamaName, known: Sequence[OllamaName], stores: Sequence[Path]) -> ModelNotFoundError:
    pull = f"`ollama pull {requested}`"
    if not stores:
        return ModelNotFoundError(
            f"Ollama model '{requested}' not found: no readable Ollama store on this machine",
            f"set OLLAMA_MODELS to the folder with Ollama's models, or run {pull}",
        )
    same_model = dict.fromkeys(  # with other tags; two stores can have one
        str(name) for name in known if name.folded()[:3] == requested.folded()[:3]
    )
    near = list(same_model)[:_MAX_NAMES] or nearest(str(requested), map(str, known), _MAX_NAMES)
    names = " or ".join(f"'{_PREFIX}{name}'" for name in near)
    hint = f"did you mean {names}? if not, run {pull}" if near else f"run {pull} first"
    return ModelNotFoundError(f"Ollama model '{requested}' not found on this machine", hint)


def _damaged(name: OllamaName, why: str, first: str = "") -> ModelInvalidError:
    hint = f"{first}run `ollama pull {name}` to repair it"
    return ModelInvalidError(f"Ollama model '{name}' is damaged: {why}", hint)
