"""The tokens of an endpoint: numbers for the texts that it sends, and its own tokenizer where it has a route for it."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from threading import Lock

from llmcli.engine.llama.model import Vocab
from llmcli.errors import NetworkError, UsageError
from llmcli.params.param import is_int

NO_TOKEN = -1  # a piece of an answer whose text nobody asks for
_KEPT = 1 << 17  # texts with a number of their own: more than the answers that are generated at a time have
Ask = Callable[[str, Mapping[str, object]], object]  # a route beside /v1, a body -> JSON data


class EndpointVocab(Vocab):
    """The tokens of a server. Texts without a number of the server's get one below 0."""

    def __init__(self, name: str, ask: Ask | None = None) -> None:
        """`ask` is for /tokenize and /detokenize; None if the server has no such routes."""
        self._name, self._ask = name, ask
        self._lock = Lock()
        self._numbers: dict[bytes, int] = {}  # of the texts without one of the server's, the last used one last
        self._next = NO_TOKEN - 1
        self._pieces: dict[int, bytes] = {}
        self._labels: dict[int, str] = {}
        self.n_tokens = 1 << 31  # not known: the server itself checks
        self.eos = None
        self.abort = None
        self._thread = None

    @cached_property
    def bos(self) -> int | None:  # type: ignore[override]
        """The token that the server puts before a text, if it puts one there."""
        plain, whole = self.tokenize("a"), self.tokenize("a", add_special=True)
        return whole[0] if whole[1 : 1 + len(plain)] == plain and whole[:1] != plain[:1] else None

    @property
    def adds_bos(self) -> bool:  # type: ignore[override]
        return self.bos is not None

    def number_of(self, piece: bytes, number: int | None = None) -> int:
        """The number of a text, which the server gives, or which it gets here."""
        with self._lock:  # answers come in several threads
            if number is None:
                number = self._numbers.pop(piece, self._next)
                self._next = min(self._next, number - 1)
                self._numbers[piece] = number
                if len(self._numbers) > _KEPT:
                    self._pieces.pop(self._numbers.pop(next(iter(self._numbers))), None)
            self._pieces[number] = piece
            return number

    def show(self, token: int, text: str) -> None:
        """How a token is displayed, as a trace has it: its text as far as it was final."""
        self._labels.setdefault(token, text)

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """The tokens of a text. Raises UsageError for a server without a route for that."""
        if not text and not add_special:
            return []
        # vLLM reads a prompt, llama-server a content.
        body = {"prompt": text, "content": text, "add_special_tokens": add_special, "add_special": add_special}
        return self._tokens({**body, "parse_special": parse_special})

    def tokenize_messages(self, body: Mapping[str, object]) -> list[int]:
        """The tokens of messages in the words of the chat template."""
        return self._tokens(body)

    def _tokens(self, body: Mapping[str, object]) -> list[int]:
        """The tokens; some servers give their texts too, as a string or, where they are no whole characters, bytes."""
        data = self._request("/tokenize", {**body, "with_pieces": True})
        found = data.get("tokens")
        tokens = [self._token(one) for one in found] if isinstance(found, list) else [None]
        if None in tokens:
            raise NetworkError(f"{self._name}: /tokenize gave no tokens", "use a model on this machine")
        return [one for one in tokens if one is not None]

    def _token(self, data: object) -> int | None:
        if not isinstance(data, dict):
            return data if is_int(data) else None
        number, piece = data.get("id"), data.get("piece")
        if not is_int(number):
            return None
        if isinstance(piece, str):
            self.number_of(piece.encode("utf-8", "replace"), number)
        elif isinstance(piece, list) and all(is_int(one) and 0 <= one < 256 for one in piece):
            self.number_of(bytes(piece), number)
        return number

    def piece(self, token: int, special: bool = False) -> bytes:  # noqa: ARG002
        if token not in self._pieces and token < 0:  # of an answer long ago
            return b""
        if token not in self._pieces:
            self._pieces[token] = self._text([token]).encode()
        return self._pieces[token]

    def _text(self, tokens: Sequence[int]) -> str:
        data = self._request("/detokenize", {"tokens": [*tokens]})
        text = data.get("prompt", data.get("content"))
        if not isinstance(text, str):
            raise NetworkError(f"{self._name}: /detokenize gave no text", "use a model on this machine")
        return text

    def detokenize(self, tokens: list[int]) -> str:
        return self._text(tokens)

    def _request(self, route: str, body: Mapping[str, object]) -> Mapping[str, object]:
        if self._ask is None:
            raise UsageError(f"{self._name} does not tokenize", "use a model on this machine")
        data = self._ask(route, body)
        return data if isinstance(data, dict) else {}

    def ends(self, token: int) -> bool:
        return token == self.eos

    def is_control(self, token: int) -> bool:  # noqa: ARG002
        return False

    def strips_left(self, token: int) -> bool:  # noqa: ARG002
        return False

    @property
    def special(self) -> dict[int, bytes]:  # none is known
        return {}
