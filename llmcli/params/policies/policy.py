"""Temperature policies as objects: called with the step of a token, a policy gives its temperature.

The text of a policy, which `parse_policy` reads and `str` writes:

    policy   = split | term
    split    = "think=" term ",answer=" term
    term     = "(" policy ")" | range | name [":" ...]
    range    = number [".." number ["^" number]]
    numbers  = name [":" [number] {"," key "=" number}]
    schedule = name ":" number "->" number "@" number
    parts    = name ":" term {"," term}

`,clamp=number..number` may follow each of the last three. An option belongs to the nearest name before it. A name that
is not built in is that of a user's function, in the form `numbers`; `settings.check_policy` refuses it if there is no
function.
"""

import math
import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from inspect import signature

from llmcli.errors import UsageError
from llmcli.params.param import LARGEST_FLOAT, InvalidValueError, format_value, quote
from llmcli.params.policies.rules import BUILTIN, Function, Policy, TokenStep
from llmcli.params.policies.user_functions import PolicySource, package_source
from llmcli.text import did_you_mean

SHAPE = "a number (0.8), a range (0.3..1.3) or a policy (sentence:1.1,0.7,0.4)"
# The text of a policy by its form; all other forms are NAME:ARGUMENT,ARGUMENT.
_TEXTS = {"schedule": "{name}:{0}->{1}@{2}", "split": "think={0},answer={1}", "clamp": "{0},clamp={1}..{2}"}
_NUMBER = re.compile(r"[+-]?(?:(?:\d+(?:\.(?!\.)\d*)?|\.\d+)(?:e[+-]?\d+)?|inf(?:inity)?\b|nan\b)", re.IGNORECASE)
_NAME = re.compile(r"[^\W\d]\w*")
_OPTION = re.compile(r"\s*,\s*([^\W\d]\w*)\s*=")
_FIRST_OPTION = re.compile(r"\s*:\s*([^\W\d]\w*)\s*=")
_SIDE = re.compile(r"\s*(think|answer)\s*=")
_SIDES = ("think", "answer")
_NAMES = [name for name in BUILTIN if name != "clamp"]
_MAX_DEPTH = 8  # of policies inside policies, and of parentheses; the parser is recursive
_PERCENT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")
_SECOND_NUMBER = re.compile(r"\s*,\s*([+-]?[\d.]+)\s*$")
_DECIMAL_COMMA = re.compile(r"\s*(\d+),(\d+)\s*")


@dataclass(frozen=True)
class Fixed(Policy):
    """The same temperature for each token; 0 is greedy."""

    value: float

    def __call__(self, _step: TokenStep) -> float:
        return self.value

    def __str__(self) -> str:
        return format_value(self.value)


@dataclass(frozen=True)
class Entropy(Policy):
    """low + (high - low) * (H / Hmax) ^ exponent, with Hmax = ln(candidates); `low` for a single candidate.

    Source: llama.cpp `llama_sampler_temp_ext` (which leaves a single candidate alone), KoboldCpp `sample_entropy`. H is
    in nats over the live candidates.
    """

    low: float
    high: float
    exponent: float = 1.0

    def __call__(self, step: TokenStep) -> float:
        return self.at(step.entropy, step.candidates)

    def at(self, nats: float, candidates: int) -> float:
        """The temperature for an entropy in nats over `candidates` tokens."""
        if candidates < 2:
            return self.low
        return self.low + (self.high - self.low) * math.pow(min(nats / math.log(candidates), 1.0), self.exponent)

    def __str__(self) -> str:
        power = "" if self.exponent == 1 else "^" + format_value(self.exponent)
        return f"{format_value(self.low)}..{format_value(self.high)}{power}"


@dataclass(frozen=True)
class PolicyCall(Policy):
    """A policy by name with its arguments: numbers or other policies, and options.

    The name is that of a built-in policy or of a user's function; `bind` adds the source of that function.
    """

    name: str
    args: tuple[float | Policy, ...] = ()
    options: tuple[tuple[str, float], ...] = ()
    source: PolicySource | None = field(default=None, compare=False, repr=False)

    def __call__(self, step: TokenStep) -> float:
        return self._function(step, *self.args, **dict(self.options))

    def explain(self, step: TokenStep) -> str:
        rule = BUILTIN.get(self.name)
        if not rule or rule.form not in ("parts", "split"):
            return str(self)
        # Such a policy calls one of its arguments, here one that gives its text.
        return str(rule.function(step, *(part.explain for part in self.args if isinstance(part, Policy))))

    def __str__(self) -> str:
        form = BUILTIN[self.name].form if self.name in BUILTIN else "numbers"
        texts = [
            f"({arg})" if isinstance(arg, PolicyCall) and form != "clamp" else format_value(arg) for arg in self.args
        ]
        if form in _TEXTS:
            return _TEXTS[form].format(*texts, name=self.name)
        arguments = ",".join([*texts, *(f"{key}={format_value(value)}" for key, value in self.options)])
        return f"{self.name}:{arguments}" if arguments else self.name

    def load(self, keep: bool = False) -> None:
        function = self._function
        if keep and self.source:
            self.source.checked = function
        for arg in self.args:
            if isinstance(arg, Policy):
                arg.load(keep)

    @cached_property
    def _function(self) -> Function:
        if self.name in BUILTIN:
            return BUILTIN[self.name].function
        if not self.source:
            hint = "give its file with --temp-policy-file, or change the temperature"
            raise UsageError(f"unknown temperature policy {self.name!r}", hint)
        function = self.source.function()
        try:
            signature(function).bind(None, *self.args, **dict(self.options))
        except TypeError as error:
            text = f"{self.name!r} of {self.source.origin} does not accept the arguments of '{self}': {error}"
            raise UsageError(text) from None
        except ValueError:  # a function written in C may have no signature
            pass
        return function


def names_in(policy: Policy) -> list[str]:
    """The names of `policy` and of all policies inside it."""
    if not isinstance(policy, PolicyCall):
        return []
    return [policy.name, *(name for arg in policy.args if isinstance(arg, Policy) for name in names_in(arg))]


def bind(policy: Policy, own: PolicySource | None) -> Policy:
    """`policy` with the sources of users' functions in it; `own` is that of the setting `temp_policy_file`."""
    if not isinstance(policy, PolicyCall) or BUILTIN.keys() >= {*names_in(policy)}:
        return policy
    source = policy.source
    if not source and policy.name not in BUILTIN:
        source = own if own and own.name == policy.name else package_source(policy.name)
    args = tuple(bind(arg, own) if isinstance(arg, Policy) else arg for arg in policy.args)
    return replace(policy, args=args, source=source)


def parse_policy(text: str) -> Policy:
    """The policy written as `text`, which may have unknown names. Raises InvalidValueError with the position."""
    parser = _Parser(text)
    policy = parser.policy(0)
    if parser.is_at_end():
        return policy
    hint, is_users = "", isinstance(policy, PolicyCall) and policy.name not in BUILTIN
    if percent := _PERCENT.fullmatch(text):
        hint = f"write {float(percent[1]) / 100:g}"
    elif comma := _DECIMAL_COMMA.fullmatch(text):
        hint = f"write {comma[1]}.{comma[2]}"
    elif is_users and (number := _SECOND_NUMBER.search(text)):
        hint = f"give the second number by the name of its parameter, as in NAME={number[1]}"
    raise parser.error(hint=hint)


def unknown_name(name: str, at: int, functions: list[str], hint: str = "") -> InvalidValueError:
    """The error for a `name` at offset `at` that is neither built in nor one of the user's `functions`."""
    names = [*_NAMES, *filter(None, functions)]
    hint = hint or did_you_mean(name, names) or f"use a number or one of {', '.join(names)}"
    return InvalidValueError(SHAPE, f"unknown policy {quote(name, 32)} at position {at + 1}", hint, at)


class _Parser:
    """A recursive-descent parser; `_at` is its offset, `_number_at` that of the last number.

    `_name` is the policy that it reads, for error messages.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = self._number_at = self._parentheses = 0
        self._name = ""
        self._misspelled: InvalidValueError | None = None  # the first name that is nearly that of a built-in policy

    def is_at_end(self) -> bool:
        return self._skip_over("") and self._at == len(self._text)

    def error(self, fault: str = "", at: int | None = None, hint: str = "", rule: str = "") -> InvalidValueError:
        """The error for the text at the current offset, or at `at`."""
        if self._misspelled:
            return self._misspelled
        at = self._at if at is None else at
        rest = self._text[at:].strip()
        where = f"position {at + 1}" if rest else "the end"
        fault = fault or f"unexpected {quote(rest, 32)}"
        example = BUILTIN[self._name].example if self._name in BUILTIN else self._name
        return InvalidValueError(rule or (f"like {example}" if example else SHAPE), f"{fault} at {where}", hint, at)

    def policy(self, depth: int) -> Policy:
        side = self._match(_SIDE)
        if not side:
            return self._term(depth)
        outer, self._name = self._name, "think"
        first, second = side[1], "answer" if side[1] == "think" else "think"
        sides = {first: self._term(depth + 1)}
        if not self._skip_over(",") or not (side := self._match(_SIDE)):
            raise self.error(f"missing '{second}='")
        if side[1] == first:
            raise self.error(f"duplicate '{first}='", side.start(1))
        sides[second] = self._term(depth + 1)
        self._name = outer or self._name
        return PolicyCall("think", (sides["think"], sides["answer"]))

    def _term(self, depth: int) -> Policy:
        if depth > _MAX_DEPTH:
            raise self.error("policies nested more than eight levels deep")
        if self._skip_over("("):
            # Counted on their own, because the text of a policy has parentheses around each policy inside it: counted
            # together with policies, a valid policy could be too deep to be parsed again.
            if self._parentheses == _MAX_DEPTH:
                raise self.error("parentheses nested more than eight levels deep")
            self._parentheses += 1
            policy = self.policy(depth)
            self._expect(")")
            self._parentheses -= 1
            return policy
        found = _NAME.match(self._text, self._at)
        if not found or _NUMBER.match(self._text, self._at):
            return self._range()
        name, outer = found[0], self._name
        if name in (*_SIDES, "clamp"):
            raise unknown_name(name, self._at, [], "write think=1.0,answer=0.6" if name in _SIDES else "")
        if name not in BUILTIN and did_you_mean(name, _NAMES):
            self._misspelled = self._misspelled or unknown_name(name, self._at, [])
        self._at, self._name = found.end(), name
        form = BUILTIN[name].form if name in BUILTIN else "numbers"
        if form == "schedule":
            policy = self._schedule(name)
        elif form == "parts":
            self._expect(":")
            parts = [self._term(depth + 1)]
            while not _OPTION.match(self._text, self._at) and self._skip_over(","):
                parts.append(self._term(depth + 1))
            policy = PolicyCall(name, tuple(parts))
        else:
            policy = self._numbers(name)
        policy = self._clamped(policy)
        self._name = outer or name
        return policy

    def _range(self) -> Policy:
        start, low = self._at, self._number()
        if self._text.startswith("...", self._at):
            raise self.error(hint=f"write {self._text.replace('...', '..')}", rule="a range with two dots")
        if not self._skip_over(".."):
            if self._text.startswith("^", self._at):
                raise self.error()
            return Fixed(low)
        high = self._end_of_range(low, start)
        if not self._skip_over("^"):
            return Entropy(low, high)
        exponent = self._number()
        if not exponent:
            raise self.error("the exponent is 0", self._number_at, rule="a range with an exponent above 0")
        return Entropy(low, high, exponent)

    def _end_of_range(self, low: float, start: int) -> float:
        high = self._number()
        if low > high:
            hint = f"write {format_value(high)}..{format_value(low)}"
            raise self.error("reversed range", start, hint, "a range from low to high")
        return high

    def _numbers(self, name: str) -> Policy:
        """`NAME:NUMBER`, `NAME:NUMBER,KEY=NUMBER`, and for a user's function `NAME` and `NAME:KEY=NUMBER`."""
        known = None if name not in BUILTIN else list(signature(BUILTIN[name].function).parameters)[2:]
        any_sign = known is None  # a user's function may take negative numbers
        args: tuple[float, ...] = ()
        options: dict[str, float] = {}
        option = _FIRST_OPTION.match(self._text, self._at) if known is None else None
        if not option and self._skip_over(":"):
            args = (self._number(any_sign=any_sign),)
        elif known is not None:
            raise self.error("missing ':' and a number")
        while option := option or _OPTION.match(self._text, self._at):
            if option[1] in ("clamp", *_SIDES):
                break
            key, self._at = option[1], option.start(1)
            if key in options:
                raise self.error(f"duplicate option {quote(key, 32)}")
            if known is not None and key not in known:
                raise self.error(f"unknown option {quote(key, 32)} of {name}")
            self._at, option = option.end(), None
            options[key] = self._number(any_sign=any_sign)
        return PolicyCall(name, args, tuple(options.items()))

    def _schedule(self, name: str) -> Policy:
        """`NAME:FROM->TO@TOKENS`."""
        is_positive = BUILTIN[name].positive
        self._expect(":")
        start = self._number(above=is_positive)
        self._expect("->", "quote the policy: an unquoted > redirects the output of the shell")
        end = self._number(above=is_positive)
        self._expect("@", "add the number of tokens, as in @200")
        tokens = self._number(above=True)
        if tokens != int(tokens):
            raise self.error("the number of tokens is not an integer", self._number_at)
        return PolicyCall(name, (start, end, tokens))

    def _clamped(self, policy: Policy) -> Policy:
        found = _OPTION.match(self._text, self._at)
        if not found or found[1] in _SIDES:
            return policy
        if found[1] != "clamp":
            raise self.error(f"unknown option {quote(found[1], 32)} of {self._name}", found.start(1))
        self._at = found.end()
        low, start = self._number(), self._number_at
        self._expect("..")
        return PolicyCall("clamp", (policy, low, self._end_of_range(low, start)))

    def _number(self, above: bool = False, any_sign: bool = False) -> float:
        """The next number: at least 0, or above 0, or of any sign."""
        self._skip_over("")
        found = _NUMBER.match(self._text, self._at)
        if not found:
            raise self.error("missing number")
        value = float(found[0])
        if not (-LARGEST_FLOAT if any_sign else 0) <= value <= LARGEST_FLOAT:
            raise self.error("number out of range", rule="finite" if any_sign else "finite and at least 0")
        if above and not value:
            raise self.error("the number is not above 0")
        self._number_at, self._at = found.span()
        return value

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """The match of `pattern` here, if any; then move behind it."""
        found = pattern.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return found

    def _expect(self, mark: str, hint: str = "") -> None:
        if not self._skip_over(mark):
            raise self.error(f"missing '{mark}'", hint=hint)

    def _skip_over(self, mark: str) -> bool:
        """Whether `mark` comes next, after white space; then move behind both, else behind the white space."""
        while self._text[self._at : self._at + 1].isspace():
            self._at += 1
        found = self._text.startswith(mark, self._at)
        self._at += len(mark) if found else 0
        return found
