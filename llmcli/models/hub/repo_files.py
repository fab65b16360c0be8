"""Group the files of a repository into models.

File names come from strangers: a path that is not safe to write is skipped.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from llmcli.models.hub.quantizations import nominal_bits, quantization_of

_MAX_PARTS = 512  # the largest models have about 60
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.I | re.A | re.S)
# The last group are draft models; MTP elsewhere in a name is a model that drafts for itself.
_COMPANION = re.compile(r"mmproj[^/]*$|(?:^|/)(?:ggml-vocab|(?:mtp|draft|eagle3|dflash|dspark)[-_./])", re.I)
_PROJECTORS = {"F16": 0, "BF16": 1, "Q8_0": 2, "F32": 3}  # best first
_DEVICE = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9\u00b9\u00b2\u00b3])", re.I)


@dataclass(frozen=True)
class RepoFile:
    """A file in the list of a repository. `path` is relative, with `/`; `sha256` is "" if the list has none."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Variant:
    """One model of a repository: its file, or its available parts in order."""

    quantization: str
    parts: tuple[RepoFile, ...]
    complete: bool
    missing: tuple[str, ...]  # paths

    @property
    def size(self) -> int:
        """Bytes of all available parts."""
        return sum(part.size for part in self.parts)

    @property
    def path(self) -> str:
        """The path of the first part."""
        return self.parts[0].path

    @property
    def name(self) -> str:
        """The file name without folder, part number and `.gguf`."""
        name = file_name(self.path)
        match = _PART.fullmatch(name)
        return match["stem"] if match else name[: -len(".gguf")]

    def bits_per_weight(self, n_parameters: int | None) -> float | None:
        """Computed if the number of parameters is known, otherwise the usual value of the quantization."""
        return 8 * self.size / n_parameters if n_parameters else nominal_bits(self.quantization)


def variants(files: Iterable[RepoFile]) -> list[Variant]:
    """The models among the files, smallest first: only GGUF, split models as one, without companion files."""
    found: list[Variant] = []
    splits: dict[tuple[str, int], dict[int, RepoFile]] = {}
    for file in files:
        if not _is_gguf(file) or _is_companion(file.path):
            continue
        match = _PART.fullmatch(file.path)
        if match is None:
            found.append(Variant(quantization_of(file.path), (file,), complete=True, missing=()))
        elif 1 <= int(match["number"]) <= int(match["count"]) <= _MAX_PARTS:
            parts = splits.setdefault((match["stem"], int(match["count"])), {})
            parts.setdefault(int(match["number"]), file)
    found += [_joined(stem, count, parts) for (stem, count), parts in splits.items()]
    return sorted(found, key=lambda variant: (variant.size, variant.path))


def projectors(files: Iterable[RepoFile]) -> list[RepoFile]:
    """The vision or audio projectors (`mmproj`), best first: the nearest to f16."""
    return sorted(
        (file for file in files if _is_gguf(file) and "mmproj" in file_name(file.path).lower()),
        key=lambda file: (_PROJECTORS.get(quantization_of(file.path), len(_PROJECTORS)), file.path),
    )


def projector_for(variant: Variant, files: Iterable[RepoFile]) -> RepoFile | None:
    """The best projector in the folder of the variant, otherwise the best in the root of the repository."""
    found = projectors(files)
    for folder in (_folder(variant.path), ""):
        for file in found:
            if _folder(file.path) == folder:
                return file
    return None


def is_safe_path(path: str) -> bool:
    """True for a relative path with `/` that is valid on any system and stays inside its folder."""
    if not path or len(path) > 1024 or path.startswith("-"):
        return False
    if any(char in "\\:" or unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for char in path):
        return False
    return all(_is_safe_name(name) for name in path.split("/"))


def _is_safe_name(name: str) -> bool:
    if not name or name[-1] in ". " or len(name.encode()) > 255:
        return False
    return _DEVICE.fullmatch(name.partition(".")[0].rstrip()) is None


def _joined(stem: str, count: int, parts: dict[int, RepoFile]) -> Variant:
    missing = tuple(f"{stem}-{k:05d}-of-{count:05d}.gguf" for k in range(1, count + 1) if k not in parts)
    files = tuple(parts[number] for number in sorted(parts))
    return Variant(quantization_of(files[0].path), files, complete=not missing, missing=missing)


def _is_companion(path: str) -> bool:
    """True for companion files of models. A quantization made with an imatrix can have `imatrix` in its name."""
    return bool(_COMPANION.search(path)) or ("imatrix" in file_name(path).lower() and not quantization_of(path))


def _is_gguf(file: RepoFile) -> bool:
    return file.path.lower().endswith(".gguf") and is_safe_path(file.path)


def file_name(path: str) -> str:
    """The last part of a path in a repository."""
    return path.rpartition("/")[2]


def _folder(path: str) -> str:
    return path.rpartition("/")[0]
