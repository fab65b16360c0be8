"""The field `llmcli` of requests and choices: what OpenAI's form has no place for, such as traces and replays."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from llmcli.engine.events import TokenTrace
from llmcli.errors import UsageError
from llmcli.inference.answer import Answer
from llmcli.inference.replay_manifest import ReplayManifest, replay_data
from llmcli.inference.trace_file import to_data
from llmcli.server.http import Values, take

_MOST_ALTERNATIVES = 1000  # as for the setting `trace_top`


@dataclass(frozen=True)
class Extras:
    """What a request asks for beside the answer."""

    trace: int | None = None  # how each token was sampled, with so many alternatives
    has_replay: bool = False  # the manifest with which `llmcli replay` repeats the answer
    recorded: ReplayManifest | None = None  # that of an answer that is generated again
    has_shift: bool = False  # /llmcli/control may move the temperature

    @property
    def is_of_one(self) -> bool:
        """Whether only one answer can have it."""
        return self.recorded is not None or self.has_shift

    async def data(self, answer: Answer, traces: Sequence[TokenTrace], is_last: bool) -> Values:
        """The field of a choice with these traces; nothing without any."""
        found: Values = {}
        if traces:
            found["trace"] = [to_data(one) for one in traces]
        if self.has_replay and is_last:
            found["replay"] = await asyncio.to_thread(replay_data, answer)
        return {"llmcli": found} if found else {}


def read_extras(body: Values) -> Extras:
    """Take the field out of a body. Raises UsageError."""
    values = take(body, "llmcli", dict, {})
    trace, has_shift = take(values, "trace", int, -1), take(values, "shift", bool, False)
    replay = values.pop("replay", None) or False
    if not -1 <= trace <= _MOST_ALTERNATIVES:
        raise UsageError(f"llmcli.trace must be between 0 and {_MOST_ALTERNATIVES}, got {trace}")
    if values:
        raise UsageError(f"unknown field llmcli.{next(iter(values))[:40]}")
    if isinstance(replay, bool):
        return Extras(None if trace < 0 else trace, replay, None, has_shift)
    if has_shift:
        raise UsageError("llmcli.shift cannot be set for a replay, which has recorded shifts")
    try:
        return Extras(None if trace < 0 else trace, True, ReplayManifest.from_data(replay))
    except ValueError as error:
        raise UsageError(f"llmcli.{error}") from None
