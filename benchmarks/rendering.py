"""How much of the time an answer takes at 100 tokens a second goes into showing it?

`python -m benchmarks.rendering` prints, for answers of 200, 2,000 and 8,000 tokens of several kinds, the share of the
generation time that `AnswerView` needs (goal: at most 5 %, however long the answer).
"""

from itertools import cycle, islice
from time import perf_counter

from llmcli.ui.markdown.view import AnswerView, preload

_RATE = 100  # tokens a second
_LENGTHS = (200, 2000, 8000)
_PROSE = "The **quick** brown fox jumps over the `lazy` dog, and *nobody* knows why it does so every single day. "
_KINDS = {
    "prose": _PROSE * 5 + "\n\n",
    "list": "1. " + _PROSE + "\n   - " + _PROSE + "\n",
    "code": "```python\ndef f(x: int) -> str:\n    '''Say it.'''\n    # why\n    return f'{x + 1!r}' * 20\n\n```\n\n",
    "one program": "    value = compute(left, right, key='name')  # line after line\n",
    "table": "| alpha | beta **b** | `gamma` |\n",
    "one line": _PROSE,
}
_HEADS = {"one program": "```python\n", "table": "| a | b | c |\n|---|---|---|\n"}


def tokens(kind: str, count: int) -> list[str]:
    """An answer in pieces of about four characters, as models write."""
    text = _HEADS.get(kind, "") + "".join(islice(cycle(_KINDS[kind]), 4 * count))
    return [text[at : at + 4] for at in range(0, 4 * count, 4)]


def share(pieces: list[str], columns: int = 100, rows: int = 40) -> tuple[float, int]:
    """The view's share of the generation time, and the bytes it wrote.

    The view's clock advances by a token's time at each token, and by the time that the view itself takes.
    """
    spent = ideal = 0.0
    began = 0.0
    written = 0

    def write(text: str) -> None:
        nonlocal written
        written += len(text.encode())

    def clock() -> float:
        return ideal + spent + (perf_counter() - began if began else 0.0)

    view = AnswerView(write, lambda: (columns, rows), "dark", True, clock)
    for step in [*(lambda piece=piece: view.push(piece) for piece in pieces), view.finish]:
        began = perf_counter()
        step()
        spent += perf_counter() - began
        began = 0.0
        ideal += 1 / _RATE
    return spent / (len(pieces) / _RATE), written


def main() -> None:
    preload()
    print(f"{'answer':12} {'tokens':>6} {'share':>7} {'ms':>8} {'bytes/token':>12}")
    for kind in _KINDS:
        for count in _LENGTHS:
            part, written = share(tokens(kind, count))
            print(f"{kind:12} {count:6} {part:7.2%} {1000 * part * count / _RATE:8.0f} {written / count:12.1f}")


if __name__ == "__main__":
    main()
