"""On which processor does llama.cpp compute here, and with which of its features? The same code rounds otherwise."""

from functools import cache

from llmcli.engine import binding, hardware
from llmcli.errors import LlmcliError


@cache
def machine() -> str:
    """The devices and what this build uses of the processor, as in "AMD EPYC: AVX2 FMA REPACK"."""
    try:
        names = dict.fromkeys(device.description or device.name for device in hardware.devices())
    except LlmcliError:  # this build keeps its libraries elsewhere
        names = {"unknown": None}
    text = binding.load().llama_print_system_info().decode("utf-8", "replace")
    facts = [fact.rpartition(":")[2].partition("=") for fact in text.split("|")]
    features = [name.strip() for name, _, value in facts if value.strip() == "1"]
    return f"{', '.join(names)}: {' '.join(features)}"
