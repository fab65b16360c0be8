"""What an answer was made with beside its settings: all that is needed to repeat it, as data in JSON and sessions."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from llmcli.engine.layout import Batches

_HEX = re.compile(r"[0-9a-f]{64}")
_MOST = 1 << 31
_LARGEST_CONTEXT = 1 << 24  # tokens
_MOST_THREADS = 1 << 12
_LONGEST = 1 << 16  # entries of a list


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """Texts and numbers only; what is empty says that there was no such thing, or that nobody knew it.

    Attributes:
        model_sha256: see `models.identity`.
        build: the release of llama-cpp-python.
        machine: see `engine.machine`.
        n_ctx: tokens that the context held.
        threads: for generation, and for reading the prompt.
        gpu_layers: layers that were on a GPU.
        template_sha256: of the chat template; empty for a raw prompt.
        template: the chat template, where it was not the model's own.
        moment: seconds since 1970, as the template was told, where it asks for the time.
        prompt_sha256: of the prompt's tokens, as 32-bit numbers, the lowest byte first.
        layout: the batches in which the prompt was evaluated: rows, how many of them stayed, how many such batches.
        settings_sha256: of the settings that decide what comes; see `recording`.
        grammar: the GBNF text, where a file or a schema stood for it.
        system: the system prompt, where a file stood for it.
        policy_sha256: of the user's own file with the temperature policy.
        moves: the temperature moved by hand; see `engine.dial`.
        first: number of the first message that the model read, where it did not read all.
        begun: number of the answer that this one goes on with.
        beside: how many other answers its context had room for, and its batches may have been shared with.
        drawn: of an answer that was cut, how often a token was drawn for it.
        flushed: of an answer that was cut, whether the text held back at its end was let out.
    """

    model_sha256: str = ""
    build: str = ""
    machine: str = ""
    n_ctx: int
    threads: tuple[int, int]
    gpu_layers: int = 0
    template_sha256: str = ""
    template: str = ""
    moment: float = 0.0
    prompt_sha256: str
    layout: Batches
    settings_sha256: str = ""
    grammar: str = ""
    system: str = ""
    policy_sha256: str = ""
    moves: tuple[tuple[int, float], ...] = ()
    first: int | None = None
    begun: int | None = None
    beside: int = 0
    drawn: int | None = None
    flushed: bool = False

    def to_data(self) -> dict[str, Any]:
        """As JSON data; what is as it mostly is is left out."""
        found = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {key: _plain(value) for key, (value, default) in found.items() if value != default}


def from_data(data: Any) -> Circumstances:
    """The circumstances that JSON data tells; further keys, of a newer version, are left out.

    Raises:
        ValueError: saying which of them cannot be.
    """
    if not isinstance(data, Mapping):
        raise ValueError("it is no object")
    values = {}
    for key, read in _READ.items():
        if key in data:
            try:
                values[key] = read(data[key])
            except (ValueError, TypeError):
                raise ValueError(f"its {key} cannot be") from None
    missing = next((key for key in _NEEDED if key not in values), "")
    if missing:
        raise ValueError(f"its {missing} is missing")
    return Circumstances(**values)


def _plain(value: Any) -> Any:
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError
        return value

    return read


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _digest(value: Any) -> str:
    if not _HEX.fullmatch(_text(value)):
        raise ValueError
    return str(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _MOST * 1e3:  # nor NaN
        raise ValueError
    return float(value)


def _rows(value: Any, *kinds: Callable[[Any], Any]) -> tuple[tuple[Any, ...], ...]:
    if not isinstance(value, list | tuple) or len(value) > _LONGEST:
        raise ValueError
    return tuple(tuple(kind(one) for kind, one in zip(kinds, row, strict=True)) for row in value)


def _layout(value: Any) -> Batches:
    count = _whole(1, _LARGEST_CONTEXT)
    found: Batches = _rows(value, count, count, count)
    if any(kept > rows for rows, kept, _ in found) or (found and found[-1][0] != found[-1][1]):
        raise ValueError
    return found


_ID = _whole(1, 10**9)
_THREADS = _whole(1, _MOST_THREADS)
_READ: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("model_sha256", "template_sha256", "prompt_sha256", "settings_sha256", "policy_sha256"), _digest),
    **dict.fromkeys(("build", "machine", "template", "grammar", "system"), _text),
    "n_ctx": _whole(1, _LARGEST_CONTEXT),
    "threads": lambda value: _rows([value], _THREADS, _THREADS)[0],
    "gpu_layers": _whole(-1, 1 << 16),
    "moment": _number,
    "layout": _layout,
    "moves": lambda value: _rows(value, _whole(0, _MOST), _number),
    "first": _ID,
    "begun": _ID,
    "beside": _whole(0, 1 << 16),
    "drawn": _whole(0, _MOST),
    "flushed": _flag,
}
_NEEDED = ("n_ctx", "threads", "prompt_sha256", "layout")
