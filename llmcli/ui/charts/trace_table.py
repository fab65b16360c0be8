"""A trace as a table, and the table of one token: its candidates, sampler by sampler."""

import math
import sys
from collections.abc import Sequence

from llmcli.engine.events import Alternative, Candidate, ChainStep, TokenInspection, TokenTrace
from llmcli.params.samplers import SAMPLERS
from llmcli.params.settings import Settings, fields, needed_settings
from llmcli.text import plural, sanitize
from llmcli.ui.terminal.cells import cells, fit, painted, visible, wrap
from llmcli.ui.terminal.console import is_terminal, wants_color
from llmcli.ui.terminal.output import columns, print_drawn, print_line, print_rows, print_text, stream

_HEADS = ("#", "TEXT", "P", "RANK", "TEMP", "ENTROPY", "CANDIDATES", "SENTENCE", "POLICY")
_SPARE = ("POLICY", "SENTENCE", "CANDIDATES", "RANK")
_SIGNS = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥"})  # for blanks
_WIDEST, _NARROW = 16, 10  # columns of the text of a token; the second in a narrow window
_SHORT_NAMES = {"logit_bias": "bias", "banned_strings": "bans"} | {one.name: one.heading for one in SAMPLERS.values()}
_JOINED = "\N{NO-BREAK SPACE}"
_WIDEST_BAR = 20  # columns


def print_trace(tokens: Sequence[TokenTrace]) -> None:
    """Print a trace as a table, with a summary."""
    width = _NARROW if columns() < 60 else _WIDEST
    rows = []
    for token in tokens:
        text = token_text(token.text or token.reasoning, width)
        numbers = (token.p, 4), (token.rank, 0), (token.temperature, 2), (token.entropy, 2), (token.candidates, 0)
        texts = ["" if value is None else f"{value:.{decimals}f}" for value, decimals in numbers]
        policy = f"{token.policy} (thinking)" if token.thinking else token.policy
        rows.append((str(token.i), text, *texts, str(token.sentence), policy))
    below = [_alternatives(token.top, width) for token in tokens]
    right = [head for head in _HEADS if head not in ("TEXT", "POLICY")]
    print_rows(_HEADS, rows, right=right, below=below, spare=_SPARE)
    print_line("\n" + "\n".join(wrap(summary_line(tokens), columns())))


def _alternatives(top: Sequence[Alternative], width: int) -> str:
    """The alternatives, each with its probability before and after the sampler chain; wrapped on a terminal."""
    parts = [f"{token_text(one.text, width)} {one.before:.3f}→{f'{one.p:.3f}' if one.p else 'out'}" for one in top]
    text = ", ".join(part.replace(" ", _JOINED) for part in parts)
    return "\n  ".join(wrap(text, columns() - 2)).replace(_JOINED, " ")


def token_text(text: str, columns: int) -> str:
    """The text of a token in at most so many columns, with visible blanks and newlines."""
    text = sanitize(text).translate(_SIGNS)
    return text if cells(text) <= columns else text[: fit(text, 0, columns - 1)] + "…"


def summary_line(tokens: Sequence[TokenTrace]) -> str:
    """The summary as text, without values that no token has."""
    facts = summary(tokens)
    texts = {
        "mean_temperature": "mean temperature {:.2f}",
        "mean_p": "mean probability {:.2f}",
        "mean_entropy": "mean entropy {:.2f} nats",
        "perplexity": "perplexity {:.2f}",
    }
    known = [text.format(facts[key]) for key, text in texts.items() if facts[key] is not None]
    return ", ".join([plural(int(facts["tokens"] or 0), "token"), *known])


def summary(tokens: Sequence[TokenTrace]) -> dict[str, float | int | None]:
    """Number of tokens, means, and perplexity exp(mean(-ln p)) in the distributions they were sampled from."""
    drawn = [token for token in tokens if token.id is not None]
    surprise = _mean([None if token.p is None else -math.log(max(token.p, sys.float_info.min)) for token in drawn])
    return {
        "tokens": len(drawn),
        "mean_temperature": _mean([token.temperature for token in drawn]),
        "mean_p": _mean([token.p for token in drawn]),
        "mean_entropy": _mean([token.entropy for token in drawn]),
        "perplexity": None if surprise is None else math.exp(surprise),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def print_why(inspected: TokenInspection, settings: Settings) -> None:
    """Print the table of one token, for a terminal or a file."""
    color = is_terminal(stream()) and wants_color(stream())
    rows = why_rows(inspected, settings, max(columns(101) - 1, 1), color)  # a row in a file has 100 columns
    (print_drawn if color else print_text)("".join(f"{row}\n" for row in rows))


def why_rows(inspected: TokenInspection, settings: Settings, width: int, color: bool) -> list[str]:
    """Rows of at most `width` columns (20 or more), safe to draw: the candidates, then the effect of each step."""
    table = _WhyTable(inspected, settings, width, color)
    rows = table.candidates()
    if max(map(visible, rows)) > width:
        rows = table.stacked_candidates()
    return [row.replace(_JOINED, " ") for row in [*rows, "", *table.effects()]]


class _WhyTable:
    """The rows about one token. A step that changed nothing has no column."""

    def __init__(self, inspected: TokenInspection, settings: Settings, width: int, color: bool) -> None:
        self._inspected, self._settings, self._width = inspected, settings, width
        self._strong, self._faint, self._bar = ("1", "2", "36") if color else ("", "", "")
        self._chain = chain = inspected.stepwise
        self._shown = [at for at, step in enumerate(chain.steps) if step.moved or step.live < step.before]
        self._heads = [("model", "%"), *(self._head(chain.steps[at]) for at in self._shown)]
        self._rank_width = max(len(str(one.rank)) for one in chain.candidates)

    def candidates(self) -> list[str]:
        """A row for each candidate, with a bar for its probability after the chain."""
        candidates = self._chain.candidates
        texts = [token_text(one.text, _WIDEST) for one in candidates]
        column = max(map(cells, texts))
        widths = [max(len(name) + 2, len(value), 5) for name, value in self._heads]
        start = " " * (self._rank_width + column + 4)
        names, values = (_aligned(words, widths) for words in zip(*self._heads, strict=True))
        rows = [painted(start + names, self._strong), painted((start + values).rstrip(), self._faint)]
        room = min(self._width - cells(start + names) - 2, _WIDEST_BAR)
        most = max(map(self._chain.after, candidates))
        for one, text in zip(candidates, texts, strict=True):
            look, mark, own = self._entry(one)
            bar = "█" * round(room * self._chain.after(one) / most) if room > 3 and most else ""
            line = f"{mark}  {text}{' ' * (column - cells(text))}{_aligned(own, widths)}"
            rows.append(painted(line, look) + (painted(f"  {bar}", self._bar) if bar else ""))
        return rows

    def stacked_candidates(self) -> list[str]:
        """Each candidate above its probabilities, for a narrow window; the first rows name the steps."""
        legend = " → ".join(f"{name} {value}".rstrip().replace(" ", _JOINED) for name, value in self._heads)
        rows = [painted(row, self._strong) for row in wrap(legend, self._width)]
        indent = " " * (self._rank_width + 3)
        room = max(self._width - len(indent), 1)
        for one in self._chain.candidates:
            look, mark, own = self._entry(one)
            line = " → ".join(value.replace(" ", _JOINED) for value in own).replace("→ -", "-")
            texts = f"{mark} {token_text(one.text, max(room, 4))}", *(indent + row for row in wrap(line, room))
            rows += [painted(text, look) for text in texts]
        return rows

    def effects(self) -> list[str]:
        """The effect of each step, and the token that was sampled."""
        steps, width = self._chain.steps, self._width
        described = [self._title_and_note(step) for step in steps]
        counts = [f"{step.before} → {step.live}" if step.live < step.before else str(step.before) for step in steps]
        column = max(len(title) for title, _ in [*described, ("sampled", "")]) + 2
        middle = max(map(len, counts), default=0) + 2
        unexplained = {"removed": " of the probability", "moved": " of the probability"}
        rows: list[str] = []
        for step, (title, note), count in zip(steps, described, counts, strict=True):
            effect = f"moved {percent(step.moved)}%" if step.moved else "no change"
            if step.live < step.before:
                effect = f"removed {percent(step.removed)}%"
            line = f"{title:<{column}}{count:<{middle}}{effect}"
            verb = effect.partition(" ")[0]
            if len(line + unexplained.get(verb, "")) <= width:
                line += unexplained.pop(verb, "")
            rows += wrap(line, width)
            rows += [painted(f"  {row}", self._faint) for row in wrap(note, max(width - 2, 10)) if row]
        drawn = next(one for one in self._chain.candidates if one.id == self._inspected.drawn)
        left = plural(steps[-1].live if steps else self._chain.n_vocab, "candidate")
        last = f"{token_text(drawn.text, _WIDEST)}, {percent(self._chain.after(drawn))}% of {left}"
        return [*rows, *(painted(row, self._strong) for row in wrap(f"{'sampled':<{column}}{last}", width))]

    def _entry(self, one: Candidate) -> tuple[str, str, list[str]]:
        """The look of a candidate, its mark with its rank, and its values; the last names the step that removed it."""
        look, sign = "", " "
        values = [percent(one.before), *(percent(one.p[at]) for at in self._shown if at < len(one.p))]
        if removed_by := self._chain.removed_by(one):
            look = self._faint
            values.append(f"- {short_name(removed_by)}")
        if one.id == self._inspected.drawn:
            look, sign = self._strong, ">"
        return look, f"{sign} {one.rank:>{self._rank_width}}", values

    def _head(self, step: ChainStep) -> tuple[str, str]:
        if step.name == "temperature":
            return short_name(step.name), f"{self._inspected.trace.temperature:.3g}"
        sampler = SAMPLERS.get(step.name)
        key = sampler.fields[0] if sampler and len(sampler.switches) < 2 else ""
        return short_name(step.name), fields()[key].format(getattr(self._settings, key)) if key in fields() else ""

    def _title_and_note(self, step: ChainStep) -> tuple[str, str]:
        """The name of a step with its value if it has only one, and its other values."""
        trace, title, note = self._inspected.trace, step.name, step_values(self._settings, step.name)
        key, _, value = note.partition("=")
        if key == step.name and " " not in value:
            title, note = f"{key} {value}", ""
        if step.name == "temperature":
            title, note = f"temp {trace.temperature:.3g}", f"policy {trace.policy}, entropy {trace.entropy:.2f} nats"
        if step.name == "constraint":
            note = f"{token_text(self._inspected.refused or '', _WIDEST)} was sampled first, and rejected"
        return title, note


def _aligned(words: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(f" {word:>{width}}" for word, width in zip(words, widths, strict=False))


def percent(p: float) -> str:
    """A probability in percent: 100, 21.3, 8.20, 0.912, <0.01."""
    value = 100 * p
    if value < 0.01:
        return "<0.01" if p else "0"
    if value >= 99.95:
        return "100"
    return f"{value:.{1 if value >= 9.995 else 2 if value >= 0.9995 else 3}f}"


def short_name(name: str) -> str:
    """The short name of a step."""
    return _SHORT_NAMES.get(name, name)


def step_values(settings: Settings, name: str) -> str:
    """The settings that the step reads, as KEY=VALUE, without those that have no effect."""
    own = SAMPLERS[name].fields if name in SAMPLERS else (name,)
    shown = []
    for key in filter(own.__contains__, fields()):
        field, related = fields()[key], (key, *needed_settings(fields()[key]))
        is_changed = any(getattr(settings, one) != fields()[one].default for one in related)
        if key in (name, "seed") or is_changed:
            shown.append(f"{key}={field.format(getattr(settings, key))}")
    return " ".join(shown)
