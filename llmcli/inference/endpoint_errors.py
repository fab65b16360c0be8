"""What the errors of an endpoint mean: those of the connection, and those that the server states."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llmcli.config.endpoints import API_KEY, Endpoint
from llmcli.errors import (
    ContextOverflowError,
    LlmcliError,
    ModelNotFoundError,
    NetworkError,
    NotAllowedError,
    UsageError,
)
from llmcli.models.download.http import TransientError, raise_if_transient, transport_errors

if TYPE_CHECKING:
    import httpx2

Json = Mapping[str, object]
HINT = "check that the server runs, or try again later"
URL_HINT = "check the URL: it ends before /chat/completions, as in https://HOST/v1"
_OVERFLOW = re.compile(
    r"context.{0,20}(length|size|window)|exceed.{0,40}context|too many tokens|too long", re.IGNORECASE
)
_PAGE = re.compile(r"\s*<(!doctype|html|head|\?xml)", re.IGNORECASE)


class RefusedError(UsageError):
    """A server does not take a request; another one may."""


@contextmanager
def stated_errors(endpoint: Endpoint) -> Iterator[None]:
    """The errors of the connection, those that another try cannot mend as NetworkError."""
    try:
        with transport_errors(endpoint.host):
            yield
    except TransientError as error:
        text = str(error)
        if "CERTIFICATE" in text:
            hint = "SSL_CERT_FILE can name a file with the certificate of its issuer"
            raise NetworkError(f"{endpoint.host} has a certificate that is not valid: {_inner(text)}", hint) from None
        if "SSL" in text or "TLS" in text:
            raise NetworkError(f"{endpoint.host} does not speak https: {_inner(text)}", "try http://") from None
        if re.search(r"illegal|malformed|unsupported HTTP", text, re.IGNORECASE):
            raise NetworkError(f"{endpoint.host} does not speak HTTP: {_inner(text)}", "check the port") from None
        raise


def _inner(text: str) -> str:
    """What stands in the last parentheses of a text."""
    return text.partition("(")[2].removesuffix(")") or text


def is_page(text: str) -> bool:
    """Whether a text is a web page, as of a proxy or of another program at the port."""
    return bool(_PAGE.match(text))


def error_of(data: object) -> Json:
    """The error in a body or an event: a dict with `message`, and what else the server says; empty if there is none."""
    if isinstance(data, bytes):
        text = data.decode("utf-8", "replace")
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            return {} if is_page(text) else {"message": text}
    if not isinstance(data, dict):
        return {}
    error = data.get("error", data.get("detail", data if "message" in data else None))
    if isinstance(error, list) and error and isinstance(error[0], dict):  # FastAPI
        error = {"message": f"{error[0].get('msg')}: {error[0].get('loc')}"}
    if isinstance(error, str):
        error = {"message": error}
    return error if isinstance(error, dict) else {}


def raise_for_error(endpoint: Endpoint, status: int, error: Json, response: "httpx2.Response | None" = None) -> None:
    """Raise what an error of the server means: TransientError where another try may succeed, else LlmcliError."""
    host, code = endpoint.host, f"{error.get('code') or ''} {error.get('type') or ''}"
    text = endpoint.quoted(str(error.get("message") or ""), 300)
    said = f": {text}" if text else f" (status {status})"
    if status == 401:  # its text may contain the key
        if not endpoint.key:
            hint = f"put it into {API_KEY}, or into a file that a profile names as api_key_file"
            raise NotAllowedError(f"{host} needs a key", hint)
        raise NotAllowedError(f"{host} refused the key from {endpoint.key_source}", "check the key and the URL")
    if status in (402, 403) or "insufficient_quota" in code:
        raise NotAllowedError(f"{host} denies access{said}", "see the account of the key")
    if status in (400, 413, 422) or "exceed_context" in code or "context_length" in code:
        if "context" in code or _OVERFLOW.search(text):
            raise ContextOverflowError(f"the prompt does not fit the context of {host}{said}", "shorten the prompt")
        about = f"see what it supports: llmcli doctor {endpoint.option}"
        raise RefusedError(f"{host} refused the request{said}", about)
    if status == 407:
        raise NetworkError(f"the proxy refuses the connection to {host}{said}", "check the variables of the proxy")
    if status in (404, 405):
        if "model" in text.lower() or "model" in code:
            names = f"see its models: llmcli models list {endpoint.option}"
            raise ModelNotFoundError(f"{host} does not have the model{said}", names)
        raise NetworkError(f"{host} has no such address{said}", URL_HINT)
    if response is not None:
        try:
            raise_if_transient(response)
        except TransientError as transient:
            raise TransientError(str(transient) + (f": {text}" if text else ""), transient.retry_after) from None
    if 300 <= status < 400:
        raise NetworkError(f"{host} redirects to nowhere (status {status})", URL_HINT)
    raise NetworkError(f"{host} reports an error{said}", HINT)


def as_network_error(error: TransientError) -> LlmcliError:
    """The error for a connection that failed in the middle of an answer, which cannot be asked for again."""
    return NetworkError(f"{error}; the answer is not complete", HINT)
