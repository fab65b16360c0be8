"""Which files make up one model: X-00001-of-0000N.gguf and its companions, found from any of them."""

import re
from collections.abc import Sequence
from pathlib import Path

from llmcli.errors import DiskError, ModelInvalidError, ModelNotFoundError
from llmcli.models.gguf.header import GGUFHeader
from llmcli.models.gguf.reader import read_header
from llmcli.models.gguf.values import quote

_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


def stem_of(path: Path) -> str:
    """The model's name in its file name: without `.gguf` and without the number of the part."""
    match = _NAME.fullmatch(path.name)
    return match["stem"] if match else path.name.removesuffix(".gguf")


def is_later_part(name: str) -> bool:
    """True for a file name such as X-00002-of-00003.gguf: not where a model begins."""
    match = _NAME.fullmatch(name)
    return match is not None and int(match["number"]) != 1


def parts_of(path: Path) -> tuple[Path, ...]:
    """All files of the model that `path` belongs to, in order; just `path` when it is not named as a part.

    Raises ModelNotFoundError when a part is missing, DiskError when the folder cannot be read, and
    ModelInvalidError for a name such as 3 of 2. Only names are looked at: `read_headers` checks the contents.
    """
    match = _NAME.fullmatch(path.name)
    if match is None:
        return (path,)
    number, count = int(match["number"]), int(match["count"])
    if not 1 <= number <= count:
        raise ModelInvalidError(f"{path}: part {number} of {count} cannot be", "Check the name of the file.")
    parts = tuple(path.with_name(f"{match['stem']}-{k:05d}-of-{count:05d}.gguf") for k in range(1, count + 1))
    try:
        missing = [part.name for part in parts if not part.is_file()]
    except OSError as error:
        raise DiskError(f"{path.parent} cannot be read: {error.strerror}", "Check its permissions.") from error
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelNotFoundError(
            f"the model has {count} parts, but {missing[0]}{more} is missing from {path.parent}",
            "Download the missing parts into the same folder.",
        )
    return parts


def read_headers(parts: Sequence[Path]) -> tuple[GGUFHeader, ...]:
    """The checked headers of all parts, in order; the first one holds the metadata of the model.

    Raises what `read_header` raises, and ModelInvalidError where a part is not the one its name promises.
    """
    headers = tuple(read_header(part) for part in parts)
    for number, (part, header) in enumerate(zip(parts, headers, strict=True)):
        _check_part(part, header, number, len(parts))
    _check_tensors(parts[0], headers)
    return headers


def _check_part(part: Path, header: GGUFHeader, number: int, count: int) -> None:
    if header.split_count == count and header.split_no == number:
        return
    if count == 1:
        raise ModelInvalidError(
            f"{part} is part {header.split_no + 1} of {header.split_count}, but is not named so",
            f"Rename the parts to NAME-00001-of-{header.split_count:05d}.gguf and so on.",
        )
    raise ModelInvalidError(
        f"{part} holds part {header.split_no + 1} of {header.split_count} in spite of its name",
        "Download this part again.",
    )


def _check_tensors(first: Path, headers: Sequence[GGUFHeader]) -> None:
    seen: set[str] = set()
    for header in headers:
        for tensor in header.tensors:
            if tensor.name in seen:
                raise ModelInvalidError(
                    f"{first}: tensor {quote(tensor.name)} stands in two parts", "Download the model again."
                )
            seen.add(tensor.name)
    promised = headers[0].metadata.get("split.tensors.count")
    if isinstance(promised, int) and promised != len(seen):
        raise ModelInvalidError(
            f"{first}: the parts hold {len(seen)} tensors, not {promised}", "Download the model again."
        )
