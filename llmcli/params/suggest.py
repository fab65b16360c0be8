"""The nearest known name to a mistyped one."""

from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean "x"?`, or an empty text when nothing is near."""
    import difflib  # costs 3 ms and is needed only after a mistake

    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), list(names), n=1, cutoff=0.6)
    return f'did you mean "{names[near[0]]}"?' if near else ""
