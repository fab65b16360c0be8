"""A model that is served: its settings, the questions that requests ask of it, and the thread that answers them."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from threading import Lock
from typing import TypeVar

from llmcli import __version__
from llmcli.config.presets import preset_layer
from llmcli.engine.events import Cancellation, Message, Prompt, Request
from llmcli.errors import UsageError
from llmcli.inference.answer import Answer
from llmcli.inference.constraints import read_constraint
from llmcli.inference.embedding import EmbeddingModel
from llmcli.inference.engine import Engine, TemplateOptions, Vocab
from llmcli.inference.question_data import parse_own_settings
from llmcli.inference.replay_manifest import ReplayManifest, prompt_sha256
from llmcli.inference.request import build_prompt, check_length, system_text, template_options, with_plain_stop
from llmcli.params.model import ModelParams
from llmcli.params.param import SettingValue, fields_of
from llmcli.params.sampler_chain import check_chain
from llmcli.params.settings import Layer, ResolvedSettings, Settings, fields, find, resolve
from llmcli.server.answer_group import AnswerGroup
from llmcli.server.chat_question import ChatQuestion
from llmcli.server.errors import ContextError, UnsupportedError
from llmcli.server.worker import ModelWorker

_T = TypeVar("_T")
# Settings that others would wait for: characters that are compiled, and texts that are compared with each token.
_MOST_CHARACTERS = {"chat_template": 1 << 15, "temperature": 1 << 12, "grammar": 1 << 18}
_MOST_ROWS = 64  # of the batches of a replay, for each token: more answers are hardly generated side by side
_MOST_ITEMS = {"dry_sequence_breakers": 64}
_ANY_LENGTH = ("system", "prefill")  # parts of the prompt, whose tokens are counted
_ELSEWHERE = {"choices": "use /v1/decisions", "predicate": "use /v1/decisions", "rating": "use /v1/decisions"}
_ELSEWHERE |= {"samples": "use n", "best": "use n, and choose", "extract": "remove it"}
# A text, messages, or the tokens of a prompt, with texts between them.
Question = str | ChatQuestion | Sequence[Message] | Sequence[int | str]


class ServedModel:
    """A loaded model; its `name` is what clients call it, `aliases` are other names."""

    def __init__(
        self,
        name: str,
        engine: Engine | None,
        layers: Sequence[Layer],
        n_parallel: int = 0,
        n_queued: int = 64,
        aliases: Sequence[str] = (),
        open_vectors: Callable[[], EmbeddingModel] | None = None,
        file_name: str = "",
    ) -> None:
        """`layers` are the settings that all requests share, lowest first: `n_ctx` among them is that of a request.

        Without an engine it is a model for vectors, or one for reranking; `open_vectors` opens what computes them.
        """
        self.name, self._engine, self.aliases, self.file_name = name, engine, aliases, file_name or name
        self._layers, self._open_vectors = layers, open_vectors
        self._vectors: EmbeddingModel | None = None
        resolved = resolve(layers)
        self.common: ResolvedSettings = resolved.over(engine.defaults) if engine else resolved
        self._system = system_text(self.common.settings)
        self.loaded_at = self.used_at = time.time()  # the time of the last request
        self.worker = ModelWorker(engine, n_parallel, n_queued)
        self._tokenizing = asyncio.Lock()
        self._lock = Lock()  # one prompt at a time is rendered and tokenized

    @property
    def engine(self) -> Engine:
        """What generates. Raises UnsupportedError for a model that does not."""
        if self._engine is None:
            raise UnsupportedError(
                f"{self.name} generates no text", "use another model, or /v1/embeddings or /v1/rerank"
            )
        return self._engine

    @property
    def fingerprint(self) -> str:
        """The builds that answer: that of llama.cpp's bindings, and llmcli."""
        return f"b{self.engine.identity().build}-llmcli-{__version__}"

    @property
    def generates(self) -> bool:
        """Whether it generates text."""
        return self._engine is not None

    def vectors(self) -> EmbeddingModel:
        """What computes vectors, to be called in the thread of the model. Raises UnsupportedError, LlmcliError."""
        if self._open_vectors is None:
            raise UnsupportedError(f"{self.name} has no vectors")
        if self._vectors is None:
            self._vectors = self._open_vectors()
        return self._vectors

    def close(self, grace: float) -> None:
        """End what runs, within `grace` seconds, and free everything."""
        if not self.worker.close(grace):
            return  # llama.cpp still computes: what it uses cannot be freed
        if self._vectors:
            self._vectors.close()
        if self._engine:
            self._engine.close()

    @property
    def n_ctx(self) -> int:
        """The number of tokens that one request may fill, with its answer."""
        n_ctx_train = self._engine.n_ctx_train if self._engine else 0
        return self.common.settings.n_ctx or n_ctx_train

    def settings(self, own: Mapping[str, object]) -> Settings:
        """The settings of a request with these of its own. Raises UsageError for one that is not valid."""
        values = self._own_values(own)
        layers, preset = [*self._layers], values.get("preset")
        if isinstance(preset, str):
            layers.append(preset_layer(preset))
        settings = resolve([*layers, Layer("request", values)]).over(self.engine.defaults).with_seed().settings
        check_chain(settings)
        return settings

    def _own_values(self, own: Mapping[str, object]) -> dict[str, SettingValue]:
        for name, given in own.items():
            _check_length(find(name).key, given)
        values = parse_own_settings(own, self.common.settings, "request")
        for key, value in values.items():
            _check_own(key, value)
        return values

    def make_replay(self, question: Question, own: Mapping[str, object], recorded: ReplayManifest) -> Request:
        """The request for a recorded answer, in whose settings nothing but the model and its context is of the server.

        Raises as `make_request`.
        """
        engine = self.engine
        _check_length("chat_template", recorded.template)
        engine.identify(lambda _done, _total: None, Cancellation())  # whoever replays an answer wants to know it
        shared = {key: getattr(self.common.settings, key) for key in fields_of(ModelParams)}
        settings = resolve([Layer("flag", shared), Layer("request", self._own_values(own))]).with_seed().settings
        check_chain(settings)
        most = settings.n_threads or os.cpu_count() or 1
        n_threads, n_threads_batch = (min(one, most) for one in recorded.threads)
        n_ctx = min(recorded.n_ctx, self.n_ctx)
        settings = replace(settings, n_ctx=n_ctx, n_threads=n_threads, n_threads_batch=n_threads_batch)
        options = replace(recorded.template_options(engine, settings), prefill=settings.prefill or "")
        request = self.make_request(question, settings, options)
        if self._system and prompt_sha256(request.prompt.tokens) != recorded.prompt_sha256:  # with that of the server
            request = self.make_request(question, replace(settings, system=self.common.settings.system), options)
        n_prompt, n_rows = len(request.prompt.tokens), sum(rows * times for rows, _, times in recorded.layout)
        if n_rows > _MOST_ROWS * n_prompt + settings.n_batch:
            raise UsageError(f"llmcli.replay.layout evaluates {n_rows} tokens for a prompt of {n_prompt}")
        request.replay = recorded.to_data()
        return request

    def make_request(self, question: Question, settings: Settings, options: TemplateOptions | None = None) -> Request:
        """The request for a question, to be called in any thread; `options` are those of `template_options`.

        Raises UsageError for what is not valid, ContextError for a prompt that does not fit.
        """
        with self._lock:
            used = options or template_options(self.engine, settings)
            settings = with_plain_stop(settings, used.source)
            prompt = self._prompt(question, settings, options)
        n_prompt = len(prompt.tokens)
        if not n_prompt:
            raise UsageError("the prompt is empty")
        if n_prompt >= self.n_ctx:
            raise ContextError(
                f"the request has {n_prompt} tokens, which exceeds the available context size of {self.n_ctx} tokens",
                details={"n_prompt_tokens": n_prompt, "n_ctx": self.n_ctx},
            )
        request = Request(prompt, settings, read_constraint(settings))
        if isinstance(question, ChatQuestion) and question.begun:
            request.continue_from(question.reasoning, question.text)
        return request

    def _prompt(self, question: Question, settings: Settings, options: TemplateOptions | None = None) -> Prompt:
        if isinstance(question, str):
            return build_prompt(self.engine, settings, question, self._system_of(settings))
        if isinstance(question, ChatQuestion):
            return question.prompt(self.engine, settings, self._system_of(settings), options)
        parts = [one for one in question if isinstance(one, (int, str))]
        if parts:
            check_length(self.engine, settings, "".join(one for one in parts if isinstance(one, str)))
            return Prompt.of_tokens("", mixed_tokens(parts, self.engine.tokenizer))
        messages = [one for one in question if isinstance(one, Mapping)]
        return build_prompt(self.engine, settings, messages, self._system_of(settings))

    def _system_of(self, settings: Settings) -> str | None:
        """The system prompt: that of a request is a text, however it begins."""
        return self._system if settings.system == self.common.settings.system else settings.system

    async def read_prompt(self, question: Question, own: Mapping[str, object]) -> Prompt:
        """The prompt of a question that is not answered, with these settings of its own; it may have any length."""

        def render() -> Prompt:
            settings = self.settings(own)
            with self._lock:
                return self._prompt(question, settings)

        return await self.in_thread(render)

    async def tokenize(self, parts: Sequence[int | str], add_special: bool, parse_special: bool) -> Sequence[int]:
        """See `mixed_tokens`. One request at a time, so that many of them leave threads and time for the others."""
        tokenizer = self.engine.tokenizer
        async with self._tokenizing:
            return await self.in_thread(lambda: mixed_tokens(parts, tokenizer, add_special, parse_special))

    def start(self, requests: Sequence[Request], n_choices: int = 1, has_progress: bool = False) -> AnswerGroup:
        """Begin the answers to some requests, `n_choices` to each, which differ in their seeds. Raises BusyError."""
        self.used_at = time.time()
        answers = []
        for request in requests:
            for number in range(n_choices):
                seed = ((request.settings.seed or 0) + number) % 2**32
                own = replace(request, settings=replace(request.settings, seed=seed)) if number else request
                answers.append(Answer(self.engine, own))
        group = AnswerGroup(answers, has_progress)
        self.worker.submit(group)
        return group

    async def in_thread(self, function: Callable[[], _T]) -> _T:
        """What a function that needs no step of the model returns, such as a tokenization; it runs in some thread."""
        return await asyncio.to_thread(function)


def mixed_tokens(
    parts: Sequence[int | str], tokenizer: Vocab, add_special: bool = True, parse_special: bool = True
) -> list[int]:
    """The tokens of tokens and texts; only a text at the beginning gets the tokens that begin a prompt.

    Raises UsageError for a token that is not in the vocabulary.
    """
    tokens: list[int] = []
    for index, part in enumerate(parts):
        if isinstance(part, str):
            is_first = add_special and index == 0
            tokens += tokenizer.tokenize(part, add_special=is_first, parse_special=parse_special)
        else:
            tokens.append(part)
    tokenizer.check(tokens)
    return tokens


def _check_length(key: str, given: object) -> None:
    """Raise UsageError for a value that would take long to parse."""
    most = _MOST_CHARACTERS.get(key, 1 << 16)
    if isinstance(given, (str, list, dict)) and len(given) > most and key not in _ANY_LENGTH:
        noun = "characters" if isinstance(given, str) else "items"
        raise UsageError(f"{key} of a request must have at most {most} {noun}, got {len(given)}")


def _check_own(key: str, value: SettingValue) -> None:
    """Raise UsageError for a setting of a request that has no effect here, or that takes too long to read."""
    if key in _ELSEWHERE and value != fields()[key].default:
        raise UsageError(f"{key} cannot be set in a request", _ELSEWHERE[key])
    if key in _ANY_LENGTH:
        return
    items = value if isinstance(value, tuple) else [value]
    most = _MOST_ITEMS.get(key, _MOST_CHARACTERS.get(key, 1 << 16))
    if len(items) > most:
        raise UsageError(f"{key} of a request must have at most {most} items, got {len(items)}")
    texts = [one[0] if isinstance(one, tuple) else one for one in items]
    size = sum(len(str(one)) for one in texts if not isinstance(one, int))
    most = _MOST_CHARACTERS.get(key, 1 << 16)
    if size > most:
        raise UsageError(f"{key} of a request must have at most {most} characters, got {size}")
