"""Settings of the result: what of an answer is passed on, and which of several answers."""

import re

from llmcli.params.param import InvalidValueError, as_utf8, setting, settings_group

MAX_SAMPLES = 256
BEST_RULES = ("logprob", "vote")
EXTRACT_NAMES = ("code", "json", "last-line")


def code_language(extract: str) -> str | None:
    """The language of `code:LANGUAGE`; empty for `code`, None for another value of `extract`."""
    found = re.fullmatch(r"code(?::([\w+#.-]+))?", extract)
    return found and (found[1] or "")


def _check_extract(text: str) -> str:
    names = "code, code:LANGUAGE, json, last-line, or a regular expression"
    if not text.strip():
        raise InvalidValueError(names)
    if text in EXTRACT_NAMES or code_language(text) is not None:
        return text
    try:
        re.compile(as_utf8(text))
    except (re.error, OverflowError, RecursionError) as error:
        raise InvalidValueError(f"{names} of Python", str(error)) from None
    return text


def _check_best(text: str) -> str:
    if not text.strip():
        raise InvalidValueError("logprob, vote, or the name of a task that judges")
    return text


@settings_group("Result")
class ResultParams:
    extract: str | None = setting(
        None,
        "Part of the answer to print: its first code block (code:python = the first one in Python), its first JSON, "
        "its last line, or the first match of a regular expression (group 1 if it has one).",
        metavar="code|json|last-line|REGEX",
        suggest=EXTRACT_NAMES,
        default_text="none",
        check=_check_extract,
    )
    samples: int = setting(
        1, "Number of answers, each with its own seed.", min=1, max=MAX_SAMPLES, suggest=("3", "5", "9")
    )
    best: str | None = setting(
        None,
        "Choice of one of the samples: by its mean log-probability, the most frequent one, or by a task that judges, "
        "such as best-answer.",
        metavar="logprob|vote|TASK",
        suggest=(*BEST_RULES, "best-answer"),
        default_text="none",
        needs_any=("samples",),
        check=_check_best,
    )
