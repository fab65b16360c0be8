"""Where the bytes of one file come from: ranges of a file on the hub or behind an address, checked as they arrive."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llmcli.errors import NetworkError
from llmcli.models.hub.faults import refusal
from llmcli.models.hub.http import host_of, requested, same_origin
from llmcli.models.hub.retries import PassingError
from llmcli.models.reference import HubReference

if TYPE_CHECKING:
    import httpx2

MOST_RANGE = 32 << 30  # bytes of one request: content networks end longer answers (at 50 GB)
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class Source:
    """One file of `size` bytes. `wanted` names it in errors; `sha256` and `commit` are what the hub must repeat."""

    def __init__(
        self, url: str, headers: Mapping[str, str], wanted: HubReference, size: int, sha256: str = "", commit: str = ""
    ) -> None:
        self.url, self.size = url, size
        self.takes_ranges = False  # known after the first answer
        self._headers, self._wanted, self._sha256, self._commit = headers, wanted, sha256, commit
        self._signed = ""  # the address that the hub sent us to last; it expires

    @contextmanager
    def open(self, first: int, end: int) -> Iterator[Iterator[bytes]]:
        """The bytes from `first` to before `end`, in pieces; there may come fewer, or more.

        Raises:
            PassingError: when trying again may help.
            LlmcliError: when it cannot.
        """
        last = min(end, first + MOST_RANGE) - 1
        signed = self._signed
        url, headers = (signed, {}) if signed else (self.url, dict(self._headers))
        headers["range"] = f"bytes={first}-{last}"
        with requested(url, headers, to_other_hosts=True) as (response, hops):
            elsewhere = not same_origin(str(response.url), self.url)
            if response.status_code not in (200, 206):
                self._refused(response, elsewhere)
            for hop in (*hops, response):
                if same_origin(str(hop.url), self.url):
                    self._check_promise(hop)
            skip = self._check_place(response, first)
            self._signed = str(response.url) if elsewhere else ""
            yield _skipped(response.iter_raw(), skip)

    def _refused(self, response: "httpx2.Response", elsewhere: bool) -> None:
        host = host_of(str(response.url))
        self._signed = ""
        if response.status_code == 416:
            raise PassingError(f"{host} refuses to go on in the middle of the file")
        if elsewhere:  # an expired address; the hub gives a new one
            raise PassingError(f"{host} refuses the address that the hub gave (status {response.status_code})")
        raise refusal(response, self._wanted)

    def _check_promise(self, answer: "httpx2.Response") -> None:
        """The hub must mean the same file as in its listing."""
        told = answer.headers.get("x-linked-etag", "").removeprefix("W/").strip('"')
        commit = answer.headers.get("x-repo-commit", "")
        if (told and self._sha256 and told != self._sha256) or (commit and self._commit and commit != self._commit):
            raise NetworkError(
                f"the hub lists {self._wanted} with one checksum or commit and delivers another",
                "Try again later; if it stays so, do not trust this hub or mirror.",
            )

    def _check_place(self, response: "httpx2.Response", first: int) -> int:
        """How many bytes of the answer come before `first`; PassingError when it is not this file's."""
        host, headers = host_of(str(response.url)), response.headers
        if headers.get("content-encoding", "identity") != "identity":
            raise PassingError(f"{host} sends a packed body that was not asked for")
        if response.status_code == 206:
            match = _RANGE.fullmatch(headers.get("content-range", ""))
            if not match or (int(match[1]), int(match[3])) != (first, self.size):
                raise PassingError(f"{host} sends other bytes than were asked for")
            self.takes_ranges = True
            return 0
        length = headers.get("content-length", "")
        if "text/html" in headers.get("content-type", "") or (length.isdigit() and int(length) != self.size):
            raise PassingError(f"{host} answers with something else than the file")
        return first


def _skipped(pieces: Iterator[bytes], skip: int) -> Iterator[bytes]:
    """The pieces without their first `skip` bytes: a server without ranges begins anew each time."""
    for piece in pieces:
        if skip >= len(piece):
            skip -= len(piece)
            continue
        yield piece[skip:] if skip else piece
        skip = 0
