"""How much faster are answers with drafts, and are they the same?

`python -m benchmarks.speculation [--questions question.jsonl]` answers tasks of copy-editing, and the questions of
Spec-Bench (the file `data/spec_bench/question.jsonl` of github.com/hemingkx/Spec-Bench), greedily, with `speculative`
off, auto and on in turn. The texts of `auto` must be those of `off`; `on` may round otherwise. A ratio is the time of
a token without drafts over that with them, from the first token on. What a step costs is measured by the answers to the
first question of each category, which do not count.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time

from benchmarks.measure import HEAD, row
from llmcli.engine.events import Cancellation, GenerationRecord, Request, Timings
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
            _measure(engine, settings, category, prompts[: given.limit + 1], clock)


def _questions(path: Path) -> Iterator[tuple[str, str]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        question = json.loads(line)
        category = question["category"]
        yield category if category in _CATEGORIES else "conversation", question["turns"][0]


class _Sums:
    """What the answers of one mode took together."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.n_drafted = self.n_accepted = self.n_tokens = self.n_differing = 0

    def add(self, seconds: float, timings: Timings) -> None:
        self.seconds += seconds
        self.n_drafted += timings.draft_n
        self.n_accepted += timings.draft_n_accepted
        self.n_tokens += timings.predicted_n


def _measure(
    engine: LocalEngine, settings: Settings, category: str, prompts: Sequence[_Question], clock: Callable[[], float]
) -> None:
    """Print a row for each mode with the answers to these prompts; the first one only warms up."""
    sums = {mode: _Sums() for mode in ("off", "auto", "on")}
    for number, (prompt, prefill) in enumerate(prompts):
        found: dict[str, list[int]] = {}
        for mode in list(sums)[:: 1 if number % 2 else -1]:
            changed = replace(settings, speculative=mode, prefill=prefill or None)
            seconds, record, n_prompt = _answer(engine, changed, prompt, clock)
            found[mode] = record.tokens[n_prompt:]
            if number:
                sums[mode].add(seconds, record.timings)
        for mode in sums:
            sums[mode].n_differing += found["off"] != found[mode]
    off, goal = sums["off"], _GOALS.get(category, _LEAST)
    for mode in ("auto", "on"):
        one = sums[mode]
        ratio = (off.seconds / off.n_tokens) / (one.seconds / one.n_tokens)  # a text that differs may be shorter
        counts = (
            f"{one.n_accepted} of {one.n_drafted} drafted accepted, {one.n_differing} of {len(prompts)} texts differ"
        )
        speeds = [f"{each.n_tokens / each.seconds:.1f} tokens/s" for each in (one, off)]
        is_met = ratio >= goal and not (one.n_differing and mode == "auto")
        row(f"{category}, {mode}: {counts}", speeds[0], f"off {speeds[1]}", ratio, f">= {goal}", is_met)


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
