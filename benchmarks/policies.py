"""What does a temperature policy cost, and what a trace?

`python -m benchmarks.policies [ROUNDS]` prints, on the starter, the speed of each beside plain sampling (the same chain
without a temperature step). Goals: fixed and entropy at least 0.99, other policies at least 0.985, with a trace 0.97,
with alternatives in the trace 0.92. The kinds take turns within a round, every other round backwards; a ratio is the
median over the rounds of the ratios within one round. `drawing` runs from the logits of a token to its text and its
trace, and `share` is what it takes more than plain sampling, of the time of a token: a machine's noise moves it less.
"""

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from llmcli.engine.events import Cancellation, Prompt, Request, TokenEvent
from llmcli.engine.generation import Generation
from llmcli.engine.scheduler import generate
from llmcli.inference.answer import Answer
from llmcli.inference.engine import TemplateOptions
from llmcli.inference.local import LocalEngine
from llmcli.inference.resolved_model import resolve_model
from llmcli.inference.trace_file import TraceWriter
from llmcli.models.locations import model_locations
from llmcli.params.policies.policy import parse_policy
from llmcli.params.settings import Settings

_PROMPT = "The old harbour lay quiet under the snow, and the last ship"
_TOKENS = 48
_PLAIN = "1"  # a temperature of 1 adds no step
_KINDS: dict[str, tuple[str, int | None]] = {
    "plain": (_PLAIN, None),
    "fixed": ("0.8", None),
    "entropy": ("0.3..1.3^0.7", None),
    "edt": ("edt:0.8,theta=0.1", None),
    "linear": ("linear:1.2->0.5@200", None),
    "cosine, clamped": ("cosine:1.2->0.5@200,clamp=0.6..1", None),
    "exp": ("exp:1.2->0.5@200", None),
    "sentence of ranges": ("sentence:0.3..1.3,0.2..0.9,0.4", None),
    "think and answer": ("think=1.0,answer=0.6", None),
    "fixed, traced": ("0.8", 0),
    "sentence, traced": ("sentence:1.1,0.7,0.4", 0),
    "fixed, traced, 5 alternatives": ("0.8", 5),
}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    local = open_starter(512)
    with closing(local), TemporaryDirectory() as folder:
        prompt = local.render(_PROMPT, TemplateOptions(""))
        for kind in _KINDS:
            _run(local, prompt, kind, Path(folder))  # numpy is imported, pieces are known
        taken: dict[str, list[tuple[float, float]]] = {kind: [] for kind in _KINDS}
        for number in range(rounds):
            for kind in _order(number):
                taken[kind].append(_run(local, prompt, kind, Path(folder)))
    print(f"{'policy':32} {'ratio':>6} {'drawing us':>11} {'share':>7}   ({rounds} rounds of {_TOKENS} tokens)")
    whole, plain = (median(one[part] for one in taken["plain"]) for part in (0, 1))
    for kind in _KINDS:
        ratio = median(one[0] / other[0] for one, other in zip(taken["plain"], taken[kind], strict=True))
        drawing = median(one[1] for one in taken[kind])
        print(f"{kind:32} {ratio:6.3f} {drawing * 1e6:11.0f} {(drawing - plain) / whole * _TOKENS:7.2%}")


def open_starter(n_ctx: int) -> LocalEngine:
    """The starter with a context of this size."""
    settings = Settings(n_ctx=n_ctx)
    local = LocalEngine(resolve_model(settings.model, model_locations(settings)), settings, Cancellation())
    local.open_context(settings)
    return local


def _order(number: int) -> Iterator[str]:
    return iter(list(_KINDS)[:: -1 if number % 2 else 1])


def _run(local: LocalEngine, prompt: Prompt, kind: str, folder: Path) -> tuple[float, float]:
    """Seconds of an answer after its first token, and of a token from its logits to its text and its trace (median)."""
    policy, trace = _KINDS[kind]
    settings = Settings(
        temperature=parse_policy(policy), n_ctx=512, seed=1, max_tokens=_TOKENS, ignore_eos=True, raw=True
    )
    answer = Answer(local, Request(prompt, settings, trace=trace))
    spent: list[float] = []
    with closing(TraceWriter(folder / "trace.jsonl")) as writer:
        if trace is not None:
            answer.on_token = writer.write
        list(answer.begin())
        generation = local.start(answer.request)
        drawn, begin = _timed(generation), 0.0
        for record in generate(local.context, [generation]):
            before = perf_counter()
            begin = begin or before
            list(answer.push(record))
            spent.append(drawn.pop() + perf_counter() - before)
        return perf_counter() - begin, median(spent)


def _timed(generation: Generation) -> list[float]:
    """Where the seconds of each draw are put from now on."""
    drawn: list[float] = []
    advance = generation.advance

    def timed(*arguments: Any) -> TokenEvent:
        begin = perf_counter()
        record = advance(*arguments)
        drawn.append(perf_counter() - begin)
        return record

    generation.advance = timed  # type: ignore[assignment, method-assign]
    return drawn


if __name__ == "__main__":
    main()
