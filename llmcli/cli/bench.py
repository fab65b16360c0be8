"""`llmcli bench`: how fast a model is on this machine, and which settings are the fastest."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from llmcli.cli.command_line import Argument, Option
from llmcli.cli.completion import complete_reference
from llmcli.cli.options import Json, with_settings
from llmcli.config.presets import base_layers
from llmcli.errors import ExitStatus, LlmcliError, UsageError
from llmcli.files import data_dir
from llmcli.params.model import HubParams, ModelParams
from llmcli.params.param import fields_of
from llmcli.params.settings import Layer, ResolvedSettings, Settings, fields, resolve
from llmcli.text import format_duration
from llmcli.ui.terminal.cells import first_that_fits
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.interrupt import exit_on_signal
from llmcli.ui.terminal.output import print_line
from llmcli.ui.terminal.progress import ProgressLine

if TYPE_CHECKING:
    from llmcli.engine.events import Cancellation
    from llmcli.inference.benchmark import Benchmark, Case, Report, SpeedTest
    from llmcli.inference.local import LocalEngine
    from llmcli.inference.resolved_model import ResolvedModel
    from llmcli.inference.tuning import SearchResult

_USUAL_PROMPT, _USUAL_ANSWER = 512, 128  # tokens, as in llama-bench
_MOST_TOKENS, _MOST_ANSWERS = 1 << 20, 256  # of llama.cpp: LLAMA_MAX_SEQ
_FORMS = ("json", "csv", "markdown")


@with_settings(only={*fields_of(ModelParams), *fields_of(HubParams), "timeout"} - {"n_ctx"})
def bench(
    flags: Layer,
    reference: Annotated[
        str | None, Argument(metavar="[MODEL]", help="Model to measure.", autocompletion=complete_reference)
    ] = None,
    n_prompt: Annotated[
        str | None,
        Option("--n-prompt", "-p", metavar="N,...", help="Lengths of prompts in tokens (0 = none) [default 512]."),
    ] = None,
    n_gen: Annotated[
        str | None,
        Option("--n-gen", "-n", metavar="N,...", help="Lengths of answers in tokens (0 = none) [default 128]."),
    ] = None,
    n_depth: Annotated[
        str, Option("--n-depth", "-d", metavar="N,...", help="Tokens in the context before prompt or answer.")
    ] = "0",
    parallel: Annotated[str, Option(metavar="N,...", help="Numbers of answers side by side.")] = "1",
    vary: Annotated[
        list[str] | None,
        Option(
            metavar="KEY=V1,V2",
            help="Setting and the values to measure, as in threads=2,4. Repeatable: every combination is measured.",
        ),
    ] = None,
    repetitions: Annotated[
        int, Option("--repetitions", "-r", metavar="N", min=1, max=1000, help="Number of samples of each test.")
    ] = 5,
    search: Annotated[bool, Option("--search", help="Find the fastest settings for this model.")] = False,
    save: Annotated[
        bool, Option("--save", help="Find the fastest settings, and keep them for this model on this machine.")
    ] = False,
    forget: Annotated[bool, Option("--forget", help="Remove what --save kept for this model, and exit.")] = False,
    as_json: Json = False,
    as_csv: Annotated[bool, Option("--csv", help="Print comma-separated values.")] = False,
    as_markdown: Annotated[bool, Option("--markdown", help="Print a Markdown table, as llama-bench does.")] = False,
) -> int:
    form = _form(as_json, as_csv, as_markdown)
    if forget and (search or save):
        raise UsageError(f"--forget and --{'save' if save else 'search'} cannot be used together", "remove one of them")
    if reference is not None and "model" in flags.values:
        raise UsageError("the model is given twice, as an argument and as an option", "remove one of them")
    if reference is not None:
        flags = Layer("flag", {**flags.values, "model": fields()["model"].parse_text(reference)})
    depths = parse_numbers("--n-depth", n_depth, 0, _MOST_TOKENS)
    widths = parse_numbers("--parallel", parallel, 1, _MOST_ANSWERS)
    prompts = parse_numbers("--n-prompt", n_prompt, 0, _MOST_TOKENS) if n_prompt is not None else None
    answers = parse_numbers("--n-gen", n_gen, 0, _MOST_TOKENS) if n_gen is not None else None
    lengths = _Lengths(prompts, answers, depths, widths)
    resolved = resolve(base_layers(flags))
    from llmcli.cli.open_model import find_model, open_model, print_settings, welcome  # these load the engine
    from llmcli.inference import fastest_settings
    from llmcli.inference.benchmark import Benchmark
    from llmcli.inference.local import LocalEngine

    target = find_model(resolved.settings)
    if forget:
        is_kept = fastest_settings.is_kept(data_dir(), target.file.path)
        fastest_settings.save(data_dir(), target.file.path, {})
        done = "removed the settings of `llmcli bench`" if is_kept else "`llmcli bench` has kept no settings"
        console.note(f"{done} for {target.file.name}")
        return ExitStatus.OK
    welcome(resolved)
    in_force = resolved.over(target.layer)
    cases, tests = _plan(target, in_force.settings, vary or [], lengths, search or save)
    print_settings(in_force)
    status, found, is_saved = ProgressLine(), None, False
    with exit_on_signal(defer=True):  # what is measured is printed, as after Ctrl-C
        with open_model(target, in_force.settings, status, can_be_warm=False) as (engine, cancellation):
            assert isinstance(engine, LocalEngine)
            console.warn_all([], engine.remark)
            report = _reporter(status)
            benchmark = Benchmark(engine, cases, tests, repetitions, report)
            benchmark.run(cancellation)
            if (search or save) and not cancellation.is_set():
                found = _search(engine, resolved, cancellation, report)
            status.clear()
        failures = [*benchmark.failures]
        try:
            is_saved = _keep(target, found, save) if found else False
        except LlmcliError as error:  # what was measured is printed all the same
            failures.append(error)
        _print(benchmark, found, is_saved, form)
    for failure in failures:
        console.error(str(failure), failure.hint)
    if cancellation.is_set():
        return ExitStatus.TIMEOUT if cancellation.reason == "timeout" else ExitStatus.INTERRUPTED
    return failures[0].status if failures else ExitStatus.OK


def _form(*is_on: bool) -> str:
    """The form of the output, of _FORMS; "" for the table with bars. Raises UsageError for two of them."""
    given = [name for name, is_given in zip(_FORMS, is_on, strict=True) if is_given]
    if len(given) > 1:
        raise UsageError(f"--{given[0]} and --{given[1]} cannot be used together", "remove one of them")
    return "".join(given)


@dataclass(frozen=True)
class _Lengths:
    """What the command line says about the tests; without a list, the usual length."""

    prompts: Sequence[int] | None
    answers: Sequence[int] | None
    depths: Sequence[int]
    widths: Sequence[int]


def _plan(
    target: "ResolvedModel", settings: Settings, vary: Sequence[str], lengths: _Lengths, is_search: bool
) -> "tuple[Sequence[Case], Sequence[SpeedTest]]":
    """The settings and the tests. Raises LlmcliError, before the model is loaded, for what is not possible."""
    from llmcli.inference.benchmark import cases_of, check_tests, plan_tests
    from llmcli.inference.sizing import shape_of

    if not target.kind.generates:
        raise target.kind_error()
    shape = shape_of(target.headers, settings)
    # A model with a context that is smaller than the usual lengths is measured with all of it.
    usual = [min(n, shape.n_ctx_train) for n in (_USUAL_PROMPT, _USUAL_ANSWER)]
    prompts = usual[:1] if lengths.prompts is None else lengths.prompts
    answers = usual[1:] if lengths.answers is None else lengths.answers
    cases, tests = cases_of(settings, vary), plan_tests(prompts, answers, lengths.depths, lengths.widths)
    if not tests and not is_search:
        raise UsageError("nothing to measure", "give --n-prompt or --n-gen a length above 0")
    check_tests(shape, cases, tests)
    return cases, tests


def parse_numbers(flag: str, text: str, least: int, most: int) -> list[int]:
    """The integers of a list with commas, each once. Raises UsageError."""
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch(r"\d{1,9}", word) and least <= int(word) <= most for word in words):
        hint = f"separate several with commas, as in {flag} {max(least, 512)},1024" if len(words) > 1 else ""
        raise UsageError(f"{flag} must be integers between {least} and {most}, got {text[:40]!r}", hint)
    return [*dict.fromkeys(map(int, words))]


def _reporter(status: ProgressLine) -> "Report":
    def report(text: str, seconds_left: float) -> None:
        left = f", {format_duration(seconds_left)} left" if round(seconds_left) else ""
        status.update(first_that_fits((text + left,), (text,), (text.partition(":")[0],)))

    return report


def _search(
    engine: "LocalEngine", resolved: ResolvedSettings, cancellation: "Cancellation", report: "Report"
) -> "SearchResult | None":
    """The fastest settings in place of those that nobody set."""
    from llmcli.inference.tuning import Search

    chosen = {key for key, origin in resolved.origins.items() if origin != "default"}
    return Search(engine, resolved.settings, chosen, cancellation, report).run()


def _keep(target: "ResolvedModel", found: "SearchResult", is_wanted: bool) -> bool:
    """Keep what was found, if that is wanted and can be trusted; returns whether it is. Raises DiskError."""
    from llmcli.inference import fastest_settings

    if found.is_busy:
        kept = "--save keeps nothing, because " if is_wanted else ""
        console.warn(f"other programs use the processors: {kept}at rest, other settings may be faster")
    elif is_wanted:
        fastest_settings.save(data_dir(), target.file.path, found.values)
    return is_wanted and not found.is_busy


def _print(benchmark: "Benchmark", found: "SearchResult | None", is_saved: bool, form: str) -> None:
    from llmcli.ui.charts import benchmark as chart

    if form == "json":
        chart.print_data(benchmark, chart.search_data(found, is_saved) if found else {})
        return
    {"csv": chart.print_csv, "markdown": chart.print_markdown}.get(form, chart.print_chart)(benchmark)
    for line in chart.search_lines(found, is_saved) if found else ():
        if form:
            console.note(line, always=True)  # stdout has only the table
        else:
            print_line(line)
