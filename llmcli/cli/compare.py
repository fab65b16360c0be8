"""`llmcli compare`: one prompt answered with several settings, side by side, and told apart by figures."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmcli.chat.layering import Layers
from llmcli.chat.variants import Variant, variants_of
from llmcli.cli.generate import command_layers, read_stdin
from llmcli.cli.options import CHAT_ONLY, with_settings
from llmcli.errors import ConstraintError, ExitStatus, LlmcliError, UsageError
from llmcli.params.layers import Layer, Resolved, resolve
from llmcli.params.samplers import check
from llmcli.params.selection import random_seed
from llmcli.params.settings import Settings, fields
from llmcli.ui.console import console, is_terminal
from llmcli.ui.interrupt import interruptible, time_limit
from llmcli.ui.output import put_line
from llmcli.ui.repl.show import is_live
from llmcli.ui.status import Status

if TYPE_CHECKING:
    from llmcli.chat.comparison import Comparison
    from llmcli.chat.local import LocalModel, Prompt


@dataclass(frozen=True)
class _Question:
    """What a variant asks: its settings with their origins, its texts, and its grammar."""

    variant: Variant
    resolved: Resolved
    text: str
    system: str | None
    grammar: str | None


@with_settings(only=fields().keys() - CHAT_ONLY)
def compare(
    flags: Layer,
    text: Annotated[str | None, typer.Argument(metavar="[PROMPT]", help="The prompt; stdin is added to it.")] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=V1,V2", help="Answer with each of these values, as in temp=0.2,0.8; several --vary multiply."
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", metavar="N", min=1, help="Answer N times with each, by other seeds.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the texts.")] = False,
) -> int:
    """Answer PROMPT with several settings side by side, and say how the answers differ."""
    layers = list(command_layers(flags, text))
    asked = resolve(layers).settings
    seed = random_seed() if asked.seed is None else asked.seed
    layers.append(Layer("flag", {"seed": seed}))
    variants = variants_of(vary or [], seed, n)
    if asked.prompt is not None and "prompt" in variants[0].values:
        raise UsageError("the prompt is given twice: once for all, and by --vary", "keep one of them")
    questions = _questions(variants, layers)
    from llmcli.cli.model import find_model, open_model
    from llmcli.cli.welcome import welcome
    from llmcli.engine.abort import AbortFlag
    from llmcli.ui.compare import report, show

    target = find_model(asked)
    welcome(resolve(layers).origins["model"])
    questions = [replace(one, resolved=_resolved(one.variant, [target.layer, *layers])) for one in questions]
    report.warn_inert([(one.variant.label, one.resolved) for one in questions])
    abort, status, live, think = AbortFlag(), Status(), is_live() and not as_json, asked.think == "show"
    with interruptible(abort), time_limit(abort, asked.timeout), open_model(target, asked, abort, status) as local:
        comparison = _comparison(local, questions)
        comparison.progress = status.reading
        show.run(comparison, show.view_of(comparison) if live else None, think, status.clear)
        if as_json:
            put_line(json.dumps(_data(comparison, seed, status), ensure_ascii=False))
    if not as_json and not live:
        report.put_texts(comparison, think)
    if not as_json:
        report.tell(comparison, live)
    for note in target.notes:
        console.warn(note)
    report.tell_failures(comparison)
    return _conclude(comparison, asked)


def _questions(variants: Sequence[Variant], layers: Sequence[Layer]) -> list[_Question]:
    """What each variant asks, as far as that is known without a model; stdin is read once.

    Raises:
        LlmcliError: with the label of the variant that cannot be.
    """
    notes: list[str] = []
    read = cache(read_stdin)
    found = [_question(variant, layers, read, notes) for variant in variants]
    for note in dict.fromkeys(notes):
        console.warn(note)
    return found


def _question(variant: Variant, layers: Sequence[Layer], read: Callable[[], str], notes: list[str]) -> _Question:
    from llmcli.chat.compose import grammar_text, join_prompt, system_text

    resolved = _resolved(variant, layers)
    settings = resolved.settings
    text = join_prompt(settings, piped=not is_terminal(sys.stdin), read_stdin=read)
    try:
        check(settings)
        return _Question(variant, resolved, text, system_text(settings), grammar_text(settings, notes))
    except LlmcliError as error:
        raise type(error)(f"{variant.label}: {error}", error.hint) from None


def _resolved(variant: Variant, layers: Sequence[Layer]) -> Resolved:
    """The settings of a variant: what varies counts above all else."""
    return resolve(Layers(layers).above({}, variant.values))


def _comparison(local: "LocalModel", questions: Sequence[_Question]) -> "Comparison":
    from llmcli.chat.answer import Answer
    from llmcli.chat.comparison import Comparison
    from llmcli.chat.compose import build_prompt

    prompts: dict[Any, Prompt] = {}  # a template takes its time, and most variants ask the very same
    answers = []
    for one in questions:
        s = one.resolved.settings
        asked = one.text, one.system, s.prefill, s.raw, s.chat_template, s.think == "off"
        if asked not in prompts:
            prompts[asked] = build_prompt(local, s, one.text, one.system)
        answers.append((one.variant, Answer(local, prompts[asked], s, one.grammar)))
    return Comparison(local, answers)


def _data(comparison: "Comparison", seed: int, status: Status) -> dict[str, Any]:
    """The comparison as JSON data; `seed` is that of the answers that name no other."""
    local, first = comparison.local, comparison.compared[0].answer
    if not comparison.interrupted:
        local.identity.sha256(status.identifying, local.abort.is_set)
        status.clear()
    return {
        "model": local.name,
        "prompt" if first.settings.raw else "messages": first.prompt.asked,
        "seed": seed,
        "variants": [one.data() for one in comparison.compared],
    }


def _conclude(comparison: "Comparison", asked: Settings) -> int:
    """The exit status, with the answers written.

    Raises:
        ConstraintError: when one ended before its grammar was met.
    """
    if comparison.interrupted:
        return ExitStatus.INTERRUPTED
    if any(one.answer.finish_reason == "timeout" for one in comparison.compared):
        console.note(f"stopped by --timeout after {asked.timeout:g} s")
    for one in comparison.compared:
        if one.failure:
            return one.failure.status
    for one in comparison.compared:
        if not one.answer.complete:
            raise ConstraintError(f"{one.variant.label}: it ended before it met its grammar", "raise --max-tokens")
    return ExitStatus.OK
