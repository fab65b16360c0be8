"""One answer: streamed as parts, then whole as the record that `--json` prints."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from llmcli.chat.local import LocalModel, Prompt
from llmcli.engine.thinking import ThinkingSplitter, show_tags
from llmcli.params.settings import Settings, to_data

Part = tuple[str, str]  # ("answer" or "think", text)


@dataclass
class Answer:
    """An answer as it grows. Iterate over `parts()` to its end, then read the rest."""

    local: LocalModel
    prompt: Prompt
    settings: Settings
    grammar: str | None = None
    progress: Callable[[int, int], None] | None = None
    inside: bool = False  # whether the prompt ends inside the model's reasoning
    text: str = field(init=False, default="")
    reasoning: str = field(init=False, default="")
    finish_reason: str = field(init=False, default="")
    complete: bool = field(init=False, default=True)
    started: bool = field(init=False, default=False)

    def parts(self) -> Iterator[Part]:
        """The parts of the answer as they become certain, beginning with the prefill.

        Raises:
            ContextOverflowError, ConstraintError, UsageError: see `LocalModel.generate`.
        """
        self._generation, records = self.local.generate(self.prompt, self.settings, self.grammar, self.progress)
        self.started = True
        if self.settings.prefill:
            yield self._keep("answer", self.settings.prefill)
        if self.settings.raw or self.settings.prefill:
            splitter = None
        else:
            splitter = ThinkingSplitter(self.prompt.text, self.inside)
            show_tags(self.local.model.vocab)
        for record in records:
            if record.finish_reason:
                self.finish_reason = record.finish_reason
                self.complete = self._generation.complete()
            for kind, text in splitter.push(record.text) if splitter else [("answer", record.text)]:
                if text:
                    yield self._keep(kind, text)
        if splitter:
            yield from (self._keep(kind, text) for kind, text in splitter.flush())

    def _keep(self, kind: str, text: str) -> Part:
        if kind == "think":
            self.reasoning += text
        else:
            self.text += text
        return kind, text

    def data(self) -> dict[str, Any]:
        """The answer as JSON data, names and timings as in llama-server."""
        timings = self._generation.timings
        reasoning = {"reasoning_content": self.reasoning} if self.reasoning else {}
        return {
            "text": self.text,
            **reasoning,
            "model": self.local.name,
            "finish_reason": self.finish_reason,
            "prompt_tokens": len(self.prompt.tokens),
            "completion_tokens": timings.predicted_n,
            "seed": self.settings.seed,
            "params": to_data(self.settings),
            "timings": self.timings(),
            **({"tokens": self._tokens()} if self.settings.logprobs else {}),
        }

    def _tokens(self) -> list[dict[str, Any]]:
        """The drawn tokens with their log-probabilities, in the shape of llama-server's `completion_probabilities`."""

        def entry(token: int, logprob: float) -> dict[str, Any]:
            piece = self.local.model.vocab.piece(token, special=True)
            return {"id": token, "token": piece.decode("utf-8", "replace"), "bytes": list(piece), "logprob": logprob}

        return [
            {**entry(drawn.id, drawn.logprob), "top_logprobs": [entry(*likely) for likely in drawn.top]}
            for drawn in self._generation.logprobs
        ]

    def timings(self) -> dict[str, float]:
        """Milliseconds and tokens per second under llama-server's names."""
        t = self._generation.timings
        return {
            "prompt_n": t.prompt_n,
            "prompt_ms": round(t.prompt_ms, 3),
            "prompt_per_second": round(t.prompt_per_second, 3),
            "predicted_n": t.predicted_n,
            "predicted_ms": round(t.predicted_ms, 3),
            "predicted_per_second": round(t.predicted_per_second, 3),
            "ttft_ms": round(self.local.waited_ms + t.ttft_ms, 3),
            "load_ms": round(self.local.load_ms, 3),
        }
