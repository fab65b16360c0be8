"""The texts of a command, from its arguments and files, each with its place."""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, TextIO

from llmcli.errors import DiskError, error_text
from llmcli.files import byte_order_mark, decode_json, is_stdin, read_text, text_reading
from llmcli.params.param import as_utf8

_HEAD = 8192  # bytes in which a binary file shows what it is


@dataclass(frozen=True)
class Text:
    """A text and where it is: its file, and its line from 1 on; without a file it was an argument."""

    text: str
    file: str = ""
    line: int = 0  # 0: the whole file

    @property
    def place(self) -> str:
        """As compilers write it, `notes.txt:12`; empty for an argument."""
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass
class TextSource:
    """The texts of arguments, then those of files: a line each, or the whole file. Empty lines are left out."""

    arguments: Sequence[str]
    files: Sequence[str]
    stdin: Callable[[], BinaryIO]  # of which lines of UTF-8 are read
    encoding: str = "utf-8"
    is_whole: bool = False
    n_empty: int = 0  # lines that were left out

    def __iter__(self) -> Iterator[Text]:
        """Raises DiskError for a file that cannot be read, or is not text."""
        for argument in self.arguments:
            yield Text(as_utf8(argument))
        for name in self.files:
            if self.is_whole:
                yield Text(read_text(name, self.encoding), "stdin" if is_stdin(name) else name)
            else:
                yield from self._lines(name)

    def check(self) -> None:
        """Raise DiskError for a file that is missing or is not text, before the model is loaded."""
        for name in self.files:
            if not is_stdin(name):
                self._open(name).close()

    def _lines(self, name: str) -> Iterator[Text]:
        label = "stdin" if is_stdin(name) else name
        is_warned = False
        try:
            with self._open(name) as file:
                for number, line in enumerate(file, 1):
                    if "\ufffd" in line and not is_warned:
                        is_warned = True
                        hint = "set its encoding, such as --encoding latin-1"
                        text_reading.warn(f"{label}, line {number}: some characters are lost", hint)
                    text = line.rstrip("\r\n")
                    if text.strip():
                        yield Text(text, label, number)
                    else:
                        self.n_empty += 1
        except (OSError, ValueError) as error:
            raise DiskError(f"cannot read {label}: {error_text(error)}") from None

    def _open(self, name: str) -> TextIO:
        if is_stdin(name):
            return io.TextIOWrapper(self.stdin(), "utf-8-sig", errors="replace")
        path = os.path.expanduser(name)
        if os.path.isdir(path):
            raise DiskError(f"{name} is a folder, not a file", "give the name of a file")
        try:
            with open(path, "rb") as binary:
                head = binary.read(_HEAD)
        except FileNotFoundError:
            raise DiskError(f"file not found: {name}") from None
        except (OSError, ValueError) as error:
            raise DiskError(f"cannot read {name}: {error_text(error)}") from None
        mark, encoding = byte_order_mark(head, self.encoding)
        if encoding == "utf-8" and b"\0" in head:
            hint = "give a text file, or its encoding, such as --encoding utf-16-le"
            raise DiskError(f"{name} is not a text file", hint)
        file = open(path, encoding=encoding, errors="replace")  # noqa: SIM115 - the caller closes it
        file.read(1 if mark else 0)
        return file


def pair_of(line: Text) -> Sequence[Text]:
    """The two texts on a line, with a tab between them or as a JSON list; the line alone where it does not have two."""
    texts: object = line.text.split("\t")
    if line.text.lstrip().startswith("["):
        with suppress(ValueError):
            texts = decode_json(line.text)
    if isinstance(texts, list) and len(texts) == 2 and all(isinstance(one, str) and one.strip() for one in texts):
        return [Text(one, line.file, line.line) for one in texts]
    return [line]
