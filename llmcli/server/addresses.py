"""Where a server listens, and the names and web pages from which it is used."""

import errno
import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmcli.errors import LlmcliError, UsageError, error_text
from llmcli.server.guard import ANY, ANY_ADDRESS, LOOPBACK_NAMES

_BACKLOG = 2048  # connections that wait to be accepted
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]+\]|\*")
_ORIGIN = re.compile(r"\*|localhost|[A-Za-z][A-Za-z0-9+.-]*://[^\s/@?#]+")


@dataclass(frozen=True)
class Address:
    """An address to listen on, and the name that the user gave it."""

    name: str
    number: str
    port: int
    family: socket.AddressFamily

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return ipaddress.ip_address(self.number.partition("%")[0]).is_loopback

    @property
    def host(self) -> str:
        """The number as in a URL."""
        return f"[{self.number}]" if ":" in self.number else self.number


def parse_hosts(hosts: str, port: int) -> Sequence[Address]:
    """The addresses of names or numbers with commas between them. Raises UsageError for one that is not known."""
    addresses = []
    for name in filter(None, (one.strip().strip("[]") for one in hosts.split(","))):
        try:
            found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise UsageError(
                f"--host {name[:80]} is not known: {error_text(error)}", "use 127.0.0.1 or 0.0.0.0"
            ) from None
        # Of a name with several addresses that of IPv4, which most clients of "localhost" try.
        family, *_, place = min(found, key=lambda one: one[0] != socket.AF_INET)
        addresses.append(Address(name, str(place[0]), port, family))
    if not addresses:
        raise UsageError("--host must be an address", "use 127.0.0.1 or 0.0.0.0")
    return addresses


def listen(address: Address) -> socket.socket:
    """A socket that listens there. Raises LlmcliError if that is not possible."""
    try:
        return socket.create_server((address.number, address.port), family=address.family, backlog=_BACKLOG)
    except OSError as error:
        hints = {errno.EADDRINUSE: "another program uses it: choose another --port, or 0 for any free one"}
        hints[errno.EACCES] = "choose a --port of 1024 or more"
        hints[errno.EADDRNOTAVAIL] = "this machine does not have the address: use 127.0.0.1 or 0.0.0.0"
        reason = f"cannot listen on {address.host}:{address.port}: {error_text(error)}"
        raise LlmcliError(reason, hints.get(error.errno or 0, "")) from None


def allowed_names(addresses: Sequence[Address], more: Iterable[str], has_keys: bool) -> frozenset[str]:
    """The names in the header Host that are answered; `more` are those that the user allows. Raises UsageError.

    A page on the web can give its name the address of this server, but not its own requests another name. Where a key
    is needed from outside, it gains nothing by that: then each name is allowed, unless the user names some.
    """
    names = {*LOOPBACK_NAMES, *(one.name.lower() for one in addresses), *(one.host for one in addresses)}
    own = list(more)
    for name in own:
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"--allowed-host must be a name without port, got {name[:80]!r}", "for example llm.example.com"
            )
    if not all(one.is_loopback for one in addresses):
        names |= {ANY} if has_keys and not own else {ANY_ADDRESS, socket.gethostname().lower()}
    return frozenset(names | {name.lower() for name in own})


def parse_origins(origins: Iterable[str]) -> frozenset[str]:
    """The origins of web pages, some with commas between them. Raises UsageError for one that is not valid."""
    found = [one.strip().rstrip("/") for text in origins for one in text.split(",") if one.strip()]
    for one in found:
        if not _ORIGIN.fullmatch(one):
            hint = "for example https://example.com, localhost, or * for all"
            raise UsageError(f"--cors-origin must be the beginning of a URL, got {one[:80]!r}", hint)
    return frozenset(one.lower() for one in found)
