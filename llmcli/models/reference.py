"""Which file does a model reference name? A path to a .gguf, or the word `starter`; hub names come next."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from llmcli.errors import DiskError, ModelNotFoundError
from llmcli.models.splits import is_later_part, parts_of, stem_of
from llmcli.models.starter import Progress, ensure_starter

STARTER = "starter"
_WORKS = "Give the path of a .gguf file, or `starter` for the small built-in model."
_SHOWN = 5  # names in one message


@dataclass(frozen=True)
class ModelFile:
    """A model on disk. `path` is the first of `parts`; `trusted`: we fetched it and checked its digest."""

    path: Path
    parts: tuple[Path, ...]
    name: str
    trusted: bool


def resolve(reference: str, cache_dir: Path, progress: Progress | None = None) -> ModelFile:
    """The model that `reference` names. `starter` is fetched into `cache_dir` first where it is missing.

    Raises ModelNotFoundError (the hint has the nearest name), and what `ensure_starter` and `parts_of` raise.
    A file called `starter` is reached as ./starter.
    """
    if reference == STARTER:
        path = ensure_starter(cache_dir, progress)
        return ModelFile(path, (path,), STARTER, trusted=True)
    if not reference.strip() or "\0" in reference:
        raise ModelNotFoundError("the model reference is empty or not a name", _WORKS)
    path = Path(os.path.abspath(os.path.expanduser(reference)))
    try:
        found, folder = path.is_file(), path.is_dir()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ModelNotFoundError("the model reference is longer than a file name can be", _WORKS) from None
        raise DiskError(f"{path} cannot be read: {error.strerror}", "Check its permissions.") from error
    if found:
        return _from_path(path)
    if folder:
        raise _is_a_folder(path)
    # The next issue looks here for aliases, the catalogue, `owner/repo...`, hub addresses and `ollama:name`.
    raise _not_found(reference, path)


def _from_path(path: Path) -> ModelFile:
    # Links stay as they are: in the hub's cache only the link has the name of the part.
    parts = parts_of(path)
    return ModelFile(parts[0], parts, stem_of(parts[0]), trusted=False)


def _is_a_folder(path: Path) -> ModelNotFoundError:
    names = _models_in(path)
    if not names:
        return ModelNotFoundError(f"{path} is a folder without a .gguf file", _WORKS)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ModelNotFoundError(
        f"{path} is a folder, not a model", f"Name one of its files: {', '.join(names[:_SHOWN])}{more}."
    )


def _not_found(reference: str, path: Path) -> ModelNotFoundError:
    near = _nearest(path.name, [*_models_in(path.parent), STARTER])
    if near:
        return ModelNotFoundError(f"there is no model {reference}", f"Did you mean {near}?")
    if _looks_like_path(reference):
        where = "" if path.parent.is_dir() else f" (nor a folder {path.parent})"
        return ModelNotFoundError(f"there is no file {path}{where}", _WORKS)
    return ModelNotFoundError(
        f"{reference} is not a file, and models on the hub cannot be named yet",
        f"{_WORKS} A model from the hub can be downloaded by hand.",
    )


def _looks_like_path(reference: str) -> bool:
    if "://" in reference:
        return False
    return reference.endswith(".gguf") or reference.startswith((".", "~", "/", "\\")) or "\\" in reference


def _nearest(name: str, candidates: list[str]) -> str:
    """The candidate most like `name`, in any case and with or without its ending; "" when none is near."""
    folded = {candidate.casefold(): candidate for candidate in candidates}
    folded |= {candidate.casefold().removesuffix(".gguf"): candidate for candidate in candidates}
    import difflib  # 3 ms, for mistakes only

    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.7)
    return folded[near[0]] if near else ""


def _models_in(folder: Path) -> list[str]:
    """The .gguf files in a folder by name, of a split model the first part; none if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(".gguf"))
    except OSError:
        return []
    return [name for name in names if not is_later_part(name)]
