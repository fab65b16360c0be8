"""Inputs longer than the context: cut where paragraphs and sentences end, and the answers joined without seams."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from llmcli.inference.engine import sentence_ends

Count = Callable[[str], int]  # the number of tokens of a text
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")
_LINE = re.compile(r"\n")
_WORD = re.compile(r"\s+")
_LONGEST_TOKEN = 16  # characters; a text with more for each token allowed is cut before its tokens are counted
_STEP = 1 << 14  # characters of a long text that are counted at a time


@dataclass(frozen=True)
class Window:
    """A part of a text without the white space around it, which is kept for the joined answer."""

    start: int  # offset in the whole text, in characters
    text: str
    before: str = ""  # the end of the part before, for context only
    lead: str = ""  # white space before the part
    tail: str = ""  # and after it


def fits(text: str, n_most: int, count: Count) -> bool:
    """Whether a text has at most `n_most` tokens; of a long one, no more is counted than needed."""
    n_tokens = 0
    for start in range(0, len(text), _STEP):
        n_tokens += count(text[start : start + _STEP])
        if n_tokens > n_most:
            return False
    return True


def split_text(text: str, n_most: int, count: Count) -> list[str]:
    """Parts that joined are the text, of at most `n_most` tokens each; a single character may have more.

    A part ends where a paragraph ends; where one is too long, at the end of a line, of a sentence, or of a word.
    """
    parts, room = [""], n_most
    for unit, n_tokens in _units(text, n_most, count):
        if n_tokens > room and parts[-1]:
            parts.append("")
            room = n_most
        parts[-1] += unit
        room -= n_tokens
    return parts


def windows(text: str, n_most: int, n_overlap: int, count: Count) -> list[Window]:
    """The parts of a text, each with at most `n_overlap` tokens of the text before it, whole sentences of them."""
    made: list[Window] = []
    start, lead, last = 0, "", ""  # the lead has the parts that are white space only
    for part in split_text(text, n_most, count):
        body = part.strip()
        head, start = start + len(part) - len(part.lstrip()), start + len(part)
        if not body:
            lead += part
            continue
        lead += part[: len(part) - len(part.lstrip())]
        before = _last_sentences(last, n_overlap, count) if n_overlap else ""
        made.append(Window(head, body, before, lead, part[len(part.rstrip()) :]))
        lead, last = "", part
    return [*made[:-1], replace(made[-1], tail=made[-1].tail + lead)] if made else [Window(0, text)]


def join_windows(parts: Sequence[Window], answers: Sequence[str]) -> str:
    """The answers with the white space between them that the text has between its parts."""
    pairs = zip(parts, answers, strict=False)
    return "".join(f"{part.lead}{answer.strip()}{part.tail}" for part, answer in pairs).strip("\n")


def _units(text: str, n_most: int, count: Count) -> Iterator[tuple[str, int]]:
    """The smallest pieces that a cut may separate, with their tokens: sentences, or less where one is too long.

    Where a whole paragraph fits, it is a unit: so a part ends with a paragraph if it can.
    """
    yield from _cut(text, n_most, count, [_after(_PARAGRAPH), _after(_LINE), sentence_ends, _after(_WORD)])


def _cut(
    text: str, n_most: int, count: Count, levels: Sequence[Callable[[str], Iterator[int]]]
) -> Iterator[tuple[str, int]]:
    n_tokens = count(text) if len(text) <= n_most * _LONGEST_TOKEN else n_most + 1
    if n_tokens <= n_most or len(text) < 2:
        yield text, n_tokens
        return
    if not levels:  # a word of many tokens
        middle = len(text) // 2
        for half in (text[:middle], text[middle:]):
            yield from _cut(half, n_most, count, levels)
        return
    start = 0
    for end in (*levels[0](text), len(text)):
        if end > start:
            yield from _cut(text[start:end], n_most, count, levels[1:])
            start = end


def _after(mark: re.Pattern[str]) -> Callable[[str], Iterator[int]]:
    return lambda text: (found.end() for found in mark.finditer(text))


def _last_sentences(text: str, n_most: int, count: Count) -> str:
    """As many sentences at the end of a text as have at most so many tokens."""
    ends = [0, *sentence_ends(text), len(text)]
    kept = ""
    for start, end in zip(reversed(ends[:-1]), reversed(ends[1:]), strict=True):
        n_most -= count(text[start:end])
        if n_most < 0:
            break
        kept = text[start:end] + kept
    return kept.strip()
