"""The result of a command line."""

from dataclasses import dataclass


@dataclass
class CliResult:
    """Its output and its exit status."""

    stdout: bytes
    stderr: str
    status: int

    @property
    def text(self) -> str:
        return self.stdout.decode()


def shell_status(returncode: int) -> int:
    """The status that a shell shows: 128 and the number of the signal for a process that a signal ended."""
    return 128 - returncode if returncode < 0 else returncode
