"""`llmcli tasks`: list, show, write and try tasks."""

from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

from llmcli.cli.command_line import Argument, Option
from llmcli.cli.completion import complete_task
from llmcli.cli.options import CHAT_ONLY, Json, with_settings
from llmcli.cli.task_options import TaskVariables, ask_for_trust, load_judge, parse_variables
from llmcli.config.presets import layers_of
from llmcli.errors import DiskError, ExitStatus, LlmcliError, UsageError
from llmcli.files import check_name, decode_text, make_private
from llmcli.params.settings import Layer, Settings, fields, resolve
from llmcli.pipelines import task_files
from llmcli.pipelines.job import run_job
from llmcli.pipelines.tasks import INPUT, Task, fill, task_job
from llmcli.text import ellipsize, format_count
from llmcli.ui.terminal.console import can_ask, console, open_in_editor
from llmcli.ui.terminal.output import print_json, print_line, print_rows, print_text
from llmcli.ui.terminal.progress import ProgressLine

if TYPE_CHECKING:
    from llmcli.engine.events import Cancellation
    from llmcli.inference.answer import Answer
    from llmcli.inference.engine import Engine
    from llmcli.pipelines.job import Job, Result, Step
    from llmcli.pipelines.task_trials import Trial

Name = Annotated[str, Argument(help="Name of a task, or its file.", autocompletion=complete_task)]
_SKELETON = Path(task_files.__file__).parent / "task_skeleton.md"
_TRIAL_CONTEXT = 1024  # tokens, so that a long input is longer and does not take long


def list_tasks(as_json: Json = False) -> None:
    rows: list[dict[str, Any]] = []
    for path, source in task_files.task_files():
        about = {"name": path.stem, "source": source, "path": str(path)}
        try:
            data = task_files.read_bytes(path)
            if source == "project" and not task_files.is_trusted(data):
                rows.append({**about, "description": "(not trusted yet)"})
                continue
            task = task_files.parse_task(decode_text(data, str(path)), path, source)
        except LlmcliError as error:
            rows.append({**about, "description": f"(not valid) {error}", "error": str(error)})
            continue
        variables = {name: {"default": one.default, "help": one.help} for name, one in task.variables.items()}
        rows.append({**about, "description": task.description, "size": task.size, "variables": variables})
    if as_json:
        print_json(rows, indent=None)
        return
    heads = ["TASK", "SOURCE", "MODEL", "VARIABLES", "DESCRIPTION"]
    table = [
        [
            str(row["name"]),
            str(row["source"]),
            format_count(row["size"]) if row.get("size") else "",
            ", ".join(row.get("variables", ())),
            ellipsize(str(row["description"]), 100),
        ]
        for row in rows
    ]
    print_rows(heads, table, right=("MODEL",), spare=("SOURCE", "MODEL"))


def show_task(name: Name, var: TaskVariables = None) -> None:
    path, source = task_files.find_task_file(name)
    data = task_files.read_bytes(path)
    text = decode_text(data, str(path))
    if var:
        task = task_files.parse_task(text, path, source)
        given = parse_variables(var)
        defaults = {name: one.default for name, one in task.variables.items() if one.default is not None}
        task.complete({**dict.fromkeys(task.variables, "?"), **given})  # refuses what it does not have
        text = fill(text, {**defaults, **given})
    print_text(text if text.endswith("\n") else text + "\n")
    if source == "project" and not task_files.is_trusted(data):
        if not can_ask():
            console.note(f"{path} is not trusted yet; this command asks for that in a terminal")
        elif ask_for_trust(path):
            task_files.trust(data)


def new_task(
    name: Annotated[str, Argument(help="Name of the new task.")],
    project: Annotated[bool, Option("--project", help="Create it in .llmcli/tasks of the current folder.")] = False,
    source: Annotated[
        str | None, Option("--from", metavar="TASK", help="Task to copy.", autocompletion=complete_task)
    ] = None,
) -> None:
    data = _SKELETON.read_bytes() if source is None else task_files.read_bytes(task_files.find_task_file(source)[0])
    check_name(name, "task")
    folder = Path(".llmcli", "tasks") if project else make_private(task_files.user_folder())
    path = _create(folder, name, data)
    if project:
        task_files.trust(data)
    print_line(str(path))
    console.note(f"change it with `llmcli tasks edit {name}`, and try it with `llmcli tasks test {name}`")


def edit_task(name: Name) -> None:
    path, source = task_files.find_task_file(name)
    if source == "built-in":
        path = _create(make_private(task_files.user_folder()), path.stem, task_files.read_bytes(path))
        console.note(f"{path} is your own copy of the task; it replaces the built-in one")
    before = task_files.read_bytes(path)
    open_in_editor(path)
    data = task_files.read_bytes(path)
    if source == "project" and (data != before or task_files.is_trusted(before)):
        task_files.trust(data)  # the user wrote it
    task_files.parse_task(decode_text(data, str(path)), path, source)


def show_path(
    name: Annotated[str | None, Argument(autocompletion=complete_task, help="Name of a task.")] = None,
) -> None:
    if name is not None:
        print_line(str(task_files.find_task_file(name)[0]))
        return
    for folder, _ in task_files.task_folders():
        print_line(str(folder))


def _create(folder: Path, name: str, data: bytes) -> Path:
    """Write a new task file. Raises UsageError if it exists."""
    path = folder / f"{name}{task_files.SUFFIX}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        raise UsageError(f"{path} already exists", f"change it with `llmcli tasks edit {name}`") from None
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error.strerror}") from None
    return path


@with_settings(only=fields().keys() - CHAT_ONLY - {"prompt", "file"})
def try_tasks(
    flags: Layer,
    names: Annotated[
        list[str] | None,
        Argument(metavar="[NAME...]", help="Names of tasks; without them, all.", autocompletion=complete_task),
    ] = None,
    var: TaskVariables = None,
    answers: Annotated[bool, Option("--answers", help="Print the answers too.")] = False,
    as_json: Json = False,
) -> int:
    confirm_trust, given = ask_for_trust if can_ask() else None, parse_variables(var or ())
    tasks = [task_files.find_task(name, confirm_trust) for name in names or _testable()]
    if unknown := given.keys() - {name for task in tasks for name in task.variables}:
        raise UsageError(f"none of these tasks has a variable {min(unknown)[:80]!r}", "see `llmcli tasks list`")
    if "n_ctx" not in flags.values:
        flags = Layer("flag", {**flags.values, "n_ctx": _TRIAL_CONTEXT})
    first = resolve(layers_of(flags).below)
    from llmcli.cli.open_model import find_target, open_model, welcome
    from llmcli.pipelines.task_trials import trials

    target, status = find_target(first.settings), ProgressLine()
    welcome(first)
    rows: list[dict[str, object]] = []
    with open_model(target, first.settings, status) as (engine, cancellation):
        for task in tasks:
            own = {name: text for name, text in given.items() if name in task.variables}
            for trial in trials(task, engine, first.settings.n_ctx, own):
                if cancellation.is_set():  # what was tried before is shown
                    break
                rows.append(_try(task, trial, engine, flags, status, cancellation))
                if answers and not as_json:
                    print_line(f"{task.name}, {trial.label}", "1")
                    print_text(str(rows[-1]["text"] or rows[-1]["problem"]).rstrip("\n") + "\n\n")
    if as_json:
        print_json(rows, indent=None)
    else:
        heads = ["TASK", "INPUT", "PARTS", "TOKENS", "SECONDS", "RESULT"]
        keys = ("task", "input", "n_parts", "completion_tokens", "seconds")
        table = [[*(str(row[key]) for key in keys), str(row["problem"] or "ok")] for row in rows]
        print_rows(heads, table, right=("PARTS", "TOKENS", "SECONDS"), spare=("SECONDS", "TOKENS"))
    if cancellation.is_set():
        return ExitStatus.TIMEOUT if cancellation.reason == "timeout" else ExitStatus.INTERRUPTED
    return ExitStatus.FAILED if any(row["problem"] for row in rows) else ExitStatus.OK


def _testable() -> list[str]:
    """The tasks of all sources, without a project's that are not trusted."""
    return [path.stem for path, source in task_files.task_files() if task_files.task_or_none(path, source)]


def _try(
    task: Task, trial: "Trial", engine: "Engine", flags: Layer, status: ProgressLine, cancellation: "Cancellation"
) -> dict[str, object]:
    """The row of a trial."""
    from llmcli.pipelines.task_trials import form_problem

    started, result, problem = monotonic(), dict[str, object](), ""

    def progress(step: "Step", n_ended: int) -> None:
        status.update(f"{task.name}, {trial.label}: {step.label or 'answer'} {n_ended} of {len(step.requests)}")

    def show(step: "Step", answer: "Answer") -> None:
        for _ in answer.parts():
            progress(step, 0)

    try:
        layers = layers_of(flags, task.layer(trial.variables, flags.values)).below
        settings = resolve(layers).over(engine.defaults).with_seed().settings
        result = run_job(engine, _trial_job(engine, settings, task, trial, cancellation), show, progress)
        problem = form_problem(task, _text_of(result), trial.variables[INPUT])
    except LlmcliError as error:
        problem = str(error)
    finally:
        status.clear()
    reason = result.get("finish_reason", "error")
    if cancellation.is_set():
        problem = f"stopped ({reason})"
    return {
        "task": task.name,
        "input": trial.label,
        "n_parts": result.get("n_parts", 1),
        "completion_tokens": result.get("completion_tokens", 0),
        "seconds": round(monotonic() - started, 1),
        "finish_reason": reason,
        "problem": f"{problem} (cut off)" if problem and reason == "length" else problem,
        "text": _text_of(result),
    }


def _trial_job(engine: "Engine", settings: Settings, task: Task, trial: "Trial", cancellation: "Cancellation") -> "Job":
    """The job of a trial, with what the settings make of one answer or several."""
    from llmcli.pipelines.samples import Judge, result_job

    judge = None
    if settings.samples > 1 and not settings.is_decision:
        if settings.best is None:
            raise UsageError("samples needs best: a trial has one answer", "choose it with --best vote")
        chosen = load_judge(settings.best)
        judge = Judge(engine, chosen, trial.variables[INPUT], cancellation) if chosen else None
    return result_job(settings, lambda own: task_job(engine, own, task, trial.variables, cancellation), judge)


def _text_of(result: "Result") -> str:
    """What `generate` would print of a result; empty if it was stopped before there is one answer."""
    return str(result.get("extracted", result.get("text", "")))
