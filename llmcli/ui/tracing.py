"""Write the trace of an answer into a file, and warn when a temperature policy is slow."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.errors import UsageError
from llmcli.ui.terminal.console import console

if TYPE_CHECKING:  # the engine is imported where the model is loaded
    from llmcli.inference.answer import Answer

_SLOW = 0.1  # share of the time that a policy may take before there is a warning


@contextmanager
def writing(answer: "Answer", name: str | None, kept: bool = False) -> Iterator[None]:
    """Within this block the trace of the answer goes into the file `name`; with `kept` it is recorded at least.

    Raises:
        DiskError: when the file cannot be written.
    """
    if name is None:
        answer.trace = 0 if kept else None
        yield
        return
    if not name.strip():
        raise UsageError("the file name of --trace is empty", "give a file, as in --trace answer.jsonl")
    from llmcli.inference.trace_file import TraceWriter

    with closing(TraceWriter(Path(os.path.expanduser(name)))) as writer:
        answer.trace, answer.heard = answer.settings.trace_top, writer.write
        yield


def warn_slow(answer: "Answer") -> None:
    """Warn when a temperature policy in Python takes much of the time."""
    if not answer.started:
        return
    timings, n_tokens = answer.timings(), len(answer.generation.tokens) - len(answer.prompt.tokens)
    policy_ms, total_ms = answer.generation.policy_ms, timings["predicted_ms"]
    if n_tokens and 0 < _SLOW * total_ms < policy_ms:
        share = f"{policy_ms / n_tokens:.1f} ms per token, {policy_ms / total_ms:.0%} of the time"
        console.warn(f"the temperature policy is slow: {share}")
