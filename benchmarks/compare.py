"""Do four answers come faster side by side than one after the other? `python -m benchmarks.compare [ROUNDS] [THREADS]`.

On the starter: four seeds of one prompt, traced as `llmcli compare` traces them, from an empty context to the last
token. The two ways take turns, every other round in the other order; the ratio of their throughputs is the median over
the rounds of the ratios within one round. Goal: at least 1.35 on two cores, and the prompt's tokens read once. What
llama.cpp gains by evaluating four tokens at a time, without anything else, is measured along: more is not to be had.
"""

import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from statistics import median
from time import perf_counter

from llmcli.engine.events import Cancellation, Request
from llmcli.engine.llama import hardware
from llmcli.engine.llama.context import Context
from llmcli.inference.answer import Answer
from llmcli.inference.comparison import Comparison
from llmcli.inference.engine import TemplateOptions
from llmcli.inference.local import LocalEngine
from llmcli.inference.resolved_model import resolve_model
from llmcli.models.locations import model_locations
from llmcli.params.settings import Settings

_TEXT = "The old harbour lay quiet under the snow, and the last ship had left. " * 4
_WIDTH, _TOKENS = 4, 128


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    threads = int(sys.argv[2]) if len(sys.argv) > 2 else hardware.usable_cores()
    settings = Settings(n_threads=threads, n_ctx=1024, max_tokens=_TOKENS, ignore_eos=True, raw=True)
    target = resolve_model(settings.model, model_locations(settings))
    with closing(LocalEngine(target, settings, Cancellation())) as local:
        prompt = local.render(_TEXT, TemplateOptions(""))
        answers = [Answer(local, Request(prompt, replace(settings, seed=seed), trace=0)) for seed in range(_WIDTH)]
        ways = (_in_turn, _together)
        read = [_run(local, way, answers)[1] for way in ways]
        taken: dict[Callable[..., None], list[float]] = {way: [] for way in ways}
        bare = []
        for number in range(rounds):
            for way in ways[:: -1 if number % 2 else 1]:
                taken[way].append(_run(local, way, answers)[0])
            bare.append(_decoding(local, answers[0], 1) * _WIDTH / _decoding(local, answers[0], _WIDTH))
    in_turn, together = (median(_WIDTH * _TOKENS / seconds for seconds in taken[way]) for way in ways)
    ratios = [one / other for one, other in zip(*(taken[way] for way in ways), strict=True)]
    print(f"{_WIDTH} answers of {_TOKENS} tokens to {len(prompt.tokens)}, {threads} threads, {rounds} rounds")
    print(f"one after the other {in_turn:.1f} tokens/s, {read[0]} prompt tokens read")
    print(f"side by side        {together:.1f} tokens/s, {read[1]} prompt tokens read")
    print(f"ratio {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), goal 1.35")
    print(f"of evaluation alone {median(bare):.2f}")


def _run(local: LocalEngine, way: Callable[..., None], answers: list[Answer]) -> tuple[float, int]:
    """Seconds and prompt tokens read, from no context at all."""
    fresh = [Answer(answer.engine, answer.request) for answer in answers]
    begin = perf_counter()
    way(local, fresh)
    seconds = perf_counter() - begin
    local.close_context()
    return seconds, sum(answer.record.timings.prompt_n for answer in fresh)


def _decoding(local: LocalEngine, answer: Answer, width: int) -> float:
    """Seconds of an evaluation of one further token for each of `width` sequences; the median of some."""
    context = Context(local.model, replace(answer.settings, n_ctx=width * 512), width)
    for seq_id in range(width):
        context.prefill(seq_id, answer.prompt.tokens)
    took = []
    for token in range(1000, 1032):
        begin = perf_counter()
        context.step([(seq_id, token) for seq_id in range(width)])
        took.append(perf_counter() - begin)
    context.close()
    return median(took)


def _in_turn(local: LocalEngine, answers: list[Answer]) -> None:  # noqa: ARG001
    for answer in answers:
        for _ in answer.parts():
            pass


def _together(local: LocalEngine, answers: list[Answer]) -> None:  # noqa: ARG001
    for _ in Comparison(answers).parts():
        pass


if __name__ == "__main__":
    main()
