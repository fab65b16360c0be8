"""Files, clipboard and editor."""

import shlex
import sys
from typing import TYPE_CHECKING

from llmcli.chat.attachments import Attachment, attach, expand
from llmcli.chat.code_blocks import code_blocks
from llmcli.errors import UsageError
from llmcli.ui.commands import complete
from llmcli.ui.commands.registry import command
from llmcli.ui.console import console

if TYPE_CHECKING:
    from llmcli.ui.repl.chat import Chat


@command("PATH …", complete=complete.paths)
def file(chat: "Chat", argument: str) -> None:
    """Add files to the next message, as @path does. `src/*.py` works too; `none` drops them."""
    if argument == "none":
        chat.pending = []
        console.note("no files go with the next message")
        return
    try:
        names = [name for pattern in shlex.split(argument, posix=sys.platform != "win32") for name in expand(pattern)]
    except ValueError as error:
        raise UsageError(f"/file: {error}", "quote a name that has spaces") from None
    if not names and not chat.pending:
        raise UsageError("/file needs the name of a file", "as in /file notes.txt")
    chat.pending += [attach(name) for name in names]
    shown = ", ".join(f"{one.name} ({len(one.text)} characters)" for one in chat.pending)
    console.note(f"with the next message: {shown}")


@command("[code|N]", complete=complete.words("code"))
def copy(chat: "Chat", argument: str) -> None:
    """Copy the answer, its last code block, or message N."""
    from llmcli.ui.clipboard import copy as to_clipboard
    from llmcli.ui.output import put_drawn

    path = chat.path()
    message = next((one for one in reversed(path) if one.role == "assistant"), None)
    if argument.isdecimal() and 0 < int(argument) <= len(path):
        message = path[int(argument) - 1]
    elif argument not in ("", "code"):
        raise UsageError(f"there is no message {argument}", "/history shows their numbers")
    if not message:
        raise UsageError("there is no answer to copy")
    text = message.content
    if argument == "code":
        blocks = code_blocks(text)
        if not blocks:
            raise UsageError("the last answer has no code block", "/copy alone copies all of it")
        text = blocks[-1]
    place = to_clipboard(text, put_drawn if chat.live else None)
    console.note(f"copied {len(text)} characters to the {place}")


@command()
def paste(chat: "Chat", _argument: str) -> None:
    """Add the clipboard's text to the next message."""
    from llmcli.ui.clipboard import paste as from_clipboard

    text = from_clipboard()
    if not text.strip():
        raise UsageError("the clipboard holds no text")
    chat.pending.append(Attachment("clipboard", text))
    console.note(f"with the next message: {len(text)} characters from the clipboard")


@command()
def editor(chat: "Chat", _argument: str) -> None:
    """Write the next message in your editor. It stands in the line then, and Enter sends it."""
    from llmcli.ui.editor import edit

    chat.draft = edit(chat.draft)
    if not chat.live and chat.draft:
        text, chat.draft = chat.draft, ""
        chat.send(text)
