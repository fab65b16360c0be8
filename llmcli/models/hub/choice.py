"""Which of a repository's models is the one to take, by name, by file or for this machine's memory?"""

from collections.abc import Sequence
from dataclasses import dataclass

from llmcli.errors import ModelNotFoundError, UsageError
from llmcli.models.hub.quantizations import canonical, distance, nominal_bits
from llmcli.models.hub.variants import Variant, file_name

USUAL = "Q4_K_M"
_GIB = 1 << 30
_MOST_BITS = 8.6  # Q8_0 and below: more is for making other files from
_SHOWN = 8  # names in one message
_COMPARED = 500  # names that are measured to find the nearest


@dataclass(frozen=True)
class Choice:
    """The variant that `choose` takes, and why, in one clause."""

    variant: Variant
    reason: str


def needed(size: int) -> int:
    """The rough memory, in bytes, that a model with files of `size` bytes takes: weights, cache and buffers."""
    return size * 11 // 10 + _GIB // 2


def fits(size: int, memory: int) -> bool:
    """True when a model of `size` bytes should run in `memory` bytes; 0 is unknown, and then anything may."""
    return memory <= 0 or needed(size) <= memory


def choose(found: Sequence[Variant], memory: int) -> Choice:
    """The variant for someone who named none, in `memory` bytes (0: unknown): Q4_K_M, else the best that fits.

    Raises ModelNotFoundError when there is none, or none with all its parts.
    """
    whole = _whole(found)
    fitting = [variant for variant in whole if fits(variant.size, memory)]
    if not fitting:
        smallest = min(whole, key=lambda variant: (variant.size, *_preference(variant)))
        lead = "it is the only one, but it" if len(whole) == 1 else f"none fits: the smallest, {_label(smallest)},"
        return Choice(smallest, f"{lead} {_want(smallest, memory)}")
    usual = sorted((variant for variant in whole if _plain(variant) == USUAL), key=_preference)
    for variant in usual:
        if variant in fitting:
            return Choice(variant, f"{USUAL} is the usual choice")
    if len(whole) == 1:
        return Choice(whole[0], "it is the only one")
    return _second_best(fitting, memory, f"{USUAL} {_want(usual[0], memory)}" if usual else f"there is no {USUAL}")


def pick(found: Sequence[Variant], quantization: str | None, file: str | None, repo: str) -> Variant:
    """The variant with this quantization, or the one that this file belongs to; `choose` takes one for neither.

    Raises ModelNotFoundError (with what there is; or with what the variant lacks) and UsageError (several are meant).
    """
    if not found:
        name = repo.rpartition("/")[2]
        raise ModelNotFoundError(f"{repo} has no GGUF file", f'Search for one: llmcli models search "{name} GGUF".')
    if file:
        variant = _with_file(found, file, repo)
    elif quantization:
        variant = _with_quantization(found, canonical(quantization), repo)
    else:
        return choose(found, 0).variant
    if not variant.complete:
        raise ModelNotFoundError(
            f"{repo} lacks {_first(variant.missing)} of {_label(variant)}", "Choose another one of its models."
        )
    return variant


def _whole(found: Sequence[Variant]) -> list[Variant]:
    whole = [variant for variant in found if variant.complete]
    if whole:
        return whole
    if not found:
        raise ModelNotFoundError("there is no GGUF file to choose from", "Choose another repository.")
    missing = [path for variant in found for path in variant.missing[:2]]
    raise ModelNotFoundError(f"no model is whole: {_first(missing)} is missing", "Choose another repository.")


def _second_best(fitting: list[Variant], memory: int, why: str) -> Choice:
    """The best of those that fit when the usual one is not among them."""
    moderate = [v for v in fitting if (nominal_bits(v.quantization) or 0) <= _MOST_BITS]
    if not moderate:
        best = min(fitting, key=lambda variant: (variant.size, *_preference(variant)))
        return Choice(best, f"{why}, the smallest is {_label(best)}")
    if memory <= 0:  # the largest might be far too large
        best = min(moderate, key=lambda variant: (distance(variant.quantization, USUAL), *_preference(variant)))
        return Choice(best, f"{why}, the nearest to it is {_label(best)}")
    largest = max(moderate, key=lambda variant: variant.size)
    alike = [v for v in moderate if v is largest or (v.quantization and _plain(v) == _plain(largest))]
    best = min(alike, key=_preference)
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
    there = _nearest(file, [variant.path for variant in found])
    raise ModelNotFoundError(f"{repo} has no model {file}; it has {', '.join(there)}", f"Try {repo}/{there[0]}.")


def _with_quantization(found: Sequence[Variant], wanted: str, repo: str) -> Variant:
    for name in (wanted, f"UD-{wanted}"):
        same = [variant for variant in found if variant.quantization == name]
        if same:
            return _shortest([variant for variant in same if variant.complete] or same, repo)
    labels = list(dict.fromkeys(_label(variant) for variant in found))
    there = sorted(_nearest(wanted, labels, len(labels)), key=lambda label: distance(label, wanted))[:_SHOWN]
    named = [variant for variant in found if _label(variant) == there[0]]
    way = f"{repo}:{there[0]}" if named[0].quantization else f"{repo}/{named[0].path}"
    raise ModelNotFoundError(f"{repo} has no {wanted}; it has {', '.join(there)}", f"Try {way}.")


def _shortest(same: list[Variant], repo: str) -> Variant:
    """The one whose name the others only lengthen; names that differ otherwise are of different models."""
    first, *others = sorted(same, key=lambda variant: (len(variant.name), len(variant.path), variant.path))
    base = _base(first)
    for other in others:
        alike = len(first.name) == len(other.name) and len(first.path) == len(other.path)
        if alike or not (_base(other) == base or _base(other).startswith((f"{base}-", f"{base}.", f"{base}_"))):
            raise _several(repo, first.quantization, [variant.path for variant in same])
    return first


def _several(repo: str, what: str, paths: list[str]) -> UsageError:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return UsageError(
        f"{repo} has {len(paths)} files for {what}: {', '.join(paths[:_SHOWN])}{more}",
        f"Name one of them, such as {repo}/{paths[0]}.",
    )


def _nearest(wanted: str, names: list[str], most: int = _SHOWN) -> list[str]:
    import difflib  # 3 ms, for mistakes only

    def likeness(name: str) -> float:
        return difflib.SequenceMatcher(None, wanted.casefold()[:99], file_name(name).casefold()[:99]).ratio()

    return sorted(names[:_COMPARED], key=likeness, reverse=True)[:most]


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


def _want(variant: Variant, memory: int) -> str:
    return f"needs {needed(variant.size) / _GIB:.1f} GiB and {memory / _GIB:.1f} GiB are free"


def _first(missing: Sequence[str]) -> str:
    return missing[0] + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
