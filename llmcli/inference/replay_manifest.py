"""The data that a replay of an answer needs beside its settings, as stored in JSON and in sessions."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from llmcli.engine.llama.context import Batches

_HEX = re.compile(r"[0-9a-f]{64}")
_MOST = 1 << 31
_LARGEST_CONTEXT = 1 << 24  # tokens
_MOST_THREADS = 1 << 12
_LONGEST = 1 << 16  # entries of a list


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """Texts and numbers only; an empty value means that it did not exist or was not known.

    Attributes:
        model_sha256: see `models.identity`.
        build: the release of llama-cpp-python.
        machine: see `engine.machine`.
        n_ctx: size of the context in tokens.
        threads: for generation, and for the prompt.
        gpu_layers: layers that were on a GPU.
        template_sha256: of the chat template; empty for a raw prompt.
        template: the chat template, if it was not the model's own.
        moment: the time that the template got (seconds since 1970), if it asks for it.
        prompt_sha256: of the prompt's tokens, as 32-bit numbers, the lowest byte first.
        layout: the batches of the prompt: tokens evaluated, tokens kept, number of such batches.
        settings_sha256: of the settings that decide which tokens are generated; see `recording`.
        grammar: the GBNF text, if it came from a file or a schema.
        system: the system prompt, if it came from a file.
        policy_sha256: of the file with the temperature policy.
        moves: changes of the temperature during the answer; see `engine.dial`.
        first: number of the first message in the prompt, if it did not contain all.
        begun: number of the answer that this one continues.
        beside: number of other answers in the same context, which may have shared its batches.
        drawn: number of tokens sampled, if the answer was stopped.
        flushed: whether the text held back at the end was printed, if the answer was stopped.
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
        """As JSON data, without values that equal their default."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {key: _plain(value) for key, (value, default) in values.items() if value != default}


def from_data(data: Any) -> Circumstances:
    """The circumstances in JSON data; unknown keys, of a newer version, are ignored.

    Raises:
        ValueError: naming the key that is missing or not valid.
    """
    if not isinstance(data, Mapping):
        raise ValueError("replay must be an object")
    values = {}
    for key, read in _READ.items():
        if key in data:
            try:
                values[key] = read(data[key])
            except (ValueError, TypeError):
                raise ValueError(f"replay.{key} is not valid") from None
    missing = next((key for key in _NEEDED if key not in values), "")
    if missing:
        raise ValueError(f"replay.{missing} is missing")
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
    batches: Batches = _rows(value, count, count, count)
    if any(kept > rows for rows, kept, _ in batches) or (batches and batches[-1][0] != batches[-1][1]):
        raise ValueError
    return batches


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
