"""What `llmcli generate` prints of its answers: the result on stdout, statistics and notes on stderr, the status."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from llmcli.cli.questions import exit_status
from llmcli.engine.events import Measure
from llmcli.errors import ConstraintError, ExitStatus
from llmcli.params.settings import Settings
from llmcli.text import plural
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import draft_facts, print_diff, print_line, print_text, to_stderr, warn_slow
from llmcli.ui.terminal.progress import ProgressLine

if TYPE_CHECKING:
    from llmcli.engine.events import Cancellation
    from llmcli.inference.answer import Answer
    from llmcli.inference.engine import Engine
    from llmcli.pipelines.job import Result


@dataclass(frozen=True)
class AnswerOptions:
    """What the command line says beside the settings."""

    text: str | None
    as_json: bool
    stream: bool
    echo: bool
    stats: bool
    trace: str | None
    heat: Measure | None
    show_prompt: bool
    no_stdin: bool
    diff: bool

    @property
    def traced(self) -> str:
        """The option that shows how the answer is sampled."""
        return "trace" if self.trace else "heat" if self.heat else ""


@dataclass(frozen=True)
class Outcome:
    """The data of an answer, and why it is not what was asked for."""

    result: "Result"
    failure: ConstraintError | None = None


def identify(engine: "Engine", cancellation: "Cancellation", status: ProgressLine) -> None:
    """Wait for the sha256 of the model, which is a part of the JSON of an answer."""
    cancellation.clear()
    engine.identify(status.identifying, cancellation)
    status.clear()


def json_of(result: "Result", settings: Settings) -> object:
    """What `--json` prints: the result; of several answers, of which none is chosen, the list of them."""
    if "samples" in result and "best" not in result:
        return result["samples"]
    return {"text": result["text"], "extracted": None, **result} if settings.extract else result


def echo_of(text: str, settings: Settings, options: AnswerOptions) -> str:
    if not options.echo:
        return ""
    return text if settings.raw else f"{text}\n\n"


def print_result(result: "Result", text: str, settings: Settings, options: AnswerOptions) -> None:
    """Print a result that was not streamed: nothing if that which was asked for is not in it."""
    key = "extracted" if settings.extract else "text"
    if options.diff:
        print_diff(text, str(result["text"]))
    elif "samples" in result and "best" not in result:
        samples = cast("Sequence[Result]", () if settings.best else result["samples"])
        found = [one for one in samples if one.get(key) is not None]
        for one in found:
            print_line(f"== seed={one['seed']} ==")
            print_text(str(one[key]).rstrip("\n") + "\n")
        if found and (n_missing := len(samples) - len(found)):
            console.warn(f"{plural(n_missing, 'answer')} of {len(samples)} did not have what --extract names")
    elif result.get(key) is not None:
        print_text(echo_of(text, settings, options) + str(result[key]).rstrip("\n") + "\n")


def report_outcome(outcome: Outcome, shown: Sequence["Answer"], settings: Settings, options: AnswerOptions) -> int:
    """Print what stderr tells of an outcome, and return its exit status. Raises why it is not what was asked for."""
    if shown:
        code = _report(shown[-1], options.heat, options.stats)
    else:
        if options.traced:
            console.warn(f"{options.traced} has no effect: the answer has several parts, or was computed")
        code = _report_parts(outcome.result, settings, options.stats)
    if outcome.failure and code == ExitStatus.OK:
        raise outcome.failure
    return code


def _report(answer: "Answer", heat: Measure | None, stats: bool) -> int:
    """Print what stderr tells of an answer, and return its exit status."""
    if heat:
        from llmcli.ui.charts.heatmap import print_heat

        with to_stderr(True):
            print_heat(answer.traces, heat)
    warn_slow(answer)
    reason, settings, t = answer.finish_reason, answer.settings, answer.timings()
    if stats or console.verbose:
        console.note(
            f"prompt {t['prompt_n']} tokens, {t['prompt_per_second']:.1f} tokens/s | "
            f"generated {t['predicted_n']} tokens, {t['predicted_per_second']:.1f} tokens/s | "
            f"first token {t['ttft_ms'] / 1e3:.2f} s (model {t['load_ms'] / 1e3:.2f} s) | "
            f"{drafts + ' | ' if (drafts := draft_facts(t)) else ''}"
            f"end: {reason} | seed {settings.seed}",
            always=stats,
        )
    status = exit_status([answer])
    if reason == "length" and 0 < settings.max_tokens <= t["predicted_n"] and not answer.fills_context:
        console.note(f"cut off: max_tokens is {settings.max_tokens}; raise it with -n")
    elif reason == "length" and settings.max_tokens < 0 and answer.engine.capabilities.own_defaults:
        console.note("cut off: the server has a limit of its own; set a larger one with -n")
    elif reason == "length" and settings.max_tokens:
        size = f" of {answer.record.n_ctx} tokens" if answer.record.n_ctx else ""
        console.note(f"cut off: the context{size} is full" + ("; raise it with -c" if settings.n_ctx else ""))
    return status


def _report_parts(result: "Result", settings: Settings, stats: bool) -> int:
    """Print what stderr tells of an answer that was made of others, and return its exit status."""
    if stats or console.verbose:
        console.note(
            f"prompts {result['prompt_tokens']} tokens | generated {result['completion_tokens']} tokens | "
            f"end: {result['finish_reason']} | seed {settings.seed}",
            always=stats,
        )
    for error in cast("Sequence[str]", result.get("errors", ())):
        console.warn(f"a sample failed: {error}")
    if cast("Result", result.get("best", {})).get("votes") == 1 < settings.samples:
        console.warn("no two answers are equal: the first one is printed", "let parts of them vote, with --extract")
    if result["finish_reason"] == "interrupt":
        return ExitStatus.INTERRUPTED
    if result["finish_reason"] == "timeout":
        console.note(f"stopped by --timeout after {settings.timeout:g} s")
        return ExitStatus.TIMEOUT
    if result["finish_reason"] == "length":
        what = "an answer" if "samples" in result else "the answer to a part"
        console.note(f"cut off: {what} reached max_tokens, or the end of the context")
    return ExitStatus.OK
