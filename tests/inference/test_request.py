"""The prompt, made of the argument, files and stdin; and the texts that come from files."""

import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from llmcli.errors import DiskError, LlmcliError, ModelInvalidError, UsageError
from llmcli.files import read_text
from llmcli.inference.request import (
    build_prompt,
    join_prompt,
    needs_plain_template,
    system_text,
    with_plain_stop,
)
from llmcli.params.settings import Settings
from tests.inference.fake_engine import FakeEngine
from tests.inference.fake_vocab import CONTROL, FakeVocab


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two texts."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "a.txt").write_text("A\n")
    (folder / "b.txt").write_text("B\n\n")
    monkeypatch.chdir(folder)
    return folder


def join(piped: str | None = None, read: str = "IN\n", **settings: Any) -> str:
    """The joined prompt; `piped` is what a pipe holds, `read` what stdin gives when asked for with `-`."""
    return join_prompt(Settings(**settings), piped is not None, lambda: read if piped is None else piped)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"prompt": "Q"}, "Q"),
        ({"prompt": " Q\n"}, " Q\n"),
        ({"piped": "text\n"}, "text\n"),
        ({"prompt": "Q", "piped": "text\n"}, "Q\n\ntext\n"),
        ({"prompt": "Q\n\n\n", "piped": "\n text"}, "Q\n\n\n text"),
        ({"prompt": "Q", "piped": ""}, "Q"),
        ({"prompt": "", "piped": "text"}, "text"),
        ({"prompt": "-"}, "IN\n"),
        ({"prompt": "-", "piped": "text"}, "text"),
        ({"file": ("a.txt",)}, "A\n"),
        ({"file": ("a.txt", "b.txt")}, "File a.txt:\n```\nA\n```\n\nFile b.txt:\n```\nB\n\n```"),
        (
            {"prompt": "Q", "file": ("a.txt", "b.txt"), "piped": "text"},
            "Q\n\nFile a.txt:\n```\nA\n```\n\nFile b.txt:\n```\nB\n\n```\n\ntext",
        ),
        ({"prompt": "Q", "file": ("-", "a.txt"), "piped": "text\n"}, "Q\n\ntext\n\nFile a.txt:\n```\nA\n```"),
        ({"prompt": "-", "file": ("a.txt",)}, "IN\n\nFile a.txt:\n```\nA\n```"),
        ({"file": ("a.txt",), "piped": "text"}, "A\n\ntext"),
        ({"prompt": "Q", "file": ("a.txt",)}, "Q\n\nFile a.txt:\n```\nA\n```"),
        ({"prompt": "", "file": ("a.txt",)}, "A\n"),
        ({"prompt": "Q", "file": ("a.txt", "b.txt"), "raw": True}, "Q\n\nA\n\nB\n\n"),
        ({"prompt": " ", "raw": True}, " "),
        ({"prompt": "\n", "raw": True}, "\n"),
    ],
)
def test_parts_come_in_order_with_a_blank_line_between(given: dict[str, Any], expected: str) -> None:
    assert join(**given) == expected


@pytest.mark.parametrize("given", [{}, {"prompt": ""}, {"prompt": " \n"}, {"piped": "\n"}, {"raw": True}])
def test_an_empty_request_is_a_usage_error(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="no prompt") as caught:
        join(**given)
    assert "llmcli generate" in caught.value.hint


@pytest.mark.parametrize("given", [{"prompt": "-", "file": ("-",)}, {"file": ("-", "-")}])
def test_stdin_cannot_be_given_twice(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="only once"):
        join(**given)


def test_a_terminal_as_stdin_is_not_read() -> None:
    assert join_prompt(Settings(prompt="Q"), False, lambda: pytest.fail("read")) == "Q"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("Grüße\n".encode(), "Grüße\n"),
        ("\ufeffGrüße".encode(), "Grüße"),
        (b"Gr\xfc\xdfe", "Gr\ufffd\ufffde"),
        (b"a\r\nb\x1b[0m", "a\r\nb\x1b[0m"),
        (b"", ""),
    ],
)
def test_a_file_is_read_as_utf_8_exactly(folder: Path, data: bytes, text: str) -> None:
    (folder / "x").write_bytes(data)
    assert read_text("x") == text


@pytest.mark.parametrize(
    ("name", "telling"),
    [
        ("missing.txt", "file not found: missing.txt"),
        (".", "is a folder"),
        ("a.txt/b", "cannot read a.txt/b"),
        ("~nobody-has-this-name/a", "file not found: ~nobody"),
        ("a\0b", "cannot read"),
        ("n" * 5000, "cannot read"),
        ("binary", "is not a text file"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_line(folder: Path, name: str, telling: str) -> None:
    (folder / "binary").write_bytes(b"GGUF\0\0")
    with pytest.raises(DiskError, match=telling):
        read_text(name)


def test_a_large_file_is_refused_before_it_fills_the_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (folder / "sparse").open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(DiskError, match="larger than 64 MiB"):
        read_text("sparse")
    monkeypatch.setattr("llmcli.files._MAX_TEXT", 1 << 20)
    (folder / "exact").write_bytes(b"x" * (1 << 20))
    assert len(read_text("exact")) == 1 << 20


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such device")
def test_an_endless_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmcli.files._MAX_TEXT", 1 << 20)
    with pytest.raises(DiskError, match="larger than 1 MiB"):
        read_text("/dev/zero")


@pytest.mark.skipif(sys.platform == "win32" or not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_read_to_its_end(folder: Path) -> None:
    import threading

    os.mkfifo(folder / "pipe")
    assert stat.S_ISFIFO((folder / "pipe").stat().st_mode)
    writer = threading.Thread(target=lambda: (folder / "pipe").write_text("piped"))
    writer.start()
    assert read_text("pipe") == "piped"
    writer.join()


def test_a_file_in_the_home_folder_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    assert read_text("~/a.txt") == "A\n"


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_file_name_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match="file name is empty"):
        read_text(name)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, None), ("", None), ("Be brief.\n", "Be brief.\n"), ("@b.txt", "B"), ("a@b.txt", "a@b.txt")],
)
def test_the_system_prompt_is_a_text_or_a_file(given: str | None, expected: str | None) -> None:
    assert system_text(Settings(system=given)) == expected


@pytest.mark.parametrize(("given", "kind"), [("@missing", DiskError), ("@", UsageError)])
def test_a_system_prompt_that_cannot_be_read_is_refused(given: str, kind: type[LlmcliError]) -> None:
    with pytest.raises(kind):
        system_text(Settings(system=given))


TEMPLATE = "{% for m in messages %}{{ bos_token }}[{{ m.role }}]{{ m.content }}{% endfor %}"


def engine_with(chat_template: str | None) -> FakeEngine:
    return FakeEngine(tokenizer=FakeVocab(["</s>"], bos="<s>", adds_bos=True), chat_template=chat_template or "")


def test_the_template_of_the_model_is_used() -> None:
    prompt = build_prompt(engine_with(TEMPLATE), Settings(prefill="Yes"), "Q", "S")
    assert prompt.text == "<s>[system]S<s>[user]QYes"
    assert prompt.tokens[0] == CONTROL + 1


def test_a_template_given_inline_or_as_a_file_comes_first(folder: Path) -> None:
    (folder / "t.jinja").write_text("file:{{ messages[0].content }}\n")
    for given, expected in (("inline:{{ messages[0].content }}", "inline:Q"), ("t.jinja", "file:Q")):
        assert build_prompt(engine_with(TEMPLATE), Settings(chat_template=given), "Q", None).text == expected
        assert build_prompt(engine_with(None), Settings(chat_template=given), "Q", None).text == expected


@pytest.mark.parametrize("missing", [None, ""])
def test_a_model_without_a_template_gets_a_plain_one(missing: str | None) -> None:
    local = engine_with(missing)
    prompt = build_prompt(local, Settings(), "Q", "S")
    assert prompt.text == "S\n\nUser: Q\nAssistant:"
    assert needs_plain_template(local, Settings())


def test_a_plain_template_is_needed_only_without_another() -> None:
    assert not needs_plain_template(engine_with(None), Settings(raw=True))
    assert not needs_plain_template(engine_with(None), Settings(chat_template=TEMPLATE))
    assert not needs_plain_template(engine_with(TEMPLATE), Settings())


def test_a_plain_answer_stops_where_the_user_would_continue() -> None:
    settings = with_plain_stop(Settings(stop=("end",)))
    assert settings.stop == ("end", "\nUser:")
    assert with_plain_stop(settings) == settings


def test_a_raw_prompt_needs_no_template() -> None:
    prompt = build_prompt(engine_with(None), Settings(raw=True, prefill=" so</s>"), "Q</s>", "ignored")
    assert prompt.text == "Q</s> so</s>"
    assert list(prompt.tokens) == [CONTROL + 1, ord("Q"), CONTROL, *map(ord, " so"), CONTROL]


@pytest.mark.parametrize(
    ("given", "kind", "telling"),
    [
        ("{% if %}", UsageError, "^the chat template is not valid Jinja"),
        ("{{ raise_exception('no') }}", UsageError, "^the chat template fails: no"),
        ("chatmll", DiskError, "file not found: chatmll"),
    ],
)
def test_an_error_names_the_origin_of_the_template(given: str, kind: type[LlmcliError], telling: str) -> None:
    with pytest.raises(kind, match=telling):
        build_prompt(engine_with(TEMPLATE), Settings(chat_template=given), "Q", None)
    with pytest.raises(ModelInvalidError, match=r"^the model's chat template is not valid Jinja"):
        build_prompt(engine_with("{% if %}"), Settings(), "Q", None)


@pytest.mark.parametrize(("think", "expected"), [("show", "onQ"), ("hide", "onQ"), ("off", "offQ")])
@pytest.mark.parametrize("name", ["enable_thinking", "thinking"])
def test_reasoning_is_on_unless_the_user_wants_none(name: str, think: str, expected: str) -> None:
    local = engine_with(f"{{{{ 'on' if {name} else 'off' }}}}{{{{ messages[0].content }}}}")
    assert build_prompt(local, Settings(think=think), "Q", None).text == expected


def test_variables_of_the_user_reach_the_template() -> None:
    local = engine_with("{{ effort }}{{ thinking }}{{ parts | sum }}{{ messages[0].content }}")
    given = ('effort="low"', "thinking=false", "parts=[1, 2]", 'effort="high"')
    assert build_prompt(local, Settings(template_arg=given), "Q", None).text == "highFalse3Q"


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        (None, "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"),
        (
            "S",
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n",
        ),
    ],
)
def test_a_template_of_llama_cpp_is_used_by_its_name(system: str | None, expected: str) -> None:
    prompt = build_prompt(engine_with(TEMPLATE), Settings(chat_template="chatml"), "Q", system)
    assert (prompt.text, prompt.template) == (expected, "chatml")
