"""The one choke point for untrusted text on its way to a terminal."""

_BIDI = (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C)


def _marks() -> dict[int, str]:
    """What stands for each code point that could drive a terminal; line feed and tab pass."""
    table = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"}
    table |= {code: f"\\x{code:02x}" for code in range(0x80, 0xA0)}
    table |= {code: f"\\u{code:04x}" for code in (*_BIDI, 0x2028, 0x2029)}
    table |= dict.fromkeys(range(55296, 57344), "�")
    table |= {code: f"\\U{code:08x}" for code in range(0xE0000, 0xE0080)}
    return table | {0x7F: "\u2421", 0x0D: ""}


_TABLE = _marks()


def safe(text: str) -> str:
    """`text` with every control character (C0, C1, DEL), bidi override and tag character made visible.

    It works code point by code point, so a sequence that is split over two pieces cannot slip through. A
    carriage return is dropped: it would let later text overwrite earlier text.
    """
    return text if text.isprintable() and text.isascii() else text.translate(_TABLE)
