"""The answer of `llmcli generate` that is a decision: scored instead of generated, and printed."""

from typing import TYPE_CHECKING

from llmcli.cli.questions import warn_plain_template
from llmcli.params.settings import Settings
from llmcli.ui.terminal.console import console
from llmcli.ui.terminal.output import print_json, print_prompt, print_text

if TYPE_CHECKING:
    from llmcli.engine.events import Cancellation
    from llmcli.inference.decision import ChoiceSet, Decision
    from llmcli.inference.engine import Engine
    from llmcli.inference.request import Question


def read_choices(settings: Settings, traced: str) -> "ChoiceSet | None":
    """The choices of the settings; None if they ask for a text. `traced` is an option that shows how it is sampled."""
    if not settings.is_decision:
        return None
    from llmcli.inference.decision import read_choice_set  # loads the engine

    if traced:
        console.warn(f"{traced} has no effect: a decision is scored, not sampled")
    return read_choice_set(settings)


def answer_by_decision(
    engine: "Engine",
    question: "Question",
    choice_set: "ChoiceSet",
    cancellation: "Cancellation",
    *,
    show_prompt: bool,
    echo: bool,
    as_json: bool,
    stats: bool,
) -> None:
    """Decide a question and print the decision, or only its prompt."""
    from llmcli.inference.decision import DecisionRequest

    warn_plain_template(engine, [question.settings])
    asked = DecisionRequest(engine, question.settings, choice_set, question.text, question.system, cancellation)
    if show_prompt:
        print_prompt(asked.prompt.text)
        return
    decision = asked.decide()
    if as_json:
        from llmcli.inference.answer_json import decision_data

        print_json(decision_data(engine, decision), indent=None)
    else:
        print_text((f"{question.text}\n\n" if echo else "") + decision.text + "\n")
    if stats or console.verbose:
        _print_statistics(engine, decision, stats)


def _print_statistics(engine: "Engine", decision: "Decision", always: bool) -> None:
    n_tokens, best = len(decision.prompt.tokens), decision.choice
    console.note(
        f"prompt {n_tokens} tokens | {len(decision.choices)} choices | {decision.elapsed_ms / 1e3:.2f} s "
        f"(model {engine.load_ms / 1e3:.2f} s) | {best.value}: {best.probability:.1%}",
        always=always,
    )
