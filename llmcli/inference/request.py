"""The parts of a request: text, files and stdin; system prompt; chat template; and the prompt as tokens."""

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from llmcli.engine.events import Cancellation, Message, Prompt, TokenChunk
from llmcli.errors import ContextOverflowError, LlmcliError, UsageError
from llmcli.files import is_stdin, read_text
from llmcli.params.generation import template_args_as_data
from llmcli.params.settings import Settings
from llmcli.text import did_you_mean, without_line_feed

if TYPE_CHECKING:  # a list of sessions needs no engine
    from llmcli.engine.llama.model import Vocab
    from llmcli.inference.engine import Engine, TemplateOptions
    from llmcli.inference.template import ChatTemplate

# For models without a chat template: plain words, which a base model continues as well as anything. An answer of the
# model begins with the space after the colon, and is read again as it was written.
PLAIN_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n\n"
    "{% else %}{{ 'User:' if m.role == 'user' else 'Assistant:' }}"
    "{{ '' if m.content[:1] == ' ' else ' ' }}{{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
PLAIN_STOP = "\nUser:"
_CACHE_SIZE = 1 << 22  # characters of the cached texts, of each kind; a token takes about 40 bytes
_PIECE = 1 << 14  # characters of a long text that are tokenized at a time, in about 10 ms
_CUT_TOKENS = 8  # more than a cut between two pieces adds
_MAX_NAME = 255  # characters; longer texts are not file names
# Languages whose name in a fence differs from their suffix; models and Markdown renderers know the others by suffix.
_LANGUAGES = (
    {"sh": "bash", "h": "c", "hpp": "cpp", "js": "javascript", "mjs": "javascript", "kt": "kotlin", "md": "markdown"}
    | {"ps1": "powershell", "py": "python", "pyi": "python", "rb": "ruby", "rs": "rust", "ts": "typescript"}
    | {"yml": "yaml", "log": "", "text": "", "txt": ""}
)
_Value = TypeVar("_Value")


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
    """The prompt, the files and what is piped in, in this order, with a blank line between.

    `-` as the prompt or as a file is stdin, at that place; otherwise a pipe's content comes last, unless another option
    reads it. Each file is a block under its name, as in the chat. A single file without a prompt is the prompt; with
    `raw` every file is, verbatim. Without `raw`, a line feed at the end of stdin or of such a file does not count, so
    that `echo hi |` asks the same as the argument `hi`. Raises UsageError when there is nothing to ask.
    """
    is_the_prompt, reads_stdin = not settings.prompt and len(settings.file) == 1, stdin_options(settings)
    tidy = str if settings.raw else without_line_feed
    parts = [] if settings.prompt is None else [tidy(read_stdin()) if settings.prompt == "-" else settings.prompt]
    for name in settings.file:
        text = read_stdin() if is_stdin(name) else read_text(name, settings.encoding)
        is_block = not (is_stdin(name) or settings.raw or is_the_prompt)
        parts.append(file_block(name, text) if is_block else tidy(text))
    if piped and not reads_stdin:
        parts.append(tidy(read_stdin()))
    kept = [part.rstrip("\n") if index < len(parts) - 1 else part for index, part in enumerate(parts)]
    text = "\n\n".join(part for part in kept if part)
    if not text.strip() and not (settings.raw and text):
        raise UsageError("no prompt", 'give a prompt, as in `llmcli generate "Why is the sky blue?"`')
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


def is_inline(text: str) -> bool:
    """Whether a schema or a template is the content itself; any other text is the name of a file."""
    return "{" in text or len(text) > _MAX_NAME or "\n" in text


def build_prompt(
    engine: "Engine", settings: Settings, text: str, system: str | None, cancellation: Cancellation | None = None
) -> Prompt:
    """The prompt as it is evaluated: through the chat template (a plain one if there is none); verbatim with `raw`.

    Raises ContextOverflowError as soon as it is certain that the prompt does not fit, and KeyboardInterrupt when it is
    cancelled.
    """
    _check_length(engine, settings, text if settings.raw else f"{system or ''}{text}", cancellation)
    options = template_options(engine, settings)
    if settings.raw:
        return engine.render(text, options)
    messages = [{"role": "system", "content": system}] if system else []
    return engine.render([*messages, {"role": "user", "content": text}], options)


def _check_length(engine: "Engine", settings: Settings, text: str, cancellation: Cancellation | None) -> None:
    """Count the tokens of a long text piece by piece: to tokenize all of it may take minutes and gigabytes."""
    if len(text) <= 2 * _PIECE:
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
            )


def template_options(engine: "Engine", settings: Settings) -> "TemplateOptions":
    """The chat template given in the settings, else the model's own, else a plain one; none with `raw`."""
    from llmcli.inference.engine import TemplateOptions

    prefill, arguments = settings.prefill or "", template_arguments(settings)
    if settings.raw:
        return TemplateOptions("", prefill=prefill)
    if settings.chat_template is not None:
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


def with_plain_stop(settings: Settings) -> Settings:
    """The settings for an answer under the plain template: it ends where the next turn of the user would begin."""
    return replace(settings, stop=tuple(dict.fromkeys([*settings.stop, PLAIN_STOP])))


def file_block(name: str, text: str) -> str:
    """The text of a file between fences, under its name; the fence is longer than any in the text."""
    path = Path(name)
    key = (path.name if path.name in ("Makefile", "Dockerfile") else path.suffix[1:]).lower()
    language = _LANGUAGES.get(key, key)
    if not (language.isascii() and language.isalnum() and len(language) <= 10):
        language = ""
    fence = "`" * (max(map(len, re.findall("`{3,}", text)), default=2) + 1)
    name = "".join(char if char.isprintable() else "\ufffd" for char in name)
    end = "" if text.endswith("\n") or not text else "\n"
    return f"File {name}:\n{fence}{language}\n{text}{end}{fence}"


class PromptRenderer:
    """Makes prompts for one vocabulary. What was compiled or tokenized for the last ones is used again.

    llama.cpp first cuts a text at the texts of special tokens, and tokenizes the pieces between them separately
    (`tokenizer_st_partition`). So a text may be cut in front of a control token, and the tokens of the pieces joined,
    if no other special token can overlap that place or strip space there. The tokens of earlier prompts tell which
    control tokens a template writes.
    """

    def __init__(self, vocab: "Vocab") -> None:
        self._vocab = vocab
        self._template: ChatTemplate | None = None
        self._nonce = str(int.from_bytes(os.urandom(8), "big"))  # digits, because `upper` or `title` do not change them
        self._written: dict[str, int] = {}  # the control tokens in the text of users, with their numbers
        self._marked = _Memo(self._mark)
        self._pieces = _Memo(partial(vocab.tokenize, parse_special=True))
        self._plain = _Memo(vocab.tokenize)
        self._last: Sequence[int] = ()  # the tokens of the last prompt
        self._checked: set[int] = set()
        self._cuts: list[str] = []

    def render(self, request: Sequence[Message] | str, options: "TemplateOptions") -> Prompt:
        """The prompt for messages, or for a raw text, whose special tokens count: the user writes the template."""
        if isinstance(request, str):
            text = request + options.prefill
            tokens = self._vocab.tokenize(text, add_special=True, parse_special=True)
            return Prompt.of_tokens(text, self._with_bos(tokens), request)
        if self._template is None or self._template.source != options.source:
            from llmcli.inference.template import ChatTemplate  # Jinja takes its time

            names = {"bos_token": self._vocab.bos, "eos_token": self._vocab.eos}
            special = {name: "" if token is None else _piece(self._vocab, token) for name, token in names.items()}
            self._template = ChatTemplate(options.source, special, options.origin, options.is_given)
        template = self._template
        template.time = time.time() if options.time is None else options.time
        text, tokens = self.apply(template, request, options.prefill, options.arguments)
        return Prompt(text, (TokenChunk(tokens),), request, template.source, options.arguments, template.time)

    def apply(
        self,
        template: "ChatTemplate",
        messages: Sequence[Message],
        prefill: str = "",
        arguments: Mapping[str, object] | None = None,
    ) -> tuple[str, list[int]]:
        """The prompt as text and as tokens, ending where the answer begins (after `prefill`).

        Where a content spells a control token (`<|im_end|>` in a pasted file), a mark that nobody can guess takes its
        place while the template runs, and the text is tokenized as plain text afterwards. Where no content does, the
        tokens are those that llama.cpp makes of the whole text.
        """
        safe = [{**message, "content": self._marked(str(message["content"]))} for message in messages]
        text = template.render(safe, arguments) + self._marked(prefill)
        names = list(self._written)
        parts = re.split(rf"\ue000{self._nonce}(\d+)\ue001", text)  # every second part is the number of a mark
        parts = [names[int(part)] if index % 2 else part for index, part in enumerate(parts)]
        return "".join(parts), self._with_bos(self.tokenize(parts))

    def tokenize(self, parts: Sequence[str]) -> list[int]:
        """The tokens of the parts, joined; every second part is plain text, whatever control tokens it spells."""
        self._update_cuts()
        tokens: list[int] = []
        for index, part in enumerate(parts):
            if index % 2:
                tokens += self._plain(part)
                continue
            pieces = [part]  # each of them is tokenized on its own
            for name in self._cuts:
                pieces = [piece for text in pieces for piece in _cut_before(name, text)]
            for piece in filter(None, pieces):
                tokens += self._pieces(piece)
        self._last = tokens
        return tokens

    def _with_bos(self, tokens: list[int]) -> list[int]:
        """The tokens with exactly one BOS in front if the model uses one, also where the text has it already."""
        bos = self._vocab.bos
        if not self._vocab.adds_bos or bos is None:
            return tokens
        start = next((index for index, token in enumerate(tokens) if token != bos), len(tokens))
        return [bos, *tokens[start:]]

    def _mark(self, content: str) -> str:
        """The content with a mark, which nobody can guess, for each text of a control token."""
        vocab = self._vocab
        while control := {
            token for token in set(vocab.tokenize(content, parse_special=True)) if vocab.is_control(token)
        }:
            before = content
            for name in sorted((_piece(vocab, token) for token in control), key=len):
                if name and name in content:
                    number = self._written.setdefault(name, len(self._written))
                    content = content.replace(name, f"\ue000{self._nonce}{number}\ue001")
            if content == before:  # a control token that the tokenizer adds
                break
        return content

    def _update_cuts(self) -> None:
        """Cut at special tokens of earlier prompts, where that is safe; not of the first: to list them takes 15 ms."""
        new = set(self._last) - self._checked
        if not new:
            return
        self._checked |= new
        texts = set(self._vocab.special.values())
        for token in new & self._vocab.special.keys():
            name = self._vocab.special[token]
            if not self._vocab.strips_left(token) and _stands_alone(name, texts):
                self._cuts.append(name.decode())


class _Memo(Generic[_Value]):
    """A function of a text that caches its last results, up to a total size of their texts."""

    def __init__(self, function: Callable[[str], _Value]) -> None:
        self._function = function
        self._results: dict[str, _Value] = {}  # the last used one is the last
        self._room = _CACHE_SIZE

    def __call__(self, text: str) -> _Value:
        if text in self._results:
            result = self._results.pop(text)
        else:
            result = self._function(text)
            self._room -= len(text)
        self._results[text] = result
        while self._room < 0:
            oldest = next(iter(self._results))
            del self._results[oldest]
            self._room += len(oldest)
        return result


def _piece(vocab: "Vocab", token: int) -> str:
    return vocab.piece(token, special=True).decode("utf-8", "replace")


def _cut_before(name: str, text: str) -> list[str]:
    first, *others = text.split(name)
    return [first, *(name + other for other in others)]


def _stands_alone(name: bytes, texts: set[bytes]) -> bool:
    """Whether the tokenizer cuts at every `name` in a text: none of `texts` can match a part of it first.

    The tokenizer searches for longer texts first. Some strip the space beside them, so `name` must not have any.
    """
    if name.split() != [name] or name.decode("utf-8", "ignore").encode() != name:  # or it is not UTF-8
        return False
    return not any(_overlap(name, text) for text in texts if text != name and len(text) >= len(name))


def _overlap(name: bytes, text: bytes) -> bool:
    if name in text:
        return True
    if name[:1] in text[1:] and any(name.startswith(text[i:]) for i in range(1, len(text))):
        return True
    return text[:1] in name[1:] and any(text.startswith(name[i:]) for i in range(1, len(name)))
