"""The ends of sentences, lines and paragraphs in a text that arrives in pieces."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

# Marks that end a sentence only before white space, and marks that always end one.
_SOFT = ".!?…‽‼⁇⁈⁉\u037e;"  # U+037E is the Greek question mark, which is mostly typed as a semicolon
_HARD = "。！？｡．।॥؟۔։።፧፨។៕။"
_EVENTS = frozenset(_SOFT + _HARD + "\n")
# Closing marks belong to the sentence before, opening ones to the next; many quotation marks can be both.
_CLOSERS = r"\"'”’»›)\]}*_`」』）】〉》〕］\U0001f300-\U0001faff\u2600-\u27bf\ufe0f\u200d"
_OPENERS = "\"'“„”‘‚’«»‹›([{*_`#>¿¡—–-•「『（【"
_FIRST_WORDS = """
    I A The This That These Those It Its He She We They You There In On At But And As If When While However His Her My
    Our Their What Why How Der Die Er Sie Es Wir Ich Dann В И Я Он Она Они Мы Это Но Там Потом"""
_MONTHS = "Januar Jänner Februar März April Mai Juni Juli August September Oktober November Dezember Jahrhundert"
_LOOKBEHIND = 32  # characters before a mark that decide about it
_KEPT = 64  # characters before the undecided text that are stored
_LETTER = re.compile(r"[^\W_]")
_WORD = re.compile(r"[^\W\d_]{0,16}")
_LIST_MARKER = re.compile(r"[\s#>*_+([•—–-]{0,12}(?:\d{1,3}(?:\.\d{1,3}){0,4}|[^\W\d_]|[ivx]{1,5}|[IVXLC]{1,6})")
_ORDINAL = re.compile(r"(?i)\b(?:(?<!I )am|im|der|die|das|dem|den|des|vom|zum|zur|beim) \d{1,2}$")  # am 3. Tag
_INITIALS = re.compile(r"[^\W\d_]|(?:[^\W\d_]{1,2}\.-?)+[^\W\d_]{1,2}")
_ADDRESS = re.compile(r"\d$|://|@|^www$")  # the point can be part of a number or an address


class SentenceScan(NamedTuple):
    """The sentence ends in a text that are certain."""

    ends: int  # number of certain sentence ends
    start: int  # start of the text after them, the open sentence
    at: int  # end of the decided text: the end of the text, or a mark that depends on the text to come
    started: bool  # whether the open sentence has a letter or digit before `at`
    final: bool  # whether the undecided mark is probably the end of a sentence


def boundaries(text: str, at: int = 0, started: bool = False) -> SentenceScan:
    """The sentence ends in a text. Before `at` all is decided; `started` is whether the sentence there has started.

    More text never changes what is decided, so the result does not depend on how a text is split into pieces.
    """
    ends = start = 0
    while mark := _mark().search(text, at):
        started = started or _LETTER.search(text, at, mark.start()) is not None
        final, certain = _verdict(text, start, mark) if started else (False, True)
        if not certain:
            return SentenceScan(ends, start, mark.start(), started, final)
        ends += final
        at = mark.end(2 if final else 1) if mark[1] else mark.end()
        if final or not mark[1]:
            start, started = at, False
    started = started or _LETTER.search(text, at) is not None
    return SentenceScan(ends, start, len(text), started, False)


def sentence_ends(text: str) -> Iterator[int]:
    """Where the sentences of a finished text end: after the mark and the white space behind it, or the line break."""
    at = start = 0
    started = False
    while mark := _mark().search(text, at):
        started = started or _LETTER.search(text, at, mark.start()) is not None
        if mark[1] and not (started and _verdict(text, start, mark)[0]):
            at = mark.end(1)
            continue
        at = start = mark.end(3) if mark[1] else mark.end()
        started = False
        yield at


@cache
def _mark() -> re.Pattern[str]:
    """The end of a sentence, or a line break; compiled when it is needed, which takes 8 ms."""
    # Groups: the marks; closing marks after them (French has a space before the guillemet, [1] is a citation); the gap;
    # opening marks. Bounded repetitions limit the time per token. A match at the end of the text can still grow.
    return re.compile(
        rf"\n|((?:[{_SOFT[:-1]}{_HARD}]|(?<=[\u0370-\u03ff\u1f00-\u1fff]);){{1,16}})"
        rf"((?:[{_CLOSERS}]|(?<![{_HARD}”’])[“‘«‹]|[ \u00a0\u202f][»›](?!\w)|\[\^?\d{{0,3}}(?:\]|\Z)){{0,8}})"
        rf"([^\S\n]{{0,16}})((?:[{re.escape(_OPENERS)}][ \u00a0\u202f]?){{0,8}})"
    )


@cache
def _kinds() -> dict[str, str]:
    """What a point after an abbreviation means (see abbreviations.txt), by the abbreviation."""
    lines = Path(__file__).with_name("abbreviations.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split(": ") for line in lines if line and not line.startswith("#"))
    return {word: kind for kind, words in pairs for word in words.split()}


def _verdict(text: str, start: int, mark: re.Match[str]) -> tuple[bool, bool]:
    """(Whether a sentence that has started ends at a mark, whether that is certain for every text to come)."""
    run, closers, gap, openers = mark.groups()
    if not run:  # a line break
        return True, True
    before = text[max(start, mark.start() - _LOOKBEHIND) : mark.start()]
    after, following = text[mark.end(2) : mark.end(2) + 1], text[mark.end() : mark.end() + 1]
    kind = _kind(before) if run in ".．" else "end"
    if not set(run) <= set(_SOFT):
        is_quote = closers and after in "とっ、，,"  # 「行く。」と言った
        is_number = run == "．" and (after.isdigit() or kind == "before anything")
        return not after or not (is_quote or is_number), bool(after)
    if after and not gap:
        beside = (before[-1:], after)
        is_han = all("\u3040" <= one <= "\u30ff" or "\u3400" <= one <= "\u9fff" for one in beside)
        return after in "¿¡" or (is_han and run[-1] in "!?"), True
    if not following:
        return kind in ("end", "before a number") or (kind in ("address", "day") and gap > ""), False
    if following.islower() and not "\u10d0" <= following <= "\u10ff":  # Georgian has no capital letters
        return not (closers or set(run) <= set(".…") or set(openers) & set("—–-")), True
    return _ends_before(text, mark.end(), kind, openers) if following not in ",=+." else (False, True)


def _ends_before(text: str, at: int, kind: str, openers: str) -> tuple[bool, bool]:
    """`_verdict` for a mark with a gap after it, and no lower-case letter at `at` after the gap."""
    word = _WORD.match(text, at)
    assert word
    whole = word.end() < len(text) or len(word[0]) == 16
    if kind == "initials":
        return whole and word[0] in _FIRST_WORDS.split() and text[word.end()] != ".", whole
    if kind == "day":  # 3. Mai, 3. 10. 2020
        return not text[at].isdigit() and word[0] not in _MONTHS.split(), whole
    if kind == "before a number":
        return not text[at].isdigit(), True
    if kind == "may end":
        return "(" not in openers, True
    return kind != "before anything", True


def _kind(before: str) -> str:
    """The probable meaning of a point after this text: a kind of abbreviation, or "end" for the end of a sentence."""
    if not before or before[-1].isspace():
        return "end"
    if _LIST_MARKER.fullmatch(before) or _ORDINAL.search(before):
        return "before anything"
    previous, word = ["", *(part.lstrip(_OPENERS) for part in before.split())][-2:]
    pair = previous + word if previous.endswith(".") else word  # with a space in it: т. д.
    names = (pair, pair.lower(), word, word.lower()) if len(word) > 1 else (pair, word)
    kind = next((_kinds()[name] for name in names if name in _kinds()), None)
    if kind == "after a number":
        counted = previous[-1:].isdigit() or previous.isupper() or previous == "и"
        return "may end" if counted else "before anything"
    if kind:
        return kind
    if _INITIALS.fullmatch(word) and (len(word) > 1 or word.isupper()):
        return "may end" if word[-1].islower() else "initials"
    if word.isdigit() and len(word) < 3:
        return "day"
    return "address" if _ADDRESS.search(word) else "end"


class TextPosition:
    """Counts the sentences, lines and paragraphs of a text that arrives in pieces.

    A mark at the end of the text counts provisionally: `sentence` decreases by one if the next text shows that the
    sentence continues. A line break ends a sentence that has started, which means that it has a letter or digit. `line`
    counts the breaks after lines that are not blank, `paragraph` the blank lines after such lines.
    """

    def __init__(self) -> None:
        self.sentence = self.line = self.paragraph = 0
        self._ended = 0  # certain sentence ends
        self._open = ""  # the last part of the text since then
        self._undecided = 0  # number of characters of it that depend on the text to come
        self._started = False  # whether the open sentence has a letter or digit before these
        self._has_text = False  # whether the open line is not blank
        self._in_paragraph = False  # whether a blank line ends a paragraph

    def push(self, text: str) -> None:
        """Add the next piece of the text."""
        if not self._has_text or "\n" in text:
            *lines, rest = text.split("\n")
            for line in lines:
                has_text = self._has_text or bool(line.strip())
                self.line += has_text
                self.paragraph += self._in_paragraph and not has_text
                self._in_paragraph, self._has_text = has_text, False
            self._has_text = bool(rest.strip())
        if not self._undecided and _EVENTS.isdisjoint(text):
            self._open = (self._open + text)[-_KEPT:]
            self._started = self._started or _LETTER.search(text) is not None
            return
        text, at = self._open + text, len(self._open) - self._undecided
        scan = boundaries(text, at, self._started)
        self._ended += scan.ends
        self.sentence = self._ended + scan.final
        self._started = scan.started
        self._open = text[max(scan.start, scan.at - _KEPT) :]
        self._undecided = len(text) - scan.at
