"""`llmcli doctor` and `--version`: what is installed, what this machine offers, and what is in the way."""

import json
import os
import platform
import sys
from pathlib import Path
from typing import Annotated

import typer

from llmcli import __version__
from llmcli.chat.paths import cache_dir, config_dir, config_file, data_dir
from llmcli.cli.options import with_settings
from llmcli.engine import binding, hardware
from llmcli.errors import ExitStatus, LlmcliError
from llmcli.models import starter
from llmcli.models.hub import environment
from llmcli.params.layers import Layer
from llmcli.ui.console import console
from llmcli.ui.output import put_line, put_table

_MIB = 1 << 20


def version_lines() -> list[str]:
    """llama.cpp's build and devices, for `--version`; a broken installation is told, not raised."""
    try:
        devices = [f"  {device.kind} {device.name}: {device.description}" for device in hardware.devices()]
        build = binding.llama_build()
    except LlmcliError as error:
        return [f"llama-cpp-python {binding.bindings_version()}: {error}"]
    return [f"llama-cpp-python {binding.bindings_version()} ({build})", "devices:", *devices]


@with_settings(only=())
def doctor(
    flags: Layer,  # noqa: ARG001 -- the decorator brings --quiet and --debug
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> int:
    """Check the installation; the status is 1 if anything is wrong."""
    problems: list[str] = []
    facts = {"llmcli": __version__, "python": f"{platform.python_version()} ({sys.executable})"}
    facts |= {"system": f"{platform.system()} {platform.release()} {platform.machine()}"}
    facts |= _engine_facts(problems) | _machine_facts() | _folder_facts(problems) | _hub_facts()
    if as_json:
        put_line(json.dumps({"facts": facts, "problems": problems}, ensure_ascii=False))
    else:
        put_table(list(facts.items()))
    for problem in problems:
        console.warn(problem)
    return ExitStatus.FAILED if problems else ExitStatus.OK


def _engine_facts(problems: list[str]) -> dict[str, str]:
    facts = {"llama-cpp-python": binding.bindings_version()}
    try:
        api = binding.load()
        facts["llama.cpp"] = binding.llama_build()
        features = api.llama_print_system_info().decode("utf-8", "replace")
        facts["features"] = ", ".join(part.strip() for part in features.split("|") if part.strip())
        facts["GPU offload"] = "yes" if hardware.has_gpu() else "no (a CPU build)"
        for number, device in enumerate(hardware.devices()):
            memory = f"{device.memory_free // _MIB} of {device.memory_total // _MIB} MiB free"
            facts[f"device {number}"] = f"{device.kind} {device.name}: {device.description}, {memory}"
    except LlmcliError as error:
        problems.append(f"{error}; {error.hint}" if error.hint else str(error))
    if facts["llama-cpp-python"] != binding.TESTED_BINDINGS:
        problems.append(f"llama-cpp-python {binding.TESTED_BINDINGS} is what this release is made for")
    return facts


def _machine_facts() -> dict[str, str]:
    memory = hardware.available_memory()
    return {
        "cores": f"{hardware.usable_cores()} physical cores usable, {os.cpu_count()} logical in the machine",
        "memory": f"{memory // _MIB} MiB available" if memory else "unknown",
    }


def _folder_facts(problems: list[str]) -> dict[str, str]:
    facts = {}
    for name, folder in (("config", config_dir()), ("data", data_dir()), ("cache", cache_dir())):
        writable = _writable(folder)
        facts[f"{name} folder"] = f"{folder} ({'writable' if writable else 'NOT writable'})"
        if not writable:
            problems.append(f"{folder} is not writable: set LLMCLI_HOME to a folder that is")
    facts["config file"] = f"{config_file()} ({'present' if config_file().exists() else 'absent'})"
    present = starter.is_present(cache_dir())
    facts["starter"] = "present" if present else "not fetched yet (the first generate fetches it)"
    return facts


def _writable(folder: Path) -> bool:
    """Whether files can be made in the folder, or it can be made itself."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _hub_facts() -> dict[str, str]:
    """Where the hub's files and token are; the token itself is never shown."""
    cache, source = environment.hub_cache(), environment.token_source()
    return {
        "hub": environment.endpoint() + (" (offline)" if environment.is_offline() else ""),
        "HF cache": f"{cache} ({'writable' if _writable(cache) else 'NOT writable'})",
        "HF token": f"present ({source})" if source else "absent",
    }
