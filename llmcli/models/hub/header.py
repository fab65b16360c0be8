"""Read the header of a GGUF file on the Hub without downloading the file."""

from llmcli.models.download.fetch import Wanted, source_of
from llmcli.models.gguf.header import GGUFHeader
from llmcli.models.gguf.remote import read_remote_header
from llmcli.models.hub.api import no_say
from llmcli.models.hub.retries import PassingError, Patience

_TRIES = 4


def remote_header(wanted: Wanted) -> GGUFHeader:
    """The header, read with range requests: a few MiB, at most 32.

    Raises:
        ModelInvalidError: the header is not valid.
        LlmcliError: the Hub refuses or fails.
    """
    source = source_of(wanted)
    patience = Patience(no_say, _TRIES)

    def fetch(start: int, end: int) -> bytes:
        data = bytearray()
        while len(data) < end - start:
            try:
                with source.open(start + len(data), end) as pieces:
                    for piece in pieces:
                        data += piece[: end - start - len(data)]
                        if len(data) >= end - start:
                            break
            except PassingError as fault:
                patience.wait(fault)
            else:
                if len(data) < end - start:
                    patience.wait(PassingError("the connection was closed early"))
        return bytes(data)

    return read_remote_header(fetch, wanted.file.size, wanted.file.path)
