"""The catalog: small, well-known models by a short name, and which of them suit this machine.

catalog.toml was written by hand at the date AS_OF and compared with what other public projects pin. It is not
checked against the Hub: a repository can move or change, and each size is that of one version of the file.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from llmcli.models.hub.repo_files import fits_memory
from llmcli.models.reference import HubReference

AS_OF = "2026-07"
_BANDWIDTH = 6_000_000_000  # bytes per second that one core reads: 2 cores of an AMD EPYC gave 10 to 12 GB/s
_MAX_CORES = 4  # more cores are seldom faster: then the memory is the limit
_READING_SPEED = 4.0  # tokens per second, about as fast as people read


@dataclass(frozen=True)
class CatalogEntry:
    """A model with a short name."""

    name: str
    repo: str
    size: int  # of its file in bytes, approximately
    parameters: float  # in billions
    context: int
    license: str
    note: str
    quantization: str = "Q4_K_M"

    @property
    def reference(self) -> HubReference:
        return HubReference(self.repo, self.quantization)


@cache
def catalog() -> tuple[CatalogEntry, ...]:
    """All models of the catalog, the most able first."""
    import tomllib  # takes 10 ms

    table = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return tuple(CatalogEntry(name, **facts) for name, facts in table.items())


def find_entry(name: str) -> CatalogEntry | None:
    """The model with this name (case-insensitive); None when the catalog has no such model."""
    folded = name.casefold()
    return next((entry for entry in catalog() if entry.name == folded), None)


def expected_speed(entry: CatalogEntry, cores: int) -> float:
    """The expected tokens per second on a CPU. Each token reads all weights, so memory bandwidth is the limit."""
    return _BANDWIDTH * min(max(cores, 1), _MAX_CORES) / entry.size


def recommend(memory: int, cores: int) -> list[CatalogEntry]:
    """The models that fit into `memory` bytes (0 = unknown), best first; models too slow for these cores are last.

    On two cores, models of more than 4 billion parameters are too slow. If no model fits, the smallest entry.
    """
    fitting = [entry for entry in catalog() if fits_memory(entry.size, memory)]
    if not fitting:
        return [min(catalog(), key=lambda entry: entry.size)]
    return sorted(fitting, key=lambda entry: expected_speed(entry, cores) < _READING_SPEED)
