"""Why was this token drawn? The candidates step by step, as a table or, in a narrow window, below each other."""

import shutil
from collections.abc import Sequence

from llmcli.engine.dissect import Dissection
from llmcli.engine.stepwise import Candidate, Step
from llmcli.params.settings import Settings, fields
from llmcli.ui.console import is_terminal, wants_colour
from llmcli.ui.markdown.cells import Runs, cells, paint, plain, wrap
from llmcli.ui.output import put, put_drawn, stream
from llmcli.ui.step_values import step_values
from llmcli.ui.trace_table import token_text
from llmcli.ui.units import plural

_HEADS = {  # where the name of a step is too long for a column
    "temperature": "temp",
    "top_n_sigma": "sigma",
    "typical_p": "typical",
    "logit_bias": "bias",
    "banned_strings": "bans",
    "penalties": "penalty",
    "smoothing": "smooth",
    "adaptive_p": "adaptive",
    "mirostat_v2": "mirostat",
}
_VALUES = {  # the setting that stands for a step, where it is called otherwise
    "smoothing": "smoothing_factor",
    "dry": "dry_multiplier",
    "xtc": "xtc_threshold",
    "mirostat": "mirostat_tau",
    "mirostat_v2": "mirostat_tau",
    "adaptive_p": "adaptive_target",
}
_MEANINGS = {"took": " of the model's probability", "move": " of the probability"}
_DRAWN, _GONE, _BAR = "1", "2", "36"
_JOINED = "\N{NO-BREAK SPACE}"
_WIDEST_TOKEN, _WIDEST_BAR, _FILE = 16, 20, 100  # columns


def put_why(found: Dissection, settings: Settings) -> None:
    """Print the table for the terminal there is, or for a file.

    Raises:
        DiskError, ReaderGoneError: as `put` does.
    """
    out = stream()
    terminal = is_terminal(out)
    width = max(shutil.get_terminal_size().columns - 1, 1) if terminal else _FILE
    rows = why_rows(found, settings, width, terminal and wants_colour(out))
    (put_drawn if terminal else put)("".join(f"{row}\n" for row in rows))


def why_rows(found: Dissection, settings: Settings, width: int, colour: bool) -> list[str]:
    """Painted rows of at most `width` columns (20 or more), safe to draw: the candidates, then what each step did.

    A step that changed nothing has no column.
    """
    shown = [at for at, (left, step) in enumerate(_changes(found)) if step.moved or step.live < left]
    heads = [("model", "%"), *(_head(found, settings, found.stepwise.steps[at]) for at in shown)]
    rows = _table(found, heads, shown, width)
    if max(cells(plain(row)) for row in rows) > width:
        rows = _stacked(found, heads, shown, width)
    rows += [[], *_story(found, settings, width)]
    return [(paint if colour else plain)(_trimmed(row)) for row in rows]


def _changes(found: Dissection) -> list[tuple[int, Step]]:
    """Each step, and how many candidates there were before it."""
    steps = found.stepwise.steps
    return list(zip([found.stepwise.n_vocab, *(step.live for step in steps[:-1])], steps, strict=False))


def percent(p: float) -> str:
    """A probability in percent, as people read it: 100, 21.3, 8.20, 0.912, <0.01."""
    value = 100 * p
    if value < 0.01:
        return "<0.01" if p else "0"
    if value >= 99.95:
        return "100"
    return f"{value:.{1 if value >= 9.995 else 2 if value >= 0.9995 else 3}f}"


def short(name: str) -> str:
    """The name of a step where there is little room."""
    return _HEADS.get(name, name)


def _head(found: Dissection, settings: Settings, step: Step) -> tuple[str, str]:
    """Name and value of a column."""
    if step.name == "temperature":
        return short(step.name), f"{found.trace.temperature:.3g}"
    key = _VALUES.get(step.name, step.name)
    value = fields()[key].format(getattr(settings, key)) if key in fields() and key != "logit_bias" else ""
    return short(step.name), "" if key in ("grammar", "banned_strings") else value


def _course(found: Dissection, candidate: Candidate, shown: Sequence[int]) -> list[str]:
    """The cells of a candidate, the last one the name of what removed it."""
    course = [percent(candidate.before), *(percent(candidate.p[at]) for at in shown if at < len(candidate.p))]
    gone = found.stepwise.removed_by(candidate)
    return [*course, f"- {short(gone)}"] if gone else course


def _look(found: Dissection, candidate: Candidate) -> str:
    if candidate.id == found.drawn:
        return _DRAWN
    return _GONE if found.stepwise.removed_by(candidate) else ""


def _table(found: Dissection, heads: Sequence[tuple[str, str]], shown: Sequence[int], width: int) -> list[Runs]:
    candidates = found.stepwise.candidates
    texts = [token_text(one.text, _WIDEST_TOKEN) for one in candidates]
    ranks = max(len(str(one.rank)) for one in candidates)
    column = max(map(cells, texts))
    courses = [_course(found, one, shown) for one in candidates]
    widths = [max(len(name) + 2, len(value), 5) for name, value in heads]
    start = " " * (ranks + column + 4)
    rows: list[Runs] = [
        [("1", start + "".join(f" {name:>{size}}" for (name, _), size in zip(heads, widths, strict=True)))],
        [(_GONE, start + "".join(f" {value:>{size}}" for (_, value), size in zip(heads, widths, strict=True)))],
    ]
    room = min(width - cells(plain(rows[0])) - 2, _WIDEST_BAR)
    most = max(found.stepwise.after(one) for one in candidates)
    for one, text, course in zip(candidates, texts, courses, strict=True):
        mark, after = ">" if one.id == found.drawn else " ", found.stepwise.after(one)
        line = f"{mark} {one.rank:>{ranks}}  {text}{' ' * (column - cells(text))}"
        line += "".join(f" {cell:>{size}}" for cell, size in zip(course, widths, strict=False))
        bar = "█" * round(room * after / most) if room > 3 and after else ""
        rows.append([(_look(found, one), line), (_BAR, f"  {bar}")])
    return rows


def _stacked(found: Dissection, heads: Sequence[tuple[str, str]], shown: Sequence[int], width: int) -> list[Runs]:
    """Each candidate over its course, and above all of them what the numbers of a course are."""
    legend = " → ".join(f"{name} {value}".rstrip().replace(" ", _JOINED) for name, value in heads)
    rows = wrap([("1", legend)], width)
    ranks = max(len(str(one.rank)) for one in found.stepwise.candidates)
    indent = " " * (ranks + 3)
    for one in found.stepwise.candidates:
        look, mark = _look(found, one), ">" if one.id == found.drawn else " "
        text = token_text(one.text, max(width - len(indent), 4))
        line = " → ".join(cell.replace(" ", _JOINED) for cell in _course(found, one, shown)).replace("→ -", "-")
        rows.append([(look, f"{mark} {one.rank:>{ranks}} {text}")])
        rows += [[(look, indent), *row] for row in wrap([(look, line)], max(width - len(indent), 1))]
    return rows


def _story(found: Dissection, settings: Settings, width: int) -> list[Runs]:
    """What each step did, one after the other, and what was drawn in the end."""
    steps = found.stepwise.steps
    titles = [_title(found, settings, step) for step in steps]
    counts = [f"{left} → {step.live}" if step.live < left else str(left) for left, step in _changes(found)]
    column = max(map(len, [*titles, "drawn"])) + 2
    middle = max(map(len, counts), default=0) + 2
    told: set[str] = set()
    rows: list[Runs] = []
    for step, title, count in zip(steps, titles, counts, strict=True):
        did = _did(step, "→" in count)
        line = f"{title:<{column}}{count:<{middle}}{did}"
        meaning = _MEANINGS.get(did[:4], "")
        if did[:4] not in told and len(line + meaning) <= width:
            told.add(did[:4])
            line += meaning
        rows += [[("", line)]] if cells(line) <= width else wrap([("", line)], width)
        note = _note(found, settings, step)
        rows += [[(_GONE, "  "), *row] for row in wrap([(_GONE, note)], max(width - 2, 10))] if note else []
    drawn = next(one for one in found.stepwise.candidates if one.id == found.drawn)
    n_left = steps[-1].live if steps else found.stepwise.n_vocab
    text = token_text(drawn.text, _WIDEST_TOKEN)
    last = f"{'drawn':<{column}}{text}, {percent(found.stepwise.after(drawn))}% of {plural(n_left, 'candidate')}"
    return [*rows, *wrap([(_DRAWN, last)], width)]


def _title(found: Dissection, settings: Settings, step: Step) -> str:
    """The name of a step, with its value where it has just one."""
    if step.name == "temperature":
        return f"temp {found.trace.temperature:.3g}"
    name, _, value = step_values(settings, step.name).partition("=")
    return f"{name} {value}" if name == step.name and " " not in value else step.name


def _note(found: Dissection, settings: Settings, step: Step) -> str:
    """Its other values; of the temperature the part of the policy, and what that saw."""
    if step.name == "temperature":
        return f"policy {found.trace.policy}, entropy {found.trace.entropy:.2f} nats"
    if step.name == "grammar":
        return f"{token_text(found.refused or '', _WIDEST_TOKEN)} was drawn first, and refused"
    values = step_values(settings, step.name)
    return values if " " in values or not values.startswith(f"{step.name}=") else ""


def _did(step: Step, removed: bool) -> str:
    if removed:
        return f"took {percent(step.removed)}%"
    return f"moved {percent(step.moved)}%" if step.moved else "no change"


def _trimmed(row: Runs) -> Runs:
    """With the blanks that kept words together like any other, and without those at the end."""
    row = [(look, text.replace(_JOINED, " ")) for look, text in row]
    while row and not row[-1][1].strip():
        row = row[:-1]
    return [*row[:-1], (row[-1][0], row[-1][1].rstrip())] if row else row
