"""Long inputs: cut where sentences end, each character in one part, answered in order and joined without seams."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.engine.events import Request
from llmcli.errors import ConstraintError, ContextOverflowError, LlmcliError
from llmcli.inference.answer import Answer
from llmcli.params.settings import Layer, Settings, resolve
from llmcli.pipelines.job import Result, Step, run_job
from llmcli.pipelines.long_input import fits, join_windows, split_text, windows
from llmcli.pipelines.tasks import Task, Variable, task_job
from tests.inference.fake_engine import FakeEngine

TEXTS = st.text(st.sampled_from("ab. \n!\r。\u00a0"), max_size=120)
PARAGRAPHS = "Ann went out. Bob came in.\n\nIt rained.\n\n\nDr. Lee, aged 3.5, left at once. Eve sat down.\n"


@given(TEXTS, st.integers(1, 40))
def test_the_parts_joined_are_the_text(text: str, n_most: int) -> None:
    parts = split_text(text, n_most, len)
    assert "".join(parts) == text
    assert all(len(part) <= n_most for part in parts)


def test_a_part_ends_with_a_paragraph() -> None:
    assert split_text(PARAGRAPHS, 50, len) == [
        "Ann went out. Bob came in.\n\nIt rained.\n\n\n",
        "Dr. Lee, aged 3.5, left at once. Eve sat down.\n",
    ]


def test_a_long_paragraph_is_cut_after_sentences() -> None:
    text = "Dr. Lee, aged 3.5, left at once. Eve sat down. Then she ate."
    assert split_text(text, 40, len) == ["Dr. Lee, aged 3.5, left at once. ", "Eve sat down. Then she ate."]


def test_a_long_sentence_is_cut_after_words_and_a_word_anywhere() -> None:
    assert split_text("one two abcdefghij", 4, len) == ["one ", "two ", "ab", "cde", "fg", "hij"]


def test_a_text_of_a_million_letters_is_cut_without_counting_all() -> None:
    longest = 0

    def count(text: str) -> int:
        nonlocal longest
        longest = max(longest, len(text))
        return len(text)

    assert len(split_text("x" * 10**6, 1000, count)) == 1024
    assert longest <= 16_000
    assert not fits("x" * 10**6, 1000, count)
    assert longest <= 1 << 14


@given(TEXTS, st.integers(1, 40), st.integers(0, 20))
def test_windows_that_are_not_changed_join_to_the_text(text: str, n_most: int, overlap: int) -> None:
    parts = windows(text, n_most, overlap, len)
    if text.strip():
        assert join_windows(parts, [part.text for part in parts]) == text.strip("\n")
    for part in parts:
        assert text[part.start : part.start + len(part.text)] == part.text
        assert len(part.before) <= overlap


def test_a_window_shows_whole_sentences_before_it() -> None:
    parts = windows(PARAGRAPHS, 35, 20, len)
    assert [(part.before, part.text) for part in parts] == [
        ("", "Ann went out. Bob came in."),
        ("Bob came in.", "It rained."),
        ("It rained.", "Dr. Lee, aged 3.5, left at once."),
        ("", "Eve sat down."),
    ]


# Jobs

TRANSLATE = Task(name="upper", prompt="Change:{{input}}", long_input="windows", overlap=30)
SUMMARIZE = Task(
    name="short", prompt="Shorten:{{input}}", combine="Combine:{{input}}", long_input="map-reduce", form="shorter"
)
LONG = "".join(f"Sentence number {number} is here. " + "\n\n" * (number % 3 == 0) for number in range(60))


def message(request: Request) -> str:
    content: Any = request.prompt.request
    return str(content[-1]["content"])


def asked_text(request: Request) -> str:
    """The text of a request after the prompt of its task."""
    return message(request).rpartition("Change:")[2]


def run(
    engine: FakeEngine, task: Task, text: str, steps: list[tuple[str, int, int]] | None = None, **settings: Any
) -> Result:
    def show(_step: Step, answer: Answer) -> None:
        for _ in answer.parts():
            pass

    def progress(step: Step, n_ended: int) -> None:
        if steps is not None:
            steps.append((step.label, n_ended, len(step.requests)))

    resolved = Settings(**{"seed": 1, **settings})
    return run_job(engine, task_job(engine, resolved, task, {"input": text}), show, progress)


def upper(request: Request) -> Sequence[str]:
    return [asked_text(request).upper()]


def test_windows_of_a_long_input_are_joined_in_order() -> None:
    engine, steps = FakeEngine(reply=upper, n_ctx=900), list[tuple[str, int, int]]()
    result = run(engine, TRANSLATE, LONG, steps)
    assert result["text"] == LONG.upper().strip("\n")
    assert result["n_parts"] == steps[-1][2]
    assert {label for label, *_ in steps} == {"part"}
    assert [n for _, n, _ in steps] == sorted(n for _, n, _ in steps)
    assert steps[-1][1] == steps[-1][2] > 5


def test_a_short_input_is_one_request() -> None:
    engine = FakeEngine(reply=upper)
    result = run(engine, TRANSLATE, "Hello there.")
    assert result["text"] == "HELLO THERE."
    assert "n_parts" not in result
    assert len(engine.requests) == 1


def test_the_answers_to_parts_are_combined_until_they_fit() -> None:
    prompts = []

    def reply(request: Request) -> Sequence[str]:
        prompts.append(message(request))
        return ["Done."] if prompts[-1].startswith("Combine:") and len(prompts[-1]) < 400 else ["x" * 60]

    result = run(FakeEngine(reply=reply, n_ctx=600), SUMMARIZE, LONG * 8)
    kinds = [prompt.partition(":")[0] for prompt in prompts]
    assert kinds[0] == "Shorten"
    assert kinds[-1] == "Combine"
    assert kinds.count("Combine") > 1  # the answers to the parts did not fit at once
    assert result["text"] == "Done."
    assert result["n_parts"] == len(prompts)
    assert " ".join(prompt.partition(":")[2] for prompt in prompts if prompt[0] == "S").split() == (LONG * 8).split()


def test_an_answer_to_a_part_has_at_most_a_quarter_of_its_tokens() -> None:
    limits = []

    def reply(request: Request) -> Sequence[str]:
        limits.append(request.settings.max_tokens)
        return ["y"] * 10**4

    result = run(FakeEngine(reply=reply, n_ctx=600), SUMMARIZE, LONG, max_tokens=-1)
    room = 600 - len("user: Combine:\nassistant: ") - 600 // 4
    assert limits[0] == room // 4
    assert limits[-1] == -1
    assert str(result["text"]).startswith("yyy")


def test_answers_that_do_not_get_shorter_end_the_job() -> None:
    engine = FakeEngine(reply=lambda _: ["y" * 1000], n_ctx=600)
    with pytest.raises(ContextOverflowError, match="are not shorter than the text"):
        run(engine, SUMMARIZE, LONG)


def test_a_context_without_room_for_a_text_is_an_error() -> None:
    with pytest.raises(ContextOverflowError, match="the context of 40 tokens has no room for the task and a text"):
        run(FakeEngine(n_ctx=40), SUMMARIZE, LONG)


def test_a_task_for_short_inputs_asks_once() -> None:
    engine = FakeEngine(("ok",), n_ctx=600)
    assert run(engine, Task(name="plain", prompt="Change:{{input}}"), LONG)["text"] == "ok"
    assert len(engine.requests) == 1


def test_a_part_that_fails_ends_the_job() -> None:
    def reply(request: Request) -> Sequence[Any]:
        return [LlmcliError("no memory")] if "number 30" in asked_text(request) else ["x"]

    with pytest.raises(LlmcliError, match="no memory"):
        run(FakeEngine(reply=reply, n_ctx=900), TRANSLATE, LONG)


def test_the_parts_before_an_interruption_are_kept() -> None:
    def reply(request: Request) -> Sequence[str]:
        if "number 20" in asked_text(request):
            request.cancellation.set()
            return ["half", "more"]
        return [asked_text(request).upper()]

    result = run(FakeEngine(reply=reply, n_ctx=900), TRANSLATE, LONG)
    assert result["finish_reason"] == "interrupt"
    assert str(result["text"]).startswith("SENTENCE NUMBER 0 IS HERE.")
    assert "NUMBER 59" not in str(result["text"])


def test_a_part_that_breaks_its_constraint_is_named() -> None:
    task = Task(name="digits", prompt="Change:{{input}}", long_input="windows", constraint={"regex": "[0-9]+"})
    engine = FakeEngine(reply=lambda request: ["x" if "number 30" in asked_text(request) else "12"], n_ctx=900)
    settings = resolve([task.layer({"input": ""}), Layer("flag", {"seed": 1})]).settings
    job = task_job(engine, settings, task, {"input": LONG})
    with pytest.raises(ConstraintError, match=r"part [2-9] of \d+: the answer does not match regex"):
        run_job(engine, job, lambda _step, _answer: None)


def test_a_long_input_keeps_the_variables_of_its_task() -> None:
    task = Task(
        name="to",
        prompt="To {{to}}. Change:{{input}}",
        variables={"to": Variable("to", "French")},
        settings=Layer("task", {}),
        long_input="windows",
    )

    def reply(request: Request) -> Sequence[str]:
        return ["yes" if "To French. Change:" in message(request) else "no"]

    assert set(str(run(FakeEngine(reply=reply, n_ctx=900), task, LONG)["text"]).split()) == {"yes"}
