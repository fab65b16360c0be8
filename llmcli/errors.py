"""The errors of the program, and the exit status of each."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum


class ExitStatus(IntEnum):
    """The documented exit statuses, on which scripts rely, with their meaning for help and manual."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> "ExitStatus":
        status = int.__new__(cls, value)
        status._value_, status.meaning = value, meaning
        return status

    OK = 0, "done"
    FAILED = 1, "failed"
    USAGE = 2, "wrong option, value or configuration"
    MODEL_NOT_FOUND = 3, "model not found"
    NOT_ALLOWED = 4, "access denied (token, gated model)"
    NETWORK = 5, "network, package index or Hub"
    IO = 6, "disk or other I/O"
    CONTEXT_OVERFLOW = 7, "the prompt does not fit the context"
    MODEL_INVALID = 8, "damaged or unsupported model file"
    CONSTRAINT_UNMET = 9, "the output constraint is not met"
    LINES_FAILED = 10, "some lines of a batch failed"
    TIMEOUT = 124, "stopped by --timeout"
    INTERRUPTED = 130, "interrupted by Ctrl-C"
    BROKEN_PIPE = 141, "the reader of stdout closed it"


class LlmcliError(Exception):
    """An error for the user: `message` says what is wrong, `hint` what to do. Both are one line without a full stop."""

    status = ExitStatus.FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __init_subclass__(cls, status: ExitStatus | None = None) -> None:
        cls.status = status or cls.status

    @property
    def kind(self) -> str:
        """The name of its exit status: usage, context_overflow, constraint_unmet, timeout, ..."""
        return self.status.name.lower()

    def data(self) -> dict[str, str]:
        """The error as JSON data."""
        return {"type": self.kind, "message": str(self), **({"hint": self.hint} if self.hint else {})}


class UsageError(LlmcliError, status=ExitStatus.USAGE):
    """The command line, an environment variable or the configuration is not valid."""


class ModelNotFoundError(LlmcliError, status=ExitStatus.MODEL_NOT_FOUND):
    """No file was found for a model reference."""


class NotAllowedError(LlmcliError, status=ExitStatus.NOT_ALLOWED):
    """An access token is missing or was rejected."""


class NetworkError(LlmcliError, status=ExitStatus.NETWORK):
    """The Hub or the package index is not reachable, or sent an invalid response."""


class DiskError(LlmcliError, status=ExitStatus.IO):
    """A file cannot be read or written."""


class OutputClosedError(LlmcliError, status=ExitStatus.BROKEN_PIPE):
    """The reader closed stdout (`| head -1`): the program exits at once, without a message."""


class PolicyError(LlmcliError):
    """A user's temperature policy raised an error or returned an invalid temperature."""


class ContextOverflowError(LlmcliError, status=ExitStatus.CONTEXT_OVERFLOW):
    """The prompt is longer than the context; `sizes` are the numbers, where they are known."""

    def __init__(self, message: str, hint: str = "", sizes: Mapping[str, int] | None = None) -> None:
        super().__init__(message, hint)
        self.sizes = sizes or {}


class TimeLimitError(LlmcliError, status=ExitStatus.TIMEOUT):
    """The time of `--timeout` is over before there is an answer."""


class ModelInvalidError(LlmcliError, status=ExitStatus.MODEL_INVALID):
    """The model file is corrupt, not a model, or not supported by llama.cpp."""


class ConstraintError(LlmcliError, status=ExitStatus.CONSTRAINT_UNMET):
    """No output can satisfy the constraints (grammar, schema, banned strings)."""


@contextmanager
def labeled(label: str) -> Iterator[None]:
    """Put a label in front of the errors of this block: which of several answers they are about; "" for none."""
    try:
        yield
    except LlmcliError as error:
        if not label:
            raise
        raise type(error)(f"{label}: {error}", error.hint) from None


def error_text(error: Exception) -> str:
    """The reason that the system gives, without the number of the error and the path."""
    return getattr(error, "strerror", None) or str(error)
