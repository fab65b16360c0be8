"""What all forms of requests for text share: their switches, the start of the answers, and the pieces of a stream."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field

from starlette.requests import Request

from llmcli.engine.events import Request as EngineRequest
from llmcli.engine.events import TemperatureShift, TokenTrace
from llmcli.errors import LlmcliError, UsageError
from llmcli.inference.answer import Answer, text_and_reasoning
from llmcli.inference.answer_json import token_data
from llmcli.server.answer_group import AnswerGroup, Update
from llmcli.server.chat_question import ChatQuestion
from llmcli.server.extras import Extras, read_extras
from llmcli.server.http import Values, take
from llmcli.server.request_log import current_record
from llmcli.server.served_model import Question, ServedModel
from llmcli.server.service import service_of, take_model

_MOST_CHOICES = 128
# Fields of llama-server that change no answer here: prefixes are reused always, and slots are alike.
_WITHOUT_EFFECT = (
    *("cache_prompt", "id_slot", "n_cache_reuse", "n_keep", "n_discard", "backend_sampling", "sse_ping_interval"),
)
# Fields of llama-server with the values that mean what the server does anyway.
_ONLY: dict[str, tuple[object, ...]] = {"n_indent": (0,), "lora": ([],), "t_max_predict_ms": (0, -1)}
_ONLY |= {"reasoning_format": ("auto", "deepseek")}
_NAMES = {"reasoning_budget_tokens": "think_budget", "thinking_budget_tokens": "think_budget", "n_probs": "logprobs"}
_NAMES |= {"reasoning_budget": "think_budget"}


@dataclass
class TextRequest:
    """What a client asks for: questions with settings, and how it wants the answers."""

    model: ServedModel
    questions: Sequence[Question]
    own: Values  # settings, in the names of llmcli
    n: int = 1
    is_streamed: bool = False
    has_usage: bool = False  # a stream ends with the usage
    has_timings: bool = False  # each piece of a stream has the timings so far
    has_progress: bool = False  # a stream begins with the progress of the prompt
    is_verbose: bool = False
    has_echo: bool = False  # an answer begins with what the client sent of it
    trace: int | None = None  # the number of alternatives of each token that are traced
    extras: Extras = field(default_factory=Extras)

    async def read(self) -> Sequence[EngineRequest]:
        """The questions as requests to the engine. Raises UsageError, ContextError or BusyError."""
        model = self.model
        if not self.has_echo:  # whose prompts do not wait in the queue
            model.worker.check_room(len(self.questions) * self.n)

        recorded = self.extras.recorded
        if self.extras.is_of_one and (self.n > 1 or len(self.questions) > 1):
            raise UsageError(f"llmcli.{'replay' if recorded else 'shift'} is for one answer", "ask for one at a time")

        def make() -> list[EngineRequest]:
            if recorded:
                return [model.make_replay(self.questions[0], self.own, recorded)]
            settings = model.settings(self.own)
            return [model.make_request(one, settings) for one in self.questions]

        requests = await model.in_thread(make)
        traces = [one for one in (self.trace, self.extras.trace) if one is not None]
        for request in requests:
            request.trace = max(traces, default=None)
            request.live_shift = TemperatureShift() if self.extras.has_shift else None
        return requests

    def start(self, requests: Sequence[EngineRequest], name: str = "") -> AnswerGroup:
        """Begin the answers, under the name by which others find them, if they can. Raises BusyError."""
        if self.extras.has_shift and not name:
            raise UsageError("llmcli.shift is for /v1/chat/completions and /v1/completions", "leave it out")
        group = self.model.start(requests, self.n, self.has_progress and self.is_streamed)
        group.name = name
        if record := current_record():
            record.groups.append(group)
        return group

    def text(self, answer: Answer) -> str:
        """The text of an answer without the beginning that the client sent."""
        return answer.text[len(self._begun.text) :] if self._begun else answer.text

    def reasoning(self, answer: Answer) -> str:
        """The reasoning of an answer, likewise; none where the client wants it hidden."""
        if answer.settings.think == "hide":
            return ""
        return answer.reasoning[len(self._begun.reasoning) :] if self._begun else answer.reasoning

    @property
    def _begun(self) -> ChatQuestion | None:
        first = self.questions[0]
        return first if isinstance(first, ChatQuestion) and first.begun and not self.has_echo else None

    async def extra_data(self, answer: Answer) -> Values:
        """The field `llmcli` of a finished answer, if the client asked for it."""
        return await self.extras.data(answer, answer.traces if self.extras.trace is not None else (), is_last=True)

    async def pieces(self, group: AnswerGroup, send: "SendPiece | None" = None) -> AsyncGenerator["Piece", None]:
        """What is added to the answers. Raises an error before the first piece; a later one is in a piece.

        `send` gets plain text first, in the thread of the model, where no other piece is under way; it returns whether
        the text is sent.
        """
        n_sent, has_begun = [0] * len(group.answers), [False] * len(group.answers)

        def send_directly(update: Update) -> bool:
            index = update.index
            if not has_begun[index] or not send:
                return False
            is_sent = send(self._piece(group.answers[index], update, n_sent[index], is_first=False))
            n_sent[index] = max(n_sent[index], update.n_tokens) if is_sent else n_sent[index]
            return is_sent

        group.send_directly = send_directly
        async with aclosing(group.updates()) as updates:
            async for update in updates:
                if update.error and not any(has_begun):
                    raise update.error
                index = update.index
                yield self._piece(group.answers[index], update, n_sent[index], not has_begun[index])
                if update.progress is None:
                    has_begun[index], n_sent[index] = True, max(n_sent[index], update.n_tokens)
                if update.error:
                    return

    def _piece(self, answer: Answer, update: Update, n_sent: int, is_first: bool) -> "Piece":
        if update.progress:
            timings = _read(update) if self.has_timings else None
            return Piece(update.index, is_first=is_first, progress=asdict(update.progress), timings=timings)
        parts = update.parts
        if is_first and self._begun and self._begun.text and parts:
            parts = parts[1:]  # the client sent it
        text, reasoning = text_and_reasoning(parts)
        reasoning = "" if answer.settings.think == "hide" else reasoning
        n_prompt = len(answer.prompt.tokens)
        return Piece(
            update.index,
            text,
            reasoning,
            answer.record.tokens[n_prompt + n_sent : n_prompt + update.n_tokens],
            token_data(answer, n_sent, update.n_tokens) if answer.settings.logprobs else (),
            is_first,
            update.is_last,
            update.error,
            timings=answer_timings(answer) if self.has_timings else None,
            traces=update.traces,
        )


@dataclass(slots=True)
class Piece:
    """What is added to one answer of a stream."""

    index: int
    text: str = ""
    reasoning: str = ""
    tokens: Sequence[int] = ()
    logprobs: Sequence[Values] = ()
    is_first: bool = False
    is_last: bool = False
    error: LlmcliError | None = None
    progress: Values | None = None
    timings: Values | None = None
    traces: Sequence[TokenTrace] = ()  # of tokens that became certain, with a trace

    @property
    def additions(self) -> Values:
        """The fields of a chunk that the client asked for beside the answer."""
        progress: Values = {"prompt_progress": self.progress} if self.progress else {}
        return progress | ({"timings": self.timings} if self.timings else {})


SendPiece = Callable[[Piece], bool]


async def take_request(request: Request, body: Values) -> TextRequest:
    """Remove the model and all switches from a body; the caller reads the rest. Raises UsageError."""
    service = service_of(request)
    options = take(body, "stream_options", dict, {})
    asked = TextRequest(
        await take_model(request, body),
        (),
        {},
        take(body, "n", int, take(body, "n_cmpl", int, 1)),
        take(body, "stream", bool, False),
        bool(options.get("include_usage")),
        take(body, "timings_per_token", bool, False),
        take(body, "return_progress", bool, False),
        take(body, "verbose", bool, service.options.is_verbose),
        extras=read_extras(body),
    )
    if not 1 <= asked.n <= _MOST_CHOICES:
        raise UsageError(f"n must be between 1 and {_MOST_CHOICES}, got {asked.n}")
    for key in _WITHOUT_EFFECT:
        body.pop(key, None)
    for key, values in _ONLY.items():
        if (value := body.pop(key, None)) is not None and value not in values:
            raise UsageError(f"{key} is not supported", "leave it out")
    for key, name in _NAMES.items():
        if (value := body.pop(key, None)) is not None:
            body[name] = value
    return asked


def finish_reason(answer: Answer) -> str:
    """In OpenAI's words: an answer that its time limit or its client ended has no reason of its own there."""
    return answer.finish_reason if answer.finish_reason in ("stop", "length") else "length"


def count_cached(answer: Answer) -> int:
    """The number of tokens of its prompt that were not evaluated for it; none if it has not been read."""
    timings = answer.record.timings
    return max(len(answer.prompt.tokens) - timings.prompt_n, 0) if timings.prompt_n or timings.predicted_n else 0


def usage(group: AnswerGroup) -> Values:
    """The tokens of all answers; a prompt with several answers counts once."""
    n_prompt, n_cached, n_generated = group.counts
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_generated,
        "total_tokens": n_prompt + n_generated,
        "prompt_tokens_details": {"cached_tokens": n_cached},
    }


def answer_timings(answer: Answer) -> Values:
    """In llama-server's names and milliseconds; the first token takes no time, as its logits come from the prompt."""
    t = answer.record.timings
    return {
        "cache_n": count_cached(answer),
        "prompt_n": t.prompt_n,
        "prompt_ms": t.prompt_ms,
        "prompt_per_token_ms": t.prompt_ms / t.prompt_n if t.prompt_n else 0.0,
        "prompt_per_second": t.prompt_per_second,
        "predicted_n": t.predicted_n,
        "predicted_ms": t.predicted_ms,
        "predicted_per_token_ms": t.predicted_ms / (t.predicted_n - 1) if t.predicted_n > 1 else 0.0,
        "predicted_per_second": t.predicted_per_second,
        **({"draft_n": t.draft_n, "draft_n_accepted": t.draft_n_accepted} if t.draft_n else {}),
    }


def _read(update: Update) -> Values:
    """The timings while a prompt is read."""
    assert update.progress
    n_read, elapsed = update.progress.processed - update.progress.cache, update.progress.time_ms
    return {
        "cache_n": update.progress.cache,
        "prompt_n": n_read,
        "prompt_ms": elapsed,
        "prompt_per_token_ms": elapsed / n_read if n_read else 0.0,
        "prompt_per_second": 1e3 * n_read / elapsed if elapsed else 0.0,
        **dict.fromkeys(("predicted_n", "predicted_ms", "predicted_per_token_ms", "predicted_per_second"), 0),
    }
