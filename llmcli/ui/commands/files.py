"""Commands that read and write files, the clipboard, and the user's editor."""

import os
import shlex
import sys
from pathlib import Path

from llmcli.chat.conversation import Attachment, attach, expand
from llmcli.chat.export import format_of
from llmcli.errors import UsageError
from llmcli.inference.request import system_text
from llmcli.text import plural
from llmcli.ui.chat.app import ChatApp
from llmcli.ui.commands.messages import parse_message_number
from llmcli.ui.commands.registry import command, complete_paths
from llmcli.ui.terminal import clipboard
from llmcli.ui.terminal.console import confirm, console, edit
from llmcli.ui.terminal.output import print_drawn


@command("export FILE", "/export talk.md", "/export talk.html", "/export talk.svg", complete=complete_paths)
def export(chat: ChatApp, argument: str) -> None:
    """Write the conversation to a file.

    Its ending selects the format: .md (Markdown), .txt, .json, .html (a page for a browser) or .svg (a picture).
    """
    from llmcli.ui.export_file import document, write  # imports rich

    path = Path(os.path.expanduser(argument.strip('"')))
    form = format_of(path)
    if not chat.path():
        raise UsageError("the conversation is empty: nothing to export", "send a message first")
    if os.path.exists(path) and not (chat.live and confirm(f"{path} already exists. Replace it?", False)):
        raise UsageError(f"{path} already exists", "choose another name")
    write(document(chat.path(), chat.session.name, system_text(chat.controller.settings), form), path)
    console.note(f"exported to {os.path.abspath(path)}")


@command("file [PATH …|none]", "/file notes.txt", "/file src/*.py", "/file none", complete=complete_paths)
def file(chat: ChatApp, argument: str) -> None:
    """Attach files to the next message.

    @PATH in a message does the same. Patterns such as *.py work too. `none` removes the attached files.
    """
    if argument == "none":
        chat.pending = []
        console.note("no files are attached to the next message")
        return
    try:
        names = [name for pattern in shlex.split(argument, posix=sys.platform != "win32") for name in expand(pattern)]
    except ValueError as error:
        raise UsageError(f"/file: {error}", "quote a name that contains spaces") from None
    if not names and not chat.pending:
        raise UsageError("/file needs a file name", "try /file notes.txt")
    chat.pending += [attach(name, chat.controller.settings.encoding) for name in names]
    shown = ", ".join(f"{attached.name} ({plural(len(attached.text), 'character')})" for attached in chat.pending)
    console.note(f"attached to the next message: {shown}")


@command("copy [code|N]", "/copy", "/copy code", "/copy 3")
def copy(chat: ChatApp, argument: str) -> None:
    """Copy the last answer to the clipboard.

    `code` copies its last code block only, N the message with that number in /history.
    """
    path = chat.path()
    if argument in ("", "code"):
        message = next((message for message in reversed(path) if message.role == "assistant"), None)
    else:
        message = path[parse_message_number(argument, path) - 1]
    if not message:
        raise UsageError("no answer to copy", "send a message first")
    text = message.content
    if argument == "code":
        blocks = code_blocks(text)
        if not blocks:
            raise UsageError("the last answer has no code block", "use /copy to copy all of it")
        text = blocks[-1]
    copied_by = clipboard.copy(text, print_drawn if chat.live else None)
    how = " to the clipboard" if copied_by == "clipboard" else " (the terminal puts them on the clipboard)"
    console.note(f"copied {plural(len(text), 'character')}{how}")


@command("paste", "/paste", "/paste, then Summarize this.", "/paste, then /file none")
def paste(chat: ChatApp, _argument: str) -> None:
    """Attach the clipboard's text to the next message. `/file none` removes it."""
    text = clipboard.paste()
    if not text.strip():
        raise UsageError("the clipboard contains no text", "copy a text first")
    chat.pending.append(Attachment("clipboard", text))
    console.note(f"attached to the next message: {plural(len(text), 'character')} from the clipboard")


@command("editor", "/editor", "/edit 3", "/system edit")
def editor(chat: ChatApp, _argument: str) -> None:
    """Write the next message in your editor.

    The editor is $VISUAL or $EDITOR. The text is put into the input line, and Enter sends it. Ctrl-X Ctrl-E does
    the same.
    """
    chat.draft = edit(chat.draft)
    if not chat.live and chat.draft:
        text, chat.draft = chat.draft, ""
        chat.send(text)


def code_blocks(markdown: str) -> list[str]:
    """The content of each fenced block in order, without the fences; a block that is not closed ends with the text."""
    from markdown_it import MarkdownIt

    if "```" not in markdown and "~~~" not in markdown:
        return []
    tokens = MarkdownIt("commonmark").disable("inline").parse(markdown)
    return [token.content for token in tokens if token.type == "fence"]
