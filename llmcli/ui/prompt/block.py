'''Messages in triple quotes: where one that begins with """ ends, and its text without the marks.'''

import re

MARK = '"""'
_COMMAND = re.compile(r'/[A-Za-z?][\w?-]*[ \t]+(?=""")')  # the argument of a command may be a block too


def opens(first: str) -> bool:
    """Whether this first line of a message begins a block that continues in the next line."""
    line = _split_command(first)[1].rstrip()
    return line.startswith(MARK) and not (line.endswith(MARK) and len(line) >= 2 * len(MARK))


def closes(first: str, line: str) -> bool:
    """Whether `line` ends the block that `first` opened.

    Marks on a line of their own are closed on a line of their own, so that code with docstrings can stand
    between them; marks with text behind them are closed at the end of any line.
    """
    line = line.rstrip()
    return line == MARK if _split_command(first)[1].rstrip() == MARK else line.endswith(MARK)


def is_open(text: str) -> bool:
    """Whether the message is a block that has not been closed."""
    first, _, rest = text.partition("\n")
    return opens(first) and not closes(first, rest.rstrip().rpartition("\n")[2])


def body(text: str) -> str:
    """The message without its marks; one that is not a block is unchanged."""
    command, block = _split_command(text)
    if not block.startswith(MARK):
        return text
    inner = block.removeprefix(MARK) if is_open(text) else block.rstrip().removeprefix(MARK).removesuffix(MARK)
    head, newline, rest = inner.partition("\n")
    return command + (inner if head.strip() or not newline else rest).removesuffix("\n")


def _split_command(text: str) -> tuple[str, str]:
    """The command before a block ("" where there is none), and the rest."""
    found = _COMMAND.match(text)
    return (found[0], text[found.end() :]) if found else ("", text)
