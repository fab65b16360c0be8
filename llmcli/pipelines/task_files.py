"""Task files: where they are, how they are read, and which files of a project the user trusts."""

import hashlib
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, get_args

from msgspec import Meta, Struct

from llmcli.config.presets import validate_preset
from llmcli.errors import DiskError, LlmcliError, UsageError, error_text
from llmcli.files import check_name, config_dir, convert, data_dir, decode_text, read_json, write_json
from llmcli.inference.constraints import CONSTRAINT_KEYS
from llmcli.params.decision import DECISION_KEYS
from llmcli.params.settings import CODE_KEYS, Layer
from llmcli.pipelines.task_helpers import HELPERS
from llmcli.pipelines.tasks import INPUT, PLACE, Example, Form, LongInput, Task, Variable
from llmcli.text import did_you_mean

SUFFIX = ".md"
MARK = "+++"  # the line before and after the front matter
_BUILT_IN = Path(__file__).parent / "built_in_tasks"
_MAX_BYTES = 1 << 20
_MAX_OVERLAP = 1 << 20  # tokens
_MAX_PARENTS = 64  # folders above the current one in which a project is searched
_TRUSTED = "trusted-tasks.json"  # in the data folder
_KINDS = ("choices", "json_schema", "regex", "grammar")  # of constraints
_SIZE = re.compile(r"(\d{1,5}(?:\.\d{1,3})?)\s*([MB])", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z_]\w*")
_AT_LINE = re.compile(r"\(at line (\d+), column \d+\)")

Confirm = Callable[[Path], bool]  # asks whether the user trusts a task file of a project


class _FaultError(UsageError):
    """What is wrong with a task file, at the line of a key or a place."""

    def __init__(self, message: str, hint: str = "", key: str = "") -> None:
        super().__init__(message, hint)
        self.key = key


class _Variable(Struct, forbid_unknown_fields=True):
    default: str | None = None
    help: str = ""


class _Example(Struct, forbid_unknown_fields=True):
    input: str
    variables: dict[str, str] = {}


class _FrontMatter(Struct, forbid_unknown_fields=True):
    """The keys of the front matter."""

    description: str = ""
    size: str = ""
    input: str = "error"
    overlap: Annotated[int, Meta(ge=0, le=_MAX_OVERLAP)] = 0
    helper: str = ""
    combine: str = ""
    form: str = "text"
    system: str = ""
    variables: dict[str, _Variable] = {}
    settings: dict[str, Any] = {}
    constraint: dict[str, str] = {}
    examples: list[_Example] = []


def find_task(name: str, confirm: Confirm | None = None) -> Task:
    """The task of this name: of the project, of the user, or built in; or in the file of this path.

    `confirm` asks whether a file of the project is trusted; without it, one that is not yet trusted is refused.
    Raises UsageError (unknown, not valid, or not trusted) or DiskError (not readable).
    """
    path, source = find_task_file(name)
    data = read_bytes(path)
    if source == "project" and not is_trusted(data):
        if confirm is None:
            hint = f"run `llmcli tasks show {name}` in a terminal: it shows the file and asks whether you trust it"
            raise UsageError(f"the task {name} comes from this project, and you have not trusted it yet: {path}", hint)
        if not confirm(path):
            raise UsageError(f"the task {name} of this project is not trusted", f"remove or rename {path}")
        trust(data)
    return parse_task(decode_text(data, str(path)), path, source)


def find_task_file(name: str) -> tuple[Path, str]:
    """The file of a task, and its source. Raises UsageError if there is none."""
    if os.path.basename(name) != name or name.endswith(SUFFIX):
        path = Path(os.path.expanduser(name))
        if not os.path.lexists(path):
            raise UsageError(f"task file not found: {name[:200]!r}", "see `llmcli tasks list`")
        return path, "file"
    for folder, source in task_folders():
        path = folder / f"{name}{SUFFIX}"
        if is_task_name(name) and os.path.lexists(path):  # a link to nothing is an error, and no other task
            return path, source
    names = [path.stem for path, _ in task_files()]
    raise UsageError(f"unknown task {name[:80]!r}", did_you_mean(name, names) or "see `llmcli tasks list`")


def task_folders() -> list[tuple[Path, str]]:
    """The folders of tasks with their source, those that count first; they need not exist."""
    project = project_folder()
    return [
        *([(project, "project")] if project else []),
        (user_folder(), "user"),
        (_BUILT_IN, "built-in"),
    ]


def user_folder() -> Path:
    """The folder of the user's own tasks."""
    return config_dir() / "tasks"


def project_folder() -> Path | None:
    """The nearest `.llmcli/tasks` in the current folder or above it."""
    with suppress(OSError):
        here = Path.cwd()
        for folder in [here, *here.parents][:_MAX_PARENTS]:
            tasks = folder / ".llmcli" / "tasks"
            if tasks.is_dir() and tasks != user_folder():
                return tasks
    return None


def task_files() -> Iterator[tuple[Path, str]]:
    """Every task file that a name finds, with its source, by name."""
    found: dict[str, tuple[Path, str]] = {}
    for folder, source in task_folders():
        with suppress(OSError):
            for path in folder.iterdir():
                if path.suffix == SUFFIX and is_task_name(path.stem):
                    found.setdefault(path.stem, (path, source))
    yield from (found[name] for name in sorted(found))


def is_task_name(name: str) -> bool:
    """Whether a text can be the name of a task."""
    with suppress(UsageError):
        return bool(check_name(name, "task"))
    return False


def is_trusted(data: bytes) -> bool:
    """Whether the user has trusted a file with this content."""
    return hashlib.sha256(data).hexdigest() in _trusted()


def trust(data: bytes) -> None:
    """Remember that the user trusts a file with this content; if that cannot be written, the next run asks again."""
    known = _trusted() | {hashlib.sha256(data).hexdigest(): True}
    with suppress(OSError):
        write_json(data_dir() / _TRUSTED, known)


def _trusted() -> dict[str, Any]:
    return read_json(data_dir() / _TRUSTED)


def read_bytes(path: Path) -> bytes:
    """The content of a task file. Raises DiskError if it is too large, not a file, or not readable."""
    try:
        if not path.is_file():  # a pipe or a device would never end
            raise DiskError(f"{path} is not a file", "give a task file")
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise DiskError(f"cannot read {path}: {error_text(error)}", "check its permissions") from None
    if len(data) > _MAX_BYTES:
        raise DiskError(f"{path} is larger than {_MAX_BYTES >> 20} MiB", "a task file is a prompt: make it shorter")
    return data


def parse_task(text: str, path: Path, source: str) -> Task:
    """The task in the text of a file. Raises UsageError, with the line where it is known, for what is not valid."""
    text = text.replace("\r\n", "\n")
    table, prompt = _split(text, path)
    try:
        return _task(_convert(table), prompt.strip("\n"), path, source)
    except _FaultError as fault:
        raise UsageError(f"{_place(text, path, fault.key)}: {fault}", fault.hint) from None
    except (ValueError, UsageError) as error:  # of a type, or of a setting: both begin with their keys
        words = re.findall(r"[\w.]+", re.sub("^settings: (unknown setting )?", "", str(error)))
        raise UsageError(f"{_place(text, path, ''.join(words[:1]))}: {error}", getattr(error, "hint", "")) from None


def _split(text: str, path: Path) -> tuple[dict[str, Any], str]:
    """The table of the front matter, and the prompt below it."""
    lines = text.split("\n")
    if lines[0].rstrip() != MARK:
        return {}, text
    end = next((number for number, line in enumerate(lines) if number and line.rstrip() == MARK), None)
    if end is None:
        raise UsageError(f"{path}, line 1: the front matter is not closed", f"end it with a line of {MARK}")
    try:
        # The empty line stands for the mark, so that errors have the line numbers of the file.
        return tomllib.loads("\n".join(["", *lines[1:end], ""])), "\n".join(lines[end + 1 :])
    except (ValueError, RecursionError) as error:
        found = _AT_LINE.search(str(error))
        place = f"{path}, line {found[1]}" if found else str(path)
        reason = _AT_LINE.sub("", str(error)).strip() if isinstance(error, ValueError) else "it is nested too deeply"
        raise UsageError(f"{place}: the front matter is not valid TOML: {' '.join(reason.split())[:160]}") from None


def _convert(table: Mapping[str, Any]) -> _FrontMatter:
    """The front matter with its types. Raises ValueError, or UsageError for a key that is unknown."""
    for key in table:
        if key not in _FrontMatter.__struct_fields__:
            hint = did_you_mean(key, _FrontMatter.__struct_fields__) or "put settings below [settings]"
            raise _FaultError(f"unknown key {key[:80]!r}", hint, key)
    variables = table.get("variables", {})
    if isinstance(variables, dict):  # each on its own, for errors with its name
        table = {**table, "variables": {name: _variable(name, one) for name, one in variables.items()}}
    return convert(table, _FrontMatter)


def _variable(name: str, value: Any) -> _Variable:
    """A variable: a table, or `to = "French"`, which is short for `to = {default = "French"}`."""
    return convert({"default": value} if isinstance(value, str) else value, _Variable, f"variables.{name}")


def _task(front: _FrontMatter, prompt: str, path: Path, source: str) -> Task:
    if not prompt.strip():
        raise _FaultError("the prompt is missing", f"write it below the second {MARK}")
    long_input = _choice("input", front.input, get_args(LongInput))
    form = _choice("form", front.form, get_args(Form))
    _check_constraint(front.constraint)
    if front.helper:
        _choice("helper", front.helper, [*HELPERS])
    variables = {name: Variable(_check_variable(name), one.default, one.help) for name, one in front.variables.items()}
    computed = HELPERS[front.helper].places if front.helper else ()
    for text in (prompt, front.system, front.combine, *front.constraint.values()):
        _check_places(text, [*variables, *computed, INPUT])
    return Task(
        name=path.stem,
        prompt=_with_input(prompt, computed),
        description=" ".join(front.description.split()),
        variables=variables,
        system=front.system.strip(),
        settings=Layer("task", _settings(front.settings), str(path)),
        constraint=front.constraint,
        size=_parse_size(front.size),
        long_input=long_input,
        overlap=front.overlap,
        combine=_with_input(front.combine.strip("\n"), ()) if front.combine.strip() else "",
        helper=front.helper,
        form=form,
        examples=[Example(one.input, one.variables) for one in front.examples],
        source=source,
        path=path,
    )


def _check_constraint(constraint: Mapping[str, str]) -> None:
    for kind in constraint:
        if kind not in _KINDS:
            hint = did_you_mean(kind, _KINDS) or f"use one of {', '.join(_KINDS)}"
            raise _FaultError(f"unknown constraint {kind[:80]!r}", hint, kind)
    if len(constraint) > 1:
        raise _FaultError(f"{' and '.join(constraint)} cannot be used together", "use one of them", "constraint")


def _check_variable(name: str) -> str:
    """The name of a variable, if it can be one."""
    if _NAME.fullmatch(name) and name != INPUT:
        return name
    hint = "use letters, digits and underscores; `input` is the text that the task works on"
    raise _FaultError(f"{name[:80]!r} cannot be the name of a variable", hint, name)


def _check_places(text: str, names: Sequence[str]) -> None:
    """Refuse a place for what is not a variable."""
    for place in PLACE.finditer(text):
        if place[1] not in names:
            hint = did_you_mean(place[1], names) or f"declare {place[1]} below [variables]"
            raise _FaultError(f"{place[0][:80]} is not a variable of this task", hint, place[0])


def _choice(key: str, value: str, choices: Sequence[Any]) -> Any:
    if value not in choices:
        hint = did_you_mean(value, choices)
        raise _FaultError(f"{key} must be one of {', '.join(choices)}, got {value[:60]!r}", hint, key)
    return value


def _with_input(prompt: str, computed: Sequence[str]) -> str:
    """The prompt with a place for the input, or for what is computed from it: without one, after a blank line."""
    has_place = any(place[1] in (INPUT, *computed) for place in PLACE.finditer(prompt))
    return prompt if has_place else f"{prompt}\n\n{{{{{INPUT}}}}}"


def _settings(table: Mapping[str, Any]) -> dict[str, Any]:
    """The typed settings. Raises UsageError for those that a task cannot set."""
    values = validate_preset(table, "settings")
    if "system" in values:
        raise _FaultError("system cannot be in settings", "write `system` above the tables", "system")
    if found := sorted(values.keys() & {*CODE_KEYS, "rpc"}):
        raise _FaultError(f"a task cannot set {found[0]} (it runs code)", "give it as a flag", found[0])
    if found := sorted(values.keys() & {*CONSTRAINT_KEYS, *DECISION_KEYS}):
        raise _FaultError(f"{found[0]} cannot be in settings", "write it below [constraint]", found[0])
    return values


def _parse_size(text: str) -> int:
    """Parameters of a text such as 3B or 500M; 0 for none."""
    found = _SIZE.fullmatch(text.strip())
    if text.strip() and not found:
        raise _FaultError(f"size must be a number of parameters such as 3B or 500M, got {text[:60]!r}", key="size")
    return int(float(found[1]) * (10**9 if found[2] in "bB" else 10**6)) if found else 0


def _place(text: str, path: Path, key: str) -> str:
    """The file with the line of a key or a place, if it is found."""
    word = key.rpartition(".")[2]
    for pattern in (rf"\s*\[*(?:[\w.]+\.)?{re.escape(word)}\b", f".*{re.escape(word)}"):
        for number, line in enumerate(text.split("\n"), 1):
            if word and re.match(pattern, line):
                return f"{path}, line {number}"
    return str(path)


def task_or_none(path: Path, source: str) -> Task | None:
    """The task in a file, for lists; None where it cannot be read, or is a project's and not trusted."""
    with suppress(LlmcliError):
        data = read_bytes(path)
        if source != "project" or is_trusted(data):
            return parse_task(decode_text(data, str(path)), path, source)
    return None
