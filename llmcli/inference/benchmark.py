"""`llmcli bench`: tests with several settings, their samples with mean and deviation, in the columns of llama-bench."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev

from llmcli.engine.benchmark import Sample, SpeedContext, model_facts
from llmcli.engine.benchmark import SpeedTest as SpeedTest  # also for those above, who do not import the engine
from llmcli.engine.events import Cancellation
from llmcli.engine.llama import bindings, hardware, structures
from llmcli.engine.llama.context import AbortedError
from llmcli.errors import LlmcliError, UsageError
from llmcli.inference import sizing
from llmcli.inference.comparison import Variant, variants_of
from llmcli.inference.local import LocalEngine
from llmcli.params.settings import Settings

# What can differ between the rows of one run: settings of the context, which need no other load of the model.
_CACHE_TYPES = frozenset({"cache_type_k", "cache_type_v"})
VARIED = _CACHE_TYPES | {"n_threads", "n_threads_batch", "n_batch", "n_ubatch", "flash_attn", "poll", "swa_full"}
_FLASH_ATTN = {"auto": -1, "off": 0, "on": 1}  # llama.h, llama_flash_attn_type
_STEP_COST = 3.0  # a step of generation is about so many tokens of a prompt, until both are measured
Report = Callable[[str, float], None]  # what is measured, and the seconds that are left (0 = not known)


@dataclass(frozen=True)
class Case:
    """Settings that are measured, with a label where there are several."""

    label: str
    settings: Settings


@dataclass
class Result:
    """The samples of one test."""

    case: Case
    test: SpeedTest
    started: float = field(default_factory=time.time)  # seconds since 1970
    samples: list[Sample] = field(default_factory=list)

    @property
    def speeds(self) -> list[float]:
        """Tokens per second of each sample."""
        return [1e9 * self.test.n_tokens / one.ns for one in self.samples]

    @property
    def speed(self) -> tuple[float, float]:
        """Mean and standard deviation of the speeds."""
        return mean_and_deviation(self.speeds)

    @property
    def first_token_ms(self) -> tuple[float, float] | None:
        """From the beginning of a prompt to the first token behind it; None for generation."""
        times = [one.first_token_ns / 1e6 for one in self.samples if one.first_token_ns]
        return mean_and_deviation(times) if times else None


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and the standard deviation of a sample (0 for a single value)."""
    return fmean(values), stdev(values) if len(values) > 1 else 0.0


def cases_of(settings: Settings, specs: Sequence[str]) -> list[Case]:
    """Every combination of the values in `specs`, as in `threads=1,2`. Raises UsageError if one is not valid."""
    variants = variants_of(specs, 0, varied=VARIED) if specs else [Variant("", {})]
    return [Case(one.label, replace(settings, **dict(one.values))) for one in variants]  # type: ignore[arg-type]


def plan_tests(
    prompts: Sequence[int], answers: Sequence[int], depths: Sequence[int], widths: Sequence[int]
) -> list[SpeedTest]:
    """The tests at each depth in the order of llama-bench: prompts, then answers; a length of 0 is none."""
    tests = []
    for depth in depths:
        tests += [SpeedTest(n_prompt=n, n_depth=depth) for n in prompts if n]
        tests += [SpeedTest(n_gen=n, n_depth=depth, n_parallel=width) for n in answers if n for width in widths]
    return tests


def check_tests(shape: sizing.ModelShape, cases: Sequence[Case], tests: Sequence[SpeedTest]) -> list[str]:
    """Refuse what does not fit the model or the memory, before anything is loaded; returns notes for the user.

    Raises UsageError for a test beyond the trained context, and LlmcliError for one that needs too much memory.
    """
    notes: dict[str, None] = {}
    for test in tests:
        per_answer = test.n_ctx if test.n_parallel == 1 else test.n_depth + test.n_gen
        for case in cases:
            if per_answer > shape.n_ctx_train and not case.settings.changes_positions:
                message = f"{test.name} needs a context of {per_answer} tokens"
                raise UsageError(
                    f"{message}, and the model was trained on {shape.n_ctx_train}",
                    "use a smaller --n-depth, --n-prompt or --n-gen",
                )
            try:
                sized = replace(case.settings, n_ctx=test.n_ctx)
                notes |= dict.fromkeys(sizing.check_settings(shape, sized))
            except UsageError:
                raise
            except LlmcliError as error:
                hint = "use a smaller --n-depth, --n-prompt, --parallel or --ubatch-size"
                raise LlmcliError(
                    f"{test.name}: {error}", f"{hint}, or --cache-type-k q8_0 --cache-type-v q8_0"
                ) from None
    return [*notes]


class Benchmark:
    """Runs the tests of each case; `results` has what is measured so far, also after an interruption."""

    def __init__(
        self, engine: LocalEngine, cases: Sequence[Case], tests: Sequence[SpeedTest], n_samples: int, report: Report
    ) -> None:
        self._model, self._gpu_layers, self._name = engine.model, engine.gpu_layers, str(engine.target.file.path)
        self._plan = [(case, test) for case in cases for test in tests]
        self._n_samples, self._report = n_samples, report
        self._prompt_seconds = self._step_seconds = 0.0  # of a token of a prompt, and of a step; 0 = not measured
        self.results: list[Result] = []
        self.failures: list[LlmcliError] = []
        self.load_ms = engine.load_ms
        self.kind, self.n_bytes, self.n_params = model_facts(engine.model)

    def run(self, cancellation: Cancellation) -> None:
        """Measure all. When it is cancelled, it ends early, without what has no sample yet.

        A test that fails ends alone, such as one with a cache type that the model does not have.
        """
        for number, (case, test) in enumerate(self._plan):
            try:
                self._measure(number, case, test, cancellation)
            except AbortedError:
                break
            except LlmcliError as error:
                name = f"{test.name} {case.label}".rstrip()
                self.failures.append(type(error)(f"{name}: {error}", error.hint))
        self.results = [one for one in self.results if one.samples]

    def _measure(self, number: int, case: Case, test: SpeedTest, cancellation: Cancellation) -> None:
        name, left = f"{test.name} {case.label}".rstrip(), self._left(number, 0)
        result = Result(case, test)

        def on_depth(done: int, total: int) -> None:
            if done < total:
                self._report(f"{name}: reading {done} of {total} tokens", left)

        with closing(SpeedContext(self._model, case.settings, test, cancellation)) as context:
            self.results.append(result)
            self._report(f"{name}: warming up", left)
            context.warm_up()
            for index in range(self._n_samples):
                left = self._left(number, index)
                context.read_depth(on_depth)
                self._report(f"{name}: {index + 1} of {self._n_samples}", left)
                sample = context.run()
                result.samples.append(sample)
                if test.n_prompt:
                    self._prompt_seconds = sample.ns / 1e9 / test.n_prompt
                else:
                    self._step_seconds = sample.ns / 1e9 / test.n_gen

    def _left(self, number: int, n_done: int) -> float:
        """Seconds until the end, after `n_done` samples of a test; 0 before anything is measured."""
        per_token = self._prompt_seconds or self._step_seconds / _STEP_COST
        per_step, left = self._step_seconds or per_token * _STEP_COST, 0.0
        for index, (_, test) in enumerate(self._plan[number:]):
            n_samples = self._n_samples - n_done * (index == 0)
            is_new = index > 0 or n_done == 0
            left += (test.n_depth * is_new + test.n_prompt * (n_samples + is_new)) * per_token
            left += test.n_gen * n_samples * per_step
        return left

    def record(self, result: Result) -> Mapping[str, object]:
        """A result under the names of llama-bench, as far as it has them, and in its order."""
        settings, test, (mean, deviation) = result.case.settings, result.test, result.speed
        n_threads, n_threads_batch = structures.threads(settings)
        mean_ns, deviation_ns = mean_and_deviation([one.ns for one in result.samples])
        devices = hardware.devices()
        on_gpu = [one for one in devices if one.kind in ("GPU", "IGPU")]
        commit = re.search(r"commit (\S+)", bindings.llama_build())
        first = result.first_token_ms
        return {
            "build_commit": commit[1] if commit else "unknown",
            "cpu_info": ", ".join(one.description for one in devices if one.kind in ("CPU", "ACCEL")),
            "gpu_info": ", ".join(one.description for one in on_gpu),
            "backends": ",".join(dict.fromkeys(one.name.rstrip("0123456789") for one in on_gpu)) or "CPU",
            "model_filename": self._name,
            "model_type": self.kind,
            "model_size": self.n_bytes,
            "model_n_params": self.n_params,
            "n_batch": settings.n_batch,
            "n_ubatch": settings.n_ubatch,
            "n_threads": n_threads_batch if test.n_prompt else n_threads,
            "poll": settings.poll,
            "type_k": settings.cache_type_k,
            "type_v": settings.cache_type_v,
            "n_gpu_layers": self._gpu_layers,
            "n_cpu_moe": settings.n_cpu_moe,
            "split_mode": settings.split_mode,
            "main_gpu": settings.main_gpu,
            "flash_attn": _FLASH_ATTN[settings.flash_attn],
            "devices": settings.device,
            "tensor_split": settings.tensor_split,
            "load_mode": settings.load_mode,
            "n_prompt": test.n_prompt,
            "n_gen": test.n_gen,
            "n_depth": test.n_depth,
            "test_time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(result.started)),
            "avg_ns": round(mean_ns),
            "stddev_ns": round(deviation_ns),
            "avg_ts": round(mean, 6),
            "stddev_ts": round(deviation, 6),
            "n_parallel": test.n_parallel,
            "test": test.name,
            "first_token_ms": round(first[0], 3) if first else None,
        }
