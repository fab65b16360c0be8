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
        ([0, 1, 2, 3], {V2: "120000 100000\n"}, 1),
        ([0, 1, 2, 3], {V2: "169000 100000\n"}, 1),
        ([0, 1, 2, 3], {V2: "170000 100000\n"}, 2),
        ([0, 1, 2, 3], {V2: "230000 100000\n"}, 2),
        ([0, 1, 2, 3], {V2: "100000 0\n"}, 4),
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


@pytest.mark.slow
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


def mount(point: str, kind: str, options: str, root: str = "/") -> str:
    """A line of /proc/self/mountinfo."""
    return f"31 23 0:28 {root} {point} rw,relatime shared:9 - {kind} {kind} {options}\n"


SELF, MOUNTS = "/proc/self/cgroup", "/proc/self/mountinfo"
TOP_CPU, TOP_MEMORY = "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory"
UNIFIED = {MOUNTS: mount("/sys/fs/cgroup", "cgroup2", "rw")}
LEGACY = {
    MOUNTS: mount(TOP_CPU, "cgroup", "rw,cpu,cpuacct")
    + mount(TOP_MEMORY, "cgroup", "rw,memory")
    + mount("/sys/fs/cgroup/unified", "cgroup2", "rw")
}
UNIT = UNIFIED | {SELF: "0::/system.slice/llmcli.service\n"}
JOB = LEGACY | {SELF: "4:memory:/slurm/uid_1/job_2\n3:cpu,cpuacct:/slurm/uid_1/job_2\n1:name=systemd:/\n0::/\n"}


@LINUX
@pytest.mark.parametrize(
    ("texts", "cores"),
    [
        pytest.param(UNIT, 4, id="no limit"),
        pytest.param(UNIT | {"/sys/fs/cgroup/system.slice/llmcli.service/cpu.max": "100000 100000"}, 1, id="v2 unit"),
        pytest.param(
            UNIT
            | {
                "/sys/fs/cgroup/system.slice/llmcli.service/cpu.max": "max 100000",
                "/sys/fs/cgroup/system.slice/cpu.max": "200000 100000",
            },
            2,
            id="v2 slice above the unit",
        ),
        pytest.param(
            UNIT
            | {
                "/sys/fs/cgroup/system.slice/llmcli.service/cpu.max": "300000 100000",
                "/sys/fs/cgroup/system.slice/cpu.max": "200000 100000",
            },
            2,
            id="v2 the narrowest",
        ),
        pytest.param(
            JOB
            | {
                f"{TOP_CPU}/slurm/uid_1/cpu.cfs_quota_us": "100000",
                f"{TOP_CPU}/slurm/uid_1/cpu.cfs_period_us": "50000",
                f"{TOP_CPU}/slurm/uid_1/job_2/cpu.cfs_quota_us": "-1",
                f"{TOP_CPU}/slurm/uid_1/job_2/cpu.cfs_period_us": "50000",
            },
            2,
            id="v1 job",
        ),
        pytest.param(
            {
                SELF: "3:cpu,cpuacct:/docker/abc/inner\n",
                MOUNTS: mount(TOP_CPU, "cgroup", "rw,cpu,cpuacct", root="/docker/abc"),
                f"{TOP_CPU}/inner/cpu.cfs_quota_us": "100000",
                f"{TOP_CPU}/inner/cpu.cfs_period_us": "100000",
            },
            1,
            id="v1 container whose mount begins at its own group",
        ),
        pytest.param(
            {
                SELF: "0::/../other\n",
                MOUNTS: mount("/sys/fs/cgroup", "cgroup2", "rw", root="/.."),
                "/sys/fs/cgroup/cpu.max": "200000 100000",
            },
            2,
            id="v2 process moved into a namespace",
        ),
        pytest.param({SELF: "nonsense\n::\n", MOUNTS: "x - y\n\n - \n", V2: "100000 100000"}, 1, id="unreadable"),
    ],
)
def test_the_cpu_quota_of_every_group_above_counts(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch, texts: Mapping[str, str], cores: int
) -> None:
    files.update(texts)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    assert hardware.usable_cores() == cores


def limit(folder: str, top: object, used: object, inactive: int = 0) -> dict[str, str]:
    """The files of a memory limit, of version 1 below TOP_MEMORY and else of version 2."""
    is_legacy = folder.startswith(TOP_MEMORY)
    names = ("limit_in_bytes", "usage_in_bytes", "total_") if is_legacy else ("max", "current", "")
    stat = f"cache 7\n{names[2]}inactive_file {inactive}\n"
    return {
        f"{folder}/memory.{names[0]}": f"{top}\n",
        f"{folder}/memory.{names[1]}": f"{used}\n",
        f"{folder}/memory.stat": stat,
    }


@LINUX
@pytest.mark.parametrize(
    ("texts", "free"),
    [
        pytest.param(UNIT | limit("/sys/fs/cgroup/system.slice/llmcli.service", 9000, 2000), 7000, id="v2 unit"),
        pytest.param(UNIT | limit("/sys/fs/cgroup/system.slice", 9000, 2000), 7000, id="v2 slice above the unit"),
        pytest.param(
            UNIT
            | limit("/sys/fs/cgroup/system.slice/llmcli.service", 9000, 2000)
            | limit("/sys/fs/cgroup/system.slice", 9000, 8500),
            500,
            id="v2 the narrowest",
        ),
        pytest.param(
            UNIT
            | limit("/sys/fs/cgroup/system.slice/llmcli.service", "max", 2000)
            | {"/sys/fs/cgroup/system.slice/llmcli.service/memory.high": "6000"},
            4000,
            id="v2 soft limit",
        ),
        pytest.param(UNIT | limit("/sys/fs/cgroup/system.slice", 9000, 8000, inactive=5000), 6000, id="v2 old files"),
        pytest.param(JOB | limit(f"{TOP_MEMORY}/slurm/uid_1/job_2", 9000, 2000), 7000, id="v1 job"),
        pytest.param(JOB | limit(f"{TOP_MEMORY}/slurm", 9000, 2000, inactive=1000), 8000, id="v1 above the job"),
        pytest.param(JOB | limit(f"{TOP_MEMORY}/slurm", 2**63 - 4096, 2000), 1000 * 1024, id="v1 no limit"),
        pytest.param(UNIT | limit("/sys/fs/cgroup/other.slice", 9000, 2000), 1000 * 1024, id="the group of others"),
    ],
)
def test_the_memory_limit_of_every_group_above_counts(
    files: dict[str, str], texts: Mapping[str, str], free: int
) -> None:
    files.update({"/proc/meminfo": MEMINFO} | dict(texts))
    assert hardware.available_memory() == free


def test_the_real_machine_has_cores_memory_and_a_cpu() -> None:
    assert 1 <= hardware.usable_cores() <= (os.cpu_count() or 1)
    assert hardware.available_memory() > 2**20
    cpu = next(device for device in hardware.devices() if device.kind == "CPU")
    assert cpu.name
    assert cpu.memory_total >= cpu.memory_free >= 0


def test_a_build_with_the_rpc_backend_has_a_gpu_only_if_there_is_a_device() -> None:
    assert hardware.has_gpu() == any(device.kind in ("GPU", "IGPU") for device in hardware.devices())
