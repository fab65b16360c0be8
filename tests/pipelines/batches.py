"""Runs a batch on a fake engine."""

import io
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmcli.engine.events import Cancellation, Request
from llmcli.files import decode_json
from llmcli.params.settings import Layer
from llmcli.pipelines.batch import Batch, OneEngine
from llmcli.pipelines.batch_input import BatchReader, Format, LineSource
from llmcli.pipelines.batch_output import BatchOutput, WrittenLine
from llmcli.pipelines.line_worker import BatchOptions, LineWorker
from tests.inference.fake_engine import FakeEngine


@dataclass
class Lines:
    """An output in memory."""

    written: list[bytes] = field(default_factory=list)
    is_rewritten = False

    def earlier(self) -> Generator[WrittenLine, None, None]:
        yield from ()

    def write(self, line: bytes) -> None:
        self.written.append(line)

    def finish(self) -> None: ...


def make_batch(
    engine: FakeEngine,
    text: str | bytes,
    output: BatchOutput,
    name: str = "in.jsonl",
    form: Format | None = None,
    values: dict[str, Any] | None = None,
    cancellation: Cancellation | None = None,
    **options: Any,
) -> Batch:
    """A batch of the lines in `text`; `values` are the settings that all of them share."""
    cancellation = cancellation or Cancellation()
    reader = BatchReader(io.BytesIO(text.encode() if isinstance(text, str) else text), name, "utf-8", form)
    source = LineSource(reader, False, cancellation)
    task = options.get("task")
    layers = [*([task.settings] if task else []), Layer("flag", {"seed": 7, **(values or {})})]
    chosen = BatchOptions(**options)
    backend = OneEngine(LineWorker(engine, layers, chosen, cancellation), chosen.n_parallel, cancellation)
    return Batch(backend, source, reader, output, chosen, cancellation)


def run_batch(engine: FakeEngine, text: str | bytes, name: str = "in.jsonl", **more: Any) -> list[dict[str, Any]]:
    """The lines of the output as JSON data."""
    output = Lines()
    make_batch(engine, text, output, name, **more).run()
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in output.written)
    return [decode_json(line) for line in output.written]


def echo(asked: Request) -> Sequence[str]:
    """The last message, or the raw prompt, letter by letter."""
    return list(question_of(asked))


def question_of(asked: Request) -> str:
    """What the user said."""
    asks = asked.prompt.request
    return asks if isinstance(asks, str) else str(asks[-1]["content"])


def errors(lines: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """The type and the message of each error."""
    return [(line["error"]["type"], line["error"]["message"]) for line in lines if "error" in line]
