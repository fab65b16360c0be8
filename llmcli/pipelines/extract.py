"""What of an answer a command passes on: a code block, JSON, the last line, or what a regular expression finds."""

import atexit
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from threading import Timer
from time import monotonic

from llmcli.errors import ConstraintError
from llmcli.inference.request import fence_language
from llmcli.params.result import EXTRACT_NAMES, code_language
from llmcli.text import ellipsize

_FENCE = re.compile(r"([ \t>]*)(`{3,}|~{3,})[ \t]*([^`]*)")
_BREAK = re.compile(r"\s*\n\s*")  # outside of strings: JSON has no line feed in a string
_OPENING, _BRACKET = re.compile(r"[{\[]"), re.compile(r"[{}\[\]]")
_SEARCH_SECONDS = 5.0
# A pattern such as (a+)+b can take years, and nothing stops Python's `re` but the end of its process. Ctrl-C reaches
# all processes of a terminal: it is for the one that waits for this one.
_SEARCH = """
import json, re, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
for line in sys.stdin:
    try:
        pattern, texts = json.loads(line)
        found = [re.search(pattern, text) for text in texts]
        result = [None if one is None else one[1] if one.re.groups else one[0] for one in found]
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    print(json.dumps(result), flush=True)
"""
_WHOLE_HINT = "see the whole answer without --extract, or with --json"


@dataclass(frozen=True)
class CodeBlock:
    """A fenced block of Markdown."""

    language: str
    text: str
    is_closed: bool


def extract(what: str, text: str, is_cut: bool = False) -> str:
    """The part of an answer that the setting `extract` names. `is_cut`: the answer reached a limit of length.

    Raises ConstraintError if the answer does not have it.
    """
    (found,) = extract_each(what, [(text, is_cut)])
    if isinstance(found, ConstraintError):
        raise found
    return found


def extract_each(what: str, answers: Sequence[tuple[str, bool]]) -> list[str | ConstraintError]:
    """As `extract`, of several answers, each with whether it is cut; the error in place of what is not there."""
    if what in EXTRACT_NAMES or code_language(what) is not None:
        return [_extract_one(what, *one) for one in answers]
    return _search(what, [text for text, _ in answers])


def _extract_one(what: str, text: str, is_cut: bool) -> str | ConstraintError:
    try:
        if what == "json":
            return first_json(text, is_cut)
        return _last_line(text, is_cut) if what == "last-line" else _code(text, code_language(what) or "", is_cut)
    except ValueError as error:
        return ConstraintError(f"{error}: {ellipsize(text.strip(), 60)!r}", _WHOLE_HINT)


def code_blocks(text: str) -> list[CodeBlock]:
    """The fenced code blocks of a Markdown text, as CommonMark reads them; also those in lists and quotes."""
    blocks, inside = list[CodeBlock](), list[str]()
    indent = fence = language = ""
    for line in text.split("\n"):
        found = _FENCE.fullmatch(line.rstrip())
        if not fence:
            if found:
                (indent, fence, language), inside = found.groups(), []
        elif found and found[2].startswith(fence) and not found[3]:
            blocks.append(CodeBlock(language, "\n".join(inside), is_closed=True))
            fence = ""
        else:
            inside.append(_without_indent(line, indent))
    if fence:
        blocks.append(CodeBlock(language, "\n".join(inside), is_closed=False))
    return blocks


def _without_indent(line: str, indent: str) -> str:
    """A line without what stands before its fence, as far as it has that: spaces, or the mark of a quote."""
    at = 0
    while at < min(len(indent), len(line)) and line[at] in " \t>" and (line[at] != ">" or ">" in indent):
        at += 1
    return line[at:]


def _code(text: str, language: str, is_cut: bool) -> str:
    """The first code block, in `language` if it is not empty. Raises ValueError."""
    blocks = code_blocks(text)
    wanted = fence_language(language)
    block = next((one for one in blocks if not wanted or fence_language(_first_word(one.language)) == wanted), None)
    if block is None and not blocks:
        raise ValueError("the answer has no code block")
    if block is None:
        others = ", ".join(dict.fromkeys(_first_word(one.language) or "no language" for one in blocks))
        raise ValueError(f"the answer has no code block in {language} (it has {others})")
    if not block.is_closed and is_cut:
        raise ValueError("the code block of the answer is cut off")
    return block.text.strip("\n")


def _first_word(text: str) -> str:
    return "".join(text.split()[:1]).strip("{}.").lower()


def first_json(text: str, is_cut: bool = False) -> str:
    """The first JSON object or list in a text, on one line and otherwise as it is; a text that is JSON is itself.

    A code block that is JSON comes before other text. What is inside of brackets that are not JSON does not count: of
    an object that is cut off, no part is a value. Raises ValueError if there is none.
    """
    wholes = [] if is_cut else [text]  # a number that is cut off is another number
    for whole in (*wholes, *(block.text for block in code_blocks(text) if block.is_closed)):
        if _is_json(whole):
            return _one_line(whole)
    at, reason = 0, "no JSON"
    while begin := _OPENING.search(text, at):
        try:
            _, end = _DECODER.raw_decode(text, begin.start())
        except (ValueError, RecursionError):
            reason = "no valid JSON"
            at = _end_of_brackets(text, begin.start())
            continue
        return _one_line(text[begin.start() : end])
    raise ValueError(f"the answer has {reason}")


def _refuse(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


# Numbers stay texts: Python refuses integers of thousands of digits.
_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_int=str, parse_float=str)


def _is_json(text: str) -> bool:
    with suppress(ValueError, RecursionError):
        _DECODER.decode(text)
        return True
    return False


def _one_line(text: str) -> str:
    text = re.sub(r"(?<=[{\[])\s*\n\s*|\s*\n\s*(?=[}\]])", "", text.strip())
    return _BREAK.sub(" ", text).replace("\r", " ")


def _end_of_brackets(text: str, begin: int) -> int:
    """The place after the bracket that closes the one at `begin`; the end of the text if none does."""
    depth = 0
    for found in _BRACKET.finditer(text, begin):
        depth += 1 if found[0] in "{[" else -1
        if depth == 0:
            return found.end()
    return len(text)


def _last_line(text: str, is_cut: bool) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError("the answer is empty")
    if is_cut and not text.endswith("\n"):
        raise ValueError("the last line of the answer is cut off")
    return lines[-1]


def _search(pattern: str, texts: Sequence[str]) -> list[str | ConstraintError]:
    """The first match in each text: its first group if the pattern has one."""
    try:
        found = _searcher().search(pattern, texts)
    except ConstraintError as error:
        return [error for _ in texts]
    missing = f"the answer does not match '{ellipsize(pattern, 60)}'"
    return [
        one if one is not None else ConstraintError(f"{missing}: {ellipsize(text.strip(), 60)!r}", _WHOLE_HINT)
        for one, text in zip(found, texts, strict=True)
    ]


@cache
def _searcher() -> "_Searcher":
    """The one of this program: the start of a process takes longer than a search, and a batch has many."""
    made = _Searcher()
    atexit.register(made.close)
    return made


class _Searcher:
    """Python's `re` in a process of its own, which a time limit ends."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def search(self, pattern: str, texts: Sequence[str]) -> list[str | None]:
        """The first match in each text. Raises ConstraintError when that takes too long, or fails."""
        if not self._process or self._process.poll() is not None:
            self.close()
            command, pipe = [sys.executable, "-I", "-S", "-c", _SEARCH], subprocess.PIPE
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, encoding="ascii"
            )
        process, begin, line = self._process, monotonic(), ""
        assert process.stdin
        assert process.stdout
        limit = Timer(_SEARCH_SECONDS, process.kill)
        limit.daemon = True
        limit.start()
        try:
            print(json.dumps([pattern, texts]), file=process.stdin, flush=True)
            line = process.stdout.readline()  # ends with the process
        except OSError:  # so does the pipe
            pass
        except BaseException:
            self.close()  # the next search would read the result of this one
            raise
        finally:
            limit.cancel()
        if not line.endswith("\n"):
            self.close()
        result: list[str | None] | str = json.loads(line) if self._process else "its process ended"
        if isinstance(result, list):
            return result
        if not self._process and monotonic() - begin >= _SEARCH_SECONDS:
            message = f"the regular expression of --extract takes more than {_SEARCH_SECONDS:g} s"
            raise ConstraintError(message, "write it without nested repetition, such as (a+)+")
        raise ConstraintError(f"the regular expression of --extract failed: {result}", "write it in a simpler way")

    def close(self) -> None:
        """End the process; a second call has no effect."""
        process, self._process = self._process, None
        if process:
            process.kill()
            process.communicate()
