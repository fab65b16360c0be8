"""Requests from settings: text, files and stdin; system prompt; chat template."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.engine.events import Cancellation, Constraint, Message, Prompt, Request
from llmcli.errors import ContextOverflowError, LlmcliError, UsageError, labeled
from llmcli.files import is_inline, is_stdin, read_text
from llmcli.inference.constraints import read_constraint
from llmcli.params.generation import RequestParams, template_args_as_data
from llmcli.params.param import fields_of
from llmcli.params.sampler_chain import check_chain
from llmcli.params.settings import Layer, ResolvedSettings, Settings
from llmcli.text import did_you_mean, without_line_feed

if TYPE_CHECKING:  # a list of sessions needs no engine
    from llmcli.inference.engine import Engine, TemplateOptions

# For models without a chat template: plain words, which a base model continues as well as anything. An answer of the
# model begins with the space after the colon, and is read again as it was written.
PLAIN_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n\n"
    "{% else %}{{ 'User:' if m.role == 'user' else 'Assistant:' }}"
    "{{ '' if m.content[:1] == ' ' else ' ' }}{{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
PLAIN_STOP = "\nUser:"
_PIECE = 1 << 14  # characters of a long text that are tokenized at a time, in about 10 ms
_CUT_TOKENS = 8  # more than a cut between two pieces adds
# Languages whose name in a fence differs from their suffix; models and Markdown renderers know the others by suffix.
_LANGUAGES = (
    {"sh": "bash", "h": "c", "hpp": "cpp", "js": "javascript", "mjs": "javascript", "kt": "kotlin", "md": "markdown"}
    | {"ps1": "powershell", "py": "python", "pyi": "python", "rb": "ruby", "rs": "rust", "ts": "typescript"}
    | {"yml": "yaml", "log": "", "text": "", "txt": ""}
)


def stdin_options(settings: Settings) -> list[str]:
    """The option, if there is one, that reads stdin: with `-` or /dev/stdin as its file. Raises UsageError for two."""
    files = {"--prompt": "-" if settings.prompt == "-" else None, "--system": system_file(settings.system)}
    files |= {"--grammar-file": settings.grammar_file, "--json-schema": settings.json_schema}
    given = [*files.items(), *(("--file", name) for name in settings.file)]
    given += [("--choices", system_file(text)) for text in settings.choices if text.startswith("@")]
    if not settings.raw:
        given.append(("--chat-template", settings.chat_template))
    names = [option for option, name in given if name and is_stdin(name)]
    if len(names) > 1:
        both = " and ".join(dict.fromkeys(names))
        twice = "two options read it" if len({*names}) > 1 else "it is given twice"
        raise UsageError(f"stdin can be read only once, and {twice}: {both}", "remove one of them, or use a file")
    return names


def join_prompt(settings: Settings, piped: bool, read_stdin: Callable[[], str]) -> str:
    """The files, the prompt and what is piped in, in this order, with a blank line between.

    A second question about a file then begins as the first one did, and is evaluated from where they differ. Each file
    is a block under its name, as in the chat. A single file without a prompt is the prompt; with `raw` every file is,
    verbatim, after the prompt. `-` as the prompt is stdin, and as a file it is stdin like any other file; otherwise a
    pipe's content comes last, unless another option reads it. Without `raw`, a line feed at the end of stdin or of a
    file that is the prompt does not count, so that `echo hi |` asks the same as the argument `hi`. Raises UsageError
    when there is nothing to ask.
    """
    is_the_prompt, reads_stdin = not settings.prompt and len(settings.file) == 1, stdin_options(settings)
    tidy = str if settings.raw else without_line_feed
    parts = [] if settings.prompt is None else [tidy(read_stdin()) if settings.prompt == "-" else settings.prompt]
    blocks = []
    for name in settings.file:
        text = read_stdin() if is_stdin(name) else read_text(name, settings.encoding)
        if settings.raw or is_the_prompt:
            parts.append(tidy(text))
        else:
            blocks.append(file_block("stdin" if is_stdin(name) else name, text))
    parts = [*blocks, *parts]
    if piped and not reads_stdin:
        parts.append(tidy(read_stdin()))
    kept = [part.rstrip("\n") if index < len(parts) - 1 else part for index, part in enumerate(parts)]
    text = "\n\n".join(part for part in kept if part)
    if not text.strip() and not (settings.raw and text):
        read = ["stdin" if is_stdin(name) else name for name in settings.file]
        read += ["stdin"] if settings.prompt == "-" or (piped and not reads_stdin) else []
        why = f": {' and '.join(read)} {'is' if len(read) == 1 else 'are'} empty" if read else ""
        raise UsageError(f"no prompt{why}", 'give a prompt, as in `llmcli generate "Why is the sky blue?"`')
    return text


def system_file(text: object) -> str | None:
    """The file that a system prompt names with `@FILE`, or `-` for stdin; None if it is a text."""
    if not isinstance(text, str) or (text != "-" and not text.startswith("@")):
        return None
    return text.removeprefix("@")


def system_text(settings: Settings) -> str | None:
    """The system prompt: the text, or the content of `@FILE`."""
    file = system_file(settings.system)
    return settings.system or None if file is None else read_text(file, settings.encoding).rstrip("\n")


@dataclass(frozen=True)
class Question:
    """What a model is asked, read and checked before there is a model; `label` names it in errors."""

    resolved: ResolvedSettings
    text: str
    system: str | None
    constraint: Constraint | None
    label: str = ""

    @property
    def settings(self) -> Settings:
        return self.resolved.settings

    def over(self, defaults: Layer) -> "Question":
        """The question with the model's own settings below its own, and with a seed."""
        return replace(self, resolved=self.resolved.over(defaults).with_seed())


def read_question(resolved: ResolvedSettings, text: str, warn: Callable[[str], object], label: str = "") -> Question:
    """The question `text`, with the system prompt and the constraint of the settings; `warn` as in `read_constraint`.

    Raises LlmcliError, with the label, for settings that are not valid together, or a file that cannot be read.
    """
    settings = resolved.settings
    with labeled(label):
        check_chain(settings)
        return Question(resolved, text, system_text(settings), read_constraint(settings, warn), label)


def make_requests(engine: "Engine", questions: Sequence[Question], cancellation: Cancellation) -> list[Request]:
    """The requests for questions, in the words of the chat template, or of a plain one. Raises as `build_prompt`."""
    prompts: dict[tuple[object, ...], Prompt] = {}  # one text may be long, and asked with many settings
    requests = []
    for one in questions:
        settings = with_plain_stop(one.settings, template_options(engine, one.settings).source)
        key = one.text, one.system, *(getattr(settings, name) for name in fields_of(RequestParams))
        if key not in prompts:
            prompts[key] = build_prompt(engine, settings, one.text, one.system, cancellation)
        requests.append(Request(prompts[key], settings, one.constraint, cancellation=cancellation, label=one.label))
    return requests


def build_prompt(
    engine: "Engine",
    settings: Settings,
    request: str | Sequence[Message],
    system: str | None,
    cancellation: Cancellation | None = None,
    options: "TemplateOptions | None" = None,
) -> Prompt:
    """The prompt as it is evaluated: through the chat template (a plain one if there is none); verbatim with `raw`.

    `request` is what the user says, or messages; `system` is not added to messages that begin with a system prompt.
    `options` are those of `template_options`, unless they are given.
    Raises ContextOverflowError as soon as it is certain that the prompt does not fit, and KeyboardInterrupt when it is
    cancelled.
    """
    messages = [{"role": "user", "content": request}] if isinstance(request, str) else [*request]
    if system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    is_raw = settings.raw and isinstance(request, str)
    text = str(request) if is_raw else "".join(str(message["content"]) for message in messages)
    options = options or template_options(engine, settings)
    check_length(engine, settings, text + options.prefill, cancellation)
    return engine.render(request if is_raw else messages, options)


def check_length(engine: "Engine", settings: Settings, text: str, cancellation: Cancellation | None = None) -> None:
    """Count the tokens of a long text piece by piece: to tokenize all of it may take minutes and gigabytes.

    Raises as `build_prompt`.
    """
    if len(text) <= 2 * _PIECE or not engine.capabilities.tokens:
        return
    n_ctx, count = settings.n_ctx or engine.n_ctx_train, 0
    for start in range(0, len(text), _PIECE):
        if cancellation and cancellation.is_set():
            raise KeyboardInterrupt
        piece = text[start : start + _PIECE]
        count += max(len(engine.tokenizer.tokenize(piece, parse_special=settings.raw)) - _CUT_TOKENS, 0)
        if count >= n_ctx:
            raise ContextOverflowError(
                f"the prompt has more than {count} tokens, and the context has {n_ctx}",
                "shorten the prompt" + (" or raise --ctx-size" if settings.n_ctx else ""),
                {"n_prompt_tokens": count, "n_ctx": n_ctx},
            )


def template_options(engine: "Engine", settings: Settings) -> "TemplateOptions":
    """The chat template given in the settings, else the model's own, else a plain one; none with `raw`."""
    from llmcli.inference.engine import TemplateOptions

    prefill, arguments = settings.prefill or "", template_arguments(settings)
    if settings.raw:
        return TemplateOptions("", prefill=prefill)
    if settings.chat_template is not None and "chat_template" not in engine.capabilities.unsupported(settings):
        source = _given_template(settings.chat_template, settings.encoding)
        return TemplateOptions(source or PLAIN_TEMPLATE, "the chat template", True, prefill, arguments)
    if engine.chat_template:
        return TemplateOptions(engine.chat_template, "the model's chat template", False, prefill, arguments)
    return TemplateOptions(PLAIN_TEMPLATE, "the plain chat template", False, prefill, arguments)


def _given_template(text: str, encoding: str) -> str:
    """A Jinja template: the text itself, or the content of the file with this name; or a name of llama.cpp, which wins.

    Raises LlmcliError for a file that cannot be read.
    """
    if not text or is_inline(text) or is_builtin_template(text):
        return text
    try:
        return read_text(text, encoding)
    except LlmcliError as error:
        from llmcli.engine.llama.bindings import chat_template_names

        error.hint = did_you_mean(text, chat_template_names()) or (
            "give a Jinja template, its file, or the name of a template of llama.cpp, such as chatml or llama3"
        )
        raise


def is_builtin_template(text: str) -> bool:
    """Whether it is the name of a chat template of llama.cpp."""
    if is_inline(text):
        return False
    from llmcli.engine.llama.bindings import chat_template_names  # the library takes 30 ms

    return text in chat_template_names()


def template_arguments(settings: Settings) -> dict[str, object]:
    """The variables of a chat template beside the messages.

    Templates ask with one of two names whether the model reasons; some reason only when they are told. As in llama.cpp,
    a model that can reason does, unless the user does not want that.
    """
    thinks = settings.think != "off"
    return {"enable_thinking": thinks, "thinking": thinks, **template_args_as_data(settings.template_arg)}


def needs_plain_template(engine: "Engine", settings: Settings) -> bool:
    """Whether neither the settings nor the model bring a chat template that this request needs."""
    return not settings.raw and settings.chat_template is None and not engine.chat_template


def with_plain_stop(settings: Settings, template: str) -> Settings:
    """The settings for an answer: under the plain template it ends where the next turn of the user would begin."""
    if settings.raw or template != PLAIN_TEMPLATE:
        return settings
    return replace(settings, stop=tuple(dict.fromkeys([*settings.stop, PLAIN_STOP])))


def fence_language(name: str) -> str:
    """The name that a code fence has for a language, which may be named by the suffix of its files, such as py."""
    return _LANGUAGES.get(name.lower(), name.lower())


def file_block(name: str, text: str) -> str:
    """The text of a file between fences, under its name; the fence is longer than any in the text."""
    path = Path(name)
    key = path.name if path.name in ("Makefile", "Dockerfile") else path.suffix[1:]
    language = fence_language(key)
    if not (language.isascii() and language.isalnum() and len(language) <= 10):
        language = ""
    fence = "`" * (max(map(len, re.findall("`{3,}", text)), default=2) + 1)
    name = "".join(char if char.isprintable() else "\ufffd" for char in name)
    end = "" if text.endswith("\n") or not text else "\n"
    return f"File {name}:\n{fence}{language}\n{text}{end}{fence}"
