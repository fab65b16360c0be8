"""Which sentence, line and paragraph is the next token in?"""

import re
from copy import copy
from typing import NamedTuple

# Marks that end a sentence only before white space, and marks that end one wherever they stand.
_SOFT = ".!?…‽‼⁇⁈⁉\u037e;"  # U+037E is the Greek question mark, which is mostly typed as a semicolon
_HARD = "。！？｡．।॥؟۔։።፧፨។៕။"
_EVENTS = frozenset(_SOFT + _HARD + "\n")
# Closing marks belong to the sentence that ends, opening ones to the next; many quotation marks can be either.
_CLOSERS = r"\"'”’»›)\]}*_`」』）】〉》〕］\U0001f300-\U0001faff\u2600-\u27bf\ufe0f\u200d"
_OPENERS = "\"'“„”‘‚’«»‹›([{*_`#>¿¡—–-•「『（【"

_ABBREVIATIONS = {
    # A point after these ends no sentence: a name, a number or an explanation follows.
    "before anything": """
        Mr Mrs Ms Mx Messrs Dr Prof St Ste Mt Ft Gen Col Lt Sgt Capt Maj Adm Sen Rep Gov Hon Rev Fr Msgr vs v cf e.g i.e
        viz approx fig figs vol vols pp eq z z.b d.h u.a u.u s.o s.u bzw ca vgl dr med prof Hr Hrn sog insb geb inkl
        evtl ggf Mio Mrd Nr Bd Abb Abs Kap MM Mme Mmes Mlle Mgr p.ex c.-à-d av apr env Sr Sra Srta Dña Lic Ing EE p.ej
        pág págs sig dott np tzn tj mgr т.е т.к т.н ул ср напр проф акад пл тел д π.χ δηλ βλ κ σελ डॉ प्रो रु د أ ص""",
    # Here none before a number: "No. 5", but "No. I stay."
    "before a number": """
        no nos art sec chap al p c s ch ext tel max min op str Jan Feb Mar Apr Jun Jul Aug sep sept oct Okt nov dec Dez
        janv févr avr juil déc núm n.º рис гл ст с п № янв фев февр апр авг сент окт нояб дек""",
    # These may end a sentence, and do so unless a small letter follows.
    "may end": """
        etc ibid a.m p.m Inc Ltd Co Corp Bros Jr Esq Ave Rd Blvd est usw o.ä u.ä ff ecc Ud Uds EE.UU itd itp atd enz osv
        т.д т.п др гг вв тыс млн млрд трлн руб коп н.э κ.ά κ.λπ""",
    # These may end one after a number or "and" (a year, and so on); else a name or number follows (a town, a page).
    "after a number": "г в r пр см гр стр кв",
    # After these and initials (U.S., Ph.D., vitamin C.) only a word that begins sentences shows that one begins.
    "initials": "им св",
}
_KINDS = {word: kind for kind, words in _ABBREVIATIONS.items() for word in words.split()}
_BEGINNERS = """
    I A The This That These Those It Its He She We They You There In On At But And As If When While However His Her My
    Our Their What Why How Der Die Er Sie Es Wir Ich Dann В И Я Он Она Они Мы Это Но Там Потом"""
_MONTHS = "Januar Jänner Februar März April Mai Juni Juli August September Oktober November Dezember Jahrhundert"

_BACK = 32  # characters before a mark that are looked at
_KEPT = 64  # characters before what is undecided that are kept
# The run of marks; what closes after it (French sets a space before the guillemet, [1] is a citation); the gap; what
# opens. All is bounded, so that no text makes a token dear. Where more could join, the match ends where the text does.
_MARK = re.compile(
    rf"\n|((?:[{_SOFT[:-1]}{_HARD}]|(?<=[\u0370-\u03ff\u1f00-\u1fff]);){{1,16}})"
    rf"((?:[{_CLOSERS}]|(?<![{_HARD}”’])[“‘«‹]|[ \u00a0\u202f][»›](?!\w)|\[\^?\d{{0,3}}(?:\]|\Z)){{0,8}})"
    rf"([^\S\n]{{0,16}})((?:[{re.escape(_OPENERS)}][ \u00a0\u202f]?){{0,8}})"
)
_LETTER = re.compile(r"[^\W_]")
_WORD = re.compile(r"[^\W\d_]{0,16}")
_HAN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
_LIST_MARKER = re.compile(r"[\s#>*_+([•—–-]{0,12}(?:\d{1,3}(?:\.\d{1,3}){0,4}|[^\W\d_]|[ivx]{1,5}|[IVXLC]{1,6})")
_ORDINAL = re.compile(r"(?i)\b(?:(?<!I )am|im|der|die|das|dem|den|des|vom|zum|zur|beim) \d{1,2}$")  # am 3. Tag
_INITIALS = re.compile(r"[^\W\d_]|(?:[^\W\d_]{1,2}\.-?)+[^\W\d_]{1,2}")
_ADDRESS = re.compile(r"\d$|://|@|^www$")  # the point may stand inside a number or an address


class Reading(NamedTuple):
    """How far a text is decided."""

    ends: int  # so many sentences have certainly ended
    start: int  # where what is open after them begins
    at: int  # up to where all is decided: the end of the text, or a mark that waits for what follows
    begun: bool  # whether the open sentence has a letter or digit before that
    final: bool  # whether the mark that waits looks like the end of a sentence


def boundaries(text: str, at: int = 0, begun: bool = False) -> Reading:
    """How many sentences of a text have ended. Before `at` all is decided, and one had `begun` there.

    More text never changes what is decided: so the same comes out however a text is cut into pieces.
    """
    ends = start = 0
    while mark := _MARK.search(text, at):
        begun = begun or _LETTER.search(text, at, mark.start()) is not None
        final, certain = _verdict(text, start, mark) if begun else (False, True)
        if not certain:
            return Reading(ends, start, mark.start(), begun, final)
        ends += final
        at = mark.end(2 if final else 1) if mark[1] else mark.end()
        if final or not mark[1]:
            start, begun = at, False
    begun = begun or _LETTER.search(text, at) is not None
    return Reading(ends, start, len(text), begun, False)


def _verdict(text: str, start: int, mark: re.Match[str]) -> tuple[bool, bool]:
    """Whether a sentence that has begun ends at a mark, and whether that is certain whatever follows."""
    run, closers, gap, openers = mark.groups()
    if not run:  # a line break
        return True, True
    before = text[max(start, mark.start() - _BACK) : mark.start()]
    after, then = text[mark.end(2) : mark.end(2) + 1], text[mark.end() : mark.end() + 1]
    kind = _kind(before) if run in ".．" else "end"
    if not set(run) <= set(_SOFT):
        said = closers and after in "とっ、，,"  # 「行く。」と言った
        numbered = run == "．" and (after.isdigit() or kind == "before anything")
        return not after or not (said or numbered), bool(after)
    if after and not gap:
        among_han = run[-1] in "!?" and _HAN.match(before[-1:]) and _HAN.match(after)
        return after in "¿¡" or bool(among_han), True
    if not then:
        return kind in ("end", "before a number") or (kind in ("address", "day") and gap > ""), False
    if then.islower() and not "\u10d0" <= then <= "\u10ff":  # all Georgian is small letters
        return not (closers or set(run) <= set(".…") or set(openers) & set("—–-")), True
    return _ends_before(text, mark.end(), kind, openers) if then not in ",=+." else (False, True)


def _ends_before(text: str, at: int, kind: str, openers: str) -> tuple[bool, bool]:
    """`_verdict` for a gap, and no small letter at `at` behind it."""
    word = _WORD.match(text, at)
    assert word
    whole = word.end() < len(text) or len(word[0]) == 16
    if kind == "initials":
        return whole and word[0] in _BEGINNERS.split() and text[word.end()] != ".", whole
    if kind == "day":  # 3. Mai, 3. 10. 2020
        return not text[at].isdigit() and word[0] not in _MONTHS.split(), whole
    if kind == "before a number":
        return not text[at].isdigit(), True
    if kind == "may end":
        return "(" not in openers, True
    return kind != "before anything", True


def _kind(before: str) -> str:
    """What a point after this text is likely to be: after which kind of abbreviation, or at the end of a sentence."""
    if not before or before[-1].isspace():
        return "end"
    if _LIST_MARKER.fullmatch(before) or _ORDINAL.search(before):
        return "before anything"
    previous, word = ["", *(part.lstrip(_OPENERS) for part in before.split())][-2:]
    pair = previous + word if previous.endswith(".") else word  # with a space in it: т. д.
    names = (pair, pair.lower(), word, word.lower()) if len(word) > 1 else (pair, word)
    kind = next((_KINDS[name] for name in names if name in _KINDS), None)
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
    """Counts the sentences, lines and paragraphs of a text that comes in pieces of any size.

    A mark at the very end counts provisionally: `sentence` goes back by one when what follows shows that nothing ended.
    A line break ends a sentence that has begun, that is, has a letter or digit. `line` counts the breaks after lines
    that hold more than white space, `paragraph` the gaps of blank lines after such lines.
    """

    def __init__(self) -> None:
        self.sentence = self.line = self.paragraph = 0
        self._ended = 0  # sentences that certainly ended
        self._open = ""  # the end of the text since then
        self._undecided = 0  # so many characters of it wait for more
        self._begun = False  # the sentence, before these
        self._said = False  # whether the open line holds more than white space
        self._gap = False  # whether a blank line would end a paragraph

    def push(self, text: str) -> None:
        """Take the next piece of the text."""
        if not self._said or "\n" in text:
            self._count_lines(text)
        if self._undecided or not _EVENTS.isdisjoint(text):
            self._count_sentences(text)
            return
        self._open = (self._open + text)[-_KEPT:]
        self._begun = self._begun or _LETTER.search(text) is not None

    def copy(self) -> "TextPosition":
        """The position as it is now, for when tokens are taken back."""
        return copy(self)

    def _count_lines(self, text: str) -> None:
        *lines, rest = text.split("\n")
        for line in lines:
            said = self._said or bool(line.strip())
            self.line += said
            self.paragraph += self._gap and not said
            self._gap, self._said = said, False
        self._said = bool(rest.strip())

    def _count_sentences(self, text: str) -> None:
        text, at = self._open + text, len(self._open) - self._undecided
        reading = boundaries(text, at, self._begun)
        self._ended += reading.ends
        self.sentence = self._ended + reading.final
        self._begun = reading.begun
        self._open = text[max(reading.start, reading.at - _KEPT) :]
        self._undecided = len(text) - reading.at
