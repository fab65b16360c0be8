"""Select one of a repository's models by quantization, by file, or for the memory of this machine."""

from collections.abc import Sequence
from dataclasses import dataclass

from llmcli.errors import ModelNotFoundError, UsageError
from llmcli.models.hub.quantizations import canonical, distance, nominal_bits
from llmcli.models.hub.repo_files import Variant, file_name

USUAL = "Q4_K_M"
_GIB = 1 << 30
_MAX_BITS = 8.6  # Q8_0 and below: larger files are sources for quantization
_MAX_NAMES = 8  # in one message
_MAX_COMPARED = 500  # names compared to find the nearest


@dataclass(frozen=True)
class Choice:
    """The variant that `choose` selects, and the reason in one clause."""

    variant: Variant
    reason: str


def needed(size: int) -> int:
    """The approximate memory in bytes for a model of `size` bytes: weights, KV cache and buffers."""
    return size * 11 // 10 + _GIB // 2


def fits(size: int, memory: int) -> bool:
    """True when a model of `size` bytes should fit into `memory` bytes, or when `memory` is 0 (unknown)."""
    return memory <= 0 or needed(size) <= memory


def choose(found: Sequence[Variant], memory: int) -> Choice:
    """The default variant for `memory` bytes (0 = unknown): Q4_K_M, otherwise the best that fits.

    Raises ModelNotFoundError when there is no complete variant.
    """
    complete = _complete(found)
    fitting = [variant for variant in complete if fits(variant.size, memory)]
    if not fitting:
        smallest = min(complete, key=lambda variant: (variant.size, *_preference(variant)))
        lead = "the only file" if len(complete) == 1 else f"no file fits; the smallest, {_label(smallest)},"
        return Choice(smallest, f"{lead} {_memory_needed(smallest, memory)}")
    usual = sorted((variant for variant in complete if _plain(variant) == USUAL), key=_preference)
    for variant in usual:
        if variant in fitting:
            return Choice(variant, f"{USUAL} is the default")
    if len(complete) == 1:
        return Choice(complete[0], "the only file")
    why = f"{USUAL} {_memory_needed(usual[0], memory)}" if usual else f"there is no {USUAL}"
    return _second_best(fitting, memory, why)


def pick(found: Sequence[Variant], quantization: str | None, file: str | None, repo: str) -> Variant:
    """The variant with this quantization or file; without both, the one that `choose` selects.

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
        variant = _with_quantization(found, canonical(quantization), repo)
    else:
        return choose(found, 0).variant
    if not variant.complete:
        raise ModelNotFoundError(
            f"{repo}: {_label(variant)} is incomplete, {_first(variant.missing)} is missing",
            "choose another quantization",
        )
    return variant


def _complete(found: Sequence[Variant]) -> list[Variant]:
    complete = [variant for variant in found if variant.complete]
    if complete:
        return complete
    if not found:
        raise ModelNotFoundError("the repository has no GGUF files", "choose another repository")
    missing = [path for variant in found for path in variant.missing[:2]]
    raise ModelNotFoundError(f"all models are incomplete: {_first(missing)} is missing", "choose another repository")


def _second_best(fitting: list[Variant], memory: int, why: str) -> Choice:
    """The best of the variants that fit when the default one does not."""
    moderate = [v for v in fitting if (nominal_bits(v.quantization) or 0) <= _MAX_BITS]
    if not moderate:
        best = min(fitting, key=lambda variant: (variant.size, *_preference(variant)))
        return Choice(best, f"{why}, the smallest is {_label(best)}")
    if memory <= 0:  # the largest may be far too large
        best = min(moderate, key=lambda variant: (distance(variant.quantization, USUAL), *_preference(variant)))
        return Choice(best, f"{why}, the nearest is {_label(best)}")
    largest = max(moderate, key=lambda variant: variant.size)
    same = [v for v in moderate if v is largest or (v.quantization and _plain(v) == _plain(largest))]
    best = min(same, key=_preference)
    return Choice(best, f"{why}, the largest that fits is {_label(best)}")


def _with_file(found: Sequence[Variant], file: str, repo: str) -> Variant:
    paths = {path: variant for variant in found for path in (*(part.path for part in variant.parts), *variant.missing)}
    if file in paths:
        return paths[file]
    deeper = [path for path in paths if "/" not in file and file_name(path) == file]
    if len(deeper) > 1:
        raise _several(repo, file, deeper)
    if deeper:
        return paths[deeper[0]]
    near = _nearest(file, [variant.path for variant in found])
    raise ModelNotFoundError(f"{repo} has no file '{file}', only {', '.join(near)}", f"try '{repo}/{near[0]}'")


def _with_quantization(found: Sequence[Variant], wanted: str, repo: str) -> Variant:
    for name in (wanted, f"UD-{wanted}"):
        same = [variant for variant in found if variant.quantization == name]
        if same:
            return _shortest([variant for variant in same if variant.complete] or same, repo)
    labels = list(dict.fromkeys(_label(variant) for variant in found))
    near = sorted(_nearest(wanted, labels, len(labels)), key=lambda label: distance(label, wanted))[:_MAX_NAMES]
    first = next(variant for variant in found if _label(variant) == near[0])
    reference = f"{repo}:{near[0]}" if first.quantization else f"{repo}/{first.path}"
    raise ModelNotFoundError(f"{repo} has no '{wanted}', only {', '.join(near)}", f"try '{reference}'")


def _shortest(same: list[Variant], repo: str) -> Variant:
    """The variant whose name is the start of all other names; otherwise they are different models: UsageError."""
    first, *others = sorted(same, key=lambda variant: (len(variant.name), len(variant.path), variant.path))
    base = _base(first)
    for other in others:
        equal_length = len(first.name) == len(other.name) and len(first.path) == len(other.path)
        if equal_length or not (_base(other) == base or _base(other).startswith((f"{base}-", f"{base}.", f"{base}_"))):
            raise _several(repo, first.quantization, [variant.path for variant in same])
    return first


def _several(repo: str, what: str, paths: list[str]) -> UsageError:
    more = f" and {len(paths) - _MAX_NAMES} more" if len(paths) > _MAX_NAMES else ""
    return UsageError(
        f"{repo} has {len(paths)} files for {what}: {', '.join(paths[:_MAX_NAMES])}{more}",
        f"give one of them, for example '{repo}/{paths[0]}'",
    )


def _nearest(wanted: str, names: list[str], limit: int = _MAX_NAMES) -> list[str]:
    import difflib  # imported here: it costs 3 ms, and only errors need it

    def similarity(name: str) -> float:
        return difflib.SequenceMatcher(None, wanted.casefold()[:99], file_name(name).casefold()[:99]).ratio()

    return sorted(names[:_MAX_COMPARED], key=similarity, reverse=True)[:limit]


def _preference(variant: Variant) -> tuple[bool, int, int, str]:
    return variant.quantization.startswith("UD-"), len(variant.name), len(variant.parts), variant.path


def _plain(variant: Variant) -> str:
    return variant.quantization.removeprefix("UD-")


def _base(variant: Variant) -> str:
    name = variant.name.casefold()
    before, found, _ = name.rpartition(variant.quantization.casefold()) if variant.quantization else ("", "", "")
    return (before if found else name).rstrip("-._")


def _label(variant: Variant) -> str:
    return variant.quantization or variant.name


def _memory_needed(variant: Variant, memory: int) -> str:
    return f"needs {needed(variant.size) / _GIB:.1f} GiB and {memory / _GIB:.1f} GiB are free"


def _first(missing: Sequence[str]) -> str:
    return missing[0] + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
