"""Errors of requests: the status of HTTP, and the body in OpenAI's and in Anthropic's form."""

from collections.abc import Mapping
from typing import ClassVar

from llmcli.errors import ContextOverflowError, ExitStatus, LlmcliError

# Status and type of the errors that are not the server's own.
_KINDS = {
    ExitStatus.USAGE: (400, "invalid_request_error"),
    ExitStatus.CONTEXT_OVERFLOW: (400, "exceed_context_size_error"),
    ExitStatus.CONSTRAINT_UNMET: (422, "constraint_unmet_error"),
    ExitStatus.MODEL_NOT_FOUND: (404, "not_found_error"),
    ExitStatus.TIMEOUT: (504, "timeout_error"),
    ExitStatus.INTERRUPTED: (503, "unavailable_error"),
}


class RequestError(LlmcliError):
    """A request that the server refuses; `details` are added to the body, `headers` to the response."""

    code: ClassVar[int] = 400
    kind: ClassVar[str] = "invalid_request_error"

    def __init__(
        self,
        message: str,
        hint: str = "",
        details: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, hint)
        self.details, self.headers = details or {}, headers or {}


class KeyMissingError(RequestError):
    """The request has no key, or a wrong one."""

    code, kind = 401, "authentication_error"


class ForbiddenError(RequestError):
    """The key, the host or the origin of the request does not allow this."""

    code, kind = 403, "permission_error"


class UnknownError(RequestError):
    """The path or the model does not exist here."""

    code, kind = 404, "not_found_error"


class MethodError(RequestError):
    """The path has another method."""

    code = 405


class TooLargeError(RequestError):
    """The body is larger than the server accepts."""

    code, kind = 413, "request_too_large"


class RequestTimeoutError(RequestError):
    """The client has not sent its request in time."""

    code = 408


class HeadersTooLargeError(RequestError):
    """The request has more headers than the server accepts."""

    code = 431


class ContextError(RequestError):
    """The prompt does not fit the context."""

    kind = "exceed_context_size_error"


class RateError(RequestError):
    """The key has used what it may use in this minute."""

    code, kind = 429, "rate_limit_error"


class UnsupportedError(RequestError):
    """The server was started without this."""

    code, kind = 501, "not_supported_error"


class BusyError(RequestError):
    """Too many requests wait, or the server is about to end: the client may try again."""

    code, kind = 503, "unavailable_error"

    def __init__(self, message: str, hint: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message, hint, headers={"Retry-After": "1", **(headers or {})})


def status_and_type(error: LlmcliError) -> tuple[int, str]:
    """The status of HTTP and the type of an error, in llama-server's words."""
    if isinstance(error, RequestError):
        return error.code, error.kind
    return _KINDS.get(error.status, (500, "server_error"))


def error_data(error: LlmcliError) -> dict[str, object]:
    """The body in OpenAI's form, with the number as in llama-server."""
    code, kind = status_and_type(error)
    details: Mapping[str, object] = {}
    if isinstance(error, ContextOverflowError):
        details = error.sizes
    elif isinstance(error, RequestError):
        details = error.details
    message = f"{error}: {error.hint}" if error.hint else str(error)
    return {"error": {"code": code, "message": message, "type": kind, "param": None, **details}}


def anthropic_error_data(error: LlmcliError) -> dict[str, object]:
    """The body in Anthropic's form."""
    code, kind = status_and_type(error)
    kinds = {500: "api_error", 503: "overloaded_error", 504: "timeout_error"}
    known = kind in (
        "authentication_error",
        "permission_error",
        "not_found_error",
        "request_too_large",
        "rate_limit_error",
    )
    data = error_data(error)["error"]
    assert isinstance(data, dict)
    return {"type": "error", "error": {**data, "type": kinds.get(code, kind if known else "invalid_request_error")}}


def headers_of(error: LlmcliError) -> Mapping[str, str]:
    """The headers of the response to an error."""
    return error.headers if isinstance(error, RequestError) else {}
