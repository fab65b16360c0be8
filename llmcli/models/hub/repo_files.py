"""The files of a repository: which belong to one model, the quantizations, and the selection of one."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from llmcli.errors import ModelNotFoundError, UsageError
from llmcli.models.gguf.parser import FILE_NAME, stem_of

DEFAULT_QUANTIZATION = "Q4_K_M"
_MAX_PARTS = 512  # the largest models have about 60
# The last group are draft models; MTP elsewhere in a name is a model that drafts for itself.
_COMPANION = re.compile(r"mmproj[^/]*$|(?:^|/)(?:ggml-vocab|(?:mtp|draft|eagle3|dflash|dspark)[-_./])", re.I)
# An adapter (LoRA) or an image encoder (CLIP): not a model, unless the repository has nothing else.
_PART_OF_MODEL = re.compile(r"(?:^|/)clip[-_.][^/]*$|(?:^|[-_./])(?:q?lora|adapter)[-_.][^/]*$", re.I)
_PROJECTORS = {"F16": 0, "BF16": 1, "Q8_0": 2, "F32": 3}  # best first
_DEVICE = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9\u00b9\u00b2\u00b3])", re.I)
_ROWS = Path(__file__).with_name("quantizations.txt").read_text(encoding="utf-8").splitlines()
_BITS = {name: float(bits) for name, bits in (row.split() for row in _ROWS if not row.startswith("#"))}
_OTHER_NAMES = {"FP16": "F16", "FP32": "F32"}
_NAMES = "|".join(sorted([*_BITS, *_OTHER_NAMES], key=len, reverse=True))  # longest first: Q4_K_M before Q4_K
# Q4_K_R4 and the like are types of ik_llama.cpp, not Q4_K.
_IN_NAME = re.compile(rf"(?<![A-Z0-9])(?:UD-)?(?:{_NAMES})(?![A-Z0-9]|_R\d)(?!(?<=Q\d)_)", re.ASCII)
_UNQUANTIZED = {"F16", "BF16", "F32"}
_NOT_READ = {"Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8"}  # llama.cpp no longer reads them
_GIB = 1 << 30
_MAX_BITS = 8.6  # Q8_0 and below: larger files are sources for quantization
_MAX_NAMES = 8  # in one message
_MAX_COMPARED = 500  # names compared to find the nearest


def canonical_quantization(quantization: str) -> str:
    """A quantization that a user typed, in the spelling of `quantization_of`."""
    name = quantization.strip().upper()
    return _OTHER_NAMES.get(name, name)


def quantization_of(file_name: str) -> str:
    """The quantization in a file name or, if it has none, in the name of the nearest folder; "" if there is none.

    The last one in a name counts: an earlier one can be another version. F16, BF16 and F32 count only if they are
    alone: beside another one, they are the type of the source file or of some tensors.
    """
    for component in reversed(file_name.split("/")):
        found = [canonical_quantization(name) for name in _IN_NAME.findall(component.upper())]
        if found:
            return ([name for name in found if name not in _UNQUANTIZED] or found)[-1]
    return ""


def nominal_bits(quantization: str) -> float | None:
    """The usual bits per weight, including embeddings and scales; None for an unknown quantization."""
    return _BITS.get(canonical_quantization(quantization).removeprefix("UD-"))


def _distance(a: str, b: str) -> float:
    """The difference of two quantizations in bits per weight; 99 if one of them is unknown."""
    bits_a, bits_b = nominal_bits(a), nominal_bits(b)
    return 99.0 if bits_a is None or bits_b is None else abs(bits_a - bits_b)


@dataclass(frozen=True)
class RepoFile:
    """A file in the list of a repository. `path` is relative, with `/`; `sha256` is "" if the list has none."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Quantization:
    """One model of a repository: its file, or its available parts in order, and the paths of its missing parts."""

    parts: tuple[RepoFile, ...]
    missing: tuple[str, ...] = ()

    @cached_property
    def quantization(self) -> str:
        """Such as Q4_K_M, from the path; "" if that has none."""
        return quantization_of(self.path)

    @property
    def complete(self) -> bool:
        return not self.missing

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
        return stem_of(Path(self.path))

    @property
    def label(self) -> str:
        return self.quantization or self.name

    @property
    def plain(self) -> str:
        """The quantization without the prefix of Unsloth's dynamic ones (UD-)."""
        return self.quantization.removeprefix("UD-")

    def projector(self, files: Iterable[RepoFile]) -> RepoFile | None:
        """The best projector in the folder of the model, otherwise the best in the root of the repository."""
        by_folder = {file.path.rpartition("/")[0]: file for file in reversed(projectors(files))}
        return by_folder.get(self.path.rpartition("/")[0], by_folder.get(""))

    def bits_per_weight(self, n_parameters: int | None) -> float | None:
        """Computed if the number of parameters is known, otherwise the usual value of the quantization."""
        return 8 * self.size / n_parameters if n_parameters else nominal_bits(self.quantization)


def quantizations(files: Iterable[RepoFile]) -> list[Quantization]:
    """The models among the files, smallest first: only GGUF, split models as one, without companion files."""
    found: list[Quantization] = []
    splits: dict[tuple[str, int], dict[int, RepoFile]] = {}
    # A quantization made with an imatrix can have `imatrix` in its name.
    kept = [
        file
        for file in files
        if _is_gguf(file)
        and not _COMPANION.search(file.path)
        and ("imatrix" not in file_name(file.path).lower() or quantization_of(file.path))
    ]
    for file in [file for file in kept if not _PART_OF_MODEL.search(file.path)] or kept:
        match = FILE_NAME.fullmatch(file.path)
        if not match or not match["number"]:
            found.append(Quantization((file,)))
        elif 1 <= int(match["number"]) <= int(match["count"]) <= _MAX_PARTS:
            parts = splits.setdefault((match["stem"], int(match["count"])), {})
            parts.setdefault(int(match["number"]), file)
    for (stem, count), parts in splits.items():
        missing = tuple(f"{stem}-{k:05d}-of-{count:05d}.gguf" for k in range(1, count + 1) if k not in parts)
        found.append(Quantization(tuple(parts[number] for number in sorted(parts)), missing))
    return sorted(found, key=lambda variant: (variant.size, variant.path))


def projectors(files: Iterable[RepoFile]) -> list[RepoFile]:
    """The vision or audio projectors (`mmproj`), best first: the nearest to f16."""
    return sorted(
        (file for file in files if _is_gguf(file) and "mmproj" in file_name(file.path).lower()),
        key=lambda file: (precision_rank(file.path), file.path),
    )


def precision_rank(path: str) -> int:
    """The place of a projector by its precision, 0 is the best."""
    return _PROJECTORS.get(quantization_of(path), len(_PROJECTORS))


def is_safe_path(path: str) -> bool:
    """True for a relative path with `/` that is valid on any system and stays inside its folder."""
    if not path or len(path) > 1024 or path.startswith("-"):
        return False
    if any(char in "\\:" or unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for char in path):
        return False
    for name in path.split("/"):
        is_device = _DEVICE.fullmatch(name.partition(".")[0].rstrip())
        if not name or name[-1] in ". " or len(name.encode()) > 255 or is_device:
            return False
    return True


def file_name(path: str) -> str:
    """The last part of a path in a repository."""
    return path.rpartition("/")[2]


def memory_needed(size: int) -> int:
    """The approximate memory in bytes for a model of `size` bytes: weights, KV cache and buffers."""
    return size * 11 // 10 + _GIB // 2


def fits_memory(size: int, memory: int) -> bool:
    """True when a model of `size` bytes should fit into `memory` bytes, or when `memory` is 0 (unknown)."""
    return memory <= 0 or memory_needed(size) <= memory


def best_fit(found: Sequence[Quantization], memory: int) -> tuple[Quantization, str]:
    """The default of one or more variants for `memory` bytes (0 = unknown), and why: Q4_K_M, or the best that fits.

    A file whose name has no known quantization can be of any type, so it comes last.

    Raises ModelNotFoundError when no variant is complete.
    """
    complete = [variant for variant in found if variant.complete]
    known = [variant for variant in complete if _is_readable(variant)]
    only = "the only file with a known quantization" if 0 < len(known) < len(complete) else "the only file"
    complete = known or complete
    if not complete:
        missing = _first([path for variant in found for path in variant.missing[:2]])
        raise ModelNotFoundError(f"all models are incomplete: {missing} is missing", "choose another repository")

    def too_large(variant: Quantization) -> str:
        return f"needs {memory_needed(variant.size) / _GIB:.1f} GiB and {memory / _GIB:.1f} GiB are free"

    fitting = [variant for variant in complete if fits_memory(variant.size, memory)]
    smallest = min(fitting or complete, key=lambda variant: (variant.size, *_preference(variant)))
    usual = sorted((variant for variant in complete if variant.plain == DEFAULT_QUANTIZATION), key=_preference)
    for variant in usual:
        if variant in fitting:
            return variant, f"{DEFAULT_QUANTIZATION} is the default"
    if len(complete) == 1:
        return smallest, only if fitting else f"{only} {too_large(smallest)}"
    if not fitting:
        return smallest, f"no file fits; the smallest, {smallest.label}, {too_large(smallest)}"
    why = f"{DEFAULT_QUANTIZATION} {too_large(usual[0])}" if usual else f"no {DEFAULT_QUANTIZATION}"
    moderate = [variant for variant in fitting if (nominal_bits(variant.quantization) or 99) <= _MAX_BITS]
    if not moderate:
        return smallest, f"{why}, the smallest is {smallest.label}"
    if memory <= 0:  # the largest may be far too large
        best = min(moderate, key=lambda v: (_distance(v.quantization, DEFAULT_QUANTIZATION), *_preference(v)))
        return best, f"{why}, the nearest is {best.label}"
    largest = max(moderate, key=lambda variant: variant.size)
    best = min((v for v in moderate if v is largest or (v.plain and v.plain == largest.plain)), key=_preference)
    return best, f"{why}, the largest that fits is {best.label}"


def select_quantization(
    found: Sequence[Quantization], quantization: str | None, file: str | None, repo: str
) -> Quantization:
    """The variant with this quantization or file; without both, the one that `best_fit` selects.

    Raises ModelNotFoundError (no such variant, or parts are missing) and UsageError (several variants match).
    """
    if not found:
        name = repo.rpartition("/")[2]
        raise ModelNotFoundError(
            f"{repo} has no GGUF files", f'search for a GGUF version with `llmcli models search "{name} GGUF"`'
        )
    if file:
        variant = _with_file(found, file, repo)
    elif quantization:
        variant = _with_quantization(found, canonical_quantization(quantization), repo)
    else:
        return best_fit(found, 0)[0]
    if not variant.complete:
        raise ModelNotFoundError(
            f"{repo}: {variant.label} is incomplete, {_first(variant.missing)} is missing",
            "choose another quantization",
        )
    return variant


def _is_gguf(file: RepoFile) -> bool:
    return file.path.lower().endswith(".gguf") and is_safe_path(file.path)


def _with_file(found: Sequence[Quantization], file: str, repo: str) -> Quantization:
    paths = {path: variant for variant in found for path in (*(part.path for part in variant.parts), *variant.missing)}
    if file in paths:
        return paths[file]
    same = {path: variant for path, variant in paths.items() if path.casefold() == file.casefold()}
    if len(same) == 1:
        return next(iter(same.values()))
    deeper = [path for path in paths if "/" not in file and file_name(path) == file]
    if len(deeper) > 1:
        raise _several(repo, file, deeper)
    if deeper:
        return paths[deeper[0]]
    near = _nearest(file, [variant.path for variant in found])
    raise ModelNotFoundError(f"{repo} has no file '{file}', only {', '.join(near)}", f"try '{repo}/{near[0]}'")


def _with_quantization(found: Sequence[Quantization], requested: str, repo: str) -> Quantization:
    for name in (requested, f"UD-{requested}"):
        same = [variant for variant in found if variant.quantization == name]
        if same:
            return _shortest([variant for variant in same if variant.complete] or same, repo)
    # A type without a row in the table, such as IQ4_KS or FP8, has the name that its publisher gave it.
    word = re.compile(rf"(?:^|[-_./]){re.escape(requested)}(?=[-./]|$)", re.I)
    named = [variant for variant in found if nominal_bits(requested) is None and word.search(variant.path)]
    if len(named) > 1:
        raise _several(repo, requested, [variant.path for variant in named])
    if named:
        return named[0]
    labels = list(dict.fromkeys(variant.label for variant in found))
    near = sorted(_nearest(requested, labels, len(labels)), key=lambda label: _distance(label, requested))[:_MAX_NAMES]
    first = next(variant for variant in found if variant.label == near[0])
    reference = f"{repo}:{near[0]}" if first.quantization else f"{repo}/{first.path}"
    raise ModelNotFoundError(f"{repo} has no '{requested}', only {', '.join(near)}", f"try '{reference}'")


def _shortest(same: list[Quantization], repo: str) -> Quantization:
    """The variant whose name is the start of all other names; otherwise they are different models: UsageError."""

    def base(variant: Quantization) -> str:
        """The name up to the quantization, which can also be in the name of a folder."""
        end = variant.name.casefold().rfind(variant.quantization.casefold())
        return variant.name.casefold()[: end if end >= 0 else None].rstrip("-._")

    first, *others = sorted(same, key=lambda variant: (len(variant.name), len(variant.path), variant.path))
    starts = tuple(base(first) + mark for mark in "-._")
    for other in others:
        equal_length = len(first.name) == len(other.name) and len(first.path) == len(other.path)
        if equal_length or not f"{base(other)}-".startswith(starts):
            raise _several(repo, first.quantization, [variant.path for variant in same])
    return first


def _several(repo: str, what: str, paths: list[str]) -> UsageError:
    more = f" and {len(paths) - _MAX_NAMES} more" if len(paths) > _MAX_NAMES else ""
    return UsageError(
        f"{repo} has {len(paths)} files for {what}: {', '.join(paths[:_MAX_NAMES])}{more}",
        f"give one of them, for example '{repo}/{paths[0]}'",
    )


def _nearest(requested: str, names: list[str], limit: int = _MAX_NAMES) -> list[str]:
    import difflib  # imported here: it costs 3 ms, and only errors need it

    def similarity(name: str) -> float:
        return difflib.SequenceMatcher(None, requested.casefold()[:99], file_name(name).casefold()[:99]).ratio()

    return sorted(names[:_MAX_COMPARED], key=similarity, reverse=True)[:limit]


def _is_readable(variant: Quantization) -> bool:
    """Whether the name has a quantization that llama.cpp reads."""
    return bool(variant.quantization) and variant.quantization not in _NOT_READ


def _preference(variant: Quantization) -> tuple[bool, int, int, str]:
    return variant.quantization.startswith("UD-"), len(variant.name), len(variant.parts), variant.path


def _first(missing: Sequence[str]) -> str:
    return missing[0] + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
