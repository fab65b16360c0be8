"""How the trace of an answer gets into a file, and what is said when a policy is slow."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.errors import UsageError
from llmcli.ui.console import console

if TYPE_CHECKING:  # the engine is imported where the model is loaded
    from llmcli.chat.answer import Answer

_SLOW = 0.1  # share of the time that a policy may take before it is worth a word


@contextmanager
def writing(answer: "Answer", name: str | None, kept: bool = False) -> Iterator[None]:
    """Within this block the trace of the answer goes into the file `name`; with `kept` it is in the answer at least.

    Raises:
        DiskError: when it cannot be written.
    """
    if name is None:
        answer.trace = 0 if kept else None
        yield
        return
    if not name.strip():
        raise UsageError("--trace needs the name of a file", "as in --trace answer.jsonl")
    from llmcli.chat.trace_file import TraceWriter

    with closing(TraceWriter(Path(os.path.expanduser(name)))) as writer:
        answer.trace, answer.heard = answer.settings.trace_top, writer.write
        yield


def warn_slow(answer: "Answer") -> None:
    """Say it when a policy of the user's own took much of the time."""
    if not answer.started:
        return
    timings, n_tokens = answer.timings(), len(answer.generation.tokens) - len(answer.prompt.tokens)
    took, whole = answer.generation.policy_ms, timings["predicted_ms"]
    if n_tokens and 0 < _SLOW * whole < took:
        console.warn(f"the temperature policy takes {took / n_tokens:.1f} ms a token, {took / whole:.0%} of the time")
