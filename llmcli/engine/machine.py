"""The processor of llama.cpp and the features that it uses. On another one, the same code rounds differently."""

from functools import cache

from llmcli.engine.llama import bindings, hardware
from llmcli.errors import LlmcliError


@cache
def machine() -> str:
    """The devices and the processor features that this build uses, such as "AMD EPYC: AVX2 FMA REPACK"."""
    try:
        names = dict.fromkeys(device.description or device.name for device in hardware.devices())
    except LlmcliError:  # this build has its libraries in another folder
        names = {"unknown": None}
    text = bindings.load().llama_print_system_info().decode("utf-8", "replace")
    facts = [fact.rpartition(":")[2].partition("=") for fact in text.split("|")]
    features = [name.strip() for name, _, value in facts if value.strip() == "1"]
    return f"{', '.join(names)}: {' '.join(features)}"
