"""The variants of a comparison: KEY=V1,V2 for each setting that varies, and a number of seeds for each."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from llmcli.errors import UsageError
from llmcli.params.generation import GenerationParams, RequestParams
from llmcli.params.model import ModelParams
from llmcli.params.param import describe
from llmcli.params.samplers import seed_after
from llmcli.params.settings import SamplingParams, fields, find, to_datum
from llmcli.text import excerpt

Parse = Callable[[str, str], tuple[str, Any]]  # name and text of a setting -> its key and typed value

MOST = 64
_LONGEST = 28  # characters of a value in a label
_BRACKETS = {")": "(", "]": "[", "}": "{"}
_VARIED = {*describe(SamplingParams), *describe(GenerationParams), *describe(RequestParams)} - {"timeout"}


@dataclass(frozen=True)
class Variant:
    """One of the answers: the settings that differ from the other variants, as text and as typed values by key."""

    label: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class _Axis:
    """A setting with its values, as text and typed; `name` is the name that the user gave."""

    name: str
    key: str
    values: Sequence[tuple[str, Any]]


def parse_value(name: str, text: str) -> tuple[str, Any]:
    """The key and the typed value of a setting.

    Raises:
        UsageError: naming the setting, the rule and the value.
    """
    field = find(name)
    return field.key, field.parse_text(text)


def variants_of(specs: Sequence[str], seed: int, n_seeds: int = 1, parse: Parse = parse_value) -> list[Variant]:
    """Every combination of the values in `specs`, the last setting varying fastest, each with `n_seeds` seeds.

    The first seed is `seed`.

    Raises:
        UsageError: when one is not valid or cannot be compared, nothing varies, or there are too many combinations.
    """
    axes = [_axis(spec, parse) for spec in specs]
    keys = [axis.key for axis in axes]
    if repeated := next((key for key in keys if keys.count(key) > 1), ""):
        raise UsageError(f"{repeated} is given twice", f"give all its values together, as in {repeated}=V1,V2")
    if "seed" in keys and n_seeds > 1:
        raise UsageError(
            "several seeds are given twice: as seed=... and as the number of answers", "remove one of them"
        )
    count = n_seeds * prod(len(axis.values) for axis in axes)
    if count > MOST:
        raise UsageError(f"{count} combinations, and the limit is {MOST}", "use fewer values")
    if not axes and n_seeds == 1:
        raise UsageError("no setting to compare", "give a setting and its values, as in temp=0.2,0.8, or answers=4")
    return list(_combined(axes, seed, n_seeds))


def _combined(axes: Sequence[_Axis], seed: int, n_seeds: int) -> Iterator[Variant]:
    for chosen in product(*(axis.values for axis in axes)):
        pairs = list(zip(axes, chosen, strict=True))
        label = " ".join(f"{axis.name}={excerpt(text, _LONGEST) or 'none'}" for axis, (text, _) in pairs)
        values = {axis.key: value for axis, (_, value) in pairs}
        if n_seeds == 1:
            yield Variant(label, values)
            continue
        for number in range(n_seeds):
            one = seed_after(seed, number)
            yield Variant(f"{label} #{number + 1}" if label else f"seed={one}", {**values, "seed": one})


def _axis(spec: str, parse: Parse) -> _Axis:
    name, equals, text = spec.partition("=")
    if not equals or not name.strip():
        raise UsageError(f"the values to compare must have the form KEY=V1,V2, got {spec!r}", "as in temp=0.2,0.8")
    key = find(name).key
    if key in describe(ModelParams):
        raise UsageError(f"{key} needs a model reload and cannot be compared", f"run the program once for each {key}")
    if key not in _VARIED:
        raise UsageError(f"{key} cannot be compared", f"set it for all answers with {fields()[key].flags[0]}")
    texts = split_values(text)
    try:
        return _Axis(name.strip(), key, [(one, parse(name, one)[1]) for one in texts])
    except UsageError as error:
        is_torn = ";" not in text and any("=" in one or ":" in one for one in texts) and len(texts) > 1
        hint = f"separate values that contain a comma with ;, as in {name}=V1;V2"
        raise UsageError(str(error), hint if is_torn else error.hint) from None


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


def settings_data(variant: Variant) -> dict[str, Any]:
    """The settings of a variant as JSON data."""
    return {key: to_datum(fields()[key], value) for key, value in variant.values.items()}
