"""Text for people: safe for a terminal, cut, counted, sized, dated; the nearest known name; blocks between marks."""

import math
import re
import time
from collections.abc import Iterable

_MIN_SIMILARITY = 0.7  # below, unrelated words are suggested: personality and xtc_probability have 0.62
_LONGEST_NAME = 200  # characters that are compared: it takes long, and whoever sends megabytes means no name
_SEPARATORS = re.compile(r"[-_/\s]+")
# What to use instead of the settings of other programs that llmcli does not have.
_FOREIGN = {
    "use a range as temperature, such as 0.3..1.3": (
        "dynatemp dynamictemperature dynatemplow dynatemphigh dynatempmin dynatempmax"
    ),
    "use repeat_penalty: llama.cpp has no slope for it": "reppenslope",
    "use samplers, a list of names": "sampleorder samplerorder",
    "llmcli does not have this option of llama.cpp yet": ("lora lorascaled keep image mmproj"),
    "use --load-mode: mmap, none (without mmap), mlock, mmap+mlock or dio": (
        "mlock mmap nommap dio directio usemmap usemlock nodirectio"
    ),
    "use --think show, --think hide or --think off": "nothink nothinking hidethinking reasoning noreasoning rea",
    "use --template-arg, such as 'reasoning_effort=\"low\"'": "reasoningeffort",
    "use --think hide; with --json, the reasoning has its own key": "reasoningformat",
    "use `llmcli generate -o FILE`, or shell redirection (> FILE)": "o output outputfile",
    "it is not needed: `llmcli chat` talks, and `llmcli generate` answers once": (
        "cnv nocnv conversation noconversation singleturn"
    ),
}
BLOCK_MARK = '"""'  # before and after a message of several lines
_COMMAND = re.compile(r"/([A-Za-z?][\w?-]*)(?:\s+|=|$)")
_BLOCK_COMMAND = re.compile(r'/[A-Za-z?][\w?-]*[ \t]+(?=""")')  # the argument of a command may be a block too
_BIDI = (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C)
# What stands for each code point that could drive a terminal; line feed and tab pass.
_TABLE = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"}
_TABLE |= {code: f"\\x{code:02x}" for code in range(0x80, 0xA0)}
_TABLE |= {code: f"\\u{code:04x}" for code in (*_BIDI, 0x2028, 0x2029)}
_TABLE |= dict.fromkeys(range(0xD800, 0xE000), "\ufffd")
_TABLE |= {code: f"\\U{code:08x}" for code in range(0xE0000, 0xE0080)}
_TABLE |= {0x7F: "\u2421", 0x0D: ""}


def sanitize(text: str) -> str:
    """`text` with every control character (C0, C1, DEL), bidi override and tag character made visible.

    It works code point by code point, so a sequence that is split over two pieces cannot slip through. A
    carriage return is dropped: it would let later text overwrite earlier text.
    """
    return text if text.isprintable() and text.isascii() else text.translate(_TABLE)


def escape_json(text: str) -> str:
    """A JSON text of the same value, in which what could drive a terminal (C1, bidi, ...) is an escape such as \\u009b.

    A lone surrogate, which UTF-8 cannot encode, becomes U+FFFD.
    """
    import json

    def escape(found: re.Match[str]) -> str:
        return _TABLE[ord(found[0])] if "\ud800" <= found[0] <= "\udfff" else json.dumps(found[0])[1:-1]

    unsafe = "[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\U000e0000-\U000e007f]"
    return re.sub(unsafe, escape, text)


def xml_text(text: str) -> str:
    """`text` as safe XML; the two characters that XML cannot contain are replaced."""
    from html import escape

    return escape(sanitize(text).replace("\ufffe", "\ufffd").replace("\uffff", "\ufffd"))


def without_line_feed(text: str) -> str:
    """`text` without one line feed at its end, which `echo` and editors add."""
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text


def ellipsize(text: str, length: int = 40) -> str:
    """At most `length` characters; a cut text ends with an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def format_size(n_bytes: int) -> str:
    """A size in decimal units, as disks and the hub count: 986 MB, 4.92 GB."""
    if n_bytes < 999_500:
        return f"{n_bytes / 1000:.0f} kB"
    return f"{n_bytes / 10**6:.0f} MB" if n_bytes < 999_500_000 else f"{n_bytes / 10**9:.2f} GB"


def format_count(number: int) -> str:
    """A number of parameters or downloads: 135M, 7.6B, 12k."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size * 0.9995:
            return f"{number / size:.3g}{unit}"
    return str(number)


def format_duration(seconds: float) -> str:
    """A duration as a clock shows it: 0:01:20."""
    left = round(seconds)
    return f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"


def format_age(then: float | None) -> str:
    """How long ago a moment (seconds since 1970) was: "3 days ago"; "never" for None, NaN and infinity."""
    if then is None or not math.isfinite(then):
        return "never"
    seconds = max(0.0, time.time() - then)
    for unit, length in (("year", 31_557_600), ("month", 2_629_800), ("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            number = int(seconds // length)
            return f"{plural(number, unit)} ago"
    return "just now"


def plural(number: int, noun: str) -> str:
    """A number of things: 1 message, 2 messages."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def did_you_mean(word: str, known: Iterable[str], cutoff: float = _MIN_SIMILARITY) -> str:
    """`did you mean 'x'?` for the most similar known name, or an empty text."""
    names = nearest(word, known, 1, cutoff)
    return f"did you mean '{names[0]}'?" if names else ""


def nearest(word: str, known: Iterable[str], count: int = 3, cutoff: float = _MIN_SIMILARITY) -> list[str]:
    """The known names most similar to `word`, the best first, at most `count`; `cutoff` is from 0 to 1 (equal).

    Separators and case do not count: `--top_p` is `--top-p`. Similar names come before names that start with `word`.
    """
    import difflib  # takes 3 ms, and is needed only after a mistake

    names = {_letters(name): name for name in known}
    letters = _letters(word)
    found = difflib.get_close_matches(letters, list(names), n=count, cutoff=cutoff)
    if len(letters) > 2:
        found += sorted((name for name in names if name.startswith(letters)), key=len)
    return [names[name] for name in dict.fromkeys(found)][:count]


def foreign_hint(name: str) -> str:
    """What to use instead of a setting or an option of another program, or an empty text."""
    return next((hint for hint, names in _FOREIGN.items() if _letters(name) in names.split()), "")


def _letters(name: str) -> str:
    return _SEPARATORS.sub("", name[:_LONGEST_NAME].lower())


def parse_command(text: str) -> tuple[str, str] | None:
    """The name and the argument of a command line; None for a message. `/etc/hosts is ...` is a message.

    `/top_k=9` is `/top_k 9`.
    """
    match = _COMMAND.match(text)
    return (match[1].lower().replace("-", "_"), text[match.end() :].strip()) if match else None


def needs_block(text: str) -> bool:
    """Whether `text` must be in a block to be a message: it begins like a command or like a block."""
    return bool(parse_command(text)) or is_open_block(text)


def opens_block(first: str) -> bool:
    """Whether this first line of a message begins a block that continues in the next line."""
    line = _split_command(first)[1].rstrip()
    return line.startswith(BLOCK_MARK) and not (line.endswith(BLOCK_MARK) and len(line) >= 2 * len(BLOCK_MARK))


def closes_block(first: str, line: str) -> bool:
    """Whether `line` ends the block that `first` opened.

    A mark on a line of its own is closed on a line of its own, so that code with docstrings can be in the block; a mark
    with text behind it is closed at the end of any line.
    """
    line = line.rstrip()
    return line == BLOCK_MARK if _split_command(first)[1].rstrip() == BLOCK_MARK else line.endswith(BLOCK_MARK)


def is_open_block(text: str) -> bool:
    """Whether the message is a block that has not been closed."""
    first, _, rest = text.partition("\n")
    return opens_block(first) and not closes_block(first, rest.rstrip().rpartition("\n")[2])


def block_body(text: str) -> str:
    """The message without its marks; one that is not a block is unchanged."""
    command, block = _split_command(text)
    if not block.startswith(BLOCK_MARK):
        return text
    inner = block.removeprefix(BLOCK_MARK)
    first, _, rest = block.partition("\n")
    if rest.strip() and not opens_block(first):  # a docstring of one line above other code
        return text
    if not is_open_block(text):
        inner = inner.rstrip().removesuffix(BLOCK_MARK)
    head, newline, rest = inner.partition("\n")
    return command + (inner if head.strip() or not newline else rest).removesuffix("\n")


def _split_command(text: str) -> tuple[str, str]:
    """The command before a block ("" where there is none), and the rest."""
    found = _BLOCK_COMMAND.match(text)
    return (found[0], text[found.end() :]) if found else ("", text)
