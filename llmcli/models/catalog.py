"""The catalog: small, well-known models by a short name, and which of them suit this machine.

The list was written by hand at the date AS_OF and compared with what other public projects pin. It is not
checked against the Hub: a repository can move or change, and each size is that of one version of the file.
"""

from dataclasses import dataclass

from llmcli.models.hub.repo_files import fits_memory
from llmcli.models.reference import HubReference

AS_OF = "2026-07"
_BANDWIDTH = 6_000_000_000  # bytes per second that one core reads: 2 cores of an AMD EPYC gave 10 to 12 GB/s
_MAX_CORES = 4  # more cores are seldom faster: then the memory is the limit
_READING_SPEED = 4.0  # tokens per second, about as fast as people read


@dataclass(frozen=True)
class CatalogEntry:
    """A model with a short name. `size` is the approximate size of its file in bytes, `parameters` are in billions."""

    name: str
    repo: str
    quantization: str
    size: int
    parameters: float
    context: int
    license: str
    note: str

    @property
    def reference(self) -> HubReference:
        return HubReference(self.repo, self.quantization)


def _q4(name: str, repo: str, size: int, parameters: float, context: int, terms: str, note: str) -> CatalogEntry:
    return CatalogEntry(name, repo, "Q4_K_M", size, parameters, context, terms, note)


_APACHE, _MIT, _GEMMA = "Apache-2.0", "MIT", "Gemma Terms of Use"
_LLAMA31, _LLAMA32 = "Llama 3.1 Community License", "Llama 3.2 Community License"
_META8 = "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF"
_CODER7 = "bartowski/Qwen2.5-Coder-7B-Instruct-GGUF"
_K = 1024

# The most able first: `recommend` keeps this order.
CATALOG: tuple[CatalogEntry, ...] = (
    _q4("qwen3-8b", "unsloth/Qwen3-8B-GGUF", 5_027_783_488, 8.19, 40 * _K, _APACHE, "reasoning, many languages"),
    _q4("llama-3.1-8b", _META8, 4_920_739_232, 8.03, 128 * _K, _LLAMA31, "all-round, long texts"),
    _q4("mistral-7b", "bartowski/Mistral-7B-Instruct-v0.3-GGUF", 4_372_812_000, 7.25, 32 * _K, _APACHE, "writing"),
    _q4("qwen2.5-coder-7b", _CODER7, 4_683_073_536, 7.62, 32 * _K, _APACHE, "code"),
    _q4("qwen3.5-4b", "unsloth/Qwen3.5-4B-GGUF", 2_740_937_888, 4.2, 256 * _K, _APACHE, "all-round"),
    _q4("qwen3-4b", "unsloth/Qwen3-4B-Instruct-2507-GGUF", 2_497_281_120, 4.02, 256 * _K, _APACHE, "all-round"),
    _q4("gemma-3-4b", "unsloth/gemma-3-4b-it-GGUF", 2_489_894_016, 3.88, 128 * _K, _GEMMA, "many languages"),
    _q4("phi-4-mini", "unsloth/Phi-4-mini-instruct-GGUF", 2_491_874_272, 3.84, 128 * _K, _MIT, "mathematics, logic"),
    _q4("llama-3.2-3b", "bartowski/Llama-3.2-3B-Instruct-GGUF", 2_019_377_696, 3.21, 128 * _K, _LLAMA32, "summaries"),
    _q4("qwen3-1.7b", "unsloth/Qwen3-1.7B-GGUF", 1_107_409_472, 1.72, 40 * _K, _APACHE, "quick, reasoning"),
    _q4("qwen2.5-1.5b", "Qwen/Qwen2.5-1.5B-Instruct-GGUF", 1_117_320_736, 1.54, 32 * _K, _APACHE, "quick, no thinking"),
    _q4("smollm2-1.7b", "HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF", 1_055_609_536, 1.71, 8 * _K, _APACHE, "English"),
    _q4("llama-3.2-1b", "bartowski/Llama-3.2-1B-Instruct-GGUF", 807_694_464, 1.24, 128 * _K, _LLAMA32, "rewriting"),
    _q4("qwen3-0.6b", "unsloth/Qwen3-0.6B-GGUF", 396_705_472, 0.6, 40 * _K, _APACHE, "very small machines"),
)


def find_entry(name: str) -> CatalogEntry | None:
    """The model with this name (case-insensitive); None when the catalog has no such model."""
    folded = name.casefold()
    return next((entry for entry in CATALOG if entry.name == folded), None)


def expected_speed(entry: CatalogEntry, cores: int) -> float:
    """The expected tokens per second on a CPU. Each token reads all weights, so memory bandwidth is the limit."""
    return _BANDWIDTH * min(max(cores, 1), _MAX_CORES) / entry.size


def recommend(memory: int, cores: int) -> list[CatalogEntry]:
    """The models that fit into `memory` bytes (0 = unknown), best first; models too slow for these cores are last.

    On two cores, models of more than 4 billion parameters are too slow. If no model fits, the smallest entry.
    """
    fitting = [entry for entry in CATALOG if fits_memory(entry.size, memory)]
    if not fitting:
        return [min(CATALOG, key=lambda entry: entry.size)]
    return sorted(fitting, key=lambda entry: expected_speed(entry, cores) < _READING_SPEED)
