"""The rule for names that users give: aliases, presets, sessions, characters. Each is a file name on any system."""

import re

from llmcli.errors import UsageError

_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")  # Windows opens a device under these


def check_name(name: str, kind: str) -> str:
    """`name` if it may be one; `kind` says in the error what it was to be the name of.

    Raises:
        UsageError: otherwise.
    """
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) and not _DEVICES.fullmatch(name) and name[-1] != ".":
        return name
    article = "an" if kind[0] in "aeiou" else "a"
    raise UsageError(
        f"{name[:80]!r} cannot be the name of {article} {kind}",
        "use up to 64 letters, digits, dots, dashes and underscores",
    )
