"""Settings of a decision: the model does not write an answer, it says how probable each possible one is."""

import json
import re

from llmcli.params.param import InvalidValueError, as_utf8, setting, settings_group

_CHOICES_SHAPE = "two choices or more, such as good,bad or good=DESCRIPTION;bad=DESCRIPTION, or @FILE"
_RATING_SHAPE = "LOW..HIGH with two integers, such as 1..5"
_MAX_LEVELS = 1000
DECISION_KEYS = ("choices", "predicate", "rating")  # one of them makes an answer a decision


def choices_from_data(value: object) -> tuple[str, ...]:
    """`a,b`, `a;b`, `@FILE`, a JSON list of texts, or a JSON object of values and descriptions; as a tuple of texts.

    Each text is `VALUE` or `VALUE=DESCRIPTION`, where an equals sign in the value is `\\=`, or `@FILE`.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(_CHOICES_SHAPE) from None
    if isinstance(value, str):
        if not value.strip():  # such as a variable of a shell that is not set
            raise ValueError(_CHOICES_SHAPE)
        if value == "none":
            return ()
        if value.startswith("@"):
            return (value,)
        return tuple(as_utf8(item.strip()) for item in value.split(";" if ";" in value else ","))
    if isinstance(value, dict):
        if not value or not all(text is None or isinstance(text, str) for text in value.values()):
            raise ValueError(_CHOICES_SHAPE)
        pairs = [(key.replace("=", "\\="), text) for key, text in value.items()]
        value = [f"{key}={text}" if text else key for key, text in pairs]
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise ValueError(_CHOICES_SHAPE)
    return tuple(value)


def split_choice(text: str) -> tuple[str, str]:
    """The value and the description of `VALUE=DESCRIPTION`; the description is empty where there is none."""
    value, *description = re.split(r"(?<!\\)=", text, maxsplit=1)
    return value.replace("\\=", "="), "".join(description).strip()


def rating_levels(text: str) -> range:
    """The levels of `LOW..HIGH`. Raises ValueError when it is not such a range."""
    found = re.fullmatch(r"\s*([+-]?\d{1,9})\s*\.\.\s*([+-]?\d{1,9})\s*", text, re.ASCII)
    if not found:
        raise InvalidValueError(_RATING_SHAPE, hint="write two dots, as in --rating 1..5" if "-" in text[1:] else "")
    if int(found[1]) >= int(found[2]):
        raise InvalidValueError(_RATING_SHAPE, f"{int(found[1])} is not below {int(found[2])}")
    levels = range(int(found[1]), int(found[2]) + 1)
    if len(levels) > _MAX_LEVELS:
        raise InvalidValueError(_RATING_SHAPE, f"it has {len(levels)} levels, and at most {_MAX_LEVELS} are possible")
    return levels


def _check_rating(text: str) -> str:
    levels = rating_levels(text)
    return f"{levels[0]}..{levels[-1]}"


@settings_group("Decision")
class DecisionParams:
    choices: tuple[str, ...] = setting(
        (),
        "Possible answers, one of which is chosen. Write a,b,c or VALUE=DESCRIPTION;..., or @FILE (one on each line).",
        metavar="A,B,...|@FILE",
        data=choices_from_data,
    )
    predicate: bool = setting(False, "Decision between yes and no, with the probability of yes.")
    rating: str | None = setting(
        None,
        "Rating on a scale of integers: the mean of the levels, weighted by their probabilities.",
        metavar="LOW..HIGH",
        suggest=("1..5", "1..10", "0..100"),
        check=_check_rating,
    )
    choice_prior: str | None = setting(
        None,
        "Calibration of a decision: text without content, whose answer is subtracted (auto = an empty text).",
        metavar="TEXT|auto",
        suggest=("auto", "N/A"),
        needs_any=DECISION_KEYS,
    )
