"""Split models: find all parts X-00001-of-0000N.gguf from any one of them, and check them."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from llmcli.errors import ModelInvalidError, ModelNotFoundError
from llmcli.files import read_error
from llmcli.models.gguf.cursor import quote
from llmcli.models.gguf.header import GGUFHeader
from llmcli.models.gguf.parser import read_header

_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


def stem_of(path: Path) -> str:
    """The file name without `.gguf` and without the part number."""
    match = _NAME.fullmatch(path.name)
    return match["stem"] if match else path.name.removesuffix(".gguf")


def is_later_part(name: str) -> bool:
    """True for a file name such as X-00002-of-00003.gguf: not the first part of a model."""
    match = _NAME.fullmatch(name)
    return match is not None and int(match["number"]) != 1


def parts_of(path: Path) -> tuple[Path, ...]:
    """All files of the model to which `path` belongs, in order; only `path` if its name is not that of a part.

    Raises ModelNotFoundError when a part is missing, DiskError when the folder cannot be read, and
    ModelInvalidError for a name such as 3 of 2. It checks only names: `read_headers` checks the contents.
    """
    match = _NAME.fullmatch(path.name)
    if match is None:
        return (path,)
    number, count = int(match["number"]), int(match["count"])
    if not 1 <= number <= count:
        raise ModelInvalidError(f"{path}: part {number} of {count} is not possible", "check the name of the file")
    parts = tuple(path.with_name(f"{match['stem']}-{k:05d}-of-{count:05d}.gguf") for k in range(1, count + 1))
    try:
        missing = [part.name for part in parts if not part.is_file()]
    except OSError as error:
        raise read_error(path.parent, error) from error
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelNotFoundError(
            f"the model has {count} parts, but {missing[0]}{more} is missing from {path.parent}",
            "download the missing parts into the same folder",
        )
    return parts


def read_headers(parts: Sequence[Path]) -> tuple[GGUFHeader, ...]:
    """The validated headers of all parts, in order; the first one has the metadata of the model.

    Raises what `read_header` raises, and ModelInvalidError when a part does not match its name.
    """
    headers = tuple(read_header(part) for part in parts)
    for number, (part, header) in enumerate(zip(parts, headers, strict=True)):
        if (header.split_count, header.split_no) == (len(parts), number):
            continue
        found = f"{part} is part {header.split_no + 1} of {header.split_count}"
        if len(parts) == 1:
            hint = f"rename the parts to NAME-00001-of-{header.split_count:05d}.gguf and so on"
            raise ModelInvalidError(f"{found}, but its name has no part number", hint)
        raise ModelInvalidError(f"{found}, which does not match its name", "download this part again")
    seen: set[str] = set()
    for name in (tensor.name for header in headers for tensor in header.tensors):
        if name in seen:
            raise ModelInvalidError(f"{parts[0]}: tensor {quote(name)} is in two parts", "download the model again")
        seen.add(name)
    expected = headers[0].metadata.get("split.tensors.count")
    if isinstance(expected, int) and expected != len(seen):
        raise ModelInvalidError(
            f"{parts[0]}: the parts have {len(seen)} tensors, expected {expected}", "download the model again"
        )
    return headers


def model_files_in(folder: Path) -> list[str]:
    """The sorted .gguf file names in a folder (the first part of a split model); [] if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(".gguf"))
    except OSError:
        return []
    return [name for name in names if not is_later_part(name)]
