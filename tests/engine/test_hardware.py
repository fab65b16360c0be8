"""Cores, memory and devices of a machine."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from llmcli.engine.llama import hardware

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's files")


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Contents of files by path; other files below /sys and /proc do not exist."""
    texts: dict[str, str] = {}
    real = Path.read_text

    def read(path: Path, *args: str, **kwargs: str) -> str:
        if not str(path).startswith(("/sys/", "/proc/")):
            return real(path, *args, **kwargs)
        if str(path) not in texts:
            raise FileNotFoundError(path)
        return texts[str(path)]

    monkeypatch.setattr(Path, "read_text", read)
    return texts


def siblings(groups: list[str]) -> dict[str, str]:
    """The topology files of CPUs 0, 1, ... with their siblings."""
    name = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    return {name.format(cpu): group + "\n" for cpu, group in enumerate(groups)}


V2 = "/sys/fs/cgroup/cpu.max"
QUOTA, PERIOD = "/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"
PAIRS = ["0-1", "0-1", "2-3", "2-3"]


@LINUX
@pytest.mark.parametrize(
    ("allowed", "texts", "cores"),
    [
        ([0, 1, 2, 3], siblings(PAIRS), 2),
        ([0, 2], siblings(PAIRS), 2),
        ([0, 1], siblings(PAIRS), 1),
        ([3], siblings(PAIRS), 1),
        ([0, 1, 2, 3], siblings(["0", "1", "2", "3"]), 4),
        ([0, 1, 2, 3], {}, 4),
        ([0, 1, 2, 3], siblings(["0", "1"]), 4),
        ([0, 1, 2, 3], {V2: "max 100000\n"}, 4),
        ([0, 1, 2, 3], {V2: "200000 100000\n"}, 2),
        ([0, 1, 2, 3], {V2: "150000 100000\n"}, 2),
        ([0, 1, 2, 3], {V2: "10000 100000\n"}, 1),
        ([0, 1, 2, 3], {V2: "900000 100000\n"}, 4),
        ([0, 1, 2, 3], {V2: "nonsense"}, 4),
        ([0, 1, 2, 3], {QUOTA: "-1\n", PERIOD: "100000\n"}, 4),
        ([0, 1, 2, 3], {QUOTA: "300000\n", PERIOD: "100000\n"}, 3),
        ([0, 1, 2, 3], {QUOTA: "300000\n"}, 4),
        ([0, 1, 2, 3], siblings(PAIRS) | {V2: "100000 100000\n"}, 1),
    ],
)
def test_usable_cores_respect_affinity_smt_and_quota(
    files: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    allowed: list[int],
    texts: Mapping[str, str],
    cores: int,
) -> None:
    files.update(texts)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(allowed))
    assert hardware.usable_cores() == cores


@LINUX
def test_a_process_pinned_to_one_cpu_has_one_core() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from llmcli.engine.llama import hardware; print(hardware.usable_cores())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "1"


MEMINFO = "MemTotal:  2000 kB\nMemFree: 1 kB\nMemAvailable:   1000 kB\n"
TOP, USED = "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"


@LINUX
@pytest.mark.parametrize(
    ("texts", "free"),
    [
        ({}, 0),
        ({"/proc/meminfo": MEMINFO}, 1000 * 1024),
        ({"/proc/meminfo": "MemTotal: 5 kB\n"}, 0),
        ({"/proc/meminfo": MEMINFO, TOP: "max\n", USED: "5\n"}, 1000 * 1024),
        ({"/proc/meminfo": MEMINFO, TOP: "5000\n", USED: "2000\n"}, 3000),
        ({"/proc/meminfo": MEMINFO, TOP: "5000\n", USED: "6000\n"}, 1),
        ({TOP: "5000\n", USED: "2000\n"}, 3000),
        ({"/proc/meminfo": MEMINFO, TOP: "9000000000\n", USED: "0\n"}, 1000 * 1024),
        (
            {
                "/proc/meminfo": MEMINFO,
                "/sys/fs/cgroup/memory/memory.limit_in_bytes": "5000\n",
                "/sys/fs/cgroup/memory/memory.usage_in_bytes": "1000\n",
            },
            4000,
        ),
        ({"/proc/meminfo": MEMINFO, "/sys/fs/cgroup/memory/memory.limit_in_bytes": str(2**63)}, 1000 * 1024),
    ],
)
def test_available_memory_respects_the_container_limit(
    files: dict[str, str], texts: Mapping[str, str], free: int
) -> None:
    files.update(texts)
    assert hardware.available_memory() == free


def test_the_real_machine_has_cores_memory_and_a_cpu() -> None:
    assert 1 <= hardware.usable_cores() <= (os.cpu_count() or 1)
    assert hardware.available_memory() > 2**20
    cpu = next(device for device in hardware.devices() if device.kind == "CPU")
    assert cpu.name
    assert cpu.memory_total >= cpu.memory_free >= 0
