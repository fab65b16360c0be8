"""Where the lines of a batch are answered: one engine, several servers, or a Ray cluster, opened for one command."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from llmcli.cli.open_model import Target, find_target, open_model, print_settings, welcome
from llmcli.cli.questions import warn_plain_template
from llmcli.cli.task_options import warn_of_small_model
from llmcli.config.endpoints import endpoint_names, endpoint_profiles
from llmcli.engine.events import Cancellation
from llmcli.errors import UsageError
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.params.settings import Layer, ResolvedSettings, Settings, resolve
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.interrupt import interruptible
from llmcli.ui.terminal.output import warn_dropped, warn_ineffective
from llmcli.ui.terminal.progress import ProgressLine

if TYPE_CHECKING:
    from llmcli.pipelines.batch import Backend
    from llmcli.pipelines.line_worker import BatchOptions


class Opened(NamedTuple):
    """A backend, what ends its answers, and the settings that all lines share."""

    backend: "Backend"
    cancellation: Cancellation
    settings: Settings


def has_several_endpoints(settings: Settings) -> bool:
    """Whether the endpoint of the settings is a list."""
    text = settings.endpoint or ""
    return "," in text and text not in endpoint_profiles() and len(endpoint_names(text)) > 1


def _find_target(layers: Sequence[Layer], options: "BatchOptions") -> tuple[Target, ResolvedSettings]:
    """What answers, and the settings that all lines share; with what the user should know of both."""
    first = resolve(layers)
    target = find_target(first.settings)
    welcome(first)
    resolved = first.over(target.layer)
    warn_ineffective(resolved)
    print_settings(resolved)
    if options.task:
        warn_of_small_model(options.task, target)
    return target, resolved


@contextmanager
def open_engine(layers: Sequence[Layer], options: "BatchOptions") -> Iterator[Opened]:
    """One engine: a model of this machine, or one server."""
    from llmcli.pipelines.batch import OneEngine
    from llmcli.pipelines.line_worker import LineWorker

    status = ProgressLine()
    target, resolved = _find_target(layers, options)
    # The time limit is that of each line.
    with open_model(target, replace(resolved.settings, timeout=0.0), status) as (engine, cancellation):
        warn_plain_template(engine, [resolved.settings])
        warn_dropped(engine, resolved.settings, set())
        if options.is_full:
            engine.identify(status.identifying, cancellation)
            status.clear()
        worker = LineWorker(engine, layers, options, cancellation)
        yield Opened(OneEngine(worker, options.n_parallel, cancellation), cancellation, resolved.settings)


@contextmanager
def open_servers(layers: Sequence[Layer], options: "BatchOptions", any_model: bool) -> Iterator[Opened]:
    """Several servers, which share the lines."""
    from llmcli.pipelines.line_worker import LineWorker
    from llmcli.pipelines.server_connections import connect_servers, lost_settings
    from llmcli.pipelines.server_pool import PoolServer, ServerPool

    layers = with_seed(layers)
    first, cancellation, inner = resolve(layers), Cancellation(), Cancellation()
    cancellation.followers = (inner,)
    with interruptible(cancellation):
        connections = connect_servers(first.settings, layers, any_model, inner)
        served = next(one.served for one in connections if one.served)
        resolved = first.over(served.layer)
        warn_ineffective(resolved)
        print_settings(resolved)
        servers = []
        for one in connections:
            server = PoolServer(
                one.name, one.connect, partial(LineWorker, layers=layers, options=options, cancellation=inner)
            )
            if one.engine and one.served:
                console.detail(f"{one.engine.facts[0]}, {one.engine.facts[1]}")
                server.worker = LineWorker(one.engine, layers, options, inner)
            elif one.error:
                console.warn(f"{one.error}; the other servers get its lines")
                server.is_down, server.error = True, one.error
            for name in lost_settings(one, layers):
                console.warn(f"{name} is left out: {one.name} does not support it")
            servers.append(server)
        try:
            yield Opened(ServerPool(servers, options.n_parallel, cancellation), cancellation, resolved.settings)
        finally:
            for one in connections:
                if one.engine:
                    one.engine.close()
    for one in connections:
        console.warn_all([f"{one.name}: {note}" for note in (one.engine.notes if one.engine else [])])


@contextmanager
def open_ray(
    layers: Sequence[Layer], options: "BatchOptions", address: str, n_actors: int, n_lines: int | None
) -> Iterator[Opened]:
    """The actors of a Ray cluster."""
    from llmcli.inference.engine_messages import can_be_sent
    from llmcli.pipelines.ray_actor import ActorPlan, open_engine
    from llmcli.pipelines.ray_cluster import RayCluster, check_ray
    from llmcli.pipelines.ray_driver import DriverPlan
    from llmcli.pipelines.ray_placement import need_of

    check_ray()
    layers = with_seed(layers)
    first = resolve(layers)
    if has_several_endpoints(first.settings):
        raise UsageError("--ray and several endpoints cannot be used together", "remove --ray: batch shares the lines")
    if not can_be_sent(first.settings):
        raise UsageError("--ray and temp_policy_file cannot be used together", "use a policy of llmcli")
    target, resolved = _find_target(layers, options)
    size = sum(part.stat().st_size for part in target.file.parts) if isinstance(target, ResolvedModel) else 0
    actor, cancellation = ActorPlan(layers, options, open_engine), Cancellation()
    plan = DriverPlan(address, actor, need_of(resolved.settings, size), n_actors, n_lines)
    with interruptible(cancellation):
        show_log = console.detail if console.engine_log else lambda _line: None
        yield Opened(RayCluster(plan, cancellation, show_log), cancellation, resolved.settings)


def with_seed(layers: Sequence[Layer]) -> list[Layer]:
    """The layers with one seed for all workers, where nobody set one."""
    if resolve(layers).settings.seed is not None:
        return [*layers]
    seed = resolve(layers).with_seed().settings.seed
    return [*layers[:-1], replace(layers[-1], values={**layers[-1].values, "seed": seed})]
