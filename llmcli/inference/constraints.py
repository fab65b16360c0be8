"""What the settings say that an answer must match."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from llmcli.engine.events import Constraint
from llmcli.errors import LlmcliError, UsageError
from llmcli.files import is_inline, read_text
from llmcli.inference.schema_shorthand import SHAPE, expand_shorthand, is_json, is_shorthand
from llmcli.params.settings import Settings
from llmcli.text import ellipsize

CONSTRAINT_KEYS = ("grammar", "grammar_file", "json_schema", "regex")


def read_constraint(settings: Settings, warn: Callable[[str], object] | None = None) -> Constraint | None:
    """The constraint that one of the settings gives; `warn` gets what only the finished answer can be checked for.

    Raises UsageError when two of them are given, or one is not valid or cannot be enforced.
    """
    given = [key for key in CONSTRAINT_KEYS if getattr(settings, key) is not None]
    if len(given) > 1:
        hint = "use one of them; the value `none` removes the other"
        raise UsageError(f"{' and '.join(given)} cannot be used together", hint)
    if settings.json_schema is not None:
        from llmcli.inference.json_schema import read_schema  # 6 ms, and few requests have a schema

        schema = read_schema(schema_text(settings.json_schema, settings.encoding))
        if warn and schema.unenforced:
            warn(_unenforced_note(schema.unenforced, settings.constraint_retries))
        return schema
    if settings.regex is not None:
        return read_regex(settings.regex)
    if settings.grammar_file is not None:
        return Constraint("grammar", read_text(settings.grammar_file, settings.encoding))
    if settings.grammar is None:
        return None
    if settings.grammar.endswith(".gbnf"):
        raise UsageError(f"grammar must be GBNF, got '{ellipsize(settings.grammar)}'", "use --grammar-file for a file")
    return Constraint("grammar", settings.grammar)


def recorded_constraint(grammar: str, schema: str, settings: Settings) -> Constraint | None:
    """The constraint of a recorded answer; no file is read. Raises UsageError when it is not valid."""
    if grammar:
        return Constraint("grammar", grammar)
    if schema:
        from llmcli.inference.json_schema import read_schema

        return read_schema(schema)
    return read_constraint(replace(settings, grammar_file=None, json_schema=None))


def schema_text(text: str, encoding: str = "utf-8") -> str:
    """The JSON of a schema that is given as JSON, in the shorthand, or as the name of a file with one of the two."""
    if not is_inline_schema(text):
        try:
            text = read_text(text, encoding)
        except LlmcliError as error:
            hint = f"give a JSON schema, its file, or {SHAPE}"
            if is_json(text):
                reason = f"json_schema must be a JSON object or the name of a file, and '{ellipsize(text)}' is neither"
                raise UsageError(reason, hint) from None
            error.hint = error.hint or hint
            raise
    return expand_shorthand(text) if is_shorthand(text) else text


def is_inline_schema(text: str) -> bool:
    """Whether a schema is the content itself; any other text is the name of a file."""
    return is_inline(text) or is_shorthand(text) or text.strip() in ("true", "false") or text.lstrip()[:1] == "["


@dataclass(frozen=True)
class Regex(Constraint):
    """A regular expression that the whole answer matches."""

    def problem(self, answer: str) -> str | None:
        """A stop string can cut an answer where the expression does not end."""
        from llmcli.engine.sampling.guidance import matches_regex

        return None if matches_regex(self.text, answer) else "it ends too early"


def read_regex(text: str) -> Regex:
    """Raises UsageError, with the reason, for what llguidance does not support."""
    from llmcli.engine.sampling.guidance import refusal, start_error

    hint = "use the syntax of Rust's regex crate: no look-around, no back references, no \\b"
    if text != text.encode("utf-8", "replace").decode():
        raise UsageError("regex is not valid UTF-8")
    if re.search(r"(?<!\\)(\\\\)*\\\Z", text):  # llguidance would drop it
        raise UsageError("regex ends in the middle of an escape", "a backslash itself is \\\\")
    regex = Regex("regex", _with_ascii_digits(text))
    if reason := refusal("regex", regex.text):
        raise UsageError(f"regex is not supported: {reason}", hint)
    if reason := start_error("regex", regex.text):
        raise UsageError(f"regex: {reason}", "simplify it")
    return regex


def _with_ascii_digits(regex: str) -> str:
    r"""`\d` is 0 to 9, as in JSON schemas: in Rust it is a digit of any script."""
    result, in_class = "", False
    for piece in re.findall(r"\\.|.", regex, re.DOTALL):
        if piece == r"\d":
            piece = "0-9" if in_class else "[0-9]"
        in_class = piece == "[" or (in_class and piece != "]")
        result += piece
    return result


def _unenforced_note(places: Sequence[str], retries: int) -> str:
    shown = ", ".join(places[:3]) + (f" and {len(places) - 3} more" if len(places) > 3 else "")
    again = (
        f"generated again if it does not match, at most {retries} times" if retries else "refused if it does not match"
    )
    return f"json_schema: only the finished answer shows whether it matches {shown}; it is {again}"
