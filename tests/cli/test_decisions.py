"""`generate` with choices, a predicate or a rating, and `score`: as they are typed, with what goes to which stream."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run

pytestmark = pytest.mark.usefixtures("with_tiny")


def data(run: Run, *args: str, stdin: str | None = None) -> dict[str, Any]:
    ran = run(*args, "--json", "-t", "1", stdin=stdin)
    assert ran.status == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.text)
    return found


def test_stdout_has_the_choice_and_a_line_feed(inside: Run) -> None:
    ran = inside("generate", "a b c", "--choices", "sun, rain;or so;ü", "-t", "1")
    assert (ran.status, ran.text in ("sun, rain\n", "or so\n", "ü\n")) == (0, True)
    assert "warning" not in ran.stderr


def test_json_has_probabilities_whose_sum_is_one(inside: Run) -> None:
    found = data(inside, "generate", "a b c", "--choices", "sun,rain,\u65e5\u672c")
    assert list(found["choices"]) == ["sun", "rain", "\u65e5\u672c"]
    assert math.fsum(found["choices"].values()) == pytest.approx(1, abs=1e-12)
    assert found["choice"] == found["text"] == max(found["choices"], key=found["choices"].get)
    assert found["confidence"] == max(found["choices"].values())
    first = found["details"]["sun"]
    assert list(first) == ["logprob", "n_tokens"]
    assert first["n_tokens"] == 3
    odds = math.exp(first["logprob"] - found["details"]["rain"]["logprob"])
    assert odds == pytest.approx(found["choices"]["sun"] / found["choices"]["rain"])


def test_json_has_only_settings_that_count(inside: Run) -> None:
    found = data(inside, "generate", "a b", "--predicate", "--choice-prior", "auto")
    assert {"predicate": True, "choice_prior": "auto"}.items() <= found["params"].items()
    assert not {"temperature", "top_k", "seed", "choices", "rating"} & found["params"].keys()
    assert found["probability"] == found["choices"]["yes"]
    assert found["details"]["no"].keys() == {"logprob", "prior_logprob", "n_tokens"}


def test_a_rating_is_printed_with_two_decimals(inside: Run) -> None:
    ran = inside("generate", "a b", "--rating", "1..5", "-t", "1")
    found = data(inside, "generate", "a b", "--rating", "1..5")
    assert ran.text == f"{found['rating']:.2f}\n"
    assert found["rating"] == pytest.approx(sum(int(level) * p for level, p in found["choices"].items()))


def test_sampling_options_get_a_warning(inside: Run) -> None:
    args = "generate", "a b", "--choices", "a,b", "-t", "1"
    plain = inside(*args)
    ran = inside(*args, "--temp", "0.1", "--ban", "a", "--top-k", "1", "--stop", "b", "--trace", "x.jsonl")
    assert ran.text == plain.text
    for key in (
        "temperature (from flag)",
        "banned_strings (from flag)",
        "top_k (from flag)",
        "stop (from flag)",
        "trace",
    ):
        assert f"warning: {key} has no effect: a decision is scored, not sampled\n" in ran.stderr


def test_configured_sampling_gets_no_warning(inside: Run) -> None:
    env = {"LLMCLI_TEMPERATURE": "0.3"}
    assert "warning" not in inside("generate", "a b", "--choices", "a,b", "-t", "1", env=env).stderr


def test_a_preset_with_choices_is_for_generate_only(inside: Run) -> None:
    env = {"LLMCLI_CHOICES": "sun,rain"}
    assert inside("generate", "a b", "-t", "1", env=env).text in ("sun\n", "rain\n")
    ran = inside("compare", "a b", "--answers", "2", "-n", "3", "--temp", "0.5", "-t", "1", "--json", env=env)
    assert "warning" not in ran.stderr
    assert [one["completion_tokens"] for one in json.loads(ran.text)["variants"]] == [3, 3]


def test_the_prompt_that_is_shown_has_the_choices(inside: Run) -> None:
    ran = inside("generate", "a b", "--choices", "sun=it shines;rain", "--show-prompt")
    told = "Answer with one of these, and nothing else:\n- sun: it shines\n- rain"
    assert ran.text == f"user: {told}\n\na b\nassistant: \n"


def test_choices_can_come_from_stdin(inside: Run) -> None:
    found = data(inside, "generate", "a b", "--choices", "@-", stdin="sun\nrain, too\n")
    assert list(found["choices"]) == ["sun", "rain, too"]
    assert found["messages"][0]["content"].endswith("- sun\n- rain, too\n\na b")


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (("--choices", "a"), 2, "choices needs two choices or more, got 1"),
        (("--choices", "a,b,a"), 2, "choices has 'a' twice"),
        (("--choices", "a,b", "--regex", "x"), 2, "choices and regex cannot be used together"),
        (("--rating", "1-5"), 2, "rating must be LOW..HIGH with two integers, such as 1..5, got '1-5'"),
        (("--choices", "@nowhere.txt"), 6, "nowhere.txt"),
        (("--choices", "a,b", "-c", "20"), 7, "and the context has 20"),
    ],
)
def test_what_cannot_be_decided_is_an_error(inside: Run, args: tuple[str, ...], status: int, words: str) -> None:
    ran = inside("generate", "hello", *args, "-t", "1")
    assert (ran.status, ran.text) == (status, "")
    assert words in ran.stderr


# Scores


def test_score_prints_its_figures(inside: Run) -> None:
    ran = inside("score", "the cat", "-t", "1")
    found = data(inside, "score", "the cat")
    assert list(found) == ["model", "logprob", "bits_per_byte", "perplexity", "n_tokens"]
    assert ran.text.split() == [
        *("logprob", f"{found['logprob']:.4f}", "bits", "per", "byte", f"{found['bits_per_byte']:.4f}"),
        *("perplexity", f"{found['perplexity']:.4f}", "tokens", str(found["n_tokens"])),
    ]
    assert found["bits_per_byte"] == pytest.approx(-found["logprob"] / math.log(2) / len("the cat"))


def test_score_reads_a_file_or_stdin(inside: Run, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("the cat\n", encoding="utf-8")
    expected = data(inside, "score", "the cat")
    assert data(inside, "score", "--file", str(file)) == expected
    assert data(inside, "score", stdin="the cat\n") == expected


@pytest.mark.parametrize(
    ("arguments", "instead"),
    [
        (("score",), "use --file"),
        (("tokenize",), "give it on stdin"),
        (("generate", "-n", "1", "--no-stdin"), "use --file"),
    ],
)
def test_a_name_of_a_file_is_not_taken_silently(
    inside: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], instead: str
) -> None:
    monkeypatch.chdir(tmp_path)
    warning = f"warning: 'the.txt' is taken as a text; for the text of this file, {instead}\n"
    assert warning not in inside(*arguments, "the.txt").stderr
    Path("the.txt").write_text("the cat\n")
    ran = inside(*arguments, "the.txt")
    assert (ran.status, warning in ran.stderr) == (0, True)


def test_lines_are_json_lines(inside: Run) -> None:
    ran = inside("score", "--lines", "--json", "-t", "1", stdin="the cat\n\r\nan owl\r\n")
    rows = [json.loads(line) for line in ran.text.splitlines()]
    assert [(row["line"], row["text"]) for row in rows] == [(1, "the cat"), (2, ""), (3, "an owl")]
    assert (rows[1]["n_tokens"], rows[1]["perplexity"]) == (0, None)
    assert rows[2]["logprob"] == pytest.approx(data(inside, "score", "an owl")["logprob"], abs=1e-3)


def test_lines_are_a_table(inside: Run) -> None:
    rows = inside("score", "--lines", "-t", "1", stdin="the cat\n\nan owl\n").text.splitlines()
    assert rows[0].split() == ["LINE", "LOGPROB", "BITS/BYTE", "PERPLEXITY", "TOKENS"]
    assert (rows[2], rows[5]) == ("  the cat", "  an owl")
    assert rows[3].split() == ["2", "0.0000", "-", "-", "0"]


def test_tokens_have_a_row_each(inside: Run) -> None:
    found = data(inside, "score", "--prefix", "the", " an", "--tokens")
    assert [token["token"] for token in found["tokens"]] == ["\u2581an".replace("\u2581", " ")]
    assert math.fsum(token["logprob"] for token in found["tokens"]) == found["logprob"]
    ran = inside("score", "--prefix", "the", " an", "--tokens", "-t", "1")
    assert ran.text == f'{found["logprob"]:>12.4f}  " an"\n'


def test_a_note_says_how_much_of_a_long_text_counts(inside: Run) -> None:
    ran = inside("score", "-t", "1", "-c", "16", stdin="an owl " * 40)
    n_counted = int(ran.text.split()[-1])
    assert f"{n_counted} of " in ran.stderr
    assert n_counted % 7 == 0  # 16 - 8 - 1 of each window


@pytest.mark.parametrize(
    ("args", "stdin", "words"),
    [
        (("",), None, "the text is empty"),
        ((), "\n", "the text is empty"),
        (("a", "--file", "b"), None, "a text and --file cannot be used together"),
        (("--file", "nowhere.txt"), None, "nowhere.txt"),
        (("a b c d e f", "-c", "2", "-t", "1"), None, "no token counts: its window has no token before it"),
    ],
)
def test_score_without_a_text_is_an_error(inside: Run, args: tuple[str, ...], stdin: str | None, words: str) -> None:
    ran = inside("score", *args, stdin=stdin)
    assert (ran.status in (2, 6), ran.text) == (True, "")
    assert words in ran.stderr
