"""Read the header of a GGUF file on a server from its first few MiB.

Each piece doubles the bytes read so far, and the header is parsed after each piece. So no byte is downloaded twice,
and even a hostile header is parsed at most six times.
"""

from collections.abc import Callable

from llmcli.errors import ModelInvalidError, NetworkError
from llmcli.models.gguf.parser import GGUFHeader, HeaderCutError, parse_header

# (start, end), end exclusive -> exactly these bytes, or fewer at the end of the file; may raise LlmcliError
Fetch = Callable[[int, int], bytes]

MAX_READ = 32 << 20  # bytes; a vocabulary of 256,000 with its merges takes about 10 MiB
_ENDS = tuple(MAX_READ >> halvings for halvings in range(5, -1, -1))  # 1 MiB, then twice as much each time


def read_remote_header(fetch: Fetch, size: int, name: str) -> GGUFHeader:
    """The validated header of the file `name` of `size` bytes, equal to the result of `read_header`.

    Raises ModelInvalidError (not a valid GGUF file, or a header over 32 MiB), NetworkError (the wrong bytes) and
    what `fetch` raises.
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
        f"the header of {name} is longer than {MAX_READ >> 20} MiB, the limit for a remote file",
        "download the file if you trust its publisher; it may be damaged",
    )


def _piece(fetch: Fetch, start: int, end: int, name: str) -> bytes:
    if end <= start:  # an empty file
        return b""
    piece = fetch(start, end)
    if len(piece) != end - start:
        raise NetworkError(
            f"{name}: the server sent {len(piece)} bytes from byte {start}, expected {end - start}",
            "try again; if the error persists, the file has changed or its server is faulty",
        )
    return piece


def _hint(error: ModelInvalidError) -> str:
    """The hint for a file on a server: it is not downloaded yet, so downloading it again cannot help."""
    return "choose another file: this one is damaged on its server" if "again" in error.hint else error.hint
