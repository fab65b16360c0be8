"""Pasted text: clean text, or one character in place of a text that is too long to draw at each key."""

import re
from bisect import bisect_right
from itertools import accumulate

from prompt_toolkit.formatted_text.utils import fragment_list_to_text
from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput
from prompt_toolkit.layout.utils import explode_text_fragments

LONGEST = 10_000  # characters that are drawn: a key takes 50 ms in a line of that length
_MOST_LINES = 200
_FIRST = 0xF0000  # of the signs: private use, in no font
_MOST_SIGNS = 0xFFFE
_SIGNS = re.compile(f"[{chr(_FIRST)}-{chr(_FIRST + _MOST_SIGNS - 1)}]")

_DROPPED = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)]) | dict.fromkeys(range(0xD800, 0xE000), 0xFFFD)
_CLEAN = {code: mark for code, mark in _DROPPED.items() if chr(code) not in "\t\n"}


def clean(text: str) -> str:
    """`text` with plain line ends, and without control characters and lone surrogates."""
    return text.replace("\r\n", "\n").replace("\r", "\n").translate(_CLEAN)


class Pasted:
    """The long texts that are one character (a sign) each in the line."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def fold(self, text: str) -> str:
        """`text`, or the sign that stands for it when it is long."""
        if len(text) <= LONGEST and text.count("\n") <= _MOST_LINES:
            return text
        text = self.unfold(text)
        if text not in self._texts:
            if len(self._texts) == _MOST_SIGNS:
                return text
            self._texts.append(text)
        return chr(_FIRST + self._texts.index(text))

    def unfold(self, text: str) -> str:
        """`text` with every sign replaced by what it stands for."""
        return text if text.isascii() else _SIGNS.sub(lambda found: self._text(found[0]) or found[0], text)

    def label(self, sign: str) -> str:
        """How a sign is shown; nothing for any other character."""
        text = self._text(sign)
        lines = len(text.splitlines())
        if lines > 1:
            return f"[pasted {lines:,} lines]"
        return f"[pasted {len(text):,} characters]" if text else ""

    def _text(self, sign: str) -> str:
        number = ord(sign) - _FIRST
        return self._texts[number] if 0 <= number < len(self._texts) else ""


class ShowPasted(Processor):
    """Draws the labels in place of the signs."""

    def __init__(self, pasted: Pasted) -> None:
        self._pasted = pasted

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        fragments = transformation_input.fragments
        text = fragment_list_to_text(fragments)
        if text.isascii() or not any(map(self._pasted.label, text)):
            return Transformation(fragments)
        shown = [
            (f"{style} class:pasted", label) if (label := self._pasted.label(char)) else (style, char)
            for style, char, *_ in explode_text_fragments(fragments)
        ]
        starts = [0, *accumulate(len(char) for _, char in shown)]

        def to_display(index: int) -> int:
            return starts[index] if index < len(starts) else starts[-1] + index - len(starts) + 1

        def to_source(index: int) -> int:
            return bisect_right(starts, index) - 1 if index < starts[-1] else index - starts[-1] + len(starts) - 1

        return Transformation(list(shown), to_display, to_source)
