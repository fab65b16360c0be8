"""`llmcli compare`: one prompt answered with several settings, side by side, with statistics of each answer."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated

from llmcli.cli.command_line import Option
from llmcli.cli.options import CHAT_ONLY, DECISION, RESULT, with_settings
from llmcli.cli.questions import NoStdin, PromptArgument, command_layers, exit_status, requests_of, warn_file_name
from llmcli.cli.stdin import read_prompt, reads_stdin, stdin_as_file
from llmcli.config.presets import LayerStack
from llmcli.errors import UsageError
from llmcli.params.samplers import random_seed
from llmcli.params.settings import Layer, fields, resolve
from llmcli.ui.terminal.console import can_redraw, console
from llmcli.ui.terminal.output import print_json
from llmcli.ui.terminal.progress import ProgressLine

if TYPE_CHECKING:
    from llmcli.inference.comparison import Comparison, Variant
    from llmcli.inference.request import Question


@with_settings(only=fields().keys() - CHAT_ONLY - DECISION - RESULT)
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
    from llmcli.inference.answer import Answer
    from llmcli.inference.comparison import Comparison, variants_of  # loads the engine, as do the other late imports

    warn_file_name(text)
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
    questions = _questions(variants, layers, reads_stdin(asked, no_stdin))
    from llmcli.cli.open_model import find_target, open_model, print_settings, welcome
    from llmcli.ui import comparison as screen

    target = find_target(asked)
    welcome(first)
    questions = [one.over(target.layer) for one in questions]
    screen.warn_ineffective([(one.label, one.resolved) for one in questions])
    varied = {key for one in variants for key in one.values} | ({"seed"} if asked.seed is None else set())
    shared = {key: origin for key, origin in questions[0].resolved.origins.items() if key not in varied}
    print_settings(replace(questions[0].resolved, origins=shared))
    status, live, think = ProgressLine(), can_redraw(sys.stdout) and not as_json, asked.think == "show"
    with open_model(target, asked, status) as (engine, cancellation):
        questions = [one.over(engine.defaults) for one in questions]  # with what the memory allows
        requests = requests_of(engine, questions, cancellation)
        comparison = Comparison([Answer(engine, request) for request in requests])
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


def _questions(variants: Sequence["Variant"], layers: Sequence[Layer], piped: bool) -> list["Question"]:
    """The question of each variant. Raises LlmcliError with the label of a variant."""
    from llmcli.inference.request import join_prompt, read_question

    note = cache(console.note)  # once, if all variants have the same schema
    all_resolved = [resolve(LayerStack(layers).above({}, variant.values)) for variant in variants]
    read = cache(partial(read_prompt, all_resolved[0].settings))
    questions = []
    for variant, resolved in zip(variants, all_resolved, strict=True):
        text = join_prompt(resolved.settings, piped, read)
        once = replace(resolved.settings, constraint_retries=0)  # each answer is one of several, and streams
        questions.append(read_question(replace(resolved, settings=once), text, note, variant.label))
    return questions


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
