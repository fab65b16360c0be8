"""What `extract` takes out of an answer, and what it refuses because it is not there, or not whole."""

import signal
import sys
import time
from threading import Thread, main_thread
from threading import enumerate as enumerate_threads

import pytest

import llmcli.pipelines.extract as extraction
from llmcli.errors import ConstraintError
from llmcli.pipelines.extract import CodeBlock, _searcher, code_blocks, extract, extract_each
from tests.waiting import wait_until

LIMIT = extraction._SEARCH_SECONDS  # the tests of this folder have another one

TWO_BLOCKS = """Install it, then run it:

1. The package:
   ```sh
   pip install x
   ```
2. The program:
   ```python
   def f():
       return 1

   print(f())
   ```
"""


def failure(what: str, text: str, is_cut: bool = False) -> str:
    with pytest.raises(ConstraintError) as caught:
        extract(what, text, is_cut)
    assert caught.value.hint
    return str(caught.value)


def test_code_is_the_content_of_the_first_block() -> None:
    assert extract("code", TWO_BLOCKS) == "pip install x"


@pytest.mark.parametrize("what", ["code:python", "code:py", "code:Python"])
def test_code_of_a_language_is_its_first_block(what: str) -> None:
    assert extract(what, TWO_BLOCKS) == "def f():\n    return 1\n\nprint(f())"


def test_a_block_ends_at_a_fence_of_its_own_kind() -> None:
    text = "~~~\n```\nx\n```\n~~~\n````md\n```\ny\n```\n`````\n"
    assert code_blocks(text) == [CodeBlock("", "```\nx\n```", True), CodeBlock("md", "```\ny\n```", True)]


def test_a_block_in_a_quote_is_without_its_marks() -> None:
    assert extract("code", "> ```\n> a > b\n>   c\n> ```\n") == "a > b\n  c"


def test_a_word_between_backticks_is_not_a_block() -> None:
    assert failure("code", "Use `ls` or ```ls -l``` here.").startswith("the answer has no code block: ")


def test_a_missing_language_names_those_that_are_there() -> None:
    message = failure("code:rust", TWO_BLOCKS)
    assert message.startswith("the answer has no code block in rust (it has sh, python): ")


def test_an_open_block_counts_unless_it_is_cut() -> None:
    assert extract("code", "```\nls\n") == "ls"
    assert failure("code", "```\nls\n", is_cut=True).startswith("the code block of the answer is cut off: ")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('The answer is 42: {"a": 1.0,\n  "b": [\n    1e5,\r\n    2\n  ]\n} Done.', '{"a": 1.0, "b": [1e5, 2]}'),
        ("42", "42"),
        (' "x" ', '"x"'),
        ("null\n", "null"),
        ("[see below] {'a': [1]} [2]", "[2]"),
        ('Source [1]:\n```json\n{"q": "}"}\n```', '{"q": "}"}'),
        ('{"a": NaN} {"big": 1' + "0" * 5000 + "}", '{"big": 1' + "0" * 5000 + "}"),
        ('{ "kept":  "as \\n it {is" }', '{ "kept":  "as \\n it {is" }'),
    ],
)
def test_json_is_the_first_value_on_one_line(text: str, value: str) -> None:
    assert extract("json", text) == value


@pytest.mark.parametrize("text", ['{"a": ["x", "y"], "b": ', "{'a': {\"b\": 1}", "[" * 100_000, '{"a":"' * 50_000])
def test_no_part_of_broken_json_is_a_value(text: str) -> None:
    begin = time.thread_time()
    assert failure("json", text).startswith("the answer has no valid JSON: ")
    assert time.thread_time() - begin < 5  # to try again at each bracket would take a minute


def test_a_number_that_is_cut_is_not_json() -> None:
    assert failure("json", "42", is_cut=True).startswith("the answer has no JSON: ")
    assert extract("json", "[42] and", is_cut=True) == "[42]"


def test_the_last_line_is_the_last_one_with_text() -> None:
    assert extract("last-line", "So:\n\n  Paris \n \n") == "Paris"
    assert extract("last-line", "So:\nParis\n", is_cut=True) == "Paris"
    assert failure("last-line", " \n").startswith("the answer is empty")
    assert failure("last-line", "So:\nPar", is_cut=True).startswith("the last line of the answer is cut off: ")


def test_a_regular_expression_gives_its_match_or_group() -> None:
    text = "I count 12 apples.\nANSWER: 7\n"
    assert extract(r"\d+", text) == "12"
    assert extract(r"(?i)answer: (\d+)", text) == "7"
    assert extract(r"(?m)^\w+:.*$", text) == "ANSWER: 7"
    assert failure(r"\d{3}", "12").startswith(r"the answer does not match '\d{3}': ")


def test_a_group_without_a_match_is_not_found() -> None:
    assert failure("(x)?a", "a").startswith("the answer does not match '(x)?a': ")


def test_an_endless_search_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LIMIT == 5
    with monkeypatch.context() as patch:
        patch.setattr(extraction, "_SEARCH_SECONDS", 0.5)
        assert failure("(a+)+$", "a" * 60 + "b") == "the regular expression of --extract takes more than 0.5 s"
    assert extract(r"\d", "a 1") == "1"


def test_one_process_searches_all_answers() -> None:
    assert extract(r"\d", "a 1") == "1"
    process = _searcher()._process
    assert process
    assert failure("(" * 3000 + ")" * 3000, "x").startswith("the regular expression of --extract failed")
    assert [extract(r"[\w\s]+", text) for text in ("b\nc", "\u00fc\udc80", "x" * 10**6)] == [
        "b\nc",
        "\u00fc",
        "x" * 10**6,
    ]
    assert _searcher()._process is process


@pytest.mark.skipif(sys.platform == "win32", reason="a signal to a thread")
def test_an_interrupted_search_leaves_no_result() -> None:
    assert extract("a", "a") == "a"
    process = _searcher()._process
    assert process

    def interrupt() -> None:
        wait_until(lambda: any(getattr(one, "function", None) == process.kill for one in enumerate_threads()))
        time.sleep(0.1)  # from the beginning of the time limit to the search
        signal.pthread_kill(main_thread().ident or 0, signal.SIGINT)

    alarm = Thread(target=interrupt)
    alarm.start()
    with pytest.raises(KeyboardInterrupt):
        extract("(a+)+$|b", "a" * 60 + "b")  # takes years
    alarm.join()
    assert extract("c", "c") == "c"


def test_a_search_survives_the_end_of_its_process() -> None:
    assert extract("a", "a") == "a"
    process = _searcher()._process
    assert process
    process.kill()
    process.wait()
    assert extract("b", "b") == "b"


def test_of_several_answers_each_has_its_own_result() -> None:
    found = extract_each(r"\d", [("a 1", False), ("b", False), ("c 3", True)])
    assert found[0] == "1"
    assert isinstance(found[1], ConstraintError)
    assert found[2] == "3"
