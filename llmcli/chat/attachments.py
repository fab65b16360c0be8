"""Files attached to a message: those its text mentions behind `@`, and those that a glob pattern matches."""

import glob
import os
import re
from itertools import islice

from llmcli.chat.conversation import Attachment
from llmcli.errors import DiskError, error_text
from llmcli.files import read_text

_MAX_FILES = 100
_MAX_NAME = 4096  # characters; no system opens a longer path
_MENTION = re.compile(r"""(?<![\w.%+/\\@-])@(?:"([^"\n]+)"|'([^'\n]+)'|(\S+))""")
_PUNCTUATION = ".,;:!?)]}>\"'`*。，；：！？）"


def find_mentions(text: str) -> list[str]:
    """The files mentioned behind `@` in a message, each once: `@notes.txt`, `@"my notes.txt"`, `@~/x.md`.

    An `@` inside a word, as in a mail address, or before a name that is not a file is plain text.
    """
    names: dict[str, None] = {}
    # A pasted text may have one word a hundred thousand times.
    for double, single, bare in dict.fromkeys(_MENTION.findall(text)):
        # Without the least punctuation at the end that leaves the name of a file; no name ends in more than 8.
        least = len(bare.rstrip(_PUNCTUATION))
        ends = range(min(len(bare), least + 8), least - 1, -1)
        name = next((bare[:end] for end in ends if _is_file(bare[:end])), double or single)
        if _is_file(name):
            names[name] = None
    return [*names]


def _is_file(name: str) -> bool:
    return 0 < len(name) <= _MAX_NAME and os.path.isfile(os.path.expanduser(name))


def attach(path: str) -> Attachment:
    """The file as an attachment. Raises DiskError if it is not a readable text file, UsageError for an empty name."""
    full = os.path.expanduser(path)
    if os.path.exists(full) and not os.path.isfile(full) and not os.path.isdir(full):
        raise DiskError(f"{path} is a device or a pipe", "give a regular file")  # reading it might never end
    return Attachment(path, read_text(path))


def expand(pattern: str) -> list[str]:
    """The files that `pattern` matches, sorted; only itself if it has no `*`, `?` or `[`, or is the name of a file.

    As in a shell, a hidden file matches only a pattern with the dot. Raises DiskError if none or too many match.
    """
    full = os.path.expanduser(pattern)
    if not glob.has_magic(full) or os.path.lexists(full):
        return [pattern]
    try:
        found = list(islice(filter(os.path.isfile, glob.iglob(full, recursive=True)), _MAX_FILES + 1))
    except (OSError, ValueError) as error:
        raise DiskError(f"cannot search for {pattern}: {error_text(error)}") from None
    if not found:
        raise DiskError(f"file not found: {pattern}", "give a file, or a pattern such as src/*.py")
    if len(found) > _MAX_FILES:
        raise DiskError(f"{pattern} matches more than {_MAX_FILES} files", "give a narrower pattern")
    return sorted(found)
