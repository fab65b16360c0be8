"""A conversation as a document in a file, in the format of the file's suffix."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from llmcli.chat.conversation import Message
from llmcli.errors import DiskError


def document(
    messages: Sequence[Message],
    title: str,
    system: str | None,
    form: str,
    everything: Mapping[int, Message] | None = None,
) -> str:
    """The text of the file; see `export`. A picture shows the messages only, as the terminal does."""
    if form == "svg":
        from llmcli.ui.export import conversation

        return conversation(messages, title)
    from llmcli.chat.export import export

    return export(messages, title, system, form, everything)


def write(text: str, path: Path) -> None:
    """Write the document to its file.

    Raises:
        DiskError: when it cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8", errors="replace", newline="\n")
    except (OSError, ValueError) as error:
        with suppress(OSError, ValueError):  # an empty file of a full disk
            path.unlink() if not path.stat().st_size else None
        raise DiskError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None
