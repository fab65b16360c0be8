"""What `llmcli bench` measured: a table with bars, the forms of llama-bench for files, and what a search found."""

from collections.abc import Mapping, Sequence

from llmcli.inference.benchmark import Benchmark, Result
from llmcli.inference.tuning import SearchResult
from llmcli.params.settings import fields, to_datum
from llmcli.text import sanitize
from llmcli.ui.terminal.cells import cells
from llmcli.ui.terminal.console import encodable, is_terminal
from llmcli.ui.terminal.output import columns, print_facts, print_json, print_line, print_rows, stream

_LEAST_BAR, _WIDEST_BAR, _GAP = 6, 40, 2  # columns
_FIRST = "FIRST TOKEN"
_GIB, _MIB = 1 << 30, 1 << 20
# The columns of llama-bench that have another name in its table, and the widths of all; below 0 is aligned left.
_HEADS = {"n_threads": "threads", "flash_attn": "fa", "n_gpu_layers": "ngl"}
_WIDTHS = {"model": -30, "size": 10, "params": 10, "backend": -10, "ngl": 3, "threads": 7, "n_batch": 7, "n_ubatch": 8}
_WIDTHS |= {"type_k": 6, "type_v": 6, "fa": 3, "test": 15, "t/s": 20}
# Its defaults: a setting is a column where one of the rows has another value.
_DEFAULTS = {"n_batch": 2048, "n_ubatch": 512, "type_k": "f16", "type_v": "f16", "flash_attn": -1, "poll": 50}


def print_chart(benchmark: Benchmark) -> None:
    """Print a row for each test; on a terminal with a bar, which is its share of the fastest one of its kind."""
    results = benchmark.results
    records = [benchmark.record(one) for one in results]
    facts = [("model", f"{benchmark.kind}, {_size(benchmark.n_bytes)}")]
    if records:
        machine = [str(records[0][key]) for key in ("gpu_info", "cpu_info")]
        numbers = ", ".join(map(str, sorted({int(str(one["n_threads"])) for one in records})))
        facts.append(("machine", ", ".join(filter(None, machine))))
        facts.append(("threads", numbers))
    print_facts([*facts, ("load", f"{benchmark.load_ms:.0f} ms")])
    if not results:
        return
    print_line("")
    table = {
        "TEST": [one.test.name for one in results],
        "SETTINGS": [one.case.label for one in results],
        "TOKENS/S": [_speed(one) for one in results],
        _FIRST: [_milliseconds(one.first_token_ms) for one in results],
    }
    table = {head: column for head, column in table.items() if any(column)}
    if is_terminal(stream()):
        if _room(table) < _LEAST_BAR:
            table.pop(_FIRST, None)
        if (room := _room(table)) >= _LEAST_BAR:
            table[""] = _bars(results, min(room, _WIDEST_BAR))
    print_rows([*table], [*zip(*table.values(), strict=True)], right=("TOKENS/S", _FIRST))


def _room(table: Mapping[str, Sequence[str]]) -> int:
    """The columns of the window beside a table."""
    return columns() - sum(max(map(cells, [head, *column])) + _GAP for head, column in table.items())


def _bars(results: Sequence[Result], width: int) -> list[str]:
    sign = "█" if encodable("█", stream()) == "█" else "="
    most: dict[bool, float] = {}
    for one in results:
        is_prompt = one.test.n_prompt > 0
        most[is_prompt] = max(most.get(is_prompt, 0.0), one.speed[0])
    return [sign * max(round(width * one.speed[0] / most[one.test.n_prompt > 0]), 1) for one in results]


def _speed(result: Result) -> str:
    mean, deviation = result.speed
    return f"{mean:.2f} ± {deviation:.2f}"


def _milliseconds(times: tuple[float, float] | None) -> str:
    return f"{times[0]:.0f} ± {times[1]:.0f} ms" if times else ""


def _size(n_bytes: int) -> str:
    return f"{n_bytes / _GIB:.2f} GiB" if n_bytes >= _GIB else f"{n_bytes / _MIB:.2f} MiB"


def print_data(benchmark: Benchmark, further: Mapping[str, object]) -> None:
    """Print one JSON object: the tests with the names of llama-bench, and each sample."""
    tests = [
        {
            **benchmark.record(one),
            "samples_ns": [sample.ns for sample in one.samples],
            "samples_ts": [round(speed, 6) for speed in one.speeds],
        }
        for one in benchmark.results
    ]
    print_json({"load_ms": round(benchmark.load_ms, 3), "tests": tests, **further}, indent=None)


def print_csv(benchmark: Benchmark) -> None:
    """Print a line for each test under the names of llama-bench, quoted as there."""
    records = [benchmark.record(one) for one in benchmark.results]
    for index, record in enumerate(records):
        if not index:
            print_line(",".join(record))
        values = ["" if value is None else str(value) for value in record.values()]
        print_line(",".join('"' + sanitize(value).replace('"', '""') + '"' for value in values))


def print_markdown(benchmark: Benchmark) -> None:
    """Print the table of llama-bench, and below it what that does not have: the load and the first token."""
    rows = [_markdown_row(benchmark, one) for one in benchmark.results]
    if not rows:
        return
    kept = [
        head
        for head in rows[0]
        if head not in _DEFAULTS or any(row[head] != str(_DEFAULTS[head]) for row in rows)
        if (head == "n_gpu_layers") != (rows[0]["backend"] == "CPU") or head not in ("n_gpu_layers", "n_threads")
    ]
    widths = {head: _WIDTHS.get(_HEADS.get(head, head), max(len(head), 10)) for head in kept}
    print_line(_markdown_line([_aligned(_HEADS.get(head, head), widths[head]) for head in kept]))
    rules = ["-" * (abs(width) - 1) + (":" if width > 0 else "-") for width in widths.values()]
    print_line(_markdown_line(rules))
    for row in rows:
        print_line(_markdown_line([_aligned(row[head], widths[head]) for head in kept]))
    first = [f"{one.test.name} {_milliseconds(one.first_token_ms)}" for one in benchmark.results if one.first_token_ms]
    build = str(benchmark.record(benchmark.results[0])["build_commit"])
    facts = [f"build: {build}", f"load: {benchmark.load_ms:.0f} ms"]
    print_line("\n" + "; ".join([*facts, *([f"first token: {', '.join(first)}"] if first else [])]))


def search_lines(found: SearchResult, is_saved: bool) -> list[str]:
    """What a search found, in sentences."""
    if not found.values:
        kept = "; nothing is kept" if is_saved else ""
        return [f"no other settings are faster here by more than the noise{kept}"]
    gains = {"prompts": found.prompt_gain, "generation": found.answer_gain}
    faster = " and ".join(f"{name} {gain / (1 - gain):.0%}" for name, gain in gains.items() if gain)
    flags = " ".join(f"{fields()[key].flags[0]} {fields()[key].format(one)}" for key, one in found.values.items())
    hint = "to keep them, use `llmcli bench --save`" + (" when the machine is at rest" if found.is_busy else "")
    if is_saved:
        hint = "kept for this model on this machine; `llmcli bench --forget` removes them"
    return [f"fastest here: {flags} ({faster} faster)", hint]


def search_data(found: SearchResult, is_saved: bool) -> dict[str, object]:
    """What a search found, as JSON data; gains are shares of the time."""
    values = {key: to_datum(fields()[key], one) for key, one in found.values.items()}
    gains = {"prompt": round(found.prompt_gain, 4), "generation": round(found.answer_gain, 4)}
    return {"fastest": {"settings": values, "gain": gains, "saved": is_saved and bool(values)}}


def _markdown_row(benchmark: Benchmark, result: Result) -> dict[str, str]:
    record = benchmark.record(result)
    n_params = benchmark.n_params
    return {
        "model": sanitize(benchmark.kind).replace("|", "\\|"),
        "size": _size(benchmark.n_bytes),
        "params": f"{n_params / 1e9:.2f} B" if n_params >= 1e9 else f"{n_params / 1e6:.2f} M",
        "backend": str(record["backends"]),
        "n_gpu_layers": str(record["n_gpu_layers"]),
        "n_threads": str(record["n_threads"]),
        **{head: str(record[head]) for head in _DEFAULTS},
        "test": result.test.name,
        "t/s": _speed(result),
    }


def _aligned(text: str, width: int) -> str:
    return f"{text:>{width}}" if width > 0 else f"{text:<{-width}}"


def _markdown_line(parts: Sequence[str]) -> str:
    return "| " + " | ".join(parts) + " |"
