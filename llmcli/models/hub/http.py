"""Requests over HTTP: one door for all of them, bounded in time, told apart into what passes and what does not.

The session is huggingface_hub's, so that proxies, certificates and a user's own client factory hold here too.
Redirects are followed by hand: a token goes to the hub's own address and nowhere else.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from llmcli import __version__
from llmcli.errors import NetworkError, NotAllowedError
from llmcli.models.hub import environment
from llmcli.models.hub.retries import PassingError

if TYPE_CHECKING:
    import httpx2

CONNECT_SECONDS = 10.0
STALL_SECONDS = 30.0  # without a byte
_MOST_HOPS = 5
_PASSING = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}


def session() -> "httpx2.Client":
    """The client of huggingface_hub, with its telemetry, progress bars and log switched off before the import."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    import logging

    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # it would print signed addresses
    try:
        from huggingface_hub import get_session
    except ValueError:  # it takes the address apart
        raise NetworkError(f"HF_ENDPOINT is no address: {environment.endpoint()}", "Write https://HOST.") from None
    try:
        return get_session()
    except (ImportError, ValueError) as error:  # a SOCKS proxy without its package, an address that is none
        raise NetworkError(f"the proxy settings cannot be used: {error}", "Check HTTPS_PROXY and ALL_PROXY.") from None


def check_online(offline: bool, what: str) -> None:
    """Raise NetworkError when the user has forbidden requests: `what` is what one was needed for."""
    if offline or environment.is_offline():
        why = "--offline" if offline else "HF_HUB_OFFLINE"
        raise NetworkError(f"{what} needs the network, which {why} forbids", f"Leave {why} out to allow it.")


def hub_headers() -> dict[str, str]:
    """What goes to the hub itself: who we are, and the user's token if there is one."""
    session()
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # lazily exported

    try:
        headers = build_hf_headers(library_name="llmcli", library_version=__version__)
    except (OSError, HfHubHTTPError, ValueError) as error:
        raise NetworkError(f"the hub's token cannot be read: {type(error).__name__}", "See `hf auth login`.") from None
    if not headers.get("authorization", "").isascii():
        raise NotAllowedError("the hub's token has letters that no token has", "See `hf auth login`.")
    return headers


@contextmanager
def requested(
    url: str, headers: Mapping[str, str], to_other_hosts: bool
) -> Iterator[tuple["httpx2.Response", list["httpx2.Response"]]]:
    """The answer to one request with its body still to be read, and the redirects that led to it.

    The headers are sent to the host of `url`; other hosts, if they may be asked at all, get no authorization.

    Raises:
        PassingError: when the line or the server fails in a way that may pass.
        NetworkError: when it redirects too often, to another host that was not expected, or out of encryption.
    """
    import httpx2

    if urlsplit(url).scheme not in ("http", "https") or not host_of(url):
        raise NetworkError(f"{url.partition('?')[0]!r} is no http address", "Check HF_ENDPOINT.")
    hops: list[httpx2.Response] = []
    sent = {"accept-encoding": "identity", **headers}
    limits = httpx2.Timeout(CONNECT_SECONDS, read=STALL_SECONDS)
    try:
        while True:
            with session().stream("GET", url, headers=sent, follow_redirects=False, timeout=limits) as response:
                if response.status_code not in (301, 302, 303, 307, 308):
                    check_passing(response)
                    yield response, hops
                    return
                hops.append(response)
                url, sent = _next(url, response, sent, to_other_hosts, len(hops))
    except httpx2.TimeoutException:
        raise PassingError(f"{host_of(url)} does not answer") from None
    except httpx2.ConnectError as error:
        raise PassingError(f"cannot reach {host_of(url)} ({_reason(error)})", unreachable=True) from None
    except httpx2.TransportError as error:
        raise PassingError(f"the connection to {host_of(url)} broke ({_reason(error)})") from None
    except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
        raise NetworkError(f"{host_of(url)} answers what is no HTTP: {type(error).__name__}") from None


def check_passing(response: "httpx2.Response") -> None:
    """Raise PassingError for the statuses after which one tries again."""
    if response.status_code in _PASSING:
        asked = response.headers.get("retry-after", "").strip()
        busy = "is asked too often" if response.status_code == 429 else "has a fault"
        raise PassingError(
            f"{response.url.host} {busy} (status {response.status_code})",
            float(asked) if asked.isdigit() and len(asked) < 9 else None,
        )


def host_of(url: str) -> str:
    """The host of an address, for messages: signed addresses are never shown whole."""
    return urlsplit(url).netloc.rpartition("@")[2]


def same_origin(one: str, other: str) -> bool:
    a, b = urlsplit(one), urlsplit(other)
    return (a.scheme, a.netloc) == (b.scheme, b.netloc)


def _next(
    url: str, response: "httpx2.Response", sent: Mapping[str, str], to_other_hosts: bool, hops: int
) -> tuple[str, dict[str, str]]:
    try:
        target = urljoin(url, response.headers.get("location", ""))
        scheme = urlsplit(target).scheme
    except ValueError:  # no address at all
        target = scheme = ""
    if hops >= _MOST_HOPS or scheme not in ("http", "https"):
        raise NetworkError(f"{host_of(url)} redirects in a way that leads nowhere")
    if same_origin(url, target):
        return target, dict(sent)
    if not to_other_hosts:
        raise NetworkError(
            f"{host_of(url)} sends us to another host, {host_of(target)}", "Check HF_ENDPOINT and the proxy settings."
        )
    if urlsplit(url).scheme == "https" and urlsplit(target).scheme == "http":
        raise NetworkError(f"{host_of(url)} redirects to an unencrypted address at {host_of(target)}")
    return target, {name: value for name, value in sent.items() if name.lower() != "authorization"}


def _reason(error: Exception) -> str:
    """The reason in a few words; httpx puts the system's own text into it."""
    return " ".join(str(error).split())[:120] or type(error).__name__
