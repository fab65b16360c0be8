"""Measured evaluations with the definitions of llama-bench: prompts and generation, at a depth, side by side."""

import ctypes
import random
from dataclasses import dataclass, replace
from time import perf_counter_ns

from llmcli.engine.events import Cancellation, Progress
from llmcli.engine.llama import bindings
from llmcli.engine.llama.context import Context
from llmcli.engine.llama.model import Model
from llmcli.engine.sampling.chain import TokenSampler
from llmcli.params.sampler_chain import build_chain
from llmcli.params.settings import Settings

_CTX_MULTIPLE = 256  # tokens: llama.cpp rounds a context up to a multiple of it
_SEED = 1  # of the random tokens, and of the draw where the settings have none


@dataclass(frozen=True)
class SpeedTest:
    """What one sample evaluates: the tokens of a prompt, or of an answer, behind `n_depth` tokens that do not count.

    With `n_parallel`, so many answers are generated side by side, each of `n_gen` tokens.
    """

    n_prompt: int = 0
    n_gen: int = 0
    n_depth: int = 0
    n_parallel: int = 1

    @property
    def name(self) -> str:
        """As llama-bench writes it, such as `pp512 @ d4096`; several answers are `tg128 x4`."""
        text = f"pp{self.n_prompt}" if self.n_prompt else f"tg{self.n_gen}"
        text += f" x{self.n_parallel}" if self.n_parallel > 1 else ""
        return text + (f" @ d{self.n_depth}" if self.n_depth else "")

    @property
    def n_tokens(self) -> int:
        """The tokens that count."""
        return self.n_prompt + self.n_gen * self.n_parallel

    @property
    def n_ctx(self) -> int:
        """The size of the context that it needs; the depth is in it once."""
        return self.n_depth + self.n_tokens


@dataclass(frozen=True)
class Sample:
    """Nanoseconds of one run."""

    ns: int  # of the evaluation of all tokens that count
    first_token_ns: int = 0  # of a prompt and the draw of the first token behind it


class SpeedContext:
    """A context for one test, in which it can be run again and again."""

    def __init__(self, model: Model, settings: Settings, test: SpeedTest, cancellation: Cancellation) -> None:
        """Raises LlmcliError when the context cannot be created."""
        self.test, width = test, test.n_parallel
        # A shared memory of several sequences has room for all of them; llama.cpp rounds the size of one up by itself.
        n_ctx = test.n_ctx if width == 1 else -(-test.n_ctx // _CTX_MULTIPLE) * _CTX_MULTIPLE
        n_ctx_seq = test.n_depth + test.n_gen if width > 1 else 0
        self._context = Context(model, replace(settings, n_ctx=n_ctx), width, n_ctx_seq)
        self._context.waits = None  # else what others compute would change what is measured, also after their end
        self._context.watch([cancellation])
        vocab, numbers = model.vocab, random.Random(_SEED)
        # Whatever is read or generated begins with BOS, if the model has one, as in llama-bench.
        longest = max(test.n_depth, test.n_prompt, test.n_gen)
        self._tokens = [numbers.randrange(vocab.n_tokens) for _ in range(longest)]
        self._tokens[:1] = [vocab.bos if vocab.adds_bos and vocab.bos is not None else self._tokens[0]]
        self._steps = [[(seq_id, token) for seq_id in range(width)] for token in self._tokens[: test.n_gen]]
        seeded = replace(settings, seed=_SEED if settings.seed is None else settings.seed)
        self._sampler = TokenSampler(vocab, build_chain(seeded)) if test.n_prompt else None

    def warm_up(self) -> None:
        """A run that does not count: all of a prompt, or one token of each answer. Raises AbortedError, as `run`."""
        self._clear()
        if self.test.n_prompt:
            self._context.prefill(0, self._tokens[: self.test.n_prompt])
        else:
            self._context.step(self._steps[0])
        self._clear()

    def read_depth(self, progress: Progress | None = None) -> None:
        """Bring the context to where the test begins. Its depth is evaluated once, where the memory can be cut.

        Raises AbortedError, as `run`.
        """
        context, depth = self._context, self._tokens[: self.test.n_depth]
        self._clear(first=1 if depth else 0)
        if depth:
            context.prefill(0, depth, progress)
            for seq_id in range(1, self.test.n_parallel):
                context.share(0, seq_id)

    def _clear(self, first: int = 0) -> None:
        for seq_id in range(first, self.test.n_parallel):
            self._context.cut(seq_id)

    def run(self) -> Sample:
        """One sample; `read_depth` comes before it.

        Raises AbortedError when it is cancelled, and LlmcliError where llama.cpp cannot evaluate the tokens.
        """
        context, steps = self._context, self._steps
        if not self._sampler:
            begin = perf_counter_ns()
            for step in steps:
                context.step(step)
            return Sample(perf_counter_ns() - begin)
        tokens = [*self._tokens[: self.test.n_depth], *self._tokens[: self.test.n_prompt]]
        begin = perf_counter_ns()
        context.prefill(0, tokens)
        end = perf_counter_ns()
        self._sampler.sample(context.handle, -1)
        return Sample(end - begin, perf_counter_ns() - begin)

    def close(self) -> None:
        """Free the memory."""
        if self._sampler:
            self._sampler.close()
        self._context.close()


def model_facts(model: Model) -> tuple[str, int, int]:
    """The name that llama.cpp gives this kind of model, such as `llama 1B Q4_0`, its bytes, and its parameters."""
    api, buffer = bindings.load(), ctypes.create_string_buffer(128)
    api.llama_model_desc(model.handle, buffer, len(buffer))
    n_bytes, n_params = api.llama_model_size(model.handle), api.llama_model_n_params(model.handle)
    return buffer.value.decode("utf-8", "replace"), n_bytes, n_params
