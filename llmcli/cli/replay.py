"""`llmcli replay`: an answer of an earlier time given again, and what is otherwise if it is not the same."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli.chat.compose import read_text
from llmcli.chat.config import config_layer
from llmcli.cli.options import complete_session, with_settings
from llmcli.errors import DiskError, ExitStatus, ModelNotFoundError, UsageError
from llmcli.params.hub import HubParams
from llmcli.params.layers import Layer, environment_layer, resolve
from llmcli.params.param import describe
from llmcli.params.settings import Settings
from llmcli.ui.console import console, is_terminal
from llmcli.ui.interrupt import interruptible
from llmcli.ui.output import put_line
from llmcli.ui.repl.show import is_live
from llmcli.ui.status import Status
from llmcli.ui.stream import AnswerWriter, stream_answer
from llmcli.ui.units import plural

if TYPE_CHECKING:
    from llmcli.chat.difference import Difference
    from llmcli.chat.local import LocalModel, Target
    from llmcli.chat.recorded import Recorded
    from llmcli.chat.replay import Replay

_SESSION = "session:"
_LARGEST = 64 << 20  # bytes of stdin


@with_settings(only={*describe(HubParams), "model", "temp_policy_file"})
def replay(
    flags: Layer,
    what: Annotated[
        str,
        typer.Argument(
            metavar="FILE|SESSION[:N]",
            help="The output of `generate --json` or `compare --json` (`-` is stdin), or an answer of a session: the "
            "last one, or that of message N in /history. `session:NAME` is no file.",
            autocompletion=complete_session,
        ),
    ],
    line: Annotated[int | None, typer.Option("--line", metavar="N", min=1, help="The line of FILE, from 1.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the text.")] = False,
) -> int:
    """Give an answer again, and say whether it is the same; if not, from where on and why (status 1)."""
    own = flags.values.get("temp_policy_file") or ""
    recorded = _recorded(what, line, own)
    from llmcli.chat.replay import settings_of
    from llmcli.cli.model import open_model
    from llmcli.engine.abort import AbortFlag

    here = resolve([config_layer(), environment_layer(os.environ), flags]).settings
    settings = [settings_of(one, flags.values.get("model"), here) for one in recorded]
    target, abort, status = _find(settings[0], "model" in flags.values), AbortFlag(), Status()
    with interruptible(abort), open_model(target, settings[0], abort, status) as local:
        local.identity.sha256(status.identifying, abort.is_set)
        status.clear()
        give = _together if recorded[0].label else _alone
        replays = give(local, recorded, settings, status, as_json)
    for note in target.notes:
        console.warn(note)
    if any(one.stopped for one in replays):
        console.note("stopped before its end")
        return ExitStatus.INTERRUPTED
    for one in replays:
        console.note(f"{one.recorded.label}: {_verdict(one)}" if one.recorded.label else _verdict(one))
    return ExitStatus.FAILED if any(one.difference for one in replays) else ExitStatus.OK


def _alone(
    local: "LocalModel", recorded: "Sequence[Recorded]", settings: Sequence[Settings], status: Status, as_json: bool
) -> "Sequence[Replay]":
    """Give one answer again, as it comes."""
    from llmcli.chat.replay import Replay

    again, writer = Replay(local, recorded[0], settings[0]), AnswerWriter()
    stream_answer(again.parts(), writer, status, live=not as_json, think=settings[0].think)
    if as_json:
        writer.write(json.dumps(_data(again), ensure_ascii=False))
    writer.end()
    return [again]


def _together(
    local: "LocalModel", recorded: "Sequence[Recorded]", settings: Sequence[Settings], status: Status, as_json: bool
) -> "Sequence[Replay]":
    """Give the answers of a comparison again, side by side as they were written."""
    from llmcli.chat.replay import ReplayTogether
    from llmcli.ui.compare import report, show

    again, live, think = ReplayTogether(local, recorded, settings), is_live() and not as_json, False
    again.comparison.progress = status.reading
    show.run(again.comparison, show.view_of(again.comparison) if live else None, think, status.clear)
    again.compare()
    if as_json:
        same = not any(one.difference for one in again.replays)
        answers = [{"label": one.recorded.label, **_data(one)} for one in again.replays]
        put_line(json.dumps({"same": same, "variants": answers}, ensure_ascii=False))
    elif not live:
        report.put_texts(again.comparison, think)
    return again.replays


def _recorded(what: str, line: int | None, own: str) -> "Sequence[Recorded]":
    """The answers that the argument means: a file that is there comes before a session of this name."""
    from llmcli.chat.recorded import from_output, from_session
    from llmcli.chat.session import Session

    place = os.path.expanduser(what)
    if not what.startswith(_SESSION) and (what == "-" or (os.path.exists(place) and not os.path.isdir(place))):
        return from_output(*_output(what, line), own)
    if line is not None:
        raise UsageError(f"--line is for files, and {what} is none", "write SESSION:N for an answer of a session")
    name, colon, number = what.removeprefix(_SESSION).rpartition(":")
    if not colon or not number.isdecimal():
        name, number = what.removeprefix(_SESSION), ""
    if not what.startswith(_SESSION) and (os.sep in name or name.endswith((".json", ".jsonl"))):
        raise DiskError(f"there is no file {what}")
    session = Session.read(name)
    for note in session.notes:
        console.warn(note)
    return [from_session(session, int(number[:9]) if number else None, own)]


def _output(name: str, line: int | None) -> tuple[str, str]:
    """The JSON text of one output, and how it is called in errors."""
    text = _stdin() if name == "-" else read_text(name)
    source = "stdin" if name == "-" else name
    lines = text.split("\n")
    if line is not None:
        if line > len(lines) or not lines[line - 1].strip():
            raise UsageError(f"{source} has no line {line}")
        return lines[line - 1], f"line {line} of {source}"
    full = [number for number, one in enumerate(lines, 1) if one.strip()]
    if len(full) > 1 and all(lines[number - 1].strip().startswith("{") for number in full[:2]):
        raise UsageError(f"{source} holds {len(full)} outputs", f"choose one with --line {full[0]}")
    return text, source


def _stdin() -> str:
    if sys.stdin is None or is_terminal(sys.stdin):
        raise UsageError("there is nothing on stdin", "pipe the output of `llmcli generate --json` in, or name a file")
    try:
        data = sys.stdin.buffer.read(_LARGEST + 1)
    except OSError as error:
        raise DiskError(f"cannot read stdin: {error.strerror}") from None
    if len(data) > _LARGEST:
        raise DiskError(f"stdin holds more than {_LARGEST >> 20} MiB", "give one output")
    return data.decode("utf-8-sig", "replace")


def _find(settings: Settings, given: bool) -> "Target":
    from llmcli.cli.model import find_model

    try:
        return find_model(settings)
    except ModelNotFoundError as error:
        if not given:
            error.hint = f"{error.hint.rstrip('.')}. " * bool(error.hint) + "Or say with -m where the model is now."
        raise


def _data(again: "Replay") -> dict[str, object]:
    answer, there = again.answer, again.difference
    reasoning = {"reasoning_content": answer.reasoning} if answer.reasoning else {}
    return {
        "same": None if again.stopped else there is None,
        "first_difference": asdict(there) if there else None,
        "reasons": again.reasons,
        "text": answer.text,
        **reasoning,
    }


def _verdict(again: "Replay") -> str:
    if not again.difference:
        return f"the same: {plural(again.n_tokens, 'token')}"
    why = "; ".join(again.reasons) or "nothing that is known differs"
    return f"{_place(again.difference)}; why: {why}"


def _place(there: "Difference") -> str:
    """Where it differs, in words."""
    where = " in the reasoning" if there.part == "think" else ""
    had, now = (json.dumps(text, ensure_ascii=False) if text else "the end" for text in (there.had, there.now))
    return f"differs{where} from token {there.token} on: had {had}, now {now}"
