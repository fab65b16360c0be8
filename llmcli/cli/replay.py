"""`llmcli replay`: generate a recorded answer again, and explain the difference if it is not the same."""

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from llmcli.cli.command_line import Argument, Option
from llmcli.cli.completion import complete_session
from llmcli.cli.options import with_settings
from llmcli.cli.stdin import piped_stdin
from llmcli.config.presets import resolve_settings
from llmcli.errors import DiskError, ExitStatus, ModelNotFoundError, UsageError
from llmcli.files import decode_text, is_stdin, read_text
from llmcli.params.model import HubParams
from llmcli.params.param import fields_of
from llmcli.params.settings import Layer, Settings
from llmcli.text import plural
from llmcli.ui.terminal.console import can_redraw, console
from llmcli.ui.terminal.output import AnswerWriter, print_json, stream_answer
from llmcli.ui.terminal.progress import ProgressLine

if TYPE_CHECKING:
    from llmcli.chat.replay import RecordedAnswer, Replay

_SESSION = "session:"
_LARGEST = 64 << 20  # bytes of stdin


@with_settings(only={*fields_of(HubParams), "model", "endpoint", "temp_policy_file", "rpc", "rpc_timeout"})
def replay(
    flags: Layer,
    what: Annotated[
        str,
        Argument(
            metavar="FILE|SESSION[:N]",
            help="Output file of `generate --json` or `compare --json` (`-` reads stdin), or a session: its last "
            "answer, or the one of message N in /history. `session:NAME` is always a session.",
            autocompletion=complete_session,
        ),
    ],
    line: Annotated[int | None, Option(metavar="N", min=1, help="Line of FILE to replay, counted from 1.")] = None,
    as_json: Annotated[
        bool, Option("--json", help="Print one JSON object with the text, the first difference and its reasons.")
    ] = False,
) -> int:
    policy_file = flags.get("temp_policy_file", str) or ""
    recorded = _recorded(what, line, policy_file)
    from llmcli.chat.replay import Replay, replay_settings
    from llmcli.cli.open_model import find_target, open_model

    current = resolve_settings(flags)
    settings = [replay_settings(one, flags.get("model", str), current) for one in recorded]
    try:
        target, status = find_target(current if current.endpoint else settings[0]), ProgressLine()
    except ModelNotFoundError as error:
        if "model" not in flags.values:
            error.hint = f"{error.hint}, or give the model with -m" if error.hint else "give the model with -m"
        raise
    with open_model(target, settings[0], status) as (engine, cancellation):
        engine.identify(status.identifying, cancellation)
        status.clear()
        replays = [Replay(engine, *pair, cancellation) for pair in zip(recorded, settings, strict=True)]
        if recorded[0].label:
            _run_batch(replays, current, status, as_json)
        else:
            writer = AnswerWriter()
            stream_answer(replays[0].answer.parts(), writer, status, live=not as_json, think=settings[0].think)
            replays[0].compare()
            print_json(_data(replays[0]), indent=None) if as_json else writer.end()
    if any(one.stopped for one in replays):
        console.note("stopped: the replay is not complete")
        return ExitStatus.INTERRUPTED
    for one in replays:
        console.note(f"{one.recorded.label}: {_verdict(one)}" if one.recorded.label else _verdict(one))
    return ExitStatus.FAILED if any(one.difference for one in replays) else ExitStatus.OK


def _run_batch(replays: "Sequence[Replay]", settings: Settings, status: ProgressLine, as_json: bool) -> None:
    from llmcli.inference.comparison import Comparison
    from llmcli.ui import comparison as screen

    live, think = can_redraw(sys.stdout) and not as_json, False
    comparison = Comparison([one.answer for one in replays])
    comparison.progress = status.reading
    screen.run(comparison, screen.view_of(comparison, settings) if live else None, think, status.clear)
    for one in replays:
        one.compare()
    if as_json:
        same = not any(one.difference for one in replays)
        answers = [{"label": one.recorded.label, **_data(one)} for one in replays]
        print_json({"same": same, "variants": answers}, indent=None)
    elif not live:
        screen.print_texts(comparison, think)


def _recorded(what: str, line: int | None, policy_file: str) -> "Sequence[RecordedAnswer]":
    """The answers that the argument names; a file that exists comes before a session of the same name."""
    from llmcli.chat.replay import from_output, from_session
    from llmcli.chat.sessions.session import Session

    path = os.path.expanduser(what)
    if not what.startswith(_SESSION) and (is_stdin(what) or (os.path.exists(path) and not os.path.isdir(path))):
        return from_output(*_output(what, line), policy_file)
    if line is not None:
        raise UsageError(f"--line needs a file, and {what} is not a file", "use SESSION:N for an answer of a session")
    name, colon, number = what.removeprefix(_SESSION).rpartition(":")
    if not colon or not number.isdecimal():
        name, number = what.removeprefix(_SESSION), ""
    if not what.startswith(_SESSION) and (os.sep in name or name.endswith((".json", ".jsonl"))):
        raise DiskError(f"file not found: {what}", "give an output file of `llmcli generate --json`, or a session")
    session = Session.read(name)
    for note in session.notes:
        console.warn(note)
    return [from_session(session, int(number[:9]) if number else None, policy_file)]


def _output(name: str, line: int | None) -> tuple[str, str]:
    """The JSON text of one output, and its name for errors."""
    source = "stdin" if is_stdin(name) else name
    if is_stdin(name):
        with piped_stdin("pipe in the output of `llmcli generate --json`, or give a file") as stdin:
            data = stdin.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise DiskError(f"stdin is larger than {_LARGEST >> 20} MiB", "give one output")
        text = decode_text(data, "stdin")
    else:
        text = read_text(name)
    lines = text.split("\n")
    if line is not None:
        if line > len(lines) or not lines[line - 1].strip():
            raise UsageError(f"{source} has no line {line}", f"use a line with an output, of lines 1 to {len(lines)}")
        return lines[line - 1], f"line {line} of {source}"
    full = [number for number, text_line in enumerate(lines, 1) if text_line.strip()]
    if len(full) > 1 and all(lines[number - 1].strip().startswith("{") for number in full[:2]):
        raise UsageError(f"{source} contains {len(full)} outputs", f"choose one, as in --line {full[0]}")
    return text, source


def _data(again: "Replay") -> dict[str, object]:
    answer, difference = again.answer, again.difference
    data: dict[str, object] = {
        "same": None if again.stopped else difference is None,
        "first_difference": difference.to_data() if difference else None,
        "reasons": again.reasons,
        "text": answer.text,
    }
    return data | ({"reasoning_content": answer.reasoning} if answer.reasoning else {})


def _verdict(again: "Replay") -> str:
    difference = again.difference
    if not difference:
        return f"same answer: {plural(again.answer.n_tokens, 'token')}"
    part = " of the reasoning" if difference.part == "think" else ""
    texts = difference.recorded, difference.replayed
    before, now = (json.dumps(text, ensure_ascii=False) if text else "the end" for text in texts)
    reasons = "; ".join(again.reasons) or "no known difference in the conditions"
    return f"different answer from token {difference.token}{part} on: was {before}, is {now}; reason: {reasons}"
