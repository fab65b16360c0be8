"""/llmcli/control: moves the temperature of an answer that is being generated, or ends it."""

from starlette.requests import Request
from starlette.responses import Response

from llmcli.errors import UsageError
from llmcli.params.param import LARGEST_FLOAT, is_number
from llmcli.server.answer_group import AnswerGroup
from llmcli.server.errors import UnknownError
from llmcli.server.http import json_response, read_body, take
from llmcli.server.request_log import RequestRecord, current_record
from llmcli.server.service import service_of


async def control(request: Request) -> Response:
    """`id` is that of a completion; `shift` is added to its temperature from the next token on, `stop` ends it.

    A key reaches only answers of its own. The result has the `shift` in force: it is at least as high as makes the last
    temperatures 0.
    """
    body = await read_body(request)
    name, stop, shift = take(body, "id", str, ""), take(body, "stop", bool, False), body.pop("shift", None)
    if body:
        raise UsageError(f"unknown field {next(iter(body))[:40]}")
    if shift is not None and not (is_number(shift) and abs(shift) <= LARGEST_FLOAT):
        raise UsageError("shift must be a number")
    group = _find(service_of(request).running, name)
    moved = group.answers[0].request.live_shift
    if stop:
        group.cancel()
    if shift is not None:
        if moved is None:
            raise UsageError("the temperature of this answer cannot be moved", "ask for it with llmcli.shift")
        moved.set(float(shift))
    return json_response({"id": name, "shift": moved.shift if moved else 0.0})


def _find(running: set[RequestRecord], name: str) -> AnswerGroup:
    mine = current_record()
    for record in running:
        if _owner(record) == _owner(mine):
            for group in record.groups:
                if name and group.name == name:
                    return group
    raise UnknownError(f"no answer with the id {name[:80]!r} is being generated")


def _owner(record: RequestRecord | None) -> str:
    return record.key.name if record and record.key else ""
