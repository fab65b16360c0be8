"""How a run of the program ended."""

from dataclasses import dataclass


@dataclass
class Ran:
    """What it wrote, and its exit status."""

    stdout: bytes
    stderr: str
    status: int

    @property
    def text(self) -> str:
        return self.stdout.decode()
