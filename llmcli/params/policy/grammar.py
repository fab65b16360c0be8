"""The grammar of temperature policies: from text to data, and back.

    policy   = split | term
    split    = "think=" term ",answer=" term
    term     = "(" policy ")" | range | name [":" ...]
    range    = number [".." number ["^" number]]
    numbers  = name [":" [number] {"," key "=" number}]
    schedule = name ":" number "->" number "@" number
    parts    = name ":" term {"," term}

After each of the last three `,clamp=number..number` may stand. An option belongs to the nearest name before it.
"""

import re
from inspect import signature

from llmcli.params.policy.registry import Kind, find_kind, known_names
from llmcli.params.policy.tree import Entropy, Fixed, Named, Policy
from llmcli.params.suggest import did_you_mean
from llmcli.params.values import LARGEST_FLOAT, show

SHAPE = "a number such as 0.8 or a range such as 0.3..1.3 or 0.3..1.3^0.7, or a policy such as sentence:1.1,0.7,0.4"
_NUMBER = re.compile(r"[+-]?(?:(?:\d+(?:\.(?!\.)\d*)?|\.\d+)(?:e[+-]?\d+)?|inf(?:inity)?\b|nan\b)", re.IGNORECASE)
_NAME = re.compile(r"[^\W\d]\w*")
_OPTION = re.compile(r"\s*,\s*([^\W\d]\w*)\s*=")
_FIRST_OPTION = re.compile(r"\s*:\s*([^\W\d]\w*)\s*=")
_SIDE = re.compile(r"\s*(think|answer)\s*=")
_SIDES = ("think", "answer")
_DEEPEST = 8  # a policy inside a policy, and a parenthesis inside a parenthesis


class MisplacedError(ValueError):
    """What is wrong and where: `at` is an offset into the text. The message completes the sentence "must be ..."."""

    def __init__(self, rule: str, at: int) -> None:
        super().__init__(rule)
        self.at = at


def parse_policy(text: str) -> Policy:
    """The policy that `text` spells.

    Raises:
        ValueError: whose text completes the sentence "must be ...".
    """
    parser = _Parser(text)
    policy = parser.policy(0)
    if not parser.done():
        raise parser.wrong()
    return policy


class _Parser:
    """Reads one text from left to right; `_kind` is the named policy that is being read, for messages."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._open = 0
        self._kind: Kind | None = None

    def done(self) -> bool:
        self._skip()
        return self._at == len(self._text)

    def wrong(self, what: str = "", at: int | None = None) -> MisplacedError:
        """Something else should stand here, or at `at`."""
        shape = f"like {self._kind.example}" if self._kind else SHAPE
        return MisplacedError(f"{shape}; {what}" if what else shape, self._at if at is None else at)

    def policy(self, depth: int) -> Policy:
        found = _SIDE.match(self._text, self._at)
        if not found:
            return self._term(depth)
        outer, self._kind = self._kind, find_kind("think")
        first, self._at = found[1], found.end()
        second = next(side for side in _SIDES if side != first)
        sides = {first: self._term(depth + 1)}
        if not self._take(",") or not (found := _SIDE.match(self._text, self._at)):
            raise self.wrong(f"{second}= is missing")
        if found[1] == first:
            raise self.wrong(f"{first}= is there twice", found.start(1))
        self._at = found.end()
        sides[second] = self._term(depth + 1)
        self._kind = outer or self._kind
        return Named("think", (sides["think"], sides["answer"]))

    def _term(self, depth: int) -> Policy:
        if depth > _DEEPEST:
            raise self.wrong("policies inside policies go eight deep")
        if self._take("("):
            return self._parenthesis(depth)
        self._skip()
        found = _NAME.match(self._text, self._at)
        if not found or _NUMBER.match(self._text, self._at):
            return self._range()
        kind = find_kind(found[0]) if found[0] != "clamp" else None
        if not kind or kind.form == "split":
            raise self._unknown(found[0])
        self._at, outer, self._kind = found.end(), self._kind, kind
        read = {"numbers": self._numbers, "schedule": self._schedule, "parts": self._parts}[kind.form]
        policy = self._clamped(read(kind, depth))
        self._kind = outer or kind
        return policy

    def _parenthesis(self, depth: int) -> Policy:
        """POLICY), of which `write` sets one around each policy inside a policy: they are counted on their own."""
        if self._open == _DEEPEST:
            raise self.wrong("parentheses go eight deep")
        self._open += 1
        policy = self.policy(depth)
        if not self._take(")"):
            raise self.wrong("a ) is missing")
        self._open -= 1
        return policy

    def _unknown(self, name: str) -> MisplacedError:
        hint = did_you_mean(name, known_names())
        if name in _SIDES:
            hint = "write think=1.0,answer=0.6"
        return MisplacedError(f"{SHAPE}; there is no policy {_short(name)}" + (f" ({hint})" if hint else ""), self._at)

    def _range(self) -> Policy:
        start = self._at
        low = self._number()
        if not self._take(".."):
            if self._text.startswith("^", self._at):
                raise self.wrong()
            return Fixed(low)
        high = self._number()
        if low > high:
            raise MisplacedError(f"a range from low to high: {show(high)}..{show(low)}", start)
        if not self._take("^"):
            return Entropy(low, high)
        self._skip()
        at, exponent = self._at, self._number()
        if not exponent:
            raise MisplacedError("a range with an exponent above 0", at)
        return Entropy(low, high, exponent)

    def _numbers(self, kind: Kind, _depth: int) -> Policy:
        """`NAME`, `NAME:NUMBER`, `NAME:NUMBER,KEY=NUMBER` and `NAME:KEY=NUMBER`."""
        args: tuple[float, ...] = ()
        options: dict[str, float] = {}
        found = _FIRST_OPTION.match(self._text, self._at) if kind.origin else None
        if not found and self._take(":"):
            args = (self._number(_least(kind)),)
        elif not kind.origin:
            raise self.wrong("a : and a number are missing")
        while found := found or _OPTION.match(self._text, self._at):
            if found[1] in ("clamp", *_SIDES):
                break
            self._option(kind, found, options)
            found = None
        return Named(kind.name, args, tuple(options.items()))

    def _option(self, kind: Kind, found: re.Match[str], options: dict[str, float]) -> None:
        key, self._at = found[1], found.start(1)
        if key in options:
            raise self.wrong(f"{_short(key)} is there twice")
        if not kind.origin and key not in list(signature(kind.load()).parameters)[2:]:
            raise self.wrong(f"{kind.name} has no {_short(key)}")
        self._at = found.end()
        options[key] = self._number(_least(kind))

    def _schedule(self, kind: Kind, _depth: int) -> Policy:
        """`NAME:FROM->TO@TOKENS`."""
        self._expect(":")
        start = self._number(above=kind.positive)
        self._expect("->", "a target is missing: quote the policy, for > has a meaning in the shell")
        end = self._number(above=kind.positive)
        self._expect("@", "over how many tokens is missing")
        self._skip()
        at, tokens = self._at, self._number(above=True)
        if tokens != int(tokens):
            raise self.wrong("a whole number of tokens is wanted", at)
        return Named(kind.name, (start, end, tokens))

    def _parts(self, kind: Kind, depth: int) -> Policy:
        """`NAME:POLICY,POLICY`."""
        self._expect(":")
        parts = [self._term(depth + 1)]
        while not _OPTION.match(self._text, self._at) and self._take(","):
            parts.append(self._term(depth + 1))
        return Named(kind.name, tuple(parts))

    def _clamped(self, policy: Policy) -> Policy:
        found = _OPTION.match(self._text, self._at)
        if not found or found[1] in _SIDES:
            return policy
        if found[1] != "clamp":
            raise self.wrong(f"{self._kind.name if self._kind else 'it'} has no {_short(found[1])}", found.start(1))
        self._at = found.end()
        self._skip()
        start, low = self._at, self._number()
        self._expect("..")
        high = self._number()
        if low > high:
            raise MisplacedError(f"clamped from low to high: clamp={show(high)}..{show(low)}", start)
        return Named("clamp", (policy, low, high))

    def _number(self, least: float = 0.0, above: bool = False) -> float:
        self._skip()
        found = _NUMBER.match(self._text, self._at)
        if not found:
            raise self.wrong("a number is missing")
        value = float(found[0])
        if not least <= value <= LARGEST_FLOAT:
            raise MisplacedError("0 or more and finite" if least == 0 else "finite", self._at)
        if above and not value:
            raise self.wrong("a number above 0 is wanted")
        self._at = found.end()
        return value

    def _expect(self, mark: str, what: str = "") -> None:
        if not self._take(mark):
            raise self.wrong(what or f"{mark} is missing")

    def _take(self, mark: str) -> bool:
        self._skip()
        found = self._text.startswith(mark, self._at)
        self._at += len(mark) if found else 0
        return found

    def _skip(self) -> None:
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1


def _least(kind: Kind) -> float:
    """The smallest number that may be given: a function of the user's own may take negative ones."""
    return -LARGEST_FLOAT if kind.origin else 0.0


def _short(name: str) -> str:
    """A name as typed, short enough for a message."""
    return name if len(name) <= 30 else name[:27] + "..."


def write(policy: Named) -> str:
    """The text that `parse_policy` reads back as `policy`."""
    args = [show(arg) if isinstance(arg, float) else str(arg) for arg in policy.args]
    inner = [f"({text})" if isinstance(arg, Named) else text for arg, text in zip(policy.args, args, strict=True)]
    if policy.name == "think":
        return f"think={inner[0]},answer={inner[1]}"
    if policy.name == "clamp":
        return f"{args[0]},clamp={args[1]}..{args[2]}"
    kind = find_kind(policy.name)
    if kind and kind.form == "schedule":
        return f"{policy.name}:{args[0]}->{args[1]}@{args[2]}"
    words = [*inner, *(f"{key}={show(value)}" for key, value in policy.options)]
    return f"{policy.name}:{','.join(words)}" if words else policy.name
