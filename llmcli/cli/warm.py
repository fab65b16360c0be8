"""`llmcli warm`, `ps` and `stop`: models that stay loaded, so that the next command begins at once."""

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

from llmcli.cli.command_line import Argument, Option
from llmcli.cli.completion import complete_model
from llmcli.cli.options import Json, with_settings
from llmcli.config.presets import base_layers
from llmcli.errors import ExitStatus, LlmcliError, UsageError
from llmcli.params.model import HubParams, PlacementParams
from llmcli.params.param import fields_of, parse_duration
from llmcli.params.settings import Layer, resolve
from llmcli.text import format_duration, format_size, plural
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import print_json, print_rows
from llmcli.ui.terminal.progress import ProgressLine

if TYPE_CHECKING:
    from llmcli.inference.warm import WarmModel

_USUAL = 600.0  # seconds
_OF_LOAD = {*fields_of(PlacementParams), *fields_of(HubParams), "override_kv", "n_gpu_layers"}
# Of the context that is made at once: a command with the same ones need not make its own.
_OF_CONTEXT = {"n_ctx", "n_threads", "n_threads_batch", "n_batch", "n_ubatch", "flash_attn"}
_OF_CONTEXT |= {"cache_type_k", "cache_type_v"}


@with_settings(only=_OF_LOAD | _OF_CONTEXT)
def warm(
    flags: Layer,
    model: Annotated[
        str | None,
        Argument(help="Model [default: the one that is set].", autocompletion=complete_model, show_default=False),
    ] = None,
    keep: Annotated[
        str | None,
        Option("--for", metavar="TIME", help="Time after its last use until it ends [default: keep_alive, or 10m]."),
    ] = None,
) -> None:
    layers = base_layers(flags)
    settings = resolve([*layers, Layer("flag", {"model": model})] if model else layers).settings
    if settings.endpoint:
        raise UsageError("a model at an endpoint is not on this machine", "remove the endpoint")
    seconds = settings.keep_alive or _USUAL
    if keep is not None:
        try:
            seconds = parse_duration(keep)
        except ValueError as error:
            raise UsageError(f"--for must be {error}, got {keep[:40]!r}") from None
        if not seconds:
            raise UsageError(f"--for must be above 0, got {keep[:40]!r}", "`llmcli stop` ends a model that is loaded")
    from llmcli.cli.open_model import find_model
    from llmcli.inference import warm as warm_models

    target = find_model(settings, for_text=False)
    if found := warm_models.find(target.file.parts, settings):
        is_same = found.seconds == min(seconds, warm_models.FOREVER) and _status(found)
        if is_same and _is_loaded(found):
            console.note(f"{target.file.name} is loaded already")
            return
        stop_one(found)
    _wait(warm_models.start(target.file, settings, seconds))
    until = "until `llmcli stop`" if seconds == float("inf") else f"for {format_duration(seconds)} after its last use"
    console.note(f"{target.file.name} stays loaded {until}")


def _is_loaded(one: "WarmModel") -> bool:
    """Whether its model is loaded, after waiting for it; not where it cannot be: then another try may succeed."""
    try:
        _wait(one)
    except (LlmcliError, OSError):
        return False
    return True


def _wait(one: "WarmModel") -> None:
    from llmcli.inference import warm as warm_models

    status = ProgressLine()
    try:
        warm_models.wait(one, status.loading)
    finally:
        status.clear()


def list_warm(as_json: Json = False) -> None:
    from llmcli.inference.warm import all_warm, info_path

    # One that was killed is forgotten when it is asked.
    found = [(one, status) for one in all_warm() if (status := _status(one)) or info_path(one.key).exists()]
    now = time.time()
    if as_json:
        rows = [
            {
                "model": one.model,
                "path": one.path,
                "size": one.size,
                "pid": one.pid,
                "started": one.started_at,
                "commands": int(status["sessions"]) if status else None,
                "ends_in": _left(one, status),
                "placement": one.placement,
                "contexts": int(status["contexts"]) if status else None,
                "context_tokens": int(status["tokens"]) if status else None,
                "context_size": int(status["bytes"]) if status else None,
            }
            for one, status in found
        ]
        print_json(rows, indent=None)
        return
    if not found:
        console.note("no model is kept loaded; `llmcli warm` does it")
        return
    heads = ["MODEL", "SIZE", "PID", "SINCE", "COMMANDS", "CONTEXTS", "ENDS IN"]
    rows_of_text = []
    for one, status in found:
        left = _left(one, status)
        ends = "does not answer" if status is None else "never" if left is None else format_duration(left)
        commands = f"{status['sessions']:.0f}" if status else ""
        contexts = f"{status['contexts']:.0f} ({plural(int(status['tokens']), 'token')})" if status else ""
        since = format_duration(now - one.started_at)
        rows_of_text.append([one.model, format_size(one.size), str(one.pid), since, commands, contexts, ends])
    if any(one.placement for one, _ in found):
        heads.append("LAYERS")
        for row, (one, _) in zip(rows_of_text, found, strict=True):
            row.append(one.placement)
    spare = ("SINCE", "SIZE", "CONTEXTS", "PID")
    print_rows(heads, rows_of_text, right=("SIZE", "PID", "COMMANDS"), spare=spare)


def stop(
    model: Annotated[
        str | None, Argument(help="Model to stop.", autocompletion=complete_model, show_default=False)
    ] = None,
    everything: Annotated[bool, Option("--all", help="Stop all of them.")] = False,
) -> int:
    from llmcli.inference.warm import all_warm

    if (model is None) == (not everything):
        raise UsageError("give a MODEL, or --all", "`llmcli ps` lists the models")
    found = list(all_warm())
    wanted = found if everything else [one for one in found if _is_named(one, model or "")]
    if not wanted and not everything:
        running = ", ".join(one.model for one in found)
        raise LlmcliError(f"{model!r} is not kept loaded", f"these are: {running}" if running else "no model is")
    for one in wanted:
        stop_one(one)
        console.note(f"{one.model} has ended")
    if not wanted:
        console.note("no model is kept loaded")
    return ExitStatus.OK


def _is_named(one: "WarmModel", name: str) -> bool:
    """Whether it is the model of this name or reference."""
    if name in (one.model, one.path, str(one.pid)):
        return True
    from llmcli.models.locations import model_locations
    from llmcli.models.lookup import find_model_file

    with suppress(LlmcliError):
        return (
            str(find_model_file(name, model_locations(resolve(base_layers(Layer("flag", {}))).settings)).path)
            == one.path
        )
    return False


def stop_one(one: "WarmModel") -> None:
    """End it. Raises LlmcliError if it does not end."""
    from llmcli.inference import warm as warm_models

    warm_models.stop(one)


def _status(one: "WarmModel") -> dict[str, float] | None:
    from llmcli.inference import warm as warm_models

    return warm_models.status(one)


def _left(one: "WarmModel", status: dict[str, float] | None) -> float | None:
    """Seconds until it ends, if nobody uses it; None if it never ends, or does not answer."""
    from llmcli.inference.warm import FOREVER

    if status is None or one.seconds >= FOREVER:
        return None
    return max(one.seconds - status["idle"], 0.0)
