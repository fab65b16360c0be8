"""Several answers to one question, generated side by side, and their statistics."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from math import prod
from time import perf_counter
from typing import Any

from llmcli.engine.generation import Generation
from llmcli.engine.scheduler import generate
from llmcli.errors import LlmcliError, UsageError
from llmcli.inference import sizing
from llmcli.inference.answer import Answer, Part
from llmcli.inference.answer_json import answer_data
from llmcli.inference.local import LocalModel
from llmcli.params.generation import GenerationParams, RequestParams
from llmcli.params.model import ModelParams
from llmcli.params.param import fields_of
from llmcli.params.samplers import seed_after
from llmcli.params.settings import SamplingParams, fields, find, to_datum
from llmcli.text import ellipsize

END = "end"  # the kind of the last part of each answer, whose text is its finish reason
Piece = tuple[int, str, str]  # index of the answer, "answer", "think" or "end", text
Parse = Callable[[str, str], tuple[str, Any]]  # name and text of a setting -> its key and typed value
MAX_VARIANTS = 64
_MAX_LABEL = 28  # characters of a value in a label
_BRACKETS = {")": "(", "]": "[", "}": "{"}
_VARIED = {*fields_of(SamplingParams), *fields_of(GenerationParams), *fields_of(RequestParams)} - {"timeout"}
_MIN_REUSED = 64  # tokens; fewer are faster to evaluate again than to copy


@dataclass(frozen=True)
class Variant:
    """One of the answers: the settings that differ from the other variants, as text and as typed values by key."""

    label: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class _Axis:
    """A setting with its values, as text and typed; `name` is the name that the user gave."""

    name: str
    key: str
    values: Sequence[tuple[str, Any]]


def parse_value(name: str, text: str) -> tuple[str, Any]:
    """The key and the typed value of a setting.

    Raises:
        UsageError: naming the setting, the rule and the value.
    """
    field = find(name)
    return field.key, field.parse_text(text)


def variants_of(specs: Sequence[str], seed: int, n_seeds: int = 1, parse: Parse = parse_value) -> list[Variant]:
    """Every combination of the values in `specs`, the last setting varying fastest, each with `n_seeds` seeds.

    The first seed is `seed`.

    Raises:
        UsageError: when one is not valid or cannot be compared, nothing varies, or there are too many combinations.
    """
    axes = [_axis(spec, parse) for spec in specs]
    keys = [axis.key for axis in axes]
    if repeated := next((key for key in keys if keys.count(key) > 1), ""):
        raise UsageError(f"{repeated} is given twice", f"give all its values together, as in {repeated}=V1,V2")
    if "seed" in keys and n_seeds > 1:
        raise UsageError(
            "several seeds are given twice: as seed=... and as the number of answers", "remove one of them"
        )
    count = n_seeds * prod(len(axis.values) for axis in axes)
    if count > MAX_VARIANTS:
        raise UsageError(f"{count} combinations, and the limit is {MAX_VARIANTS}", "use fewer values")
    if not axes and n_seeds == 1:
        raise UsageError("no setting to compare", "give a setting and its values, as in temp=0.2,0.8, or answers=4")
    return list(_combined(axes, seed, n_seeds))


def _combined(axes: Sequence[_Axis], seed: int, n_seeds: int) -> Iterator[Variant]:
    for chosen in product(*(axis.values for axis in axes)):
        pairs = list(zip(axes, chosen, strict=True))
        label = " ".join(f"{axis.name}={ellipsize(text, _MAX_LABEL) or 'none'}" for axis, (text, _) in pairs)
        values = {axis.key: value for axis, (_, value) in pairs}
        if n_seeds == 1:
            yield Variant(label, values)
            continue
        for number in range(n_seeds):
            one = seed_after(seed, number)
            yield Variant(f"{label} #{number + 1}" if label else f"seed={one}", {**values, "seed": one})


def _axis(spec: str, parse: Parse) -> _Axis:
    name, equals, text = spec.partition("=")
    if not equals or not name.strip():
        raise UsageError(
            f"the values to compare must have the form KEY=V1,V2, got {spec!r}", "for example temp=0.2,0.8"
        )
    key = find(name).key
    if key in fields_of(ModelParams):
        raise UsageError(f"{key} needs a model reload and cannot be compared", f"run the program once for each {key}")
    if key not in _VARIED:
        raise UsageError(f"{key} cannot be compared", f"set it for all answers with {fields()[key].flags[0]}")
    texts = split_values(text)
    try:
        return _Axis(name.strip(), key, [(one, parse(name, one)[1]) for one in texts])
    except UsageError as error:
        is_split = ";" not in text and any("=" in one or ":" in one for one in texts) and len(texts) > 1
        hint = f"separate values that contain a comma with ;, as in {name}=V1;V2"
        raise UsageError(str(error), hint if is_split else error.hint) from None


def split_values(text: str) -> list[str]:
    """The values of KEY=...: separated by semicolons if there are any, else by the commas outside of brackets."""
    if ";" in text:
        return [one.strip() for one in text.split(";")]
    parts, open_brackets = [""], list[str]()
    for char in text:
        if char in _BRACKETS.values():
            open_brackets.append(char)
        elif open_brackets and open_brackets[-1] == _BRACKETS.get(char):
            open_brackets.pop()
        if char == "," and not open_brackets:
            parts.append("")
        else:
            parts[-1] += char
    return [one.strip() for one in parts]


@dataclass(frozen=True)
class Statistics:
    """Of one answer. A share is from 0 to 1, and None where the answer is too short for it.

    Attributes:
        tokens: of the answer and its reasoning, without the one that ended it.
        words: texts between blanks in the answer.
        distinct_1, distinct_2, distinct_3: see `distinct`.
        mean_p: mean probability of the tokens, in the distributions that they were sampled from.
        repetition: 1 - distinct of 4: seq-rep-4 of Welleck et al. 2020, Neural Text Generation with Unlikelihood
            Training; 0 means that no run of four tokens occurs twice.
    """

    tokens: int
    words: int
    distinct_1: float | None
    distinct_2: float | None
    distinct_3: float | None
    mean_p: float | None
    repetition: float | None

    def to_data(self) -> dict[str, Any]:
        """As JSON data."""
        return {key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(self).items()}


def statistics_of(answer: Answer) -> Statistics:
    """The statistics of an answer that has started; `mean_p` needs its trace."""
    tokens = answer.generation.tokens[len(answer.prompt.tokens) :]
    probabilities = [token.p for token in answer.traces if token.p is not None]
    four = distinct_n(tokens, 4)
    return Statistics(
        tokens=len(tokens),
        words=len(answer.text.split()),
        distinct_1=distinct_n(tokens, 1),
        distinct_2=distinct_n(tokens, 2),
        distinct_3=distinct_n(tokens, 3),
        mean_p=sum(probabilities) / len(probabilities) if probabilities else None,
        repetition=None if four is None else 1 - four,
    )


def distinct_n(tokens: Sequence[int], n: int) -> float | None:
    """Distinct runs of `n` tokens over all runs of `n` tokens (Li et al. 2016, A Diversity-Promoting Objective Function
    for Neural Conversation Models); None for fewer tokens than that.
    """
    runs = [tuple(tokens[at : at + n]) for at in range(len(tokens) - n + 1)]
    return len(set(runs)) / len(runs) if runs else None


@dataclass
class CompareResult:
    """One of the answers with its variant and its statistics."""

    variant: Variant
    answer: Answer

    def start(self, index: int) -> Generation:
        """The generation of the answer, with an index for its events; an error of it ends this answer alone.

        Raises:
            UsageError: for settings or a grammar that are not valid.
        """
        answer, label = self.answer, self.variant.label
        try:
            return answer.local.start(answer.request, index)
        except LlmcliError as error:
            raise type(error)(f"{label}: {error}" if label else str(error), error.hint) from None

    @property
    def failure(self) -> LlmcliError | None:
        """The error that ended it, if it failed."""
        return self.answer.generation.failure

    @property
    def statistics(self) -> Statistics:
        """The statistics of the answer so far."""
        return statistics_of(self.answer)

    def data(self) -> dict[str, Any]:
        """As JSON data."""
        settings = {key: to_datum(fields()[key], value) for key, value in self.variant.values.items()}
        head = {"label": self.variant.label, "settings": settings, "stats": self.statistics.to_data()}
        error = {"error": str(self.failure)} if self.failure else {}
        return {**head, **answer_data(self.answer), **error}


class Comparison:
    """Iterate over `parts()` to its end, then read the answers. `progress` is called while the prompt is evaluated."""

    def __init__(self, local: LocalModel, answers: Sequence[tuple[Variant, Answer]]) -> None:
        """`answers` are for this model and have not started; they are traced."""
        self.local = local
        self.results = [CompareResult(variant, answer) for variant, answer in answers]
        self.seconds = 0.0  # from the first token to the last
        self.progress: Callable[[int, int], None] | None = None
        for one in self.results:
            one.answer.request.trace = one.answer.request.trace or 0

    @property
    def interrupted(self) -> bool:
        """Whether it was stopped before all answers ended."""
        return any(one.answer.finish_reason == "interrupt" for one in self.results)

    def parts(self) -> Generator[Piece, None, None]:
        """The parts of all answers as they are generated; an answer that fails ends alone.

        Raises:
            ContextOverflowError, UsageError: before the first part.
        """
        with _shared_context(self.local, [one.answer for one in self.results]) as width:
            for first in range(0, len(self.results), width):
                yield from self._round(first, self.results[first : first + width])

    def _round(self, first: int, results: Sequence[CompareResult]) -> Iterator[Piece]:
        """The answers that are generated at a time; `first` is the index of the first one."""
        generations = _start(results)
        for index, (one, generation) in enumerate(zip(results, generations, strict=True), first):
            yield from _tagged(index, one.answer.begin(generation))
        start: float | None = None
        for generation in generations:
            generation.progress = self.progress
        for event in generate(self.local.context, generations):
            start = start or perf_counter()
            index, answer = first + event.index, results[event.index].answer
            yield from _tagged(index, answer.push(event))
            if event.finish_reason:
                yield from _tagged(index, answer.end())
                yield index, END, event.finish_reason
        self.seconds += perf_counter() - (start or perf_counter())


def _start(results: Sequence[CompareResult]) -> list[Generation]:
    """The generations of these answers, or none of them after an error."""
    generations: list[Generation] = []
    try:
        for index, one in enumerate(results):
            generations.append(one.start(index))
    except BaseException:
        for generation in generations:
            generation.close()
        raise
    return generations


def _tagged(index: int, parts: Iterator[Part]) -> Iterator[Piece]:
    return ((index, kind, text) for kind, text in parts)


@contextmanager
def _shared_context(local: LocalModel, answers: Sequence[Answer]) -> Iterator[int]:
    """Within this block the context of the model is one for these answers; yields how many fit at a time.

    The context of a conversation stays as it is. If there is none, the context of the answers becomes the model's.

    Raises:
        ContextOverflowError: when a prompt leaves no room for an answer.
        LlmcliError: when the memory does not suffice for the context.
    """
    begin = perf_counter()
    limits = [one.settings.max_tokens for one in answers]
    longest = replace(answers[0].settings, max_tokens=-1 if min(limits) < 0 else max(limits))
    lengths = [len(tokens) for tokens in {tuple(one.prompt.tokens) for one in answers}]
    shared = sizing.choose_shared(local.shape, longest, lengths, len(answers))
    chat_context = local.swap_context(None)
    try:
        n_ctx = max(shared.n_ctx, chat_context.evaluated() + 1 if chat_context else 0)
        context = local.new_context(longest, n_ctx, n_seq_max=shared.width, n_ctx_seq=shared.n_ctx_seq)
    except BaseException:
        local.swap_context(chat_context)
        raise
    local.swap_context(context)
    if chat_context is None:
        local.target.notes += [shared.note] if shared.note else []
        local.load_ms += (elapsed := (perf_counter() - begin) * 1e3)
        local.waited_ms += elapsed
        yield shared.width
        return
    try:
        if chat_context.evaluated(answers[0].prompt.tokens) >= _MIN_REUSED:
            context.receive(chat_context)
        yield shared.width
    finally:
        local.swap_context(chat_context)
        context.close()
