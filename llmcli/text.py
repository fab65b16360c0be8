"""The start of a text, in one line."""


def excerpt(text: str, length: int = 40) -> str:
    """At most `length` characters; a cut text ends with an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"
