"""Files that go with a message: those its text names behind `@`, those a pattern means, and how a model reads them."""

import glob
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from llmcli.chat.compose import read_text
from llmcli.chat.file_blocks import file_block
from llmcli.errors import DiskError

_MOST_FILES = 100
_LONGEST_NAME = 4096  # characters; no system opens a longer path
_MENTION = re.compile(r"""(?<![\w.%+/\\@-])@(?:"([^"\n]+)"|'([^'\n]+)'|(\S+))""")
_PUNCTUATION = ".,;:!?)]}>\"'`*。，；：！？）"


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file as it was when it was attached; `name` is what the user called it."""

    name: str
    text: str


def find_mentions(text: str) -> list[str]:
    """The files that stand behind `@` in a message, each once: `@notes.txt`, `@"my notes.txt"`, `@~/x.md`.

    An `@` inside a word, as in a mail address, or in front of what is no file is just text.
    """
    found: dict[str, None] = {}
    looked_up: dict[str, str] = {}  # a pasted text may hold one word a hundred thousand times
    for double, single, bare in _MENTION.findall(text):
        word = double or single or bare
        if word not in looked_up:
            looked_up[word] = _without_punctuation(bare) if bare else word if _is_file(word) else ""
        if looked_up[word]:
            found[looked_up[word]] = None
    return list(found)


def _without_punctuation(word: str) -> str:
    """`word` without as much of the punctuation at its end as it takes to name a file; "" when nothing does."""
    least = len(word.rstrip(_PUNCTUATION))
    most = min(len(word), least + 8)  # no name ends in more of it
    return next((word[:end] for end in range(most, least - 1, -1) if _is_file(word[:end])), "")


def _is_file(name: str) -> bool:
    return 0 < len(name) <= _LONGEST_NAME and os.path.isfile(os.path.expanduser(name))


def attach(path: str) -> Attachment:
    """The file as an attachment.

    Raises:
        UsageError: when the name is empty.
        DiskError: when it is missing, a folder, a pipe or a device, too large, binary or not readable.
    """
    place = os.path.expanduser(path)
    if os.path.exists(place) and not os.path.isfile(place) and not os.path.isdir(place):
        raise DiskError(f"{path} is a device or a pipe", "give a file")  # reading it might never end
    return Attachment(path, read_text(path))


def expand(pattern: str) -> list[str]:
    """The files that `pattern` means, sorted: itself when it has no `*`, `?` or `[`, or is a file's name as it stands.

    As in a shell, a hidden file is meant only where the pattern has the dot.

    Raises:
        DiskError: when there is none, or more than a message can hold.
    """
    place = os.path.expanduser(pattern)
    if not glob.has_magic(place) or os.path.lexists(place):
        return [pattern]
    try:
        found = list(islice(filter(os.path.isfile, glob.iglob(place, recursive=True)), _MOST_FILES + 1))
    except (OSError, ValueError) as error:
        raise DiskError(f"cannot look for {pattern}: {getattr(error, 'strerror', None) or error}") from None
    if not found:
        raise DiskError(f"there is no file {pattern}", "give a file, or a pattern such as src/*.py")
    if len(found) > _MOST_FILES:
        raise DiskError(f"{pattern} means more than {_MOST_FILES} files", "give a pattern for fewer")
    return sorted(found)


def as_text(attachments: Iterable[Attachment]) -> str:
    """The attachments as the model reads them: see `file_block`."""
    return "\n\n".join(file_block(one.name, one.text) for one in attachments)
