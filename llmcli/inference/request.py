"""The parts of a request: the prompt from text, files and stdin; the system prompt; grammar and chat template."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.errors import LlmcliError, UsageError
from llmcli.files import read_text
from llmcli.params.settings import Settings
from llmcli.text import ellipsize

if TYPE_CHECKING:  # a list of sessions needs no engine
    from llmcli.inference.engine import Engine, Prompt, TemplateOptions

ReadStdin = Callable[[], str]
# For models without a chat template: plain words, which a base model continues as well as anything. An answer of the
# model begins with the space after the colon, and is read again as it was written.
PLAIN_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n\n"
    "{% else %}{{ 'User:' if m.role == 'user' else 'Assistant:' }}"
    "{{ '' if m.content[:1] == ' ' else ' ' }}{{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
PLAIN_STOP = "\nUser:"
_MAX_NAME = 255  # characters; longer texts are not file names
# Languages whose name in a fence differs from their suffix; models and Markdown renderers know the others by suffix.
_SUFFIXES = {
    "bash": "bash sh",
    "c": "h",
    "cpp": "hpp",
    "javascript": "js mjs",
    "kotlin": "kt",
    "markdown": "md",
    "rust": "rs",
} | {"powershell": "ps1", "python": "py pyi", "ruby": "rb", "typescript": "ts", "yaml": "yml", "": "log text txt"}
_LANGUAGES = {suffix: language for language, suffixes in _SUFFIXES.items() for suffix in suffixes.split()}


def join_prompt(settings: Settings, piped: bool, read_stdin: ReadStdin) -> str:
    """The prompt, the files and what is piped in, in this order, with a blank line between.

    `-` as the prompt or as a file is stdin, at that place; otherwise a pipe's content comes last. Each file is a block
    under its name, as in the chat. A single file without a prompt is the prompt, verbatim; with `raw` every file is.

    Raises:
        UsageError: when there is nothing to ask.
        DiskError: for a file that cannot be read.
    """
    names = [name for name in (settings.prompt, *settings.file) if name is not None]
    if names.count("-") > 1:
        raise UsageError("stdin can be read only once, and '-' is given twice", "remove one of them")
    parts = [] if settings.prompt is None else [read_stdin() if settings.prompt == "-" else settings.prompt]
    parts += [_file_part(name, settings, read_stdin) for name in settings.file]
    if piped and "-" not in names:
        parts.append(read_stdin())
    kept = [part.rstrip("\n") if index < len(parts) - 1 else part for index, part in enumerate(parts)]
    text = "\n\n".join(part for part in kept if part)
    if not text.strip() and not (settings.raw and text):
        raise UsageError("no prompt", 'give a prompt, as in `llmcli generate "Why is the sky blue?"`')
    return text


def _file_part(name: str, settings: Settings, read_stdin: ReadStdin) -> str:
    """A file as a part of the prompt: stdin, the whole prompt itself, or a block under its name."""
    if name == "-":
        return read_stdin()
    is_the_prompt = not settings.prompt and len(settings.file) == 1
    if settings.raw or is_the_prompt:
        return read_text(name)
    return file_block(name, read_text(name))


def system_text(settings: Settings) -> str | None:
    """The system prompt: the text, or the content of `@FILE`."""
    text = settings.system
    if text and text.startswith("@"):
        return read_text(text[1:]).rstrip("\n")
    return text or None


def grammar_text(settings: Settings, warn: Callable[[str], object] | None = None) -> str | None:
    """The GBNF grammar of whichever of the three settings is given; `warn` gets what a schema asks and GBNF cannot do.

    Raises:
        UsageError: when two of them are given, or one does not parse.
    """
    given = [key for key in ("grammar", "grammar_file", "json_schema") if getattr(settings, key) is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} cannot be used together", "use one of them")
    if settings.grammar_file is not None:
        return read_text(settings.grammar_file)
    if settings.json_schema is not None:
        from llmcli.engine.sampling.grammar import schema_to_gbnf, unenforced_keywords

        schema = _inline_or_file(settings.json_schema)
        gbnf = schema_to_gbnf(schema)
        if warn and (words := unenforced_keywords(schema)):
            warn(f"json_schema: cannot enforce {', '.join(words)}; check the output")
        return gbnf
    if settings.grammar and settings.grammar.endswith(".gbnf"):
        raise UsageError(f"grammar must be GBNF, got '{ellipsize(settings.grammar)}'", "use --grammar-file for a file")
    return settings.grammar


def is_inline(text: str) -> bool:
    """Whether a schema or a template is the content itself; any other text is the name of a file."""
    return "{" in text or len(text) > _MAX_NAME or "\n" in text


def _inline_or_file(text: str) -> str:
    return text if is_inline(text) else read_text(text)


def build_prompt(engine: "Engine", settings: Settings, text: str, system: str | None) -> "Prompt":
    """The prompt as it is evaluated: through the chat template (a plain one if there is none), or verbatim with `raw`.

    Raises:
        LlmcliError: when the template fails.
    """
    from llmcli.inference.engine import TemplateOptions

    prefill = settings.prefill or ""
    if settings.raw:
        return engine.render(text, TemplateOptions("", prefill=prefill))
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": text})
    options = template_options(engine, settings)
    return engine.render(messages, replace(options, prefill=prefill, thinking=settings.think != "off"))


def template_options(engine: "Engine", settings: Settings) -> "TemplateOptions":
    """The chat template given in the settings, else the model's own, else a plain one."""
    from llmcli.inference.engine import TemplateOptions

    source, origin, is_given = engine.chat_template, "the model's chat template", settings.chat_template is not None
    if settings.chat_template is not None:
        try:
            source, origin = _inline_or_file(settings.chat_template), "the chat template"
        except LlmcliError as error:
            error.hint = "give a Jinja template or its file; llmcli has no built-in templates"
            raise
    if not source:
        source, origin = PLAIN_TEMPLATE, "the plain chat template"
    return TemplateOptions(source, origin, is_given)


def needs_plain_template(engine: "Engine", settings: Settings) -> bool:
    """Whether neither the settings nor the model bring a chat template that this request needs."""
    return not settings.raw and settings.chat_template is None and not engine.chat_template


def with_plain_stop(settings: Settings) -> Settings:
    """The settings for an answer under the plain template: it ends where the next turn of the user would begin."""
    if PLAIN_STOP in settings.stop:
        return settings
    return replace(settings, stop=(*settings.stop, PLAIN_STOP))


def file_block(name: str, text: str) -> str:
    """The text of a file between fences, under its name; the fence is longer than any in the text."""
    runs = re.findall("`{3,}", text)
    fence = "`" * (max(map(len, runs), default=2) + 1)
    name = "".join(char if char.isprintable() else "\ufffd" for char in name)
    end = "" if text.endswith("\n") or not text else "\n"
    return f"File {name}:\n{fence}{_language(name)}\n{text}{end}{fence}"


def _language(name: str) -> str:
    """The info string of the fence for a file of this name: python for x.py, "" if there is none."""
    path = Path(name)
    if path.name in ("Makefile", "Dockerfile"):
        return path.name.lower()
    suffix = path.suffix[1:].lower()
    known = _LANGUAGES.get(suffix)
    if known is not None:
        return known
    return suffix if suffix.isascii() and suffix.isalnum() and len(suffix) <= 10 else ""
