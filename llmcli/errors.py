"""What can go wrong, and the exit status each fault ends the program with."""

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
    """A fault told to the user in one line: what is wrong, then (hint) what to do."""

    status = ExitStatus.FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(LlmcliError):
    """The command line, an environment variable or the configuration asks for something that cannot be."""

    status = ExitStatus.USAGE


class ModelNotFoundError(LlmcliError):
    """A model reference leads to no file."""

    status = ExitStatus.MODEL_NOT_FOUND


class NotAllowedError(LlmcliError):
    """A token is missing or refused."""

    status = ExitStatus.NOT_ALLOWED


class NetworkError(LlmcliError):
    """The hub or the package index could not be reached or answered badly."""

    status = ExitStatus.NETWORK


class DiskError(LlmcliError):
    """A file could not be read or written."""

    status = ExitStatus.IO


class ReaderGoneError(LlmcliError):
    """Whoever read stdout has closed it (`| head -1`): end at once and quietly."""

    status = ExitStatus.BROKEN_PIPE


class PolicyError(LlmcliError):
    """A temperature policy of the user's raised, or returned what is no temperature."""


class ContextOverflowError(LlmcliError):
    """The prompt is longer than the context."""

    status = ExitStatus.CONTEXT_OVERFLOW


class TimeLimitError(LlmcliError):
    """The time of `--timeout` is over before there is an answer."""

    status = ExitStatus.TIMEOUT


class ModelInvalidError(LlmcliError):
    """The model file is damaged, not a model, or of a kind llama.cpp does not load."""

    status = ExitStatus.MODEL_INVALID


class ConstraintError(LlmcliError):
    """The output could not be made to meet its constraint (grammar, schema, banned strings)."""

    status = ExitStatus.CONSTRAINT_UNMET
