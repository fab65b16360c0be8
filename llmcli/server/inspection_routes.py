"""/llmcli/inspect: how a token of an answer was drawn, which our own client shows with /why and /alternatives."""

from dataclasses import replace
from functools import partial

from msgspec import to_builtins
from starlette.requests import Request
from starlette.responses import Response

from llmcli.engine.events import Cancellation, Move, TemperatureShift, TokenChunk
from llmcli.engine.events import Request as EngineRequest
from llmcli.errors import UsageError
from llmcli.files import convert
from llmcli.inference.openai_format import native_values
from llmcli.server.chat_question import take_chat
from llmcli.server.http import Values, is_tokens, json_response, read_body, take, unless_gone
from llmcli.server.served_model import Question, ServedModel
from llmcli.server.service import service_of

_MOST_CANDIDATES = 1000


async def inspect(request: Request) -> Response:
    """What a completion was asked, with `tokens` (of its answer), and which token: `at`, or all of their entropies.

    With `rank`, the id of the token that has this rank, from 1, by the model. `n_prompt` is how many tokens of the
    prompt stand before `tokens`, if not all do; `moves` are the shifts of its temperature, as in a replay manifest.
    """
    body = await read_body(request)
    model = await service_of(request).model(take(body, "model", str, ""), request)
    tokens: list[int] = take(body, "tokens", list, [])
    at = take(body, "at", int, -1)
    count, rank = take(body, "count", int, 10), take(body, "rank", int, 0)
    n_prompt, moves = take(body, "n_prompt", int, None), _moves(body.pop("moves", None))
    if not is_tokens(tokens):
        raise UsageError("tokens must be the tokens of an answer")
    model.engine.tokenizer.check(tokens)
    if not -1 <= at < len(tokens):
        raise UsageError(f"at must be between 0 and {len(tokens) - 1}, got {at}")
    if not (1 <= count <= _MOST_CANDIDATES and 0 <= rank <= _MOST_CANDIDATES):
        raise UsageError(f"count and rank must be between 1 and {_MOST_CANDIDATES}")
    is_chat = "messages" in body
    question: Question = take_chat(body) if is_chat else ""
    own = native_values(body, is_chat)
    question = question or str(own.pop("prompt", ""))
    settings = model.settings(own)
    asked = await model.in_thread(lambda: model.make_request(question, settings))
    if moves:
        asked.live_shift = TemperatureShift()
        asked.live_shift.moves = moves
    if n_prompt is not None:
        if not 0 < n_prompt <= len(asked.prompt.tokens):
            raise UsageError(f"n_prompt must be between 1 and {len(asked.prompt.tokens)}, got {n_prompt}")
        asked.prompt = replace(asked.prompt, chunks=(TokenChunk(asked.prompt.tokens[:n_prompt]),))
    work = partial(_inspect, model, asked, tokens, at, count, rank)
    return json_response(await unless_gone(request, model.worker.call(work)))


def _inspect(
    model: ServedModel, asked: EngineRequest, tokens: list[int], at: int, count: int, rank: int, stop: Cancellation
) -> Values:
    inspector = model.engine.inspector(asked, tokens)
    if at < 0:
        return {"entropies": inspector.entropies(stop, _ignore), "stateful_steps": inspector.stateful_steps}
    if rank:
        return {"token": inspector.token_at_rank(at, rank, stop, _ignore)}
    found = inspector.inspect(at, count, stop, _ignore)
    return {"inspection": to_builtins(found), "stateful_steps": inspector.stateful_steps}


def _moves(data: object) -> list[Move]:
    try:
        return convert(data or [], list[Move], "moves")
    except ValueError as error:
        raise UsageError(str(error)) from None


def _ignore(_done: int, _total: int) -> None: ...
