"""`llmcli compare`: one prompt answered with several settings, side by side, with statistics of each answer."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from typer import Option

from llmcli.cli.generate import NoStdin, PromptArgument, command_layers, exit_status, warn_plain_template
from llmcli.cli.options import CHAT_ONLY, DECISION, with_settings
from llmcli.cli.stdin import read_prompt, reads_stdin, stdin_as_file
from llmcli.config.presets import LayerStack
from llmcli.errors import LlmcliError, UsageError
from llmcli.params.sampler_chain import check_chain
from llmcli.params.samplers import random_seed
from llmcli.params.settings import Layer, ResolvedSettings, fields, resolve
from llmcli.ui.terminal.console import can_redraw, console
from llmcli.ui.terminal.output import print_json
from llmcli.ui.terminal.progress import ProgressLine

if TYPE_CHECKING:
    from llmcli.engine.events import Cancellation, Constraint, Prompt
    from llmcli.inference.comparison import Comparison, Variant
    from llmcli.inference.engine import Engine


class _CompareRequest(NamedTuple):
    """The request of a variant: its settings with their origins, its texts, and its constraint."""

    variant: "Variant"
    resolved: ResolvedSettings
    text: str
    system: str | None
    constraint: "Constraint | None"


@with_settings(only=fields().keys() - CHAT_ONLY - DECISION)
@stdin_as_file()
def compare(
    flags: Layer,
    text: PromptArgument = None,
    vary: Annotated[
        list[str] | None,
        Option(
            metavar="KEY=V1,V2",
            help="Setting and the values to compare, as in temp=0.2,0.8. Repeatable: every combination is compared.",
        ),
    ] = None,
    answers: Annotated[
        int,
        Option(
            metavar="N",
            min=1,
            help="Number of answers per variant, each with its own seed (-n is the number of tokens).",
        ),
    ] = 1,
    n: Annotated[int | None, Option("--n", metavar="N", min=1, hidden=True)] = None,
    as_json: Annotated[
        bool, Option("--json", help="Print one JSON object with the answers, settings and statistics.")
    ] = False,
    no_stdin: NoStdin = False,
) -> int:
    from llmcli.inference.comparison import variants_of  # loads the engine, as do the other late imports

    layers = list(command_layers(flags, text))
    first = resolve(layers)
    asked = first.settings
    seed = random_seed() if asked.seed is None else asked.seed
    layers.append(Layer("flag", {"seed": seed}))
    if answers != 1 and n is not None:
        raise UsageError("--answers and --n cannot be used together", "use --answers")
    if not vary and (n or answers) == 1:
        hint = "use --vary temp=0.2,0.8 or --answers 4 (-n is the number of tokens)"
        raise UsageError("no setting to compare", hint)
    variants = variants_of(vary or [], seed, n or answers)
    if asked.prompt is not None and "prompt" in variants[0].values:
        raise UsageError("the prompt is given twice: as an argument and with --vary", "remove one of them")
    requests = _requests(variants, layers, reads_stdin(asked, no_stdin))
    from llmcli.cli.open_model import find_model, open_model, print_settings, welcome
    from llmcli.ui import comparison as screen

    target = find_model(asked)
    welcome(first.origins["model"])
    requests = [one._replace(resolved=one.resolved.over(target.layer)) for one in requests]
    screen.warn_ineffective([(one.variant.label, one.resolved) for one in requests])
    varied = {key for one in requests for key in one.variant.values} | ({"seed"} if asked.seed is None else set())
    shared = {key: origin for key, origin in requests[0].resolved.origins.items() if key not in varied}
    print_settings(replace(requests[0].resolved, origins=shared))
    status, live, think = ProgressLine(), can_redraw(sys.stdout) and not as_json, asked.think == "show"
    with open_model(target, asked, status) as (engine, cancellation):
        comparison = _comparison(engine, requests, cancellation)
        comparison.progress = status.reading
        screen.run(comparison, screen.view_of(comparison, asked) if live else None, think, status.clear)
        if as_json:
            print_json(_data(comparison, variants, seed, status), indent=None)
    if not as_json and not live:
        screen.print_texts(comparison, think)
    if not as_json:
        screen.print_summary(comparison, live)
    screen.print_errors(comparison)
    return exit_status(comparison.answers)


def _requests(variants: Sequence["Variant"], layers: Sequence[Layer], piped: bool) -> list[_CompareRequest]:
    """The request of each variant before the model is known. Raises LlmcliError with the label of a variant."""
    from llmcli.inference.constraints import read_constraint
    from llmcli.inference.request import join_prompt, system_text

    note = cache(console.note)  # once, if all variants have the same schema
    all_resolved = [resolve(LayerStack(layers).above({}, variant.values)) for variant in variants]
    read = cache(partial(read_prompt, all_resolved[0].settings))
    requests = []
    for variant, resolved in zip(variants, all_resolved, strict=True):
        settings = resolved.settings
        text = join_prompt(settings, piped, read)
        try:
            check_chain(settings)
            once = replace(settings, constraint_retries=0)  # each answer is one of several, and streams
            system, constraint = system_text(settings), read_constraint(once, note)
        except LlmcliError as error:
            raise type(error)(f"{variant.label}: {error}", error.hint) from None
        requests.append(_CompareRequest(variant, resolved, text, system, constraint))
    return requests


def _comparison(engine: "Engine", requests: Sequence[_CompareRequest], cancellation: "Cancellation") -> "Comparison":
    """The answers to the requests, with settings that fit this model; warns if it has no chat template."""
    from llmcli.engine.events import Request
    from llmcli.inference.comparison import Comparison
    from llmcli.inference.engine import Answer
    from llmcli.inference.request import build_prompt, needs_plain_template, with_plain_stop

    prompts: dict[Any, Prompt] = {}  # rendering takes time, and most variants have the same prompt
    answers = []
    if any(needs_plain_template(engine, one.resolved.settings) for one in requests):
        warn_plain_template(engine)
    for one in requests:
        s = one.resolved.settings
        s = with_plain_stop(s) if needs_plain_template(engine, s) else s
        key = one.text, one.system, s.prefill, s.raw, s.chat_template, s.think == "off", s.template_arg
        if key not in prompts:
            prompts[key] = build_prompt(engine, s, one.text, one.system, cancellation)
        request = Request(prompts[key], s, one.constraint, cancellation=cancellation, label=one.variant.label)
        answers.append(Answer(engine, request))
    return Comparison(answers)


def _data(
    comparison: "Comparison", variants: Sequence["Variant"], seed: int, status: ProgressLine
) -> dict[str, object]:
    """The comparison as JSON data; `seed` is the one of all answers that do not have their own."""
    from llmcli.inference.comparison import variant_data

    engine, first = comparison.engine, comparison.answers[0]
    if not comparison.interrupted:
        engine.identify(status.identifying, first.request.cancellation)
        status.clear()
    return {
        "model": engine.name,
        "prompt" if first.settings.raw else "messages": first.prompt.request,
        "seed": seed,
        "variants": [variant_data(*pair) for pair in zip(variants, comparison.answers, strict=True)],
    }
