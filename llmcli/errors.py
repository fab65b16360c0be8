"""The errors of the program, and the exit status of each."""

from enum import IntEnum


class ExitStatus(IntEnum):
    """The documented exit statuses; scripts rely on them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    MODEL_NOT_FOUND = 3
    NOT_ALLOWED = 4
    NETWORK = 5
    IO = 6
    CONTEXT_OVERFLOW = 7
    MODEL_INVALID = 8
    CONSTRAINT_UNMET = 9
    TIMEOUT = 124
    INTERRUPTED = 130
    BROKEN_PIPE = 141


class LlmcliError(Exception):
    """An error for the user: `message` says what is wrong, `hint` what to do. Both are one line without a full stop."""

    status = ExitStatus.FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(LlmcliError):
    """The command line, an environment variable or the configuration is not valid."""

    status = ExitStatus.USAGE


class ModelNotFoundError(LlmcliError):
    """No file was found for a model reference."""

    status = ExitStatus.MODEL_NOT_FOUND


class NotAllowedError(LlmcliError):
    """An access token is missing or was rejected."""

    status = ExitStatus.NOT_ALLOWED


class NetworkError(LlmcliError):
    """The Hub or the package index is not reachable, or sent an invalid response."""

    status = ExitStatus.NETWORK


class DiskError(LlmcliError):
    """A file cannot be read or written."""

    status = ExitStatus.IO


class OutputClosedError(LlmcliError):
    """The reader closed stdout (`| head -1`): the program exits at once, without a message."""

    status = ExitStatus.BROKEN_PIPE


class PolicyError(LlmcliError):
    """A user's temperature policy raised an error or returned an invalid temperature."""


class ContextOverflowError(LlmcliError):
    """The prompt is longer than the context."""

    status = ExitStatus.CONTEXT_OVERFLOW


class TimeLimitError(LlmcliError):
    """The time of `--timeout` is over before there is an answer."""

    status = ExitStatus.TIMEOUT


class ModelInvalidError(LlmcliError):
    """The model file is corrupt, not a model, or not supported by llama.cpp."""

    status = ExitStatus.MODEL_INVALID


class ConstraintError(LlmcliError):
    """No output can satisfy the constraints (grammar, schema, banned strings)."""

    status = ExitStatus.CONSTRAINT_UNMET


def error_text(error: Exception) -> str:
    """The reason that the system gives, without the number of the error and the path."""
    return getattr(error, "strerror", None) or str(error)


# What `generate --help` and the manual print for each status.
STATUS_MEANINGS = {
    "OK": "done",
    "FAILED": "failed",
    "USAGE": "wrong option, value or configuration",
    "MODEL_NOT_FOUND": "model not found",
    "NOT_ALLOWED": "access denied (token, gated model)",
    "NETWORK": "network, package index or Hub",
    "IO": "disk or other I/O",
    "CONTEXT_OVERFLOW": "the prompt does not fit the context",
    "MODEL_INVALID": "damaged or unsupported model file",
    "CONSTRAINT_UNMET": "the output constraint is not met",
    "TIMEOUT": "stopped by --timeout",
    "INTERRUPTED": "interrupted by Ctrl-C",
    "BROKEN_PIPE": "the reader of stdout closed it",
}
