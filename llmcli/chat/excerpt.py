"""The beginning of a text, in one line."""


def excerpt(text: str, length: int = 40) -> str:
    """At most so many characters; a cut shows."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"
