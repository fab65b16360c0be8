"""Which device has which layers of a loaded model, as llama.cpp says in its log: it has no function for that."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmcli.engine.llama import hardware
from llmcli.text import plural

_LAYER = re.compile(r"load_tensors: layer\s+\d+ assigned to device (\S+?),")
_BUFFER = re.compile(r"load_tensors:\s+(\S+) model buffer size =\s+([\d.]+) MiB")
_OF_SERVER = re.compile(r"RPC(\d+)\[(.+)\]")  # the number of the device at its server, and the address


@dataclass(frozen=True)
class DeviceShare:
    """What one device has of a model: layers, with the output layer, and bytes of weights."""

    device: str
    description: str  # of a device of an RPC server: its address
    n_layers: int
    n_bytes: int

    def __str__(self) -> str:
        where = f" ({self.description})" if hardware.RPC_NAME.fullmatch(self.device) else ""
        return f"{self.device}{where}: {plural(self.n_layers, 'layer')}, {self.n_bytes / (1 << 20):.0f} MiB"


def read_split(lines: Iterable[str]) -> Sequence[DeviceShare]:
    """The shares from the log of a load; empty where all of it is in the memory of the CPU."""
    described = dict(hardware.device_texts(handle) for handle in hardware.device_handles())
    layers: dict[str, int] = dict.fromkeys(described, 0)
    sizes: dict[str, float] = dict.fromkeys(described, 0.0)
    for line in lines:
        if found := _LAYER.match(line):
            layers[found[1]] = layers.get(found[1], 0) + 1
        elif found := _BUFFER.match(line):
            device = _device_of(found[1], described)
            sizes[device] = sizes.get(device, 0.0) + float(found[2])
    shares = [
        DeviceShare(name, text, layers.get(name, 0), int(sizes.get(name, 0.0) * (1 << 20)))
        for name, text in described.items()
        if layers.get(name) or sizes.get(name)
    ]
    return shares if any(one.device != "CPU" for one in shares) else ()


def _device_of(buffer: str, described: dict[str, str]) -> str:
    """The device of a buffer such as CPU_Mapped, CUDA0 or RPC0[127.0.0.1:50052]."""
    if found := _OF_SERVER.fullmatch(buffer):
        at_server = [name for name, text in described.items() if text == found[2]]
        number = int(found[1])
        return at_server[number] if number < len(at_server) else buffer
    return buffer if buffer in described else "CPU"
