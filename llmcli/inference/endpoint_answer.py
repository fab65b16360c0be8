"""What an endpoint says in an answer: the objects of a stream, read strictly, as pieces of text with their facts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmcli.engine.events import FinishReason, TokenLogprob, TokenTrace
from llmcli.errors import NetworkError
from llmcli.params.param import is_int, is_number

if TYPE_CHECKING:
    from llmcli.inference.endpoint_tokens import EndpointVocab

Json = Mapping[str, object]
# llama-server, vLLM, SGLang, DeepSeek; vLLM, ollama, OpenRouter; ollama's own form
_REASONING = ("reasoning_content", "reasoning", "thinking")
_LENGTH = ("length", "max_tokens", "model_length")
_STOP = ("stop", "eos", "eos_token", "end_turn", "stop_sequence")
_LOSSES = {
    "content_filter": "removed the rest of an answer (content filter)",
    **dict.fromkeys(("tool_calls", "function_call"), "asks for a call of a tool, which llmcli does not make"),
}
LOWEST = -9999.0  # OpenAI: a log-probability of nothing
_ROUNDED = 1e-3  # a log-probability that is not above 0


@dataclass(frozen=True)
class Delta:
    """What one object adds to an answer; None where it does not say it."""

    text: str = ""
    reasoning: str = ""
    finish_reason: FinishReason | None = None
    loss: str = ""  # what the server did in place of a whole answer
    logprobs: Sequence[TokenLogprob] = ()
    n_prompt: int | None = None  # tokens
    n_answer: int | None = None
    prompt_ms: float | None = None
    answer_ms: float | None = None
    model: str = ""
    traces: Sequence[TokenTrace] = ()  # of tokens that are final; their texts joined are the answer
    id: str = ""  # of the answer
    replay: Json = field(default_factory=dict)  # a manifest
    has_choice: bool = False  # else it says only something beside the answer


def read_delta(data: Json, vocab: "EndpointVocab", host: str) -> Delta:
    """What an object of /chat/completions or /completions says, streamed or whole.

    A server of llmcli puts what OpenAI's objects have no place for under `llmcli`: traces, and the replay manifest.
    Raises NetworkError for an object of another kind.
    """
    choices = data.get("choices")
    if not isinstance(choices, list) or not all(isinstance(one, dict) for one in choices):
        if not isinstance(data.get("usage"), dict):
            raise no_choices(host)
        choices = []
    choice: Json = next((one for one in choices if not one.get("index")), {})  # one is asked for: the first
    part = _dict(choice.get("delta")) or _dict(choice.get("message"))
    extras = _dict(choice.get("llmcli"))
    text, reasoning = _texts(choice.get("text") if "text" in choice else part.get("content"))
    reasoning += next((value for name in _REASONING if isinstance(value := part.get(name), str) and value), "")
    text += _text(part.get("refusal"))
    usage, timings, end = _dict(data.get("usage")), _dict(data.get("timings")), choice.get("finish_reason")
    return Delta(
        text,
        reasoning,
        None if not end else "length" if end in _LENGTH else "stop",
        _loss(end),
        _logprobs(_dict(choice.get("logprobs")), vocab),
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
        _number(timings.get("prompt_ms")),
        _number(timings.get("predicted_ms")),
        _text(data.get("model")),
        _traces(extras.get("trace"), host),
        _text(data.get("id")),
        _replay(extras.get("replay"), host),
        bool(choice),
    )


def no_choices(host: str) -> NetworkError:
    """The error for an answer that has none, or not the one that was asked for."""
    return NetworkError(f"{host} sent an answer without choices", "check that it speaks OpenAI's API")


def _loss(end: object) -> str:
    """What an unusual reason for the end means; "" for a usual one."""
    if not end or end in _STOP or end in _LENGTH:
        return ""
    reason = _text(end)[:40] or "without a reason"
    return _LOSSES.get(reason, f"ended an answer before its end ({reason})")


def _traces(data: object, host: str) -> list[TokenTrace]:
    if not isinstance(data, list):
        return []
    from llmcli.inference.trace_file import from_data  # only a server of llmcli has traces

    try:
        found = [from_data(one) for one in data]
        for one in found:  # a lone half of a surrogate pair could not be written; its error is a ValueError too
            "".join([one.text, one.reasoning, *(other.text for other in one.top)]).encode()
    except ValueError as error:
        raise NetworkError(f"{host} sent a trace that is not valid: {error}") from None
    return found


def _replay(data: object, host: str) -> Json:
    if not isinstance(data, dict) or not data:
        return {}
    from llmcli.inference.replay_manifest import ReplayManifest  # only a server of llmcli has one

    try:
        return ReplayManifest.from_data(data).to_data()
    except ValueError as error:
        raise NetworkError(f"{host} sent a replay that is not valid: {error}") from None


def _texts(content: object) -> tuple[str, str]:
    """The text and the reasoning of a content: a text, or a list of typed parts."""
    if not isinstance(content, list):
        return _text(content), ""
    parts = [(str(_dict(one).get("type")), _dict(one)) for one in content]
    answer = "".join(_text(one.get("text")) for kind, one in parts if kind == "text")
    thinking = (one.get("thinking") for kind, one in parts if kind == "thinking")  # Mistral: a list of such parts
    return answer, "".join(_texts(one)[0] for one in thinking)


def _logprobs(data: Json, vocab: "EndpointVocab") -> list[TokenLogprob]:
    """The log-probabilities of the tokens, in the form of chats or in that of completions."""
    content = data.get("content")
    if isinstance(content, list):
        return [one for one in (_chat_logprob(_dict(entry), vocab) for entry in content) if one]
    tokens, values, tops = (data.get(name) for name in ("tokens", "token_logprobs", "top_logprobs"))
    if not isinstance(tokens, list) or not isinstance(values, list):
        return []
    tops = tops if isinstance(tops, list) else [None] * len(tokens)
    found = []
    for token, value, top in zip(tokens, values, tops, strict=False):
        if (logprob := as_logprob(value)) is not None:
            pairs = [(text, number) for text, one in _dict(top).items() if (number := as_logprob(one)) is not None]
            ordered = sorted(pairs, key=lambda pair: -pair[1])
            others = tuple((vocab.number_of(_text(text).encode()), number) for text, number in ordered)
            found.append(TokenLogprob(vocab.number_of(_text(token).encode()), logprob, others))
    return found


def _chat_logprob(data: Json, vocab: "EndpointVocab") -> TokenLogprob | None:
    value, tops = as_logprob(data.get("logprob")), data.get("top_logprobs")
    if value is None:
        return None
    found = [_dict(one) for one in tops] if isinstance(tops, list) else []
    pairs = [(_token(one, vocab), number) for one in found if (number := as_logprob(one.get("logprob"))) is not None]
    return TokenLogprob(_token(data, vocab), value, tuple(pairs))


def as_logprob(value: object) -> float | None:
    """A log-probability that JSON can have, -9999 for minus infinity; None for what is not one."""
    return float(max(LOWEST, min(value, 0))) if is_number(value) and value < _ROUNDED else None


def _token(data: Json, vocab: "EndpointVocab") -> int:
    raw, number = data.get("bytes"), data.get("id")
    piece = _text(data.get("token")).encode()
    if isinstance(raw, list) and all(is_int(one) and 0 <= one < 256 for one in raw):
        piece = bytes(raw)
    return vocab.number_of(piece, number if is_int(number) and 0 <= number < 1 << 31 else None)


def _dict(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    """A text that every output can write: a lone half of a surrogate pair becomes U+FFFD."""
    return value.encode("utf-8", "surrogatepass").decode("utf-8", "replace") if isinstance(value, str) else ""


def _count(value: object) -> int | None:
    return value if is_int(value) and 0 <= value < 1 << 31 else None


def _number(value: object) -> float | None:
    return float(value) if is_number(value) and 0 <= value < 1e12 else None
