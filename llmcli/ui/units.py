"""Sizes, times and counts as text for people."""

import time


def gigabytes(n_bytes: int) -> str:
    """A size in decimal units, as disks and the hub count: 986 MB, 4.92 GB."""
    if n_bytes < 999_500:
        return f"{n_bytes / 1000:.0f} kB"
    return f"{n_bytes / 10**6:.0f} MB" if n_bytes < 999_500_000 else f"{n_bytes / 10**9:.2f} GB"


def count(number: int) -> str:
    """A number of parameters or downloads: 135M, 7.6B, 12k."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size * 0.9995:
            return f"{number / size:.3g}{unit}"
    return str(number)


def ago(then: float | None) -> str:
    """How long ago a moment (seconds since 1970) was: "3 days ago"; "never" for None."""
    if then is None:
        return "never"
    seconds = max(0.0, time.time() - then)
    for unit, length in (("year", 31_557_600), ("month", 2_629_800), ("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            number = int(seconds // length)
            return f"{plural(number, unit)} ago"
    return "just now"


def plural(number: int, noun: str) -> str:
    """A number of things: 1 message, 2 messages."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
