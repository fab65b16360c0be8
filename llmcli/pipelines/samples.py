"""The result of one input: several answers side by side, the best of them, and the part of it that is wanted."""

import math
import re
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmcli.engine.events import Cancellation, Request
from llmcli.errors import ConstraintError, LlmcliError, UsageError
from llmcli.inference.answer import Answer
from llmcli.inference.answer_json import answer_data
from llmcli.inference.engine import Engine
from llmcli.params.generation import RequestParams
from llmcli.params.model import EndpointParams, HubParams, ModelParams, StateParams
from llmcli.params.param import fields_of
from llmcli.params.sampler_chain import is_random
from llmcli.params.samplers import seed_after
from llmcli.params.settings import Settings
from llmcli.pipelines.job import STOPPED, Job, Result, Step

if TYPE_CHECKING:  # a single answer without a judge needs no tasks (10 ms)
    from llmcli.pipelines.tasks import Task

ANSWERS, NUMBERS = "answers", "numbers"  # variables of a task that judges
# The settings that a judge shares with what it judges: the model and its template, not the form of the answers.
_SHARED = {*fields_of(ModelParams), *fields_of(StateParams), *fields_of(EndpointParams), *fields_of(HubParams)}
_SHARED |= {*fields_of(RequestParams)}
_SHARED |= {"seed", "timeout"}
_SHARED -= {"prompt", "file", "system", "prefill", "raw", "preset"}
_OF_A_SAMPLE = ("text", "extracted", "seed", "finish_reason", "mean_logprob")  # what the JSON has of each


@dataclass(frozen=True)
class Judge:
    """A task that gets the `input` and the numbered `answers`, and answers with a number."""

    engine: Engine
    task: "Task"
    text: str  # the input
    cancellation: Cancellation

    def job(self, settings: Settings, answers: Sequence[str]) -> Job:
        """The job whose result is the judgment."""
        from llmcli.pipelines.tasks import INPUT, task_job

        texts = (f"Answer {number}:\n{text.strip()}" for number, text in enumerate(answers, 1))
        numbers = ", ".join(str(number) for number in range(1, len(answers) + 1))
        given = {INPUT: self.text, ANSWERS: "\n\n".join(texts), NUMBERS: numbers}
        variables = {name: text for name, text in given.items() if name == INPUT or name in self.task.variables}
        shared = {key: getattr(settings, key) for key in _SHARED}
        own = self.task.layer(variables).values
        return task_job(self.engine, Settings(**{**shared, **own}), self.task, variables, self.cancellation)


def check_judge(task: "Task") -> None:
    """Raise UsageError for a task that cannot judge: one that does not read the answers, or needs other variables."""
    from llmcli.pipelines.tasks import INPUT, PLACE

    if ANSWERS not in {place[1] for place in PLACE.finditer(task.prompt)} & {*task.variables}:
        hint = "use logprob, vote, or a task whose prompt has {{answers}}, such as best-answer"
        raise UsageError(f"the task {task.name} cannot choose the best answer: it does not read {{{{answers}}}}", hint)
    task.complete({name: "1, 2" for name in (INPUT, ANSWERS, NUMBERS) if name == INPUT or name in task.variables})


def request_job(request: Request, is_full: bool = True) -> Job:
    """The job of one request: the data of its answer (see `answer_data`).

    Raises what made it fail, or why it does not match.
    """
    (answer,) = yield Step([request])
    if answer.record.failure:
        raise answer.record.failure
    if answer.finish_reason not in STOPPED and (failure := answer.constraint_failure()):
        raise failure
    return answer_data(answer, is_full)


def result_job(settings: Settings, job_of: Callable[[Settings], Job], judge: Judge | None = None) -> Job:
    """The job of one input, with what `samples`, `best` and `extract` make of it.

    `job_of` makes the job of one answer; `settings` have a seed. `judge` is that of a `best` that names a task. The
    result is that of the answer, with `extracted`; of several answers it has `samples`, and `best` where one is chosen.
    Raises ConstraintError if no answer has what is to be extracted.
    """
    if settings.is_decision:  # its answer is one of those that are given
        return (yield from job_of(settings))
    if settings.samples > 1:
        return (yield from _several(settings, job_of, judge))
    result = yield from job_of(settings)
    return with_extracted(result, settings.extract)


def with_extracted(result: Result, what: str | None) -> Result:
    """A result with the field `extracted`, unless it was stopped. Raises ConstraintError if there is nothing."""
    if what is None or result["finish_reason"] in STOPPED:
        return result
    from llmcli.pipelines.extract import extract_each  # with processes; most answers are taken whole

    (found,) = extract_each(what, [_text_and_cut(result)])
    if isinstance(found, ConstraintError):
        raise found
    return {"text": result["text"], "extracted": found, **result}


def _text_and_cut(result: Result) -> tuple[str, bool]:
    return str(result["text"]), result["finish_reason"] == "length"


def _several(settings: Settings, job_of: Callable[[Settings], Job], judge: Judge | None) -> Job:
    check_samples(settings)
    seeds = [seed_after(settings.seed or 0, index) for index in range(settings.samples)]
    is_recorded = settings.logprobs > 0 or settings.best != "logprob"  # as the user asked
    asked = settings if is_recorded else replace(settings, logprobs=1)
    results, means, errors = yield from _side_by_side([job_of(replace(asked, seed=seed)) for seed in seeds])
    if not results:
        raise errors[0]
    if not is_recorded:
        results = [_without_logprobs(result) for result in results]
    whole = {**_sums(results), **({"errors": [str(error) for error in errors]} if errors else {})}
    stopped = next((result for result in results if result["finish_reason"] in STOPPED), None)
    if stopped:
        return {**whole, "finish_reason": stopped["finish_reason"], "samples": results}
    results = _with_each_extracted(results, settings.extract)
    if settings.best is None:
        return {**whole, "samples": results}
    if settings.best == "logprob":
        rounded = (None if mean == -math.inf else round(mean, 6) for mean in means)  # JSON has no infinity
        results = [{**result, "mean_logprob": mean} for result, mean in zip(results, rounded, strict=True)]
    texts = [_optional_text(result["text" if settings.extract is None else "extracted"]) for result in results]
    index, about = yield from _choose(settings, texts, means, judge)
    if "finish_reason" in about:
        return {**whole, **about, "samples": results}
    samples = [{key: result[key] for key in _OF_A_SAMPLE if key in result} for result in results]
    best = {"rule": settings.best, **about, "sample": index + 1}
    reason = results[index]["finish_reason"]  # that of the others does not count
    return {**results[index], **whole, "finish_reason": reason, "best": best, "samples": samples}


def _without_logprobs(result: Result) -> Result:
    params = result.get("params")
    kept = {key: value for key, value in result.items() if key != "tokens"}
    if isinstance(params, dict):
        kept["params"] = {key: value for key, value in params.items() if key != "logprobs"}
    return kept


def _with_each_extracted(results: Sequence[Result], what: str | None) -> list[Result]:
    """The results with the field `extracted`, which may be None. Raises ConstraintError if it always is."""
    if what is None:
        return list(results)
    from llmcli.pipelines.extract import extract_each

    found = extract_each(what, [_text_and_cut(result) for result in results])
    errors = [one for one in found if isinstance(one, ConstraintError)]
    if len(errors) == len(found):
        raise errors[0]
    parts = [None if isinstance(one, ConstraintError) else one for one in found]
    return [{"text": result["text"], "extracted": part, **result} for result, part in zip(results, parts, strict=True)]


def _optional_text(value: object) -> str | None:
    return None if value is None else str(value)


def _choose(
    settings: Settings, texts: Sequence[str | None], means: Sequence[float], judge: Judge | None
) -> Generator[Step, Sequence[Answer], tuple[int, dict[str, object]]]:
    """The index of the best text, and what the choice was made by; `finish_reason` there says that it was stopped."""
    candidates = [index for index, text in enumerate(texts) if text is not None]
    if settings.best == "logprob":
        return max(candidates, key=lambda index: means[index]), {}
    if settings.best == "vote":
        index, votes = most_frequent(texts)
        return index, {"votes": votes}
    if len(candidates) == 1:
        return candidates[0], {}
    assert judge
    answers = [texts[index] or "" for index in candidates]
    judgment = yield from _unshown(judge.job(settings, answers))
    if judgment["finish_reason"] in STOPPED:
        return -1, {"finish_reason": judgment["finish_reason"]}
    text = str(judgment["text"])
    return candidates[_number(text, len(answers)) - 1], {"judgment": text}


def _side_by_side(
    jobs: Sequence[Job],
) -> Generator[Step, Sequence[Answer], tuple[list[Result], list[float], list[LlmcliError]]]:
    """Run jobs in common steps.

    Returns the results of those that succeed, in order, with the mean log-probability of the tokens of their last
    answers; and the errors of the others.
    """
    results, means, errors = dict[int, Result](), dict[int, float](), list[LlmcliError]()
    answers: dict[int, Sequence[Answer] | None] = dict.fromkeys(range(len(jobs)))
    while answers:
        steps: dict[int, Step] = {}
        for index, given in answers.items():
            try:
                steps[index] = next(jobs[index]) if given is None else jobs[index].send(given)
            except StopIteration as end:
                results[index], means[index] = end.value, mean_logprob(given or ())
            except LlmcliError as error:
                errors.append(error)
        answers = {}
        if steps:
            requests = [replace(one, progress=None) for step in steps.values() for one in step.requests]
            ended = iter((yield Step(requests, "answer", is_last=False)))
            answers = {index: [next(ended) for _ in step.requests] for index, step in steps.items()}
    order = sorted(results)
    return [results[index] for index in order], [means[index] for index in order], errors


def mean_logprob(answers: Sequence[Answer]) -> float:
    """The mean log-probability (natural) of the tokens of answers that recorded them; -inf without a token."""
    values = [token.logprob for answer in answers for token in answer.record.logprobs]
    return math.fsum(values) / len(values) if values else -math.inf


def most_frequent(texts: Sequence[str | None]) -> tuple[int, int]:
    """The index of the first of the most frequent texts, and its number of votes; None does not vote.

    White space at the ends and the case do not count. This is self-consistency (Wang et al. 2022).
    """
    votes = Counter(text.strip().casefold() for text in texts if text is not None)  # the earliest first
    winner, count = votes.most_common(1)[0]
    return next(i for i, text in enumerate(texts) if text is not None and text.strip().casefold() == winner), count


def _unshown(job: Job) -> Job:
    """A job whose last answer is not the text of a result."""
    answers: Sequence[Answer] | None = None
    while True:
        try:
            step = next(job) if answers is None else job.send(answers)
        except StopIteration as end:
            result: Result = end.value
            return result
        answers = yield replace(step, is_last=False)


def _number(text: str, count: int) -> int:
    """The first number of a judgment. Raises ConstraintError if it is not that of an answer."""
    found = re.search(r"\d{1,9}", text)
    if not found or not 1 <= int(found[0]) <= count:
        message = f"the judge must answer with a number from 1 to {count}, got {text.strip()[:60]!r}"
        raise ConstraintError(message, 'use a task whose constraint is choices = "{{numbers}}", such as best-answer')
    return int(found[0])


def _sums(results: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """The tokens of all answers together."""
    totals = {key: sum(int(str(one[key])) for one in results) for key in ("prompt_tokens", "completion_tokens")}
    cut = next((one["finish_reason"] for one in results if one["finish_reason"] != "stop"), "stop")
    return {**totals, "finish_reason": cut}


def check_samples(settings: Settings) -> None:
    """Raise UsageError where the samples would all be the same."""
    if settings.samples > 1 and not is_random(settings):
        raise UsageError(
            f"{settings.samples} samples at temperature 0 would all be the same answer", "raise the temperature"
        )
