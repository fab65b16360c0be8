"""Decisions: one of several answers, by the probability of each whole answer, without generating any text."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from time import perf_counter
from typing import TYPE_CHECKING, Literal

from llmcli.engine.events import Cancellation, Message, Prompt, common_prefix
from llmcli.engine.reasoning import REASONING_TAGS, closing_text
from llmcli.errors import ContextOverflowError, LlmcliError, UsageError
from llmcli.files import read_text
from llmcli.inference.constraints import CONSTRAINT_KEYS
from llmcli.inference.engine import TemplateOptions, check_scores
from llmcli.inference.request import build_prompt, system_file, template_options
from llmcli.params.decision import DECISION_KEYS, rating_levels, split_choice
from llmcli.params.settings import Settings
from llmcli.text import ellipsize

if TYPE_CHECKING:
    from llmcli.inference.engine import Engine

_NEEDLE = "5830472916"  # an answer in a template, to see what ends it; no filter changes digits
_ROLE_OF_GPT_OSS, _FINAL_OF_GPT_OSS = "<|start|>assistant", "<|channel|>final<|message|>"  # its answers have channels
_OPENING = "([{<\"'\u201c\u2018\u00ab/\\-_=@#$\u00bf\u00a1"  # no space follows these
_WIDE = ("W", "F")  # East Asian characters stand without spaces


@dataclass(frozen=True)
class Choice:
    """A possible answer: `value` is scored and printed, `description` is for the model only."""

    value: str
    description: str = ""


@dataclass
class ChoiceSet:
    """What is decided. With the same settings it can be asked of many texts: its prior is computed once."""

    kind: Literal["choices", "predicate", "rating"]
    choices: Sequence[Choice]
    instruction: str  # what the model is told; not with a raw prompt
    prior: str | None = None  # the text without content whose answer is subtracted
    priors: dict[tuple[str, str], list[float]] = field(default_factory=dict)  # by its prompt and the lead


@dataclass(frozen=True)
class ScoredChoice:
    """A choice with the sum of the natural log-probabilities of its tokens."""

    value: str
    logprob: float
    prior_logprob: float | None  # after the text without content; None without a prior
    n_tokens: int  # with the token that ends a turn, if it counts
    probability: float  # among the choices


@dataclass(frozen=True)
class Decision:
    """A decision: the choices in their order, with probabilities whose sum is 1."""

    choice_set: ChoiceSet
    settings: Settings
    prompt: Prompt
    choices: Sequence[ScoredChoice]
    elapsed_ms: float

    @cached_property
    def choice(self) -> ScoredChoice:
        """The most probable one; of equal ones the first."""
        return max(self.choices, key=lambda one: one.probability)

    @property
    def rating(self) -> float:
        """The mean of the levels, weighted by their probabilities."""
        return math.fsum(int(one.value) * one.probability for one in self.choices)

    @property
    def text(self) -> str:
        """The answer: the choice, or the rating with two decimals."""
        return f"{self.rating:.2f}" if self.choice_set.kind == "rating" else self.choice.value

    def data(self) -> dict[str, object]:
        """The fields of the JSON output that a decision has and a text has not."""
        special: dict[str, object] = {}
        if self.choice_set.kind == "rating":
            special = {"rating": self.rating}
        elif self.choice_set.kind == "predicate":
            special = {"probability": self.choices[0].probability}  # of yes
        details = {}
        for one in self.choices:
            prior = {} if one.prior_logprob is None else {"prior_logprob": one.prior_logprob}
            details[one.value] = {"logprob": one.logprob, **prior, "n_tokens": one.n_tokens}
        return {
            **special,
            "choice": self.choice.value,
            "confidence": self.choice.probability,
            "choices": {one.value: one.probability for one in self.choices},
            "details": details,
        }


def read_choice_set(settings: Settings) -> ChoiceSet | None:
    """What the settings let the model decide; None if it is to write a text. A file with choices is read.

    Raises UsageError for choices that are not valid, and for settings that exclude each other.
    """
    kinds = [key for key in DECISION_KEYS if getattr(settings, key)]
    if not kinds:
        return None
    others = [key for key in CONSTRAINT_KEYS if getattr(settings, key) is not None]
    if len([*kinds, *others]) > 1:
        raise UsageError(f"{' and '.join([*kinds, *others])} cannot be used together", "use one of them")
    prior = "" if settings.choice_prior == "auto" else settings.choice_prior
    if settings.predicate:
        return ChoiceSet("predicate", (Choice("yes"), Choice("no")), "Answer with yes or no, and nothing else.", prior)
    if settings.rating:
        levels = rating_levels(settings.rating)
        told = f"Answer with a whole number from {levels[0]} to {levels[-1]}, and nothing else."
        return ChoiceSet("rating", [Choice(str(level)) for level in levels], told, prior)
    choices = _read_choices(settings)
    return ChoiceSet("choices", choices, _instruction(choices), prior)


def _read_choices(settings: Settings) -> Sequence[Choice]:
    texts: list[str] = []
    for text in settings.choices:
        name = system_file(text) if text.startswith("@") else None
        lines = [text] if name is None else re.split(r"\r?\n", read_text(name, settings.encoding))
        texts += [line for line in lines if name is None or line.strip()]
    choices = [Choice(*split_choice(text)) for text in texts]
    if not settings.raw:  # there, spaces count
        choices = [replace(one, value=one.value.strip()) for one in choices]
    values = [one.value.strip() for one in choices]
    if not all(values):
        raise UsageError("a choice is empty", "give each choice a text, as in --choices good,bad")
    if len(values) < 2:
        raise UsageError(f"choices needs two choices or more, got {len(values)}", "give them as in --choices good,bad")
    if twice := next((value for value, count in Counter(values).items() if count > 1), ""):
        raise UsageError(f"choices has {ellipsize(twice)!r} twice", "remove one of them")
    return choices


def _instruction(choices: Sequence[Choice]) -> str:
    if not any(one.description or "," in one.value for one in choices):
        return f"Answer with one of these, and nothing else: {', '.join(one.value for one in choices)}."
    rows = [f"- {one.value}" + (f": {one.description}" if one.description else "") for one in choices]
    return "\n".join(["Answer with one of these, and nothing else:", *rows])


@dataclass(frozen=True)
class DecisionRequest:
    """What is to be decided: the choices, and the text that each of them is scored as the whole answer to."""

    engine: "Engine"
    settings: Settings
    choice_set: ChoiceSet
    text: str
    system: str | None = None
    cancellation: Cancellation | None = None

    def decide(self) -> Decision:
        """Score each choice after the prompt, which is evaluated once.

        The probability of a choice is softmax(logprob - prior_logprob) among the choices: with a prior, what the model
        would say to a text without content does not count (Zhao et al. 2021, "Calibrate Before Use").

        Raises UsageError when the engine gives no scores, ContextOverflowError when the prompt or a choice does not
        fit, TimeLimitError or KeyboardInterrupt when it is cancelled.
        """
        check_scores(self.engine, self.choice_set.kind)
        begin = perf_counter()
        prefix, tails = self.tokens()
        logprobs = self._sums(prefix, tails)
        priors = self._priors()
        weights = [own - prior for own, prior in zip(logprobs, priors or [0.0] * len(logprobs), strict=True)]
        best = max(weights)
        weights = [math.exp(weight - best) for weight in weights]
        total = math.fsum(weights)
        choices = [
            ScoredChoice(value.strip(), logprobs[at], priors[at] if priors else None, len(tails[at]), weight / total)
            for at, (value, weight) in enumerate(zip(self._values, weights, strict=True))
        ]
        return Decision(self.choice_set, self.settings, self.prompt, choices, (perf_counter() - begin) * 1e3)

    @cached_property
    def prompt(self) -> Prompt:
        """The prompt: with the instruction, unless it is raw, and without reasoning.

        The instruction comes first: of many texts, all have it in their beginning, which is evaluated once.
        """
        if self.settings.raw:
            return build_prompt(self.engine, self.settings, self.text, self.system, self.cancellation)
        told = f"{self.choice_set.instruction}\n\n{self.text}" if self.text else self.choice_set.instruction
        return build_prompt(self.engine, replace(self.settings, think="off"), told, self.system, self.cancellation)

    def tokens(self, lead: str | None = None) -> tuple[Sequence[int], Sequence[Sequence[int]]]:
        """The tokens of the prompt, and for each choice the tokens that follow them, behind a `lead` of its own.

        A choice is tokenized together with the prompt, as a token can have the end of one and the beginning of the
        other: such tokens belong to the choices. Where a choice is the beginning of another one, the token that ends a
        turn belongs to each: else the shorter one would contain the longer one.
        """
        engine, prompt, values = self.engine, self.prompt, self._values
        options = template_options(engine, replace(self.settings, think="off"))
        closing = "" if self.settings.raw else _end_of_reasoning(prompt)
        if closing:
            prefix: Sequence[int] = [*prompt.tokens, *engine.tokenizer.tokenize(closing, parse_special=True)]
            tails = [engine.tokenizer.tokenize(value) for value in values]
        else:
            begin = options.prefill + (self._lead if lead is None else lead)
            wholes = [engine.render(prompt.request, replace(options, prefill=begin + one)).tokens for one in values]
            n_prefix = min(common_prefix(prompt.tokens, whole) for whole in wholes)
            prefix, tails = prompt.tokens[:n_prefix], [list(whole[n_prefix:]) for whole in wholes]
        if not prefix:
            hint = "give a longer prompt, or a longer choice_prior"
            raise UsageError("the prompt has no token before the choices", hint)
        if _is_any_a_beginning(tails):
            end = self._end_of_turn(options)
            tails = [[*tail, end] for tail in tails]
        return prefix, tails

    @property
    def _values(self) -> Sequence[str]:
        return [one.value for one in self.choice_set.choices]

    @property
    def _lead(self) -> str:
        """The space between the prompt and a choice: none after white space, an opening bracket or a control token."""
        last, values = self.prompt.text[-1:], self._values
        begins_itself = any(value[:1].isspace() for value in values)
        if not last or last.isspace() or last in _OPENING or begins_itself:
            return ""
        if any(unicodedata.east_asian_width(char) in _WIDE for char in (last, values[0][0])):
            return ""
        return "" if self.prompt.tokens[-1] in self.engine.tokenizer.special else " "

    def _end_of_turn(self, options: TemplateOptions) -> int:
        """The token that ends an answer: the one that the template writes behind it, else EOS."""
        vocab = self.engine.tokenizer
        if not self.settings.raw:
            talk: list[Message] = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _NEEDLE}]
            with suppress(LlmcliError):  # a template that cannot end with an answer
                after = self.engine.render(talk, replace(options, prefill="")).text.rpartition(_NEEDLE)[2]
                ends = [token for token in vocab.tokenize(after, parse_special=True) if vocab.ends(token)]
                if ends:
                    return ends[0]
        if vocab.eos is None:
            raise UsageError(
                f"a choice is the beginning of another one, and {self.engine.name} has no token that ends an answer",
                "use choices that begin differently",
            )
        return vocab.eos

    def _sums(self, prefix: Sequence[int], tails: Sequence[Sequence[int]]) -> list[float]:
        """The log-probability of each whole choice."""
        n_ctx, longest = self.settings.n_ctx or self.engine.n_ctx_train, max(map(len, tails))
        if len(prefix) + longest > n_ctx:
            what = f"the prompt has {len(prefix)} tokens, the longest choice {longest}, and the context has {n_ctx}"
            hint = "shorten the " + ("prompt" if len(prefix) > longest else "choices")
            raise ContextOverflowError(what, hint + (", or raise --ctx-size" if self.settings.n_ctx else ""))
        return [math.fsum(one) for one in self.engine.score(prefix, tails, self.cancellation)]

    def _priors(self) -> list[float]:
        """What each choice gets after the text without content; empty without a prior."""
        if self.choice_set.prior is None:
            return []
        empty, known = replace(self, text=self.choice_set.prior), self.choice_set.priors
        key = (empty.prompt.text, self._lead)
        if key not in known:
            known[key] = self._sums(*empty.tokens(self._lead))
        return known[key]


def _end_of_reasoning(prompt: Prompt) -> str:
    """What ends the reasoning that a prompt opens; empty if it opens none."""
    tail = prompt.text.rstrip()
    if tail.endswith(_ROLE_OF_GPT_OSS):
        return _FINAL_OF_GPT_OSS
    opener, closer = next((pair for pair in REASONING_TAGS if pair[1] and tail.endswith(pair[0])), ("", ""))
    return closing_text(opener, closer, prompt.template, prompt.text) if opener else ""


def _is_any_a_beginning(tails: Sequence[Sequence[int]]) -> bool:
    ordered = sorted(map(tuple, tails))  # a beginning stands directly before one that it begins
    return any(b[: len(a)] == a for a, b in pairwise(ordered))
