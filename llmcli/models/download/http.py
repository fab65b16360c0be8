"""HTTP requests with timeouts and retries, and files that are read in ranges.

Failures are transient (TransientError) or permanent (NetworkError).
Redirects are followed by this module, so that a token is sent to the server's own host and nowhere else.
"""

import contextlib
import functools
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from llmcli.errors import LlmcliError, NetworkError, error_text
from llmcli.models.locations import Notify

if TYPE_CHECKING:
    import ssl

    import httpx2

T = TypeVar("T")
CONNECT_SECONDS = 10.0
STALL_SECONDS = 30.0  # without a byte
FIRST_PAUSE = 0.5  # seconds; doubled after each attempt
MAX_PAUSE = 30.0
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}
_MAX_UNREACHABLE = 3  # attempts while the host was never reached
MAX_RETRY_AFTER = 60.0  # seconds; a longer Retry-After of the server is an error with a hint
_DAY = 86400  # seconds
_LONGEST_WAIT = 1e9  # seconds: a calendar has an end
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_KEPT = "try again later; the partial download is kept"
MAX_RANGE = 32 << 30  # bytes of one request: content delivery networks cut longer responses (at 50 GB)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
MIN_PROGRESS = 256 << 10  # bytes that count as progress: a server that always stops after one byte must not win


@functools.cache
def client() -> "httpx2.Client":
    """The client of all downloads."""
    return new_client()


def new_client(is_direct: bool = False) -> "httpx2.Client":
    """A client; proxies and certificates come from the environment. With `is_direct` it uses no proxy.

    Raises NetworkError with the name of the variable that is not valid.
    """
    import httpx2  # imported here: it costs 60 ms

    certificates = next((name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)), "")
    path = os.environ.get(certificates, "")
    try:
        if certificates == "SSL_CERT_DIR":
            os.listdir(path)  # OpenSSL would only find every certificate invalid
        return httpx2.Client(
            verify=_certificates(certificates, path),
            trust_env=not is_direct,
        )
    except OSError as error:
        if not certificates:
            raise NetworkError(f"cannot read the certificates of the system: {error_text(error)}") from None
        message = f"{certificates} has no certificates: cannot read {path}: {error_text(error)}"
        raise NetworkError(message, f"correct {certificates}, or unset it") from None
    except (ImportError, ValueError, httpx2.InvalidURL) as error:  # a SOCKS proxy without its package, or not a URL
        names = " and ".join(_proxy_variables()) or "the proxy of the system"
        reason = str(error).partition(".")[0]
        raise NetworkError(f"cannot use {names}: {reason}", "write http://HOST:PORT, or unset it") from None


@functools.cache
def _certificates(_variable: str, _path: str) -> "ssl.SSLContext":
    """Those of the environment, where a variable names them; to read them takes 50 ms."""
    import httpx2

    return httpx2.create_ssl_context()


def _proxy_variables() -> list[str]:
    """The variables with a proxy that cannot be used; all of them if each one could be."""
    import httpx2

    set_names = [name for name, value in os.environ.items() if name.lower() in _PROXIES and value]
    invalid = []
    for name in set_names:
        value = os.environ[name]
        try:
            with httpx2.Client(proxy=value if "://" in value else f"http://{value}", trust_env=False):
                pass
        except (ImportError, ValueError, httpx2.InvalidURL):
            invalid.append(name)
    return invalid or set_names


@contextmanager
def request(url: str, headers: Mapping[str, str], to_other_hosts: bool) -> Iterator["httpx2.Response"]:
    """The response to one request, its body not read yet; its `history` has the redirects that led to it.

    The headers are sent to the host of `url`; other hosts, if allowed at all, get no authorization header.

    Raises TransientError, or NetworkError for too many redirects or one to an unexpected host or from https to http.
    """
    import httpx2

    if urlsplit(url).scheme not in ("http", "https") or not host_of(url):
        raise NetworkError(f"{url.partition('?')[0]!r} is not an http or https URL", "check HF_ENDPOINT")
    history: list[httpx2.Response] = []
    limits = httpx2.Timeout(CONNECT_SECONDS, read=STALL_SECONDS)
    following: httpx2.Request | None = None
    while True:
        with transport_errors(host_of(url)):
            following = following or client().build_request(
                "GET", url, headers={"accept-encoding": "identity", **headers}, timeout=limits
            )
            with contextlib.closing(client().send(following, stream=True)) as response:
                if response.next_request is None:
                    raise_if_transient(response)
                    response.history = history
                    yield response
                    return
                history.append(response)
                _check_redirect(url, str(response.next_request.url), to_other_hosts, len(history))
                # Without the authorization header, if the host is another one.
                following, url = response.next_request, str(response.next_request.url)


@contextmanager
def transport_errors(host: str) -> Iterator[None]:
    """Turn the errors of httpx in this block into TransientError or NetworkError, with the host."""
    import httpx2

    try:
        yield
    except httpx2.TimeoutException:
        raise TransientError(f"{host} does not respond") from None
    except httpx2.ConnectError as error:
        raise TransientError(f"cannot reach {host} ({_reason(error)})", unreachable=True) from None
    except httpx2.TransportError as error:
        if isinstance(error, httpx2.ProxyError) and not _reason(error).startswith("5"):  # not one that is busy
            hint = f"check {' and '.join(_proxy_variables()) or 'the proxy of the system'}"
            raise NetworkError(f"the proxy refuses the connection to {host} ({_reason(error)})", hint) from None
        raise TransientError(f"the connection to {host} failed ({_reason(error)})") from None
    except (httpx2.InvalidURL, UnicodeError) as error:
        if isinstance(error, UnicodeError) and "idna" not in str(error):  # of Python, for a name with an empty part
            raise
        raise NetworkError(f"{host} is not a valid name of a host", "correct the URL") from None
    except (httpx2.HTTPError, httpx2.StreamError) as error:
        raise NetworkError(f"{host} sent an invalid HTTP response: {type(error).__name__}") from None


def host_of(url: str) -> str:
    """The host of a URL, for messages: a signed URL must not be shown completely."""
    return urlsplit(url).netloc.rpartition("@")[2]


def same_origin(a: str, b: str) -> bool:
    """Whether two URLs have the same scheme, host and port."""
    return urlsplit(a)[:2] == urlsplit(b)[:2]


class TransientError(Exception):
    """A transient error: its reason, the Retry-After of the server in seconds, and whether the host was unreachable."""

    def __init__(self, reason: str, retry_after: float | None = None, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.unreachable = unreachable


class RetryPolicy:
    """Count the failed attempts of one task; progress resets the count."""

    def __init__(
        self, notify: Notify, attempts: int = 8, stop: threading.Event | None = None, hint: str = _KEPT
    ) -> None:
        self._notify, self._attempts, self._hint = notify, attempts, hint
        self._stop = stop or threading.Event()
        self._failed = 0
        self._progress = 0
        self._has_received = False

    def run(self, attempt: Callable[[], T]) -> T:
        """The result of `attempt`, which is called again after transient errors. Raises as `wait` does."""
        while True:
            try:
                return attempt()
            except TransientError as error:
                self.wait(error)

    def progressed(self, n_bytes: int) -> None:
        """Count received bytes."""
        self._has_received = True
        self._progress += n_bytes
        if self._progress >= MIN_PROGRESS:
            self._failed = self._progress = 0

    def wait(self, error: TransientError) -> None:
        """Wait before the next attempt, or return at once when the task is stopped meanwhile.

        Raises NetworkError when no attempts are left, or the server's Retry-After is too long.
        """
        self._failed += 1
        retry_after = error.retry_after or 0.0
        if retry_after > MAX_RETRY_AFTER:
            form = "%H:%M" if retry_after < _DAY else "%Y-%m-%d %H:%M"
            clock = time.strftime(form, time.localtime(time.time() + retry_after))
            raise NetworkError(f"{error}; the server asks to wait {retry_after:.0f} s", f"try again at {clock}")
        # Without a network, long waiting is pointless; in the middle of a download it is not.
        is_unreachable = error.unreachable and not self._has_received
        attempts = min(self._attempts, _MAX_UNREACHABLE) if is_unreachable else self._attempts
        if self._failed >= attempts:
            raise NetworkError(f"{error} ({self._failed} attempts)", self._hint)
        pause = max(retry_after, min(MAX_PAUSE, FIRST_PAUSE * 2 ** (self._failed - 1)) * random.uniform(0.6, 1.0))
        if pause >= 1:
            self._notify(f"{error}, retrying in {pause:.0f} s (retry {self._failed} of {attempts - 1})")
        self._stop.wait(pause)


class RemoteFile:
    """A file of `size` bytes on a server; `sha256` is "" if it is not known. A subclass knows more of its server."""

    def __init__(self, url: str, headers: Mapping[str, str], size: int, sha256: str) -> None:
        self.url, self.headers, self.size, self.sha256 = url, headers, size, sha256
        self.supports_ranges = False  # known after the first response
        self._signed = ""  # the URL of the last redirect; it expires

    @contextmanager
    def open(self, first: int, end: int) -> Iterator[Iterator[bytes]]:
        """The bytes from `first` to `end` (exclusive), in pieces; the server can send fewer or more.

        Raises TransientError or, for a permanent error, LlmcliError.
        """
        last = min(end, first + MAX_RANGE) - 1
        url, headers = (self._signed, {}) if self._signed else (self.url, self.headers)
        with request(url, {**headers, "range": f"bytes={first}-{last}"}, to_other_hosts=True) as response:
            is_redirected = not same_origin(str(response.url), self.url)
            skip = self._check(response, first, is_redirected)
            self._signed = str(response.url) if is_redirected else ""
            yield _skip_bytes(response.iter_raw(), skip)

    def read(self, first: int, end: int) -> bytes:
        """The bytes from `first` to `end` (exclusive), with as many requests as necessary. Raises LlmcliError."""
        data, retries = bytearray(), RetryPolicy(lambda _text: None, attempts=4)

        def attempt() -> None:
            with self.open(first + len(data), end) as pieces:
                for piece in pieces:
                    data.extend(piece[: end - first - len(data)])
                    if len(data) == end - first:
                        return
            raise TransientError("the connection was closed early")

        retries.run(attempt)
        return bytes(data)

    def check_headers(self, response: "httpx2.Response") -> None:
        """Raise NetworkError when a response of this server tells of another file."""

    def error(self, response: "httpx2.Response") -> LlmcliError:
        """The error for a permanent refusal of this server."""
        return NetworkError(f"{host_of(self.url)} returned status {response.status_code}", "try again later")

    def _check(self, response: "httpx2.Response", first: int, is_redirected: bool) -> int:
        """How many bytes of the response to skip before `first`; raises as `open` if it is not the file."""
        host, headers, status = host_of(str(response.url)), response.headers, response.status_code
        if status not in (200, 206):
            self._signed = ""
            if status == 416:
                raise TransientError(f"{host} rejected the byte range")
            if is_redirected:  # an expired URL; the server gives a new one
                raise TransientError(f"{host} rejected the signed URL (status {status})")
            raise self.error(response)
        for own in (*response.history, response):
            if same_origin(str(own.url), self.url):
                self.check_headers(own)
        if headers.get("content-encoding", "identity") != "identity":
            raise TransientError(f"{host} sent an unexpected Content-Encoding")
        if status == 206:
            match = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
            if not match or (int(match[1]), int(match[3])) != (first, self.size):
                raise TransientError(f"{host} returned the wrong byte range")
            self.supports_ranges = True
            return 0
        length = headers.get("content-length", "")
        if "text/html" in headers.get("content-type", "") or (length.isdigit() and int(length) != self.size):
            raise TransientError(f"{host} returned something other than the file")
        return first


def raise_if_transient(response: "httpx2.Response") -> None:
    """Raise TransientError for a status that another try may not get, with the Retry-After of the server."""
    if response.status_code in _TRANSIENT:
        problem = "too many requests" if response.status_code == 429 else "server error"
        host = response.url.netloc.decode()  # with its port, which tells servers of one machine apart
        raise TransientError(
            f"{host}: {problem} (status {response.status_code})",
            _retry_after(response.headers.get("retry-after", "").strip()),
        )


def _retry_after(text: str) -> float | None:
    """The seconds of a Retry-After, which is a number or a date; None if it is neither."""
    from datetime import UTC, datetime
    from email.utils import parsedate_to_datetime

    if text.isascii() and text.isdigit():
        return min(float(text), _LONGEST_WAIT)
    try:
        left = (parsedate_to_datetime(text).astimezone(UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):
        return None
    return min(max(left, 0.0), _LONGEST_WAIT)


def _check_redirect(url: str, target: str, to_other_hosts: bool, hops: int) -> None:
    if urlsplit(target).scheme not in ("http", "https"):
        raise NetworkError(f"{host_of(url)} redirects to an invalid URL")
    if hops >= 5:
        raise NetworkError(f"{host_of(url)} redirects too many times")
    if not to_other_hosts and not same_origin(url, target):
        raise NetworkError(
            f"{host_of(url)} redirects to another host, {host_of(target)}", "check HF_ENDPOINT and the proxy settings"
        )
    if urlsplit(url).scheme == "https" and urlsplit(target).scheme == "http":
        raise NetworkError(f"{host_of(url)} redirects to an unencrypted URL at {host_of(target)}")


def _reason(error: Exception) -> str:
    """The reason in a few words; httpx includes the text of the system."""
    return " ".join(str(error).split())[:120] or type(error).__name__


def _skip_bytes(pieces: Iterator[bytes], skip: int) -> Iterator[bytes]:
    """The pieces without their first `skip` bytes: a server without ranges starts from the beginning each time."""
    for piece in pieces:
        if skip < len(piece):
            yield piece[skip:]
        skip = max(skip - len(piece), 0)
