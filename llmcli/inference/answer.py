"""An answer while it is generated: its text and reasoning, its traces, and whether it matches its constraint."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

from llmcli.engine.events import Constraint, GenerationRecord, Request, TokenEvent, TokenTrace
from llmcli.engine.reasoning import ReasoningSplitter as ReasoningSplitter
from llmcli.engine.reasoning import begun_answer as begun_answer
from llmcli.errors import ConstraintError
from llmcli.inference.engine import Engine, check_request
from llmcli.params.sampler_chain import is_random
from llmcli.params.settings import Settings

Part = tuple[str, str]  # ("answer" or "think", text)
REASONING_HINT = "end the reasoning with --think-budget, or use a larger --ctx-size"
_NO_TOKEN = TokenTrace(0, None, "", None, None, None, None, None, (), "", 0, 0.0)  # of text that belongs to no token


class Answer:
    """An answer while it is generated. Iterate over `parts()` to its end, then read the other attributes.

    `on_token` is called with the trace of each token, in order, once the token cannot be removed any more. All texts of
    the traces joined are the answer exactly; text that belongs to no token is a trace without an id.
    """

    def __init__(self, engine: Engine, request: Request) -> None:
        self.engine, self.request, self.prompt = engine, request, request.prompt
        self.on_token: Callable[[TokenTrace], None] = lambda _token: None
        self._n_tries = 0  # new ones
        self._reset()

    def _reset(self) -> None:
        self.text, self.reasoning, self.finish_reason = "", self.request.reasoning, ""
        self.problem: str | None = None  # why the finished text does not match its constraint
        self.n_drawn = 0  # tokens sampled, including those removed later
        self.record = GenerationRecord()
        self.started = self._has_begun = False
        self.traces: list[TokenTrace] = []
        self._splitter: ReasoningSplitter | None = None
        self._waited_ms = 0.0  # for the model
        self._texts: list[tuple[str, str]] = []  # the text and the reasoning of each token
        self._n_sent = 0  # tokens whose traces were passed on

    @property
    def settings(self) -> Settings:
        return self.request.settings

    @property
    def tokens(self) -> Sequence[int]:
        """The tokens of the answer, without those of the prompt."""
        return self.record.tokens[len(self.prompt.tokens) :] if self.engine.capabilities.tokens else self.record.tokens

    @property
    def n_tokens(self) -> int:
        """Their number."""
        return len(self.tokens) if self.engine.capabilities.tokens else self.record.timings.predicted_n

    @property
    def n_prompt(self) -> int:
        """The number of tokens of the prompt."""
        return len(self.prompt.tokens) if self.engine.capabilities.tokens else self.record.timings.prompt_n

    def parts(self) -> Iterator[Part]:
        """The parts of the answer as they become certain, beginning with the prefill. Raises what ended it.

        Where only a finished answer can be checked for its constraint, its parts come after its end, and one that does
        not match is generated again with the next seed, at most `constraint_retries` times.
        """
        check_request(self.engine, self.request)
        constraint = self.request.constraint
        if not constraint or not constraint.unenforced:
            yield from self._generate()
            return
        send, self.on_token = self.on_token, lambda _token: None
        parts = list(self._generate())
        while self.try_again():
            parts = list(self._generate())
        for trace in self.traces:
            send(trace)
        yield from parts

    def try_again(self) -> bool:
        """Begin an ended answer anew with the next seed, if it does not match and another try can; else False."""
        constraint, settings = self.request.constraint, self.settings
        if not constraint or not constraint.unenforced or not self.problem or not is_random(settings):
            return False
        if self._n_tries >= settings.constraint_retries:
            return False
        self._n_tries += 1
        self.request = replace(self.request, settings=replace(settings, seed=((settings.seed or 0) + 1) % 2**32))
        self._reset()
        return True

    def _generate(self) -> Iterator[Part]:
        with closing(self.engine.generate([self.request])) as events:
            yield from self.begin()
            for event in events:
                yield from self.push(event)  # also the text that was held back by one that failed
                if event.record.failure:
                    raise event.record.failure

    def begin(self) -> list[Part]:
        """The parts before the first token; `push` begins an answer that has not begun."""
        self._has_begun = True
        self._waited_ms = self.engine.waited_ms
        self._splitter = ReasoningSplitter.of_request(self.request)
        return self._add([("answer", self.settings.prefill)], None) if self.settings.prefill else []

    def push(self, event: TokenEvent) -> list[Part]:
        """The parts that one more event makes certain; after the last one, the text that was held back."""
        before = [] if self._has_begun else self.begin()
        self.record, self.started = event.record, True
        # An event without a token and a reason is that of a banned token, which was drawn and removed.
        self.n_drawn += event.id is not None or not event.finish_reason
        parts = list(self._splitter.push(event.text)) if self._splitter else [("answer", event.text)]
        if event.reasoning:
            parts.insert(0, ("think", event.reasoning))
        found = self._add(parts, event)
        if event.finish_reason:
            self.finish_reason, self.engine.waited_ms = event.finish_reason, 0.0
            found += self.end()
            if self.request.constraint and self.finish_reason in ("stop", "length"):
                self.problem = self.request.constraint.problem(self.text)
        if self.n_drawn == self.request.max_drawn:
            self.request.cancellation.set()
        return before + found

    def end(self) -> list[Part]:
        """The text that was held back."""
        return self._add(list(self._splitter.flush()), None) if self._splitter else []

    def _add(self, parts: Sequence[Part], event: TokenEvent | None) -> list[Part]:
        if self.request.trace is not None:
            self._send_traces(parts, event)
        for kind, text in parts:
            if kind == "think":
                self.reasoning += text
            else:
                self.text += text
        return [part for part in parts if part[1]]

    def _send_traces(self, parts: Sequence[Part], event: TokenEvent | None) -> None:
        """Pass on the traces that became certain with this text; without an event it belongs to no token."""
        text, reasoning = text_and_reasoning(parts)
        if event:
            has_token = event.id is not None
            del self._texts[event.n_traces - has_token :]  # tokens that were removed
            self._texts += [(text, reasoning)] if has_token else []
            while self._n_sent < min(event.n_final, len(self._texts)):
                text_of, reasoning_of = self._texts[self._n_sent]
                self._send(event.record.traces[self._n_sent]._replace(text=text_of, reasoning=reasoning_of))
                self._n_sent += 1
        if (not event or event.id is None) and (text or reasoning):
            self._send(_NO_TOKEN._replace(i=self._n_sent, text=text, reasoning=reasoning))

    def _send(self, trace: TokenTrace) -> None:
        self.traces.append(trace)
        self.on_token(trace)

    @property
    def fills_context(self) -> bool:
        """Whether the prompt and the answer fill the context; `max_tokens` counts without the reasoning."""
        return 0 < self.record.n_ctx <= len(self.record.tokens)

    def reasoning_only(self) -> str:
        """That there is reasoning and no answer, though neither the user nor the time limit ended it; else empty."""
        if not self.reasoning or self.text.strip() or self.finish_reason not in ("stop", "length"):
            return ""
        n_tokens = self.record.timings.predicted_n
        if self.finish_reason == "length":
            return f"the reasoning took all {n_tokens} tokens: the answer did not begin"
        return f"the model stopped after {n_tokens} tokens of reasoning: the answer did not begin"

    def constraint_failure(self) -> ConstraintError | None:
        """Why the answer, which has ended, does not match its constraint; None if it does, or has none."""
        constraint = self.request.constraint
        if not constraint or (self.record.is_complete and not self.problem):
            return None
        if reason := self.reasoning_only():
            return ConstraintError(reason, REASONING_HINT)
        if not self.record.is_complete or self.finish_reason == "length":
            return ConstraintError("the answer ended before it matched the constraint", self._cut_hint(constraint))
        reason = f"the answer does not match {constraint.kind}: {self.problem}"
        if self.settings.stop and not constraint.unenforced:  # its end is not in the text
            return ConstraintError(reason, "a stop string ended it: remove --stop")
        return ConstraintError(reason, "try again, with more --constraint-retries and a temperature above 0")

    def _cut_hint(self, constraint: Constraint) -> str:
        """What helps an answer that ended before it matched its constraint."""
        if self.finish_reason != "length":
            return "a stop string ended it: remove --stop"
        room = "use a larger --ctx-size" if self.fills_context else "raise --max-tokens"
        # A small model often does not find the end of a text or of a list.
        return room + (", or limit texts and lists: maxLength, maxItems" if constraint.kind == "json_schema" else "")

    def timings(self) -> dict[str, float]:
        """Milliseconds and tokens per second under llama-server's names."""
        t = self.record.timings
        names = "prompt_n", "prompt_ms", "prompt_per_second", "predicted_n", "predicted_ms", "predicted_per_second"
        values = {name: getattr(t, name) for name in names}
        values |= {"ttft_ms": self._waited_ms + t.ttft_ms, "load_ms": self.engine.load_ms}
        if t.draft_n:
            values |= {name: getattr(t, name) for name in ("draft_n", "draft_n_accepted", "draft_gain")}
        if t.draft_n_held:
            values["draft_n_held"] = t.draft_n_held
        return {name: round(value, 3) for name, value in values.items()}


def text_and_reasoning(parts: Sequence[Part]) -> tuple[str, str]:
    """The texts of the answer and of the reasoning in some parts."""
    if len(parts) == 1 and parts[0][0] == "answer":  # the usual case
        return parts[0][1], ""
    answer = "".join(text for kind, text in parts if kind == "answer")
    return answer, "".join(text for kind, text in parts if kind == "think")
