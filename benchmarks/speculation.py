"""How much faster are answers with drafts, and are they the same?

`python -m benchmarks.speculation [--questions question.jsonl]` answers tasks of copy-editing, and the questions of
Spec-Bench (the file `data/spec_bench/question.jsonl` of github.com/hemingkx/Spec-Bench), greedily, with `speculative`
off and auto in turn. A ratio is the sum of the times without drafts over the sum with them, from the first token on.
What a step costs is measured by the answers to the first question of each category, which do not count.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time

from benchmarks.measure import HEAD, row
from llmcli.engine.events import Cancellation, GenerationRecord, Request
from llmcli.inference.engine import TemplateOptions
from llmcli.inference.local import LocalEngine
from llmcli.inference.resolved_model import resolve_model
from llmcli.models.locations import model_locations
from llmcli.params.policies.policy import Fixed
from llmcli.params.settings import Settings

_GOALS = {"copy-editing": 1.6, "summarization": 1.3, "rag": 1.3}
_LEAST = 0.97
_CATEGORIES = ("translation", "summarization", "qa", "math_reasoning", "rag")  # all others are turns of conversations
_Question = tuple[str, str]  # and the beginning of its answer
_BEGUN = 60  # characters with which an edited text begins: without them, small models write about it
_TASKS = (
    "Correct the spelling of this text. Write the whole corrected text, and nothing else.",
    "Copy this text, and replace every 'boat' by 'ship'. Write the whole text, and nothing else.",
    "Write this text again with a title in front of it, and change nothing else.",
)
_TEXTS = (
    "The harbor was quiet that mornning. Three boats lay at the stone pier, and the fishermen mended ther nets in the "
    "sun. A boy carried water from the well to the inn, where the cook was allready baking bread for the evening. "
    "Nobody had seen the boat from the north, although it should have arived two days ago. The old captain looked at "
    "the sky, shook his head and said that the wind would turn before night.",
    "Dear Ms. Weber, thank you for your mesage of last Tuesday. We have recieved the three boxes with the spare parts "
    "for the boat, and two of them are complete. In the third one the pump is missing, altough it is on the list. "
    "Could you please send it to our workshop in the Harbor Road before the end of the month? The invoice will be "
    "payed as soon as all parts are here. With kind regards, Thomas Lindner.",
    "def total(prices, rate):\n    # Add all prices, and the tax on tehm\n    result = 0.0\n    for price in prices:\n"
    "        if price < 0:\n            raise ValueError('a price is negativ')\n        result += price\n"
    "    return round(result * (1 + rate), 2)\n\n\ndef cheapest(boats):\n    # The boat with the lowest price\n"
    "    best = None\n    for boat in boats:\n        if best is None or boat.price < best.price:\n"
    "            best = boat\n    return best",
)


def main() -> None:
    print(HEAD)
    figures(_parser().parse_args())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=Path, help="question.jsonl of Spec-Bench")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--draft-model")
    parser.add_argument("--limit", type=int, default=8, help="questions of each category, after the one that warms up")
    parser.add_argument("--tokens", type=int, default=160, help="longest answer")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--mode", choices=("auto", "on"), default="auto")
    parser.add_argument(
        "--cpu-time", action="store_true", help="measure processor time: for a busy machine, one thread"
    )
    return parser


def options(*words: str) -> argparse.Namespace:
    """The options of these words, for `figures`."""
    return _parser().parse_args(words)


def figures(given: argparse.Namespace) -> None:
    """Print a row for each category."""
    settings = Settings(
        model=given.model,
        draft_model=given.draft_model,
        temperature=Fixed(0.0),
        n_ctx=4096,
        n_threads=given.threads,
        max_tokens=given.tokens,
        seed=1,
    )
    edits = [(f"{task}\n\n{text}", text[:_BEGUN]) for text in _TEXTS for task in _TASKS]
    tasks: dict[str, list[_Question]] = {"copy-editing": edits}
    if given.questions:
        for category, prompt in _questions(given.questions):
            tasks.setdefault(category, []).append((prompt, ""))
    clock = process_time if given.cpu_time else perf_counter
    engine = LocalEngine(resolve_model(settings.model, model_locations(settings)), settings, Cancellation())
    with closing(engine):
        for category, prompts in tasks.items():
            _measure(engine, settings, category, prompts[: given.limit + 1], given.mode, clock)


def _questions(path: Path) -> Iterator[tuple[str, str]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        question = json.loads(line)
        category = question["category"]
        yield category if category in _CATEGORIES else "conversation", question["turns"][0]


def _measure(
    engine: LocalEngine,
    settings: Settings,
    category: str,
    prompts: Sequence[_Question],
    mode: str,
    clock: Callable[[], float],
) -> None:
    """Print a row for the answers to these prompts; the first one only warms up."""
    seconds, drafted, accepted, n_tokens, differing = {"off": 0.0, mode: 0.0}, 0, 0, 0, 0
    for number, (prompt, prefill) in enumerate(prompts):
        found: dict[str, list[int]] = {}
        for one in ("off", mode) if number % 2 else (mode, "off"):
            taken, record, n_prompt = _answer(
                engine, replace(settings, speculative=one, prefill=prefill or None), prompt, clock
            )
            found[one] = record.tokens[n_prompt:]
            if number:
                seconds[one] += taken
                drafted += record.timings.draft_n
                accepted += record.timings.draft_n_accepted
                n_tokens += record.timings.predicted_n if one == mode else 0
        differing += found["off"] != found[mode]
    ours, theirs = (f"{n_tokens / seconds[one]:.1f} tokens/s" for one in (mode, "off"))
    ratio, goal = seconds["off"] / seconds[mode], _GOALS.get(category, _LEAST)
    what = f"{category}: {accepted} of {drafted} drafted accepted, {differing} of {len(prompts)} texts differ"
    row(what, ours, f"off {theirs}", ratio, f">= {goal}", ratio >= goal and not differing)


def _answer(
    engine: LocalEngine, settings: Settings, prompt: str, clock: Callable[[], float]
) -> tuple[float, GenerationRecord, int]:
    """Seconds from the first token on, what was generated, and the number of tokens before it."""
    messages = [{"role": "user", "content": prompt}]
    template = TemplateOptions(engine.chat_template, prefill=settings.prefill or "")
    request = Request(engine.render(messages, template), settings)
    if engine.n_ctx:
        engine.context.cut(0)  # a prompt that is read in other batches has other rounding
    events = engine.generate([request])
    first, begin = next(events), clock()
    for _event in events:
        pass
    return clock() - begin, first.record, len(request.prompt.tokens)


if __name__ == "__main__":
    main()
