"""Suggestions for mistyped names."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

_MIN_SIMILARITY = 0.7  # below, unrelated words are suggested: personality and xtc_probability have 0.62
_SEPARATORS = re.compile(r"[-_/\s]+")
# Settings of other programs that are not settings of llmcli, and what to use instead.
_FOREIGN = {
    "dynatemp": "use a range as temperature, such as 0.3..1.3",
    "dynamictemperature": "use a range as temperature, such as 0.3..1.3",
    "tfs": "use min_p: llama.cpp no longer has tail-free sampling",
    "tfsz": "use min_p: llama.cpp no longer has tail-free sampling",
    "reppenslope": "use repeat_penalty: llama.cpp has no slope for it",
    "sampleorder": "use samplers, a list of names",
    "samplerorder": "use samplers, a list of names",
}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?` for the most similar known name, or an empty text."""
    names = nearest(word, known, 1)
    return f"did you mean '{names[0]}'?" if names else ""


def nearest(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names most similar to `word`, the best first, at most `count`.

    Separators and case do not count: `--top_p` is `--top-p`. Similar names come before names that start with `word`.
    """
    import difflib  # takes 3 ms, and is needed only after a mistake

    names = {_letters(name): name for name in known}
    letters = _letters(word)
    found = difflib.get_close_matches(letters, list(names), n=count, cutoff=_MIN_SIMILARITY)
    if len(letters) > 2:
        found += sorted((name for name in names if name.startswith(letters)), key=len)
    return [names[name] for name in dict.fromkeys(found)][:count]


def setting_hint(name: str, aliases: Mapping[str, Any]) -> str:
    """The hint for an unknown setting; `aliases` maps each known name to its setting, which has a `key`."""
    if hint := _FOREIGN.get(_letters(name)):
        return hint
    names = nearest(name, aliases, 1)
    return f"did you mean '{aliases[names[0]].key}'?" if names else ""


def _letters(name: str) -> str:
    return _SEPARATORS.sub("", name.lower())
