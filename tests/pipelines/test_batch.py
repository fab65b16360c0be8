"""A batch on an engine without a model: what lines ask, what is written for them, and which fail."""

import gc
import json
import tracemalloc
from collections.abc import Sequence
from itertools import repeat
from typing import Any

import pytest

from llmcli.engine.events import Cancellation, Request
from llmcli.errors import ContextOverflowError, LlmcliError, UsageError
from llmcli.files import config_path
from llmcli.inference import prompt_renderer
from llmcli.pipelines.batch_line import check_columns
from tests.inference.fake_engine import FakeEngine
from tests.pipelines.batches import Lines, echo, errors, make_batch, question_of, run_batch

ODD = {"type": "integer", "not": {"multipleOf": 2}}  # only a finished answer shows it


def lines_of(*values: dict[str, Any]) -> str:
    return "".join(json.dumps(one) + "\n" for one in values)


def asked_with(*lines: dict[str, Any], **more: Any) -> list[Request]:
    """The requests that lines make."""
    requests: dict[str, Request] = {}

    def note(asked: Request) -> Sequence[str]:
        requests[question_of(asked)] = asked
        return ["ok"]

    written = run_batch(FakeEngine(reply=note), lines_of(*lines), **more)
    assert errors(written) == []
    return list(requests.values())


# What is written


def test_a_line_of_output_has_its_id_and_the_answer() -> None:
    first, second = run_batch(FakeEngine(reply=echo), lines_of({"id": "x", "prompt": "abc"}, {"prompt": "de"}))
    timings = first.pop("timings")
    assert first == {
        "id": "x",
        "text": "abc",
        "model": "fake",
        "finish_reason": "stop",
        "prompt_tokens": 21,
        "completion_tokens": 3,
        "seed": 7,
    }
    assert {"prompt_n", "predicted_per_second"} <= timings.keys()
    assert (second["id"], second["text"]) == (2, "de")


def test_answers_are_written_in_the_order_of_the_lines() -> None:
    texts = ["a very long answer", "b", "cc", "d", "another long one", "e"]
    written = run_batch(FakeEngine(reply=echo), "".join(f"{text}\n" for text in texts), "in.txt")
    assert [(line["id"], line["text"]) for line in written] == list(enumerate(texts, 1))


def test_full_lines_have_what_a_replay_needs() -> None:
    (line,) = run_batch(FakeEngine(reply=echo), lines_of({"prompt": "abc", "top_k": 3}), is_full=True)
    assert line["messages"] == [{"role": "user", "content": "abc"}]
    assert line["params"]["top_k"] == 3
    assert len(line["replay"]["prompt_sha256"]) == 64


def test_what_could_drive_a_terminal_is_written_as_an_escape() -> None:
    output = Lines()
    make_batch(FakeEngine(("\x1b[31m \u202e \x9b",)), lines_of({"id": "\x9b", "prompt": "a"}), output).run()
    assert all(char.isprintable() for char in output.written[0].decode().removesuffix("\n"))


def test_logprobs_of_a_line_are_in_its_output() -> None:
    with_tokens, without = run_batch(FakeEngine(reply=echo), lines_of({"prompt": "a", "logprobs": 1}, {"prompt": "b"}))
    assert with_tokens["tokens"] == []  # the fake engine has none
    assert "tokens" not in without


# What a line asks


def test_settings_of_a_line_count_for_that_line_only() -> None:
    first, second = asked_with(
        {"prompt": "a", "temperature": 0.1, "stop": ["x"], "max_tokens": 5}, {"prompt": "b"}, values={"max_tokens": 9}
    )
    assert (str(first.settings.temperature), first.settings.stop, first.settings.max_tokens) == ("0.1", ("x",), 5)
    assert (str(second.settings.temperature), second.settings.stop, second.settings.max_tokens) == ("0.8", (), 9)


def test_null_is_a_setting_that_is_not_set() -> None:
    nulls = {"temperature": None, "stop": None, "system": None}
    (asked,) = asked_with({"prompt": "a"} | nulls, values={"top_k": 3, "stop": ("x",), "system": "common"})
    assert (asked.settings.top_k, asked.settings.stop) == (3, ("x",))
    assert asked.settings.system is None  # it is one of its values


def test_names_of_other_programs_and_presets_work_in_a_line() -> None:
    (first,) = asked_with({"prompt": "a", "num_predict": 5, "rep_pen": 1.2, "preset": "creative"})
    assert (first.settings.max_tokens, first.settings.repeat_penalty) == (5, 1.2)
    assert first.settings.preset == "creative"
    (second,) = asked_with({"prompt": "a", "preset": "creative"})
    assert str(second.settings.temperature) != "0.8"


def test_the_seed_of_a_line_follows_from_its_number_alone() -> None:
    lines: list[dict[str, Any]] = [{"prompt": "a"}, {"prompt": "b", "seed": 50}, {"prompt": "c", "top_k": 2}]
    assert [one.settings.seed for one in asked_with(*lines)] == [7, 50, 9]
    (shard,) = [one.settings.seed for one in asked_with(*lines, shard=(3, 3))]
    assert shard == 9


def test_messages_are_asked_as_they_are() -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}]},
    ]
    (asked,) = asked_with({"messages": messages}, values={"system": "not used"})
    assert asked.prompt.text == "system: Be brief.\nuser: a\nassistant: b\nuser: cd\nassistant: "


def test_the_common_system_prompt_stands_before_messages_without_one() -> None:
    asks = asked_with(
        {"messages": [{"role": "user", "content": "a"}]},
        {"prompt": "b"},
        {"prompt": "c", "system": "@not a file"},
        {"prompt": "d", "system": None},
        values={"system": "Be brief."},
    )
    assert [one.prompt.text.partition("user")[0] for one in asks] == [
        *("system: Be brief.\n", "system: Be brief.\n", "system: @not a file\n", ""),
    ]


def test_a_template_takes_keys_of_the_line() -> None:
    asks = asked_with(
        {"word": "cat", "to": ["fr", 1], "top_k": 5}, {"word": 3, "to": True}, template="{{word}} to {{ to }}: {x}"
    )
    assert [question_of(one) for one in asks] == ['cat to ["fr", 1]: {x}', "3 to true: {x}"]
    assert asks[0].settings.top_k == 5


def test_the_text_of_a_line_follows_a_template_without_a_place() -> None:
    assert question_of(asked_with({"prompt": "a text"}, template="Summarize:")[0]) == "Summarize:\n\na text"
    written = run_batch(FakeEngine(reply=echo), "one\ntwo\n", "in.txt", template="<{{input}}> {{text}}")
    assert [line["text"] for line in written] == ["<one> one", "<two> two"]


def test_a_value_of_a_template_is_not_read_again() -> None:
    (asked,) = asked_with({"a": "{{b}}", "b": "no"}, template="{{a}}{{b}}")
    assert question_of(asked) == "{{b}}no"


def test_columns_of_a_csv_file_are_variables() -> None:
    data = "id;text;temperature\nx;hello;hot\n"
    assert run_batch(FakeEngine(reply=echo), data, "in.csv")[0]["text"] == "hello"
    (line,) = run_batch(FakeEngine(reply=echo), data, "in.csv", template="{{temperature}} {{input}}")
    assert (line["id"], line["text"]) == ("x", "hot hello")


@pytest.mark.parametrize(
    ("template", "columns", "message", "hint"),
    [
        ("{{wrod}}", ["word"], "the CSV file has no column 'wrod', which --prompt names", "did you mean 'word'?"),
        ("{{input}}", ["word"], "the CSV file has no column 'input', which --prompt names", "the columns are word"),
        ("Say {word}", ["word"], "--prompt has {word} in single braces", "write {{word}}"),
        (None, ["word", "b"], "the CSV file has none of the columns input, text, prompt", "{{word}}"),
    ],
)
def test_columns_that_a_prompt_needs_are_missed_at_once(
    template: str | None, columns: list[str], message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        check_columns(columns, template)
    assert str(caught.value) == message
    assert hint in caught.value.hint
    check_columns(["word", "prompt"], "{{text}} {{word}}")


def test_raw_lines_are_prompts_as_they_are() -> None:
    (asked,) = asked_with({"prompt": "Once upon", "raw": True})
    assert (asked.prompt.text, asked.prompt.request) == ("Once upon", "Once upon")


# What fails


@pytest.mark.parametrize(
    ("values", "message", "hint"),
    [
        ({}, "prompt or messages is missing", 'write a line as {"prompt": "..."}'),
        ({"promt": "a"}, "prompt or messages is missing", ""),
        ({"prompt": 5}, "prompt must be a string", ""),
        ({"prompt": " \n"}, "the prompt is empty", ""),
        ({"prompt": "a", "temperatur": 1}, "unknown setting 'temperatur'", "did you mean 'temperature'?"),
        ({"prompt": "a", "label": 3}, "unknown setting 'label'", "remove it, or use it as a variable: --prompt"),
        ({"prompt": "a", "temperature": "hot"}, "temperature must be", ""),
        ({"prompt": "a", "max_tokens": 1.5}, "max_tokens must be an integer", ""),
        ({"prompt": "a", "top_p": 7}, "top_p must be between 0 and 1, got 7", ""),
        ({"prompt": "a", "n_ctx": 99}, "n_ctx cannot be set in a line: all lines share one context", "--ctx-size"),
        ({"prompt": "a", "model": "other"}, "model cannot be set in a line", "--model"),
        ({"prompt": "a", "cache_type_k": "q8_0"}, "cache_type_k cannot be set in a line", "--cache-type-k"),
        ({"prompt": "a", "file": ["/etc/passwd"]}, "file cannot be set in a line: it names a file", "prompt"),
        ({"prompt": "a", "grammar_file": "g"}, "grammar_file cannot be set in a line: it names a file", "grammar"),
        ({"prompt": "a", "temp_policy_file": "p.py:f"}, "temp_policy_file cannot be set in a line", "flag"),
        ({"prompt": "a", "json_schema": "schema.json"}, "json_schema of a line cannot be a file", ""),
        ({"prompt": "a", "chat_template": "t.jinja"}, "chat_template of a line cannot be a file", ""),
        ({"prompt": "a", "grammar": "root ::=", "regex": "a"}, "grammar and regex cannot be used together", ""),
        ({"prompt": "a", "regex": "("}, "regex is not supported", ""),
        ({"prompt": "a", "preset": "creativ"}, "unknown preset 'creativ'", "did you mean 'creative'?"),
        ({"prompt": "a", "messages": []}, "messages and prompt cannot be used together", ""),
        ({"messages": []}, "messages must be a list of objects with role and content", ""),
        ({"messages": ["a"]}, "messages[0] must be an object with role and content", ""),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role must be system, user, assistant or", ""),
        ({"messages": [{"role": "user"}]}, "messages[0].content must be a string, or a list of texts", ""),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "image input is not supported (messages[0].content)",
            "",
        ),
        ({"messages": [{"role": "user", "content": "a"}], "raw": True}, "raw and messages cannot be used together", ""),
    ],
)
def test_a_line_that_is_not_valid_fails_alone(values: dict[str, Any], message: str, hint: str) -> None:
    lines = lines_of({"prompt": "first"}, {"id": "x", **values}, {"prompt": "last"})
    first, bad, last = run_batch(FakeEngine(reply=echo), lines)
    assert (first["text"], last["text"]) == ("first", "last")
    assert (bad["id"], bad["error"]["type"]) == ("x", "usage")
    assert bad["error"]["message"].startswith(message)
    assert hint in bad["error"].get("hint", "")
    assert "text" not in bad


def test_a_shared_setting_with_the_value_of_the_command_is_no_fault() -> None:
    (asked,) = asked_with({"prompt": "a", "model": "starter", "n_ctx": 0, "max_tokens": 3})
    assert asked.settings.max_tokens == 3


def test_a_variable_that_a_line_does_not_have_is_its_error() -> None:
    written = run_batch(FakeEngine(reply=echo), lines_of({"wrod": 1}, {"word": "b"}), template="{{word}}")
    assert errors(written) == [("usage", "the line has no 'word', which --prompt names")]
    assert written[1]["text"] == "b"


def test_the_second_line_with_an_id_is_an_error_that_names_the_first() -> None:
    lines = lines_of({"id": "a", "prompt": "x"}, {"prompt": "y"}, {"id": "a", "prompt": "z"}, {"id": 1, "prompt": "w"})
    written = run_batch(FakeEngine(reply=echo), lines)
    assert errors(written) == [("usage", "line 1 has the same id")]
    assert [line["id"] for line in written] == ["a", 2, "a", 1]


def test_a_number_and_an_id_do_not_name_two_lines() -> None:
    lines = lines_of({"id": 2, "prompt": "x"}, {"prompt": "y"}, {"prompt": "z"}, {"id": 3, "prompt": "w"})
    written = run_batch(FakeEngine(reply=echo), lines)
    assert errors(written) == [("usage", "line 1 has the same id"), ("usage", "line 3 has the same id")]
    assert ["text" in line for line in written] == [True, False, True, False]


def test_a_prompt_that_does_not_fit_fails_alone() -> None:
    """A long one is refused while it is counted, before all of it is tokens."""
    written = run_batch(FakeEngine(reply=echo), lines_of({"prompt": "x" * 100_000}, {"prompt": "b"}))
    assert written[0]["error"]["type"] == "context_overflow"
    assert "the context has 4096" in written[0]["error"]["message"]
    assert written[1]["text"] == "b"


def test_a_failure_of_the_engine_keeps_the_text_so_far() -> None:
    (line,) = run_batch(FakeEngine(("so ", "far", LlmcliError("out of order"))), lines_of({"prompt": "a"}))
    assert line["error"] == {"type": "failed", "message": "out of order"}
    assert (line["text"], line["finish_reason"]) == ("so far", "error")


def test_an_answer_after_its_time_is_an_error_with_its_text() -> None:
    engine = FakeEngine(reply=lambda _asked: repeat("x"), delay=0.001)
    for seconds in (0.2, 2.0, 20.0):  # on a busy machine, a short limit may come before the text
        (line,) = run_batch(engine, lines_of({"prompt": "a", "timeout": seconds}))
        assert line["error"]["type"] == "timeout"
        if "text" in line:
            break
    assert line["text"].startswith("x")


def test_an_unmet_constraint_is_the_error_of_its_line() -> None:
    written = run_batch(
        FakeEngine(("2",)), lines_of({"prompt": "a", "json_schema": ODD}, {"prompt": "b", "json_schema": "true"})
    )
    assert errors(written)[0][0] == "constraint_unmet"
    assert (written[0]["text"], written[1]["text"]) == ("2", "2")
    assert "error" not in written[1]


def test_the_counts_tell_what_became_of_the_lines() -> None:
    batch = make_batch(FakeEngine(("2",)), lines_of({"prompt": "a"}, {"prompt": 5}, {}), Lines())
    batch.run()
    assert (batch.counts.answered, dict(batch.counts.failed), batch.counts.done) == (1, {"usage": 2}, 3)
    assert str(batch.counts.first_error) == "prompt must be a string"
    assert batch.n_tokens == 1


# New tries


def by_seed(asked: Request) -> Sequence[str]:
    """An odd number only for one seed."""
    return ["3" if asked.settings.seed == 7 + 2 * 65536 else "2"]


def test_a_line_that_fails_by_chance_is_tried_again_with_other_seeds() -> None:
    line = {"prompt": "a", "json_schema": ODD, "constraint_retries": 0}
    (failed,) = run_batch(FakeEngine(reply=by_seed), lines_of(line), retries=1)
    (passed,) = run_batch(FakeEngine(reply=by_seed), lines_of(line), retries=2)
    assert (failed["error"]["type"], failed["seed"]) == ("constraint_unmet", 7 + 65536)
    assert (passed["text"], passed["seed"]) == ("3", 7 + 2 * 65536)


def test_a_failure_of_the_engine_is_tried_again() -> None:
    (line,) = run_batch(FakeEngine((LlmcliError("busy"),), ("ok",)), lines_of({"prompt": "a"}), retries=1)
    assert line["text"] == "ok"


@pytest.mark.parametrize(
    ("line", "script"),
    [
        ({"prompt": "a", "temperature": 0, "json_schema": ODD}, ("2",)),  # the same for every seed
        ({"prompt": "a"}, (ContextOverflowError("does not fit"),)),
        ({"prompt": 5}, ("2",)),
    ],
)
def test_what_fails_for_sure_is_not_tried_again(line: dict[str, Any], script: Any) -> None:
    count = 0

    def reply(_asked: Request) -> Any:
        nonlocal count
        count += 1
        return script

    (written,) = run_batch(FakeEngine(reply=reply), lines_of(line), retries=5)
    assert "error" in written
    assert count <= 1


@pytest.mark.slow
def test_the_memory_of_a_batch_does_not_grow_with_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m benchmarks.batch memory` measures 100,000 lines."""
    monkeypatch.setattr(prompt_renderer, "_CACHE_TEXTS", 50)
    sizes: dict[int, int] = {}

    class Measured(Lines):
        n_lines = 0

        def write(self, _line: bytes) -> None:
            self.n_lines += 1
            if self.n_lines in (400, 1600):
                gc.collect()
                sizes[self.n_lines] = tracemalloc.get_traced_memory()[0]

    lines = lines_of(*({"id": f"line {number}", "prompt": f"prompt {number}"} for number in range(1700)))
    batch = make_batch(FakeEngine(reply=echo), lines, Measured())
    tracemalloc.start()
    try:
        batch.run()
    finally:
        tracemalloc.stop()
    assert sizes[1600] - sizes[400] < 100_000  # bytes


# Parts and ends


def test_shards_share_the_lines_that_ask_something() -> None:
    text = "a\n\nb\n\nc\n\nd\n\ne\n"
    parts = [run_batch(FakeEngine(reply=echo), text, "in.txt", shard=(part, 2)) for part in (1, 2)]
    assert [[(line["id"], line["text"]) for line in part] for part in parts] == [
        [(1, "a"), (5, "c"), (9, "e")],
        [(3, "b"), (7, "d")],
    ]


def test_an_id_of_another_shard_counts_too() -> None:
    lines = lines_of({"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"})
    assert errors(run_batch(FakeEngine(reply=echo), lines, shard=(2, 2))) == [("usage", "line 1 has the same id")]


def test_after_a_cancellation_the_lines_so_far_are_written() -> None:
    cancellation, output = Cancellation(), Lines()

    def reply(asked: Request) -> Sequence[str]:
        if question_of(asked) == "c":
            cancellation.set()
        return ["x"]

    batch = make_batch(FakeEngine(reply=reply), "a\nb\nc\nd\n", output, "in.txt", cancellation=cancellation)
    batch.backend._n_parallel = 1  # type: ignore[attr-defined]
    batch.run()
    assert len(output.written) == 2


def test_a_preset_of_the_configuration_counts_for_all_lines() -> None:
    config_path().parent.mkdir(parents=True)
    config_path().write_text("[presets.mine]\ntop_k = 11\n")
    (asked,) = asked_with({"prompt": "a", "preset": "mine"})
    assert asked.settings.top_k == 11
