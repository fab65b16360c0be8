"""`llmcli doctor` and `--version`: what is installed, the hardware, and the problems."""

import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from llmcli import __version__
from llmcli.cli.command_line import Option
from llmcli.cli.options import with_settings
from llmcli.config.config_file import aliases, config_layer
from llmcli.config.endpoints import endpoint_profiles
from llmcli.config.presets import presets, resolve_settings
from llmcli.engine.llama import bindings, hardware, rpc
from llmcli.engine.llama.probe import probe
from llmcli.errors import ExitStatus, LlmcliError
from llmcli.files import cache_dir, config_dir, config_path, data_dir
from llmcli.inference.constraints import CONSTRAINT_KEYS
from llmcli.inference.placement import placement_facts
from llmcli.models import locations
from llmcli.models.hub import environment
from llmcli.params.model import PlacementParams
from llmcli.params.param import fields_of
from llmcli.params.settings import Layer, Settings, environment_layer, resolve
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import print_facts, print_json
from llmcli.ui.terminal.progress import ProgressLine, Spinner

_MIB = 1 << 20
Problems = list[tuple[str, str]]  # message and hint of each


def version() -> str:
    """What `--version` shows: also llama.cpp's build and the devices, or why llama.cpp cannot be loaded."""
    head = f"llmcli {__version__}\nllama-cpp-python {bindings.bindings_version()}"
    try:
        devices = [f"  {device.kind} {device.name}: {device.description}" for device in hardware.devices()]
        return "\n".join([f"{head} ({bindings.llama_build()})", "devices:", *devices])
    except LlmcliError as error:
        return f"{head}: {error}"


@with_settings(only={*fields_of(PlacementParams), "n_threads", "n_threads_batch", "endpoint"})
def doctor(
    flags: Layer,
    as_json: Annotated[bool, Option("--json", help="Print one JSON object, for a bug report.")] = False,
) -> int:
    problems: Problems = []
    if endpoint := flags.get("endpoint", str):
        return _report(_endpoint_facts(endpoint, problems), problems, as_json)
    facts = {"llmcli": __version__, "python": f"{platform.python_version()} ({sys.executable})"}
    facts["system"] = f"{platform.system()} {platform.release()} {platform.machine()}"
    facts |= _engine_facts(problems)
    memory = hardware.available_memory()
    facts["cores"] = f"{hardware.usable_cores()} usable (physical), {os.cpu_count()} logical"
    facts["memory"] = f"{memory // _MIB} MiB available" if memory else "unknown"
    facts |= _loading_facts(flags, problems)
    facts |= _file_facts(problems)
    if endpoint := _settings().endpoint:
        facts["endpoint"] = f"{endpoint} (doctor --endpoint {endpoint} asks it)"
    facts["hub"] = environment.endpoint() + (" (offline)" if environment.is_offline() else "")
    facts["HF cache"] = _with_access(environment.hub_cache())
    source = environment.token_source()  # the token itself is never shown
    facts["HF token"] = f"present ({source})" if source else "not present"
    return _report(facts, problems, as_json)


def _report(facts: Mapping[str, str], problems: Problems, as_json: bool) -> int:
    if as_json:
        rows = [{"message": message, "hint": hint} for message, hint in problems]
        print_json({"facts": facts, "problems": rows}, indent=None)
    else:
        print_facts(list(facts.items()))
    for message, hint in problems:
        console.error(message, hint)
    return ExitStatus.FAILED if problems else ExitStatus.OK


def _settings() -> Settings:
    """Those of the configuration and the environment; the defaults if one of them is not valid."""
    with suppress(LlmcliError):  # `_file_facts` finds the fault
        return resolve_settings(Layer("flag", {}))
    return Settings()


def _endpoint_facts(text: str, problems: Problems) -> dict[str, str]:
    """What a server says of itself, and what servers of its kind can do."""
    from llmcli.inference.endpoint_server import look_at, reachable

    endpoint = reachable(text, _settings().offline)
    facts = {"endpoint": endpoint.base + (f" (profile {endpoint.name})" if endpoint.name else "")}
    facts["key"] = f"present ({endpoint.key_source})" if endpoint.key else "not present"
    try:
        served = look_at(endpoint, console.note)
    except LlmcliError as error:
        problems.append((str(error), error.hint))
        return facts
    problems += [(note, "") for note in served.notes]
    dialect, names = served.dialect, [one.name for one in served.models]
    n_ctx = served.n_ctx or (served.models[0].n_ctx if served.models else 0)
    facts["server"] = f"{dialect.title} {served.version}".rstrip()
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    facts["models"] = shown or "not listed: name one with -m"
    facts["context"] = f"{n_ctx} tokens" if n_ctx else "not known: --ctx-size tells llmcli"
    facts["answers at a time"] = str(served.n_slots) if served.n_slots else "not known"
    special = {"max_tokens", "stop", "think", "prefill", "template_arg", "temperature", *CONSTRAINT_KEYS}
    facts["settings"] = ", ".join(key for key in dialect.taken if key not in special)
    facts["temperature"] = "every policy" if dialect.policies else "numbers and ranges" if dialect.ranges else "numbers"
    facts["constraints"] = ", ".join(dialect.constraints) or "none"
    can = {"reasoning off": "think", "template variables": "template_arg", "prefill, /continue": "prefill"}
    facts |= {name: "yes" if dialect.takes(key) else "no" for name, key in can.items()}
    facts["score, --choices"] = "yes" if dialect.scores else "no"
    facts["trace, /why, replay"] = "yes" if dialect.has_extras else "no"
    return facts


def _engine_facts(problems: Problems) -> dict[str, str]:
    facts = {"llama-cpp-python": bindings.bindings_version()}
    try:
        api = bindings.load()
        facts["llama.cpp"] = bindings.llama_build()
        features = api.llama_print_system_info().decode("utf-8", "replace")
        facts["features"] = ", ".join(part.strip() for part in features.split("|") if part.strip())
        facts["GPU offload"] = "yes" if hardware.has_gpu() else "no (a CPU build)"
        facts["RPC backend"] = "yes" if rpc.is_supported() else "no (compiled without it: --rpc does not work)"
        for number, device in enumerate(hardware.devices()):
            memory = f"{device.memory_free // _MIB} of {device.memory_total // _MIB} MiB free"
            facts[f"device {number}"] = f"{device.kind} {device.name}: {device.description}, {memory}"
        if locations.is_starter_downloaded(cache_dir()):
            probe([locations.starter_path(cache_dir())])
    except LlmcliError as error:
        problems.append((str(error), error.hint))
    if facts["llama-cpp-python"] != bindings.TESTED_BINDINGS:
        tested = f"llama-cpp-python=={bindings.TESTED_BINDINGS}"
        message = f"llama-cpp-python {facts['llama-cpp-python']} is not tested with this release"
        problems.append((message, f"install the tested version with `pip install {tested}`"))
    return facts


def _loading_facts(flags: Layer, problems: Problems) -> Mapping[str, str]:
    """What the settings for loading come to on this machine: those of the flags over all that are in force."""
    try:
        settings = resolve_settings(flags)
    except LlmcliError:  # `_file_facts` finds the fault
        settings = resolve([flags]).settings
    facts: dict[str, str] = {}
    try:
        facts |= _server_facts(settings, problems)
        facts |= placement_facts(settings)
    except LlmcliError as error:
        problems.append((str(error), error.hint))
    return facts


def _server_facts(settings: Settings, problems: Problems) -> Mapping[str, str]:
    """What the RPC servers of the settings offer."""
    if not settings.rpc:
        return {}
    from llmcli.inference.rpc_devices import open_servers

    facts = {}
    if not rpc.is_supported():
        raise rpc.unsupported_error()
    line = ProgressLine()
    for name in settings.rpc:
        asking = Spinner(line.update)  # one that another client uses does not answer: 10 seconds
        asking.text = f"asking the RPC server {name}"
        try:
            with asking, open_servers(replace(settings, rpc=(name,))) as (server,):
                memory = [f"{one.free // _MIB} of {one.total // _MIB} MiB free" for one in server.devices]
                facts[f"RPC server {name}"] = ", ".join(memory)
        except LlmcliError as error:
            facts[f"RPC server {name}"] = "not usable"
            problems.append((str(error), error.hint))
        finally:
            line.clear()
    return facts


def _file_facts(problems: Problems) -> dict[str, str]:
    facts = {}
    for name, folder in (("config", config_dir()), ("data", data_dir()), ("cache", cache_dir())):
        facts[f"{name} folder"] = _with_access(folder)
        if not _is_writable(folder):
            problems.append((f"cannot write to {folder}", "set LLMCLI_HOME to a folder that you can write to"))
    has_starter = locations.is_starter_downloaded(cache_dir())
    facts["starter"] = "present" if has_starter else "not downloaded (the first `llmcli chat` downloads it)"
    state = "not present"
    if config_path().exists():
        state = "not valid" if _has_fault((config_layer, aliases, presets, endpoint_profiles), problems) else "valid"
    facts["config file"] = f"{config_path()} ({state})"
    facts["variables"] = ", ".join(sorted(name for name in os.environ if name.startswith("LLMCLI_"))) or "none"
    if _has_fault((lambda: environment_layer(os.environ),), problems):
        facts["variables"] += " (not valid)"
    return facts


def _has_fault(checks: Iterable[Callable[[], object]], problems: Problems) -> bool:
    """Run the checks and add each different error to the problems."""
    faults: dict[tuple[str, str], None] = {}
    for check in checks:
        try:
            check()
        except LlmcliError as error:
            faults[str(error), error.hint] = None
    problems += [fault for fault in faults if fault not in problems]
    return bool(faults)


def _with_access(folder: Path) -> str:
    return f"{folder} ({'writable' if _is_writable(folder) else 'NOT writable'})"


def _is_writable(folder: Path) -> bool:
    """Whether files can be created in the folder, or the folder itself."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
