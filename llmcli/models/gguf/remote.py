"""What does the header of a GGUF file say that is not here yet? (Its first few MiB are enough to tell.)

The beginning is fetched in pieces that double what is here, and parsed after each of them. So no byte comes twice,
and even a hostile header is parsed six times at most.
"""

from collections.abc import Callable

from llmcli.errors import ModelInvalidError, NetworkError
from llmcli.models.gguf.reader import GGUFHeader, HeaderCutError, parse_header

# (start, end, exclusive) -> exactly these bytes, or fewer where the file ends; may raise LlmcliError
Fetch = Callable[[int, int], bytes]

MAX_READ = 32 << 20  # bytes; a vocabulary of 256,000 with its merges takes some 10 MiB
_ENDS = tuple(MAX_READ >> halvings for halvings in range(5, -1, -1))  # 1 MiB, then twice as much each time


def read_remote_header(fetch: Fetch, size: int, name: str) -> GGUFHeader:
    """The checked header of the file `name` of `size` bytes, equal to what `read_header` makes of the whole file.

    Raises ModelInvalidError (not a sound GGUF file, or a header over 32 MiB), NetworkError (not the bytes asked
    for) and what `fetch` raises.
    """
    head = b""
    for end in _ENDS:
        head += _piece(fetch, len(head), min(end, size), name)
        try:
            return parse_header(head, size)
        except HeaderCutError as cut:
            if cut.needed > MAX_READ:
                break
        except ModelInvalidError as error:
            raise ModelInvalidError(f"{name}: {error}", _hint(error)) from None
    raise ModelInvalidError(
        f"the header of {name} is longer than {MAX_READ >> 20} MiB, the most that is read from afar",
        "It may be damaged. If you trust where it comes from, download it and look at the file.",
    )


def _piece(fetch: Fetch, start: int, end: int, name: str) -> bytes:
    if end <= start:  # an empty file
        return b""
    piece = fetch(start, end)
    if len(piece) != end - start:
        raise NetworkError(
            f"{name}: the server sent {len(piece)} bytes from byte {start} on instead of {end - start}",
            "Try again; if it stays so, the file has changed or its server is at fault.",
        )
    return piece


def _hint(error: ModelInvalidError) -> str:
    """What to do; nothing has been downloaded yet, so doing it again cannot help."""
    return "Choose another file: this one is not sound on its server." if "again" in error.hint else error.hint
