"""What an engine gets: a prompt and a request, as plain data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmcli.engine.reasoning import ReasoningSplitter
from llmcli.engine.sampling.temperature import TemperatureShift
from llmcli.params.settings import Settings

Progress = Callable[[int, int], None]  # (tokens done, tokens in all)


@dataclass(frozen=True)
class Prompt:
    """A prompt as it will be evaluated; `text` shows control tokens too.

    `request` is what it was made of: messages, or with `raw` a text. `template` is the source of the chat template,
    `time` the time that the template got (seconds since 1970).
    """

    text: str
    tokens: Sequence[int]
    request: Sequence[Mapping[str, Any]] | str = ""
    template: str = ""
    time: float = 0.0


@dataclass
class Request:
    """One answer that is asked for; `settings.seed` must be a number.

    Attributes:
        grammar: GBNF that the answer matches.
        progress: called while the prompt is evaluated.
        starts_in_reasoning: the prompt ends inside the model's reasoning.
        live_shift: changes the temperature while the answer is generated.
        trace: record how each token is sampled, with so many alternatives; None = no trace.
    """

    prompt: Prompt
    settings: Settings
    grammar: str | None = None
    progress: Progress | None = None
    starts_in_reasoning: bool = False
    live_shift: TemperatureShift | None = None
    trace: int | None = None

    def splitter(self) -> ReasoningSplitter | None:
        """A new splitter of reasoning and answer; None where all text is the answer."""
        if self.settings.raw or self.settings.prefill:
            return None
        return ReasoningSplitter(self.prompt.text, self.starts_in_reasoning)
