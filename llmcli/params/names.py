"""The rule for the names of aliases, presets, sessions and characters: valid file names on every system."""

import re

from llmcli.errors import UsageError

_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")  # device names of Windows


def check_name(name: str, kind: str) -> str:
    """`name`, if it is valid. `kind` is what it names, for the error.

    Raises:
        UsageError: when it is not.
    """
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) and not _DEVICES.fullmatch(name) and name[-1] != ".":
        return name
    article = "an" if kind[0] in "aeiou" else "a"
    raise UsageError(
        f"{name[:80]!r} is not a valid name for {article} {kind}",
        "use up to 64 letters, digits, dots, dashes and underscores",
    )
