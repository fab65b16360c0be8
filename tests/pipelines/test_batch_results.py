"""Lines of a batch whose answer is a part, or the best of several."""

from collections.abc import Sequence

from llmcli.engine.events import Request
from llmcli.pipelines.task_files import find_task
from tests.inference.fake_engine import FakeEngine
from tests.pipelines.batches import echo, errors, question_of, run_batch
from tests.pipelines.test_batch import lines_of


def by_seed(asked: Request) -> Sequence[str]:
    """A word of the question for each seed."""
    words = question_of(asked).split()
    return [words[(asked.settings.seed or 0) % len(words)]]


def test_a_line_has_its_extracted_part() -> None:
    first, second = run_batch(
        FakeEngine(reply=echo),
        lines_of({"prompt": "x=1;"}, {"prompt": "y", "extract": "."}),
        values={"extract": "=(.)"},
    )
    assert (first["text"], first["extracted"]) == ("x=1;", "1")
    assert second["extracted"] == "y"


def test_a_line_without_the_part_fails_alone() -> None:
    lines = run_batch(FakeEngine(reply=echo), lines_of({"prompt": "a"}, {"prompt": "1"}), values={"extract": "[0-9]"})
    assert errors(lines) == [("constraint_unmet", "the answer does not match '[0-9]': 'a'")]
    assert lines[1]["extracted"] == "1"


def test_an_openai_line_has_the_part_as_its_content() -> None:
    body = {"model": "fake", "messages": [{"role": "user", "content": "x=1;"}]}
    asked = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (line,) = run_batch(FakeEngine(reply=echo), lines_of(asked), values={"extract": "=(.)"})
    assert line["response"]["body"]["choices"][0]["message"]["content"] == "1"


def test_the_samples_of_a_line_vote() -> None:
    values = {"samples": 3, "best": "vote"}
    (line,) = run_batch(FakeEngine(reply=by_seed), lines_of({"prompt": "b a a", "seed": 0}), values=values)
    assert (line["text"], line["seed"]) == ("a", 1)
    assert line["best"] == {"rule": "vote", "votes": 2, "sample": 2}
    assert [one["text"] for one in line["samples"]] == ["b", "a", "a"]


def test_a_judge_of_the_command_chooses_for_each_line() -> None:
    second = FakeEngine().tokenizer.tokenize("2")[-1]
    engine = FakeEngine(reply=by_seed, logprob=lambda _before, token: -1.0 if token == second else -2.0)
    values = {"samples": 2, "best": "best-answer"}
    texts = lines_of({"prompt": "a b", "seed": 0}, {"prompt": "c d", "seed": 0})
    lines = run_batch(engine, texts, values=values, judge=find_task("best-answer"))
    assert [line["text"] for line in lines] == ["b", "d"]


def test_samples_that_cannot_be_one_answer_are_refused() -> None:
    lines = run_batch(
        FakeEngine(reply=by_seed),
        lines_of(
            {"prompt": "a", "samples": 2},
            {"prompt": "a", "samples": 2, "best": "best-answer"},
            {"prompt": "a", "samples": 2, "best": "vote", "temperature": 0},
        ),
    )
    assert [message for _, message in errors(lines)] == [
        "samples needs best in a batch: a line has one answer",
        "best of a line must be logprob or vote, got 'best-answer'",
        "2 samples at temperature 0 would all be the same answer",
    ]
