"""A remote file on the Hub or at a URL: read ranges of it and check each response."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llmcli.errors import NetworkError
from llmcli.models.download.http import host_of, requested, same_origin
from llmcli.models.hub.faults import refusal
from llmcli.models.hub.retries import PassingError
from llmcli.models.reference import HubReference

if TYPE_CHECKING:
    import httpx2

MOST_RANGE = 32 << 30  # bytes of one request: content delivery networks cut longer responses (at 50 GB)
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class Source:
    """One file of `size` bytes. `wanted` is its name in errors; the Hub's headers must match `sha256` and `commit`."""

    def __init__(
        self, url: str, headers: Mapping[str, str], wanted: HubReference, size: int, sha256: str = "", commit: str = ""
    ) -> None:
        self.url, self.size = url, size
        self.takes_ranges = False  # known after the first response
        self._headers, self._wanted, self._sha256, self._commit = headers, wanted, sha256, commit
        self._signed = ""  # the URL of the last redirect; it expires

    @contextmanager
    def open(self, first: int, end: int) -> Iterator[Iterator[bytes]]:
        """The bytes from `first` to `end` (exclusive), in pieces; the server can send fewer or more.

        Raises:
            PassingError: a transient error.
            LlmcliError: a permanent error.
        """
        last = min(end, first + MOST_RANGE) - 1
        signed = self._signed
        url, headers = (signed, {}) if signed else (self.url, dict(self._headers))
        headers["range"] = f"bytes={first}-{last}"
        with requested(url, headers, to_other_hosts=True) as (response, hops):
            elsewhere = not same_origin(str(response.url), self.url)
            if response.status_code not in (200, 206):
                self._raise_refusal(response, elsewhere)
            for hop in (*hops, response):
                if same_origin(str(hop.url), self.url):
                    self._check_identity(hop)
            skip = self._check_range(response, first)
            self._signed = str(response.url) if elsewhere else ""
            yield _skip_bytes(response.iter_raw(), skip)

    def _raise_refusal(self, response: "httpx2.Response", elsewhere: bool) -> None:
        host = host_of(str(response.url))
        self._signed = ""
        if response.status_code == 416:
            raise PassingError(f"{host} rejected the byte range")
        if elsewhere:  # an expired URL; the Hub gives a new one
            raise PassingError(f"{host} rejected the signed URL of the Hub (status {response.status_code})")
        raise refusal(response, self._wanted)

    def _check_identity(self, response: "httpx2.Response") -> None:
        """Raise NetworkError when the Hub's headers do not match the checksum or commit of its listing."""
        etag = response.headers.get("x-linked-etag", "").removeprefix("W/").strip('"')
        commit = response.headers.get("x-repo-commit", "")
        if (etag and self._sha256 and etag != self._sha256) or (commit and self._commit and commit != self._commit):
            raise NetworkError(
                f"the Hub sent another checksum or commit for {self._wanted} than it lists",
                "try again later; if the error persists, do not trust this Hub or mirror",
            )

    def _check_range(self, response: "httpx2.Response", first: int) -> int:
        """How many bytes of the response to skip before `first`; PassingError when it is not the file."""
        host, headers = host_of(str(response.url)), response.headers
        if headers.get("content-encoding", "identity") != "identity":
            raise PassingError(f"{host} sent an unexpected Content-Encoding")
        if response.status_code == 206:
            match = _RANGE.fullmatch(headers.get("content-range", ""))
            if not match or (int(match[1]), int(match[3])) != (first, self.size):
                raise PassingError(f"{host} returned the wrong byte range")
            self.takes_ranges = True
            return 0
        length = headers.get("content-length", "")
        if "text/html" in headers.get("content-type", "") or (length.isdigit() and int(length) != self.size):
            raise PassingError(f"{host} returned something other than the file")
        return first


def _skip_bytes(pieces: Iterator[bytes], skip: int) -> Iterator[bytes]:
    """The pieces without their first `skip` bytes: a server without ranges starts from the beginning each time."""
    for piece in pieces:
        if skip >= len(piece):
            skip -= len(piece)
            continue
        yield piece[skip:] if skip else piece
        skip = 0
