"""Several answers to one question, generated side by side, and their statistics."""

from collections.abc import Callable, Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from itertools import product
from math import prod
from time import perf_counter

from llmcli.engine.events import Progress
from llmcli.errors import UsageError
from llmcli.inference.answer import Answer
from llmcli.inference.answer_json import answer_data
from llmcli.inference.engine import check_request
from llmcli.params.generation import GenerationParams, RequestParams
from llmcli.params.model import ModelParams
from llmcli.params.param import SettingValue, fields_of
from llmcli.params.sampler_chain import SamplingParams
from llmcli.params.samplers import seed_after
from llmcli.params.settings import fields, find, to_datum
from llmcli.text import ellipsize

END = "end"  # the kind of the last part of each answer, whose text is its finish reason
Piece = tuple[int, str, str]  # index of the answer, "answer", "think" or "end", text
Parse = Callable[[str, str], tuple[str, SettingValue]]  # name and text of a setting -> its key and typed value
MAX_VARIANTS = 64
_MAX_LABEL = 28  # characters of a value in a label
_BRACKETS = {")": "(", "]": "[", "}": "{"}
_VARIED = {*fields_of(SamplingParams), *fields_of(GenerationParams), *fields_of(RequestParams)} - {"timeout"}


@dataclass(frozen=True)
class Variant:
    """One of the answers: the settings that differ from the other variants, as text and as typed values by key."""

    label: str
    values: Mapping[str, SettingValue]


def parse_value(name: str, text: str) -> tuple[str, SettingValue]:
    """The key and the typed value of a setting."""
    field = find(name)
    return field.key, field.parse_text(text)


def variants_of(
    specs: Sequence[str], seed: int, n_seeds: int = 1, parse: Parse = parse_value, varied: AbstractSet[str] = _VARIED
) -> list[Variant]:
    """Every combination of the values in `specs`, the last setting varying fastest, each with `n_seeds` seeds.

    The first seed is `seed`; `varied` are the keys of the settings that can differ. Raises UsageError when one is not
    valid or cannot be compared, nothing varies, or there are too many combinations.
    """
    axes = [_axis(spec, parse, varied) for spec in specs]
    keys = [key for axis in axes for key in axis[0].values]
    if repeated := next((key for key in keys if keys.count(key) > 1), ""):
        raise UsageError(f"{repeated} is given twice", f"give all its values together, as in {repeated}=V1,V2")
    if "seed" in keys and n_seeds > 1:
        raise UsageError(
            "several seeds are given twice: as seed=... and as the number of answers", "remove one of them"
        )
    count = n_seeds * prod(map(len, axes))
    if count > MAX_VARIANTS:
        raise UsageError(f"{count} combinations, and the limit is {MAX_VARIANTS}", "use fewer values")
    if not axes and n_seeds == 1:
        raise UsageError("no setting to compare", "give a setting and its values, as in temp=0.2,0.8, or answers=4")
    if n_seeds > 1:
        seeds = enumerate((seed_after(seed, index) for index in range(n_seeds)), 1)
        axes.append([Variant(f"#{number}" if specs else f"seed={one}", {"seed": one}) for number, one in seeds])
    variants = []
    for chosen in product(*axes):
        values: dict[str, SettingValue] = {}
        for one in chosen:
            values |= one.values
        variants.append(Variant(" ".join(one.label for one in chosen), values))
    return variants


def _axis(spec: str, parse: Parse, varied: AbstractSet[str]) -> list[Variant]:
    name, equals, text = spec.partition("=")
    if not equals or not name.strip():
        raise UsageError(
            f"the values to compare must have the form KEY=V1,V2, got {spec!r}", "for example temp=0.2,0.8"
        )
    key = find(name).key
    if key in fields_of(ModelParams) and key not in varied:
        raise UsageError(f"{key} needs a model reload and cannot be compared", f"run the program once for each {key}")
    if key not in varied:
        hint = f"set it for all answers with {fields()[key].flags[0]}" if varied is _VARIED else ""
        raise UsageError(f"{key} cannot be compared", hint or f"use one of {', '.join(sorted(varied))}")
    texts = split_values(text)
    try:
        values = [(ellipsize(one, _MAX_LABEL) or "none", parse(name, one)[1]) for one in texts]
        return [Variant(f"{name.strip()}={label}", {key: value}) for label, value in values]
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
    """Of one answer. A share is from 0 to 1, and None where the answer is too short for it."""

    tokens: int  # of the answer and its reasoning, without the one that ended it
    words: int  # texts between blanks in the answer
    distinct_1: float | None  # see `distinct_n`
    distinct_2: float | None
    distinct_3: float | None
    mean_p: float | None  # mean probability of the tokens, in the distributions that they were sampled from
    # 1 - distinct of 4: seq-rep-4 of Welleck et al. 2020, Neural Text Generation with Unlikelihood Training; 0 means
    # that no run of four tokens occurs twice.
    repetition: float | None


def statistics_of(answer: Answer) -> Statistics:
    """The statistics of an answer that has started; `mean_p` needs its trace."""
    tokens = answer.tokens
    probabilities = [token.p for token in answer.traces if token.p is not None]
    four = distinct_n(tokens, 4)
    return Statistics(
        tokens=answer.n_tokens,
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


def variant_data(variant: Variant, answer: Answer) -> dict[str, object]:
    """The answer to a variant as JSON data."""
    settings = {key: to_datum(fields()[key], value) for key, value in variant.values.items()}
    stats = {key: round(value, 6) if value else value for key, value in asdict(statistics_of(answer)).items()}
    head = {"label": variant.label, "settings": settings, "stats": stats}
    error = {"error": str(answer.record.failure)} if answer.record.failure else {}
    return {**head, **answer_data(answer), **error}


class Comparison:
    """Iterate over `parts()` to its end, then read the answers. `progress` is called while the prompt is evaluated."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        """`answers` have one engine and have not started; they are traced if it can do that."""
        self.engine = answers[0].engine
        self.answers = answers
        self.seconds = 0.0  # in which tokens were generated
        self.progress: Progress | None = None

    @property
    def interrupted(self) -> bool:
        """Whether it was stopped before all answers ended."""
        return any(answer.finish_reason == "interrupt" for answer in self.answers)

    def parts(self) -> Generator[Piece, None, None]:
        """The parts of all answers as they are generated; an answer that fails ends alone.

        Raises ContextOverflowError and UsageError before the first part.
        """
        for request in (answer.request for answer in self.answers):
            request.progress = self.progress
            if self.engine.capabilities.traces:
                request.trace = request.trace or 0
            check_request(self.engine, request)
        last = 0.0
        for event in self.engine.generate([answer.request for answer in self.answers]):
            index, answer, now = event.index, self.answers[event.index], perf_counter()
            if answer.started:  # before its first token its prompt was evaluated
                self.seconds += now - last
            last = now
            for kind, text in answer.push(event):
                yield index, kind, text
            if event.finish_reason:
                yield index, END, event.finish_reason
