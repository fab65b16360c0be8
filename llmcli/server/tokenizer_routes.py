"""Routes of the tokenizer and the chat template, with the field names of llama-server and of vLLM."""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from llmcli.errors import UsageError
from llmcli.inference.engine import Vocab
from llmcli.inference.openai_format import native_values
from llmcli.server.chat_question import take_chat
from llmcli.server.http import Values, json_response, read_body, refuse_unknown, take
from llmcli.server.served_model import ServedModel
from llmcli.server.service import service_of, take_model

_MOST_CHARACTERS = 1 << 19  # of a text that is only tokenized: llama.cpp may take 5 s for it, and cannot be stopped

_TOKENIZE = (
    *("model", "content", "prompt", "messages"),
    *("add_special", "add_special_tokens", "parse_special", "with_pieces", "return_token_strs"),
)


async def tokenize(request: Request) -> Response:
    """The tokens of `content` (llama-server), of `prompt` or of `messages` (vLLM)."""
    body = await read_body(request)
    model = await take_model(request, body)
    tokenizer, is_vllm = model.engine.tokenizer, "content" not in body
    add_special = take(body, "add_special", bool, take(body, "add_special_tokens", bool, is_vllm))
    parse_special = take(body, "parse_special", bool, True)
    has_pieces, has_texts = take(body, "with_pieces", bool, False), take(body, "return_token_strs", bool, False)
    if "messages" in body:
        chat = take_chat(body, is_answered=False)
        tokens: Sequence[int] = (await model.read_prompt(chat, native_values(body, is_chat=True))).tokens
    else:
        parts = _read_parts(body.pop("content", body.pop("prompt", None)))
        refuse_unknown(body, _TOKENIZE)
        tokens = await model.tokenize(parts, add_special, parse_special)

    def describe() -> Values:
        data: Values = {"tokens": [_piece(tokenizer, one) for one in tokens] if has_pieces else tokens}
        data |= {"count": len(tokens), "max_model_len": model.n_ctx}
        return data | ({"token_strs": [tokenizer.label(one) for one in tokens]} if has_texts else {})

    return json_response(await model.in_thread(describe))


def _read_parts(content: object) -> Sequence[int | str]:
    """A text, or a list of texts and tokens. Raises UsageError."""
    given = content if isinstance(content, list) else [content]
    parts = [one for one in given if isinstance(one, (int, str)) and not isinstance(one, bool)]
    if len(parts) < len(given):
        raise UsageError("content (or prompt) must be a string, or a list of strings and tokens")
    size = sum(len(one) for one in parts if isinstance(one, str))
    if size > _MOST_CHARACTERS:
        raise UsageError(f"content has {size} characters, and at most {_MOST_CHARACTERS} are possible", "split it")
    return parts


def _piece(tokenizer: Vocab, token: int) -> Values:
    """A token with its text; its bytes where it is a part of a character."""
    piece = tokenizer.piece(token, special=True)
    try:
        return {"id": token, "piece": piece.decode()}
    except UnicodeDecodeError:
        return {"id": token, "piece": list(piece)}


async def detokenize(request: Request) -> Response:
    """The text of `tokens`, as `content` (llama-server) and as `prompt` (vLLM)."""
    body = await read_body(request)
    model = await take_model(request, body)
    tokenizer, tokens = model.engine.tokenizer, take(body, "tokens", list, [])
    refuse_unknown(body, ("model", "tokens"))
    if not all(isinstance(one, int) and not isinstance(one, bool) for one in tokens):
        raise UsageError("tokens must be a list of integers")
    tokenizer.check(tokens)
    pieces = await model.in_thread(lambda: [tokenizer.piece(one, special=True) for one in tokens])
    text = b"".join(pieces).decode("utf-8", "replace")
    return json_response({"content": text, "prompt": text})


async def apply_template(request: Request) -> Response:
    """The prompt for messages."""
    body = await read_body(request)
    model = await take_model(request, body)
    chat = take_chat(body, is_answered=False)
    prompt = await model.read_prompt(chat, native_values(body, is_chat=True))
    return json_response({"prompt": prompt.text})


async def input_tokens(request: Request) -> Response:
    """The number of tokens of a chat."""
    return await count_chat(request, await read_body(request))


async def count_chat(request: Request, body: Values) -> Response:
    """The number of tokens of a body in the form of a chat completion, in OpenAI's form."""
    model = await take_model(request, body)
    chat = take_chat(body, is_answered=False)
    prompt = await model.read_prompt(chat, native_values(body, is_chat=True))
    return json_response({"object": "response.input_tokens", "input_tokens": len(prompt.tokens)})


async def tokenizer_info(request: Request) -> Response:
    """Special tokens and the chat template, as vLLM has them."""
    model = await service_of(request).model(request.query_params.get("model", ""), request)
    return json_response({"tokenizer_class": "llama.cpp", "model_max_length": model.n_ctx, **special_tokens(model)})


def special_tokens(model: ServedModel) -> Values:
    """The texts of the special tokens, and the chat template."""
    tokenizer = model.engine.tokenizer

    def text(token: int | None) -> str | None:
        return None if token is None else tokenizer.label(token)

    return {
        "bos_token": text(tokenizer.bos),
        "eos_token": text(tokenizer.eos),
        "pad_token": None,
        "add_bos_token": tokenizer.adds_bos,
        "chat_template": model.engine.chat_template or None,
    }
