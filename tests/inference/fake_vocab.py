"""A vocabulary without a model: one token a character, and any control tokens."""

import re
from collections.abc import Iterable

from llmcli.engine.llama.model import Vocab

CONTROL = 0x110000  # control tokens are numbered from here, beyond every character


class FakeVocab(Vocab):
    """Tokenizes as llama.cpp does: text becomes control tokens only with `parse_special`."""

    def __init__(self, control: Iterable[str] = (), bos: str = "", ends: Iterable[str] = (), adds_bos: bool = False):
        self._names = [*control, *([bos] if bos and bos not in control else [])]
        self._ending = set(ends)
        self._pieces: dict[int, bytes] = {}
        self.n_tokens = CONTROL + len(self._names)
        self.bos = CONTROL + self._names.index(bos) if bos else None
        self.eos = None
        self.adds_bos = adds_bos

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        named = "|".join(map(re.escape, self._names)) if parse_special else ""
        parts = re.split(f"({named})", text) if named else [text]
        tokens = [token for part in parts for token in self._tokens(part, bool(named))]
        return [self.bos, *tokens] if add_special and self.adds_bos and self.bos is not None else tokens

    def _tokens(self, part: str, named: bool) -> list[int]:
        return [CONTROL + self._names.index(part)] if named and part in self._names else [ord(char) for char in part]

    def piece(self, token: int, special: bool = False) -> bytes:
        if token < CONTROL:
            return chr(token).encode()
        return self._names[token - CONTROL].encode() if special else self._pieces.get(token, b"")

    def label(self, token: int) -> str:
        return self.piece(token, special=True).decode()

    def is_control(self, token: int) -> bool:
        return token >= CONTROL

    @property
    def special(self) -> dict[int, bytes]:
        return {CONTROL + index: name.encode() for index, name in enumerate(self._names)}

    def strips_left(self, _token: int) -> bool:
        return False

    def ends(self, token: int) -> bool:
        return token >= CONTROL and self._names[token - CONTROL] in self._ending

    @property
    def shown(self) -> set[str]:
        return {piece.decode() for piece in self._pieces.values()}
