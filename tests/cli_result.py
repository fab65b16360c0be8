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
