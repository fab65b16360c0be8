"""The search for the fastest settings of a model on this machine: candidates take turns, and noise does not count."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from statistics import median
from time import monotonic, perf_counter, process_time
from typing import Any

from llmcli.engine.benchmark import SpeedContext, SpeedTest
from llmcli.engine.events import Cancellation
from llmcli.engine.llama import hardware
from llmcli.engine.llama.context import AbortedError
from llmcli.errors import LlmcliError
from llmcli.inference import sizing
from llmcli.inference.benchmark import Report
from llmcli.inference.fastest_settings import KEYS
from llmcli.inference.local import LocalEngine
from llmcli.params.param import SettingValue
from llmcli.params.settings import Settings
from llmcli.text import format_size

ROUNDS, CONFIRMATIONS = 5, 7  # in each of which a candidate must be faster
_OF_PROMPTS = {"n_threads_batch", "n_ubatch"}  # settings without effect on generation
_LEAST_GAIN = 0.03  # of the time; less is not worth a setting
_LEAST_SHARE, _SHARE_RUNS = 0.85, 3  # of the processors; runs to measure it
_HOPELESS = 1.15  # a candidate that took so much longer in the first two rounds takes no further part
_PROMPT_SECONDS, _ANSWER_SECONDS = 2.0, 0.6  # about the time of one run
_PROMPT_SIZES, _ANSWER_SIZES = (128, 256, 512, 1024, 2048), (8, 16, 32, 64)
_UBATCHES = (64, 128, 256, 512, 1024, 2048)
_Stage = tuple[str, Sequence[SettingValue], Sequence[SpeedTest]]  # a setting, its values, and what they are measured by


@dataclass(frozen=True)
class Choice:
    """A setting that is faster than before."""

    key: str
    value: SettingValue
    before: SettingValue  # 0 and auto are as the program chooses
    gain: float  # share of the time that it saves


@dataclass(frozen=True)
class SearchResult:
    """What a search found; without values nothing is faster."""

    values: Mapping[str, SettingValue] = field(default_factory=dict)  # by key
    choices: Sequence[Choice] = ()
    prompt_gain: float = 0.0  # of all values together, measured again: share of the time
    answer_gain: float = 0.0
    is_busy: bool = False  # other programs used the processors meanwhile: on a machine at rest others may be faster


def gain(candidate: Sequence[float], reference: Sequence[float]) -> float:
    """The share of the time that a candidate saves, by the median of the rounds; 0 where that can be noise.

    Both have a time of each round: a round in which the machine is slow is so for both. The noise is half the range of
    the shares. By chance, a candidate is faster in all of five rounds once in 32 times.
    """
    ratios = [a / b for a, b in zip(candidate, reference, strict=False)]
    saved, noise = 1 - median(ratios), (max(ratios) - min(ratios)) / 2
    return saved if saved >= max(_LEAST_GAIN, noise) and max(ratios) < 1 else 0.0


def race(times: Sequence[Iterator[float]], rounds: int = ROUNDS) -> list[list[float]]:
    """The times of each candidate, the first of which is the reference; a hopeless one has only those of two rounds.

    All take turns, from the first to the last and back: what slows the machine down meets all alike.
    """
    taken: list[list[float]] = [[] for _ in times]
    running = [*range(len(times))]
    for number in range(rounds):
        for index in running if number % 2 == 0 else running[::-1]:
            taken[index].append(next(times[index]))
        if number == 1:
            limits = [_HOPELESS * one for one in taken[0]]
            running = [at for at in running if at == 0 or any(a < b for a, b in zip(taken[at], limits, strict=True))]
    return taken


class Search:
    """Finds the fastest settings of the context, one after the other, for prompts and generation of one answer."""

    def __init__(
        self,
        engine: LocalEngine,
        settings: Settings,
        fixed: Collection[str],
        cancellation: Cancellation,
        report: Report,
    ) -> None:
        """`settings` are where it begins; the `fixed` ones are chosen by the user."""
        self._model, self._shape, self._settings, self._fixed = engine.model, engine.shape, settings, fixed
        self._cancellation, self._report, self._has_gpu = cancellation, report, engine.gpu_layers != 0
        self._begin = monotonic()
        self._n_done = self._n_planned = 0  # runs

    def run(self) -> SearchResult | None:
        """What is faster; None when it is cancelled. Raises LlmcliError where the memory is too small for it."""
        try:
            return self._run()
        except AbortedError:
            return None

    def _run(self) -> SearchResult:
        self._report("choosing the lengths", 0.0)
        prompt = SpeedTest(n_prompt=self._fitting(SpeedTest(n_prompt=64), _PROMPT_SECONDS, _PROMPT_SIZES))
        answer = SpeedTest(n_gen=self._fitting(SpeedTest(n_gen=4), _ANSWER_SECONDS, _ANSWER_SIZES))
        settings, choices, stages = self._settings, list[Choice](), self._stages(prompt, answer)
        is_busy = self._processor_share(answer) < _LEAST_SHARE
        self._n_planned = ROUNDS * sum(len(values) for _, values, _ in stages) + 4 * CONFIRMATIONS
        for key, values, tests in stages:
            best = self._best(settings, key, values, tests)
            if best:
                choices.append(best)
                settings = self._with(settings, key, best.value)
        found = self._confirmed(settings, choices, prompt, answer) if choices else SearchResult()
        return replace(found, is_busy=is_busy or self._processor_share(answer) < _LEAST_SHARE)

    def _stages(self, prompt: SpeedTest, answer: SpeedTest) -> list[_Stage]:
        """What is searched, one after the other: each begins with what those before it have chosen."""
        deep = replace(prompt, n_depth=prompt.n_prompt), replace(answer, n_depth=2 * prompt.n_prompt)
        n_threads, small = thread_counts(), [size for size in _UBATCHES if size <= prompt.n_prompt]
        stages: list[_Stage] = [("n_threads", n_threads, [answer]), ("n_threads_batch", n_threads, [prompt])]
        if self._settings.cache_type_v in ("f32", "f16", "bf16"):  # others need flash attention
            stages.append(("flash_attn", ["auto", "off"], deep))
        stages.append(("n_ubatch", small, [prompt]))
        return [one for one in stages if one[0] not in self._fixed]

    def _processor_share(self, test: SpeedTest) -> float:
        """How much of the processors the threads got that generate; 1 where a GPU computes. Waiting threads spin."""
        if self._has_gpu:
            return 1.0
        n_threads = self._settings.n_threads or hardware.usable_cores()
        with closing(SpeedContext(self._model, self._settings, test, self._cancellation)) as context:
            context.warm_up()
            wall, processor = perf_counter(), process_time()
            for _ in range(_SHARE_RUNS):
                context.read_depth()
                context.run()
            return (process_time() - processor) / n_threads / max(perf_counter() - wall, 1e-9)

    def _fitting(self, test: SpeedTest, seconds: float, sizes: Sequence[int]) -> int:
        """The largest of the sizes that takes about so long."""
        with closing(SpeedContext(self._model, self._settings, test, self._cancellation)) as context:
            context.warm_up()
            context.read_depth()
            per_token = context.run().ns / 1e9 / test.n_tokens
        return max((size for size in sizes if size * per_token <= seconds), default=sizes[0])

    def _with(self, settings: Settings, key: str, value: SettingValue) -> Settings:
        """The settings with one changed. Prompts keep their threads where only those for generation change."""
        changed: dict[str, Any] = {key: value}
        if key == "n_threads" and not settings.n_threads_batch:
            changed["n_threads_batch"] = settings.n_threads or hardware.usable_cores()
        return replace(settings, **changed)

    def _best(
        self, settings: Settings, key: str, values: Sequence[SettingValue], tests: Sequence[SpeedTest]
    ) -> Choice | None:
        """The value of a setting that is fastest, if the gain is more than noise."""
        before: SettingValue = getattr(settings, key)
        if key == "n_threads_batch":
            before = before or settings.n_threads
        present = before or hardware.usable_cores()  # of threads, 0 is as many as there are cores
        if key == "n_ubatch":  # more rows than the prompt has change nothing
            present = min(present, max(values))  # type: ignore[type-var, assignment]
        others = [value for value in values if value != present]
        if not others:
            return None
        candidates = [settings, *(self._with(settings, key, value) for value in others)]
        reference, *taken = self._race(key, candidates, tests)
        gains = [gain(one, reference) for one in taken]
        best = max(range(len(gains)), key=gains.__getitem__)
        self._n_planned -= ROUNDS * (len(values) - len(candidates)) + sum(ROUNDS - len(one) for one in taken)
        return Choice(key, others[best], before, gains[best]) if gains[best] else None

    def _confirmed(
        self, settings: Settings, choices: Sequence[Choice], prompt: SpeedTest, answer: SpeedTest
    ) -> SearchResult:
        """All choices together against none of them; without any, where the sum is not faster, or one part slower."""
        pair = [self._settings, settings]
        values = {key: getattr(settings, key) for key in KEYS if getattr(settings, key) != getattr(pair[0], key)}
        gains, losses = list[float](), list[float]()
        for name, test in (("all of them, prompts", prompt), ("all of them, generation", answer)):
            reference, taken = self._race(name, pair, [test], CONFIRMATIONS)
            gains.append(gain(taken, reference))
            losses.append(gain(reference, taken))
        # What only prompts depend on is not confirmed by generation, nor the other way round.
        chosen = {one.key for one in choices}
        is_confirmed = (gains[0] and chosen != {"n_threads"}) or (gains[1] and not chosen <= _OF_PROMPTS)
        return SearchResult(values, choices, gains[0], gains[1]) if is_confirmed and not any(losses) else SearchResult()

    def _race(
        self, name: str, candidates: Sequence[Settings], tests: Sequence[SpeedTest], rounds: int = ROUNDS
    ) -> list[list[float]]:
        with ExitStack() as stack:
            self._check_memory(candidates, tests)
            contexts = []
            for settings in candidates:
                made = [SpeedContext(self._model, settings, test, self._cancellation) for test in tests]
                contexts.append([stack.enter_context(closing(one)) for one in made])
            times = [self._times(name, index + 1, len(candidates), own) for index, own in enumerate(contexts)]
            return race(times, rounds)

    def _check_memory(self, candidates: Sequence[Settings], tests: Sequence[SpeedTest]) -> None:
        """Raise LlmcliError if the contexts do not fit in memory side by side."""
        needs = [sizing.memory_need(self._shape, one, test.n_ctx) for one in candidates for test in tests]
        total, free = sum(one.kv_cache + one.compute for one in needs), sizing.usable_memory()
        if free and total > free:
            message = f"the search needs {format_size(total)} of memory for {len(needs)} contexts, and "
            raise LlmcliError(f"{message}{format_size(free)} are free", "free memory, or compare values with --vary")

    def _times(self, name: str, number: int, total: int, contexts: Sequence[SpeedContext]) -> Iterator[float]:
        """Seconds of one run of all tests, again and again."""
        for one in contexts:
            one.warm_up()
        while True:
            elapsed = monotonic() - self._begin
            left = elapsed / self._n_done * max(self._n_planned - self._n_done, 1) if self._n_done else 0.0
            self._report(f"{name}: {number} of {total}", left)
            self._n_done += 1
            seconds = 0.0
            for one in contexts:
                if not one.test.n_depth and one.test.n_gen:
                    one.warm_up()  # the threads of another number may have to start
                one.read_depth()
                seconds += one.run().ns / 1e9
            yield seconds


def thread_counts() -> Sequence[int]:
    """Numbers of threads that can be the best: parts of the physical cores, and all logical ones."""
    n_cores = hardware.usable_cores()
    n_logical = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    counts = {n_cores // 4, n_cores // 2, 3 * n_cores // 4, n_cores, min(n_logical, 2 * n_cores)}
    return sorted(count for count in counts if count)
