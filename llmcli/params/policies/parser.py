"""The parser of temperature policies, and their grammar:

    policy   = split | term
    split    = "think=" term ",answer=" term
    term     = "(" policy ")" | range | name [":" ...]
    range    = number [".." number ["^" number]]
    numbers  = name [":" [number] {"," key "=" number}]
    schedule = name ":" number "->" number "@" number
    parts    = name ":" term {"," term}

`,clamp=number..number` may follow each of the last three. An option belongs to the nearest name before it.
"""

import re
from inspect import signature

from llmcli.params.param import LARGEST_FLOAT, InvalidValueError, format_value, quote
from llmcli.params.policies.policy import Entropy, Fixed, Policy, PolicyCall
from llmcli.params.policies.rules import PolicySpec, get_policy, known_names
from llmcli.text import did_you_mean

SHAPE = "a number (0.8), a range (0.3..1.3) or a policy (sentence:1.1,0.7,0.4)"
_NUMBER = re.compile(r"[+-]?(?:(?:\d+(?:\.(?!\.)\d*)?|\.\d+)(?:e[+-]?\d+)?|inf(?:inity)?\b|nan\b)", re.IGNORECASE)
_NAME = re.compile(r"[^\W\d]\w*")
_OPTION = re.compile(r"\s*,\s*([^\W\d]\w*)\s*=")
_FIRST_OPTION = re.compile(r"\s*:\s*([^\W\d]\w*)\s*=")
_SIDE = re.compile(r"\s*(think|answer)\s*=")
_SIDES = ("think", "answer")
_MAX_DEPTH = 8  # of policies inside policies, and of parentheses; the parser is recursive
_PERCENT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")
_DECIMAL_COMMA = re.compile(r"\s*(\d+),(\d+)\s*")


class PolicySyntaxError(InvalidValueError):
    """A syntax error in a policy."""


def parse_policy(text: str) -> Policy:
    """The policy written as `text`.

    Raises:
        PolicySyntaxError: with the position of the error.
    """
    parser = _Parser(text)
    policy = parser.policy(0)
    if not parser.at_end():
        raise parser.error(hint=_number_hint(text))
    return policy


def _number_hint(text: str) -> str:
    """How to write a percentage or a number with a decimal comma."""
    if percent := _PERCENT.fullmatch(text):
        return f"write {float(percent[1]) / 100:g}"
    comma = _DECIMAL_COMMA.fullmatch(text)
    return f"write {comma[1]}.{comma[2]}" if comma else ""


class _Parser:
    """A recursive-descent parser; `_at` is its offset, `_spec` the named policy that it reads, for error messages."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._parentheses = 0
        self._spec: PolicySpec | None = None

    def at_end(self) -> bool:
        self._skip_space()
        return self._at == len(self._text)

    def error(self, fault: str = "", at: int | None = None, hint: str = "", rule: str = "") -> PolicySyntaxError:
        """The error for the text at the current offset, or at `at`."""
        at = self._at if at is None else at
        rest = self._text[at:].strip()
        where = f"position {at + 1}" if rest else "the end"
        fault = fault or f"unexpected {quote(rest, 32)}"
        rule = rule or (f"like {self._spec.example}" if self._spec else SHAPE)
        return PolicySyntaxError(rule, f"{fault} at {where}", hint, at)

    def policy(self, depth: int) -> Policy:
        side = _SIDE.match(self._text, self._at)
        if not side:
            return self._term(depth)
        outer, self._spec = self._spec, get_policy("think")
        first, self._at = side[1], side.end()
        second = next(name for name in _SIDES if name != first)
        sides = {first: self._term(depth + 1)}
        if not self._skip_over(",") or not (side := _SIDE.match(self._text, self._at)):
            raise self.error(f"missing '{second}='")
        if side[1] == first:
            raise self.error(f"duplicate '{first}='", side.start(1))
        self._at = side.end()
        sides[second] = self._term(depth + 1)
        self._spec = outer or self._spec
        return PolicyCall("think", (sides["think"], sides["answer"]))

    def _term(self, depth: int) -> Policy:
        if depth > _MAX_DEPTH:
            raise self.error("policies nested more than eight levels deep")
        if self._skip_over("("):
            return self._parenthesis(depth)
        self._skip_space()
        name = _NAME.match(self._text, self._at)
        if not name or _NUMBER.match(self._text, self._at):
            return self._range()
        spec = get_policy(name[0]) if name[0] != "clamp" else None
        if not spec or spec.form == "split":
            raise self._unknown(name[0])
        self._at, outer, self._spec = name.end(), self._spec, spec
        read = {"numbers": self._numbers, "schedule": self._schedule, "parts": self._parts}[spec.form]
        policy = self._clamped(read(spec, depth))
        self._spec = outer or spec
        return policy

    def _parenthesis(self, depth: int) -> Policy:
        """`POLICY)`.

        `format_policy` writes parentheses around each policy inside a policy. They are counted on their own: counted
        together with policies, a valid policy could be too deep to be parsed again.
        """
        if self._parentheses == _MAX_DEPTH:
            raise self.error("parentheses nested more than eight levels deep")
        self._parentheses += 1
        policy = self.policy(depth)
        if not self._skip_over(")"):
            raise self.error("missing ')'")
        self._parentheses -= 1
        return policy

    def _unknown(self, name: str) -> PolicySyntaxError:
        hint = did_you_mean(name, known_names()) or f"use a number or one of {', '.join(known_names())}"
        if name in _SIDES:
            hint = "write think=1.0,answer=0.6"
        return self.error(f"unknown policy {quote(name, 32)}", hint=hint, rule=SHAPE)

    def _range(self) -> Policy:
        start = self._at
        low = self._number()
        if not self._skip_over(".."):
            if self._text.startswith("^", self._at):
                raise self.error()
            return Fixed(low)
        high = self._number()
        if low > high:
            raise self._reversed(low, high, start)
        if not self._skip_over("^"):
            return Entropy(low, high)
        self._skip_space()
        at, exponent = self._at, self._number()
        if not exponent:
            raise self.error("the exponent is 0", at, rule="a range with an exponent above 0")
        return Entropy(low, high, exponent)

    def _reversed(self, low: float, high: float, at: int) -> PolicySyntaxError:
        """The error for a range from high to low."""
        written = f"{format_value(high)}..{format_value(low)}"
        return self.error("reversed range", at, f"write {written}", "a range from low to high")

    def _numbers(self, spec: PolicySpec, _depth: int) -> Policy:
        """`NAME`, `NAME:NUMBER`, `NAME:NUMBER,KEY=NUMBER` and `NAME:KEY=NUMBER`."""
        args: tuple[float, ...] = ()
        options: dict[str, float] = {}
        option = _FIRST_OPTION.match(self._text, self._at) if spec.origin else None
        if not option and self._skip_over(":"):
            args = (self._number(_minimum(spec)),)
        elif not spec.origin:
            raise self.error("missing ':' and a number")
        while option := option or _OPTION.match(self._text, self._at):
            if option[1] in ("clamp", *_SIDES):
                break
            self._option(spec, option, options)
            option = None
        return PolicyCall(spec.name, args, tuple(options.items()))

    def _option(self, spec: PolicySpec, found: re.Match[str], options: dict[str, float]) -> None:
        key, self._at = found[1], found.start(1)
        if key in options:
            raise self.error(f"duplicate option {quote(key, 32)}")
        if not spec.origin and key not in list(signature(spec.load()).parameters)[2:]:
            raise self.error(f"unknown option {quote(key, 32)} of {spec.name}")
        self._at = found.end()
        options[key] = self._number(_minimum(spec))

    def _schedule(self, spec: PolicySpec, _depth: int) -> Policy:
        """`NAME:FROM->TO@TOKENS`."""
        self._expect(":")
        start = self._number(above=spec.positive)
        self._expect("->", "quote the policy: an unquoted > redirects the output of the shell")
        end = self._number(above=spec.positive)
        self._expect("@", "add the number of tokens, as in @200")
        self._skip_space()
        at, tokens = self._at, self._number(above=True)
        if tokens != int(tokens):
            raise self.error("the number of tokens is not an integer", at)
        return PolicyCall(spec.name, (start, end, tokens))

    def _parts(self, spec: PolicySpec, depth: int) -> Policy:
        """`NAME:POLICY,POLICY`."""
        self._expect(":")
        parts = [self._term(depth + 1)]
        while not _OPTION.match(self._text, self._at) and self._skip_over(","):
            parts.append(self._term(depth + 1))
        return PolicyCall(spec.name, tuple(parts))

    def _clamped(self, policy: Policy) -> Policy:
        found = _OPTION.match(self._text, self._at)
        if not found or found[1] in _SIDES:
            return policy
        if found[1] != "clamp":
            of = f" of {self._spec.name}" if self._spec else ""
            raise self.error(f"unknown option {quote(found[1], 32)}{of}", found.start(1))
        self._at = found.end()
        self._skip_space()
        start, low = self._at, self._number()
        self._expect("..")
        high = self._number()
        if low > high:
            raise self._reversed(low, high, start)
        return PolicyCall("clamp", (policy, low, high))

    def _number(self, minimum: float = 0.0, above: bool = False) -> float:
        """The next number, at least `minimum`, and above 0 if `above`."""
        self._skip_space()
        found = _NUMBER.match(self._text, self._at)
        if not found:
            raise self.error("missing number")
        value = float(found[0])
        if not minimum <= value <= LARGEST_FLOAT:
            raise self.error("number out of range", rule="finite and at least 0" if minimum == 0 else "finite")
        if above and not value:
            raise self.error("the number is not above 0")
        self._at = found.end()
        return value

    def _expect(self, mark: str, hint: str = "") -> None:
        if not self._skip_over(mark):
            raise self.error(f"missing '{mark}'", hint=hint)

    def _skip_over(self, mark: str) -> bool:
        """Whether `mark` comes next; if so, move behind it."""
        self._skip_space()
        found = self._text.startswith(mark, self._at)
        self._at += len(mark) if found else 0
        return found

    def _skip_space(self) -> None:
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1


def _minimum(spec: PolicySpec) -> float:
    """The smallest number that is valid: a user's function may take negative ones."""
    return -LARGEST_FLOAT if spec.origin else 0.0
