"""The prompt, made of the argument, files and stdin; and the texts that come from files."""

import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from llmcli.engine.events import Cancellation, Constraint
from llmcli.errors import ContextOverflowError, DiskError, LlmcliError, ModelInvalidError, UsageError
from llmcli.files import read_text, text_reading
from llmcli.inference.constraints import read_constraint
from llmcli.inference.request import (
    PLAIN_TEMPLATE,
    build_prompt,
    join_prompt,
    make_requests,
    needs_plain_template,
    read_question,
    system_text,
    template_options,
    with_plain_stop,
)
from llmcli.inference.template import unread_arguments
from llmcli.params.param import SettingValue
from llmcli.params.settings import Layer, Settings, fields, resolve
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
        ({"piped": "text\n"}, "text"),
        ({"piped": "text\r\n"}, "text"),
        ({"piped": "text\n\n"}, "text\n"),
        ({"piped": "text\n", "raw": True}, "text\n"),
        ({"prompt": "Q", "piped": "text\n"}, "Q\n\ntext"),
        ({"prompt": "Q\n\n\n", "piped": "\n text"}, "Q\n\n\n text"),
        ({"prompt": "Q", "piped": ""}, "Q"),
        ({"prompt": "", "piped": "text"}, "text"),
        ({"prompt": "-"}, "IN"),
        ({"file": ("/dev/stdin",)}, "IN"),
        ({"prompt": "Q", "system": "@-", "piped": "text"}, "Q"),
        ({"prompt": "-", "piped": "text"}, "text"),
        ({"file": ("a.txt",)}, "A"),
        ({"file": ("a.txt", "b.txt")}, "File a.txt:\n```\nA\n```\n\nFile b.txt:\n```\nB\n\n```"),
        (
            {"prompt": "Q", "file": ("a.txt", "b.txt"), "piped": "text"},
            "File a.txt:\n```\nA\n```\n\nFile b.txt:\n```\nB\n\n```\n\nQ\n\ntext",
        ),
        ({"prompt": "Q", "file": ("-",), "piped": "text\n"}, "File stdin:\n```\ntext\n```\n\nQ"),
        ({"prompt": "Q", "file": ("-", "a.txt")}, "File stdin:\n```\nIN\n```\n\nFile a.txt:\n```\nA\n```\n\nQ"),
        ({"prompt": "-", "file": ("a.txt",)}, "File a.txt:\n```\nA\n```\n\nIN"),
        ({"file": ("a.txt",), "piped": "text"}, "A\n\ntext"),
        ({"prompt": "Q", "file": ("a.txt",)}, "File a.txt:\n```\nA\n```\n\nQ"),
        ({"prompt": "", "file": ("a.txt",)}, "A"),
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


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"prompt": "-", "file": ("-",)}, "--prompt and --file"),
        ({"file": ("-", "/dev/fd/0")}, "given twice: --file"),
        ({"prompt": "-", "system": "@/dev/stdin"}, "--prompt and --system"),
        ({"prompt": "Q", "system": "-", "json_schema": "-"}, "--system and --json-schema"),
        ({"prompt": "Q", "grammar_file": "/dev/stdin", "chat_template": "-"}, "--grammar-file and --chat-template"),
    ],
)
def test_two_readers_of_stdin_are_refused_by_name(given: dict[str, Any], names: str) -> None:
    with pytest.raises(UsageError, match=f"only once.*{names}"):
        join(**given)


def test_each_text_option_reads_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_reading, "stdin", lambda: b"IN\n")
    for name in ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"):
        assert system_text(Settings(system=f"@{name}")) == "IN"
        assert read_constraint(Settings(grammar_file=name)) == Constraint("grammar", "IN\n")
        with pytest.raises(UsageError, match="JSON"):
            read_constraint(Settings(json_schema=name))
        assert template_options(FakeEngine(), Settings(chat_template=name)).source == "IN\n"
    assert system_text(Settings(system="-")) == "IN"


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_a_file_is_not_stdin_where_stdin_has_another_use(name: str) -> None:
    with pytest.raises(UsageError, match="is stdin, which cannot be read as a file here"):
        read_text(name)


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
    ("data", "encoding", "text"),
    [
        (b"Gr\xfc\xdfe", "latin-1", "Grüße"),
        (b"\x80 5", "cp1252", "€ 5"),
        ("Grüße\0".encode("utf-16-le"), "utf-16-le", "Grüße\0"),
        ("Grüße".encode("utf-16-le"), "utf-16", "Grüße"),
        ("\ufeffGrüße".encode("utf-16-le"), "utf-8", "Grüße"),
        ("\ufeffGrüße".encode("utf-16-be"), "utf-8", "Grüße"),
        ("\ufeffGrüße".encode("utf-32-le"), "utf-8", "Grüße"),
        ("\ufeffGrüße".encode("utf-32-be"), "utf-8", "Grüße"),
        ("\ufeffGrüße".encode("utf-16-le"), "latin-1", "Grüße"),  # a byte order mark counts more
    ],
)
def test_an_encoding_is_the_one_given_or_of_the_mark(
    folder: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, encoding: str, text: str
) -> None:
    monkeypatch.setattr(text_reading, "warn", lambda *_: pytest.fail("warned"))
    (folder / "x").write_bytes(data)
    assert read_text("x", encoding) == text
    assert join(file=("x",), encoding=encoding) == text
    assert system_text(Settings(system="@x", encoding=encoding)) == text


@pytest.mark.parametrize(
    ("data", "encoding", "warning"),
    [
        (b"Gr\xfc\xdfe", "utf-8", "x is not UTF-8 (byte 0xfc at position 2): some characters are lost"),
        (b"\xff\xfea\0b", "utf-8", "x is not UTF-16-LE (byte 0x62 at position 2): some characters are lost"),
        (b"a\x81", "cp1252", "x is not CP1252 (byte 0x81 at position 1): some characters are lost"),
    ],
)
def test_bytes_that_an_encoding_does_not_have_are_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, encoding: str, warning: str
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(text_reading, "warn", lambda message, hint: warnings.append(f"{message}; {hint}"))
    (folder / "x").write_bytes(data)
    assert "\ufffd" in read_text("x", encoding)
    assert warnings == [f"{warning}; set its encoding, such as --encoding latin-1"]


@pytest.mark.parametrize("name", ["", "klingon", "hex", "undefined", "utf-8\0", "idna", "punycode"])
def test_only_a_text_encoding_is_accepted(name: str) -> None:
    with pytest.raises(UsageError, match="encoding must be a text encoding, such as utf-8, latin-1"):
        fields()["encoding"].parse_text(name)
    assert fields()["encoding"].parse_text("UTF_8") == "utf-8"


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


def test_a_text_that_cannot_fit_is_refused_at_once() -> None:
    class Counting(FakeVocab):
        n_read = 0

        def tokenize(self, text: str, **options: bool) -> list[int]:
            self.n_read += len(text)
            return super().tokenize(text, **options)

    vocab = Counting()
    for settings, n_ctx in ((Settings(), 4096), (Settings(n_ctx=100_000), 100_000)):
        vocab.n_read = 0
        with pytest.raises(ContextOverflowError, match=f"the prompt has more than .* and the context has {n_ctx}"):
            build_prompt(FakeEngine(tokenizer=vocab), settings, "x" * 5_000_000, None)
        assert vocab.n_read < n_ctx + (1 << 15)


def test_a_cancellation_stops_a_long_prompt() -> None:
    cancellation = Cancellation()
    cancellation.set()
    with pytest.raises(KeyboardInterrupt):
        build_prompt(FakeEngine(), Settings(n_ctx=10**7), "x" * 100_000, None, cancellation)


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
    settings = with_plain_stop(Settings(stop=("end",)), PLAIN_TEMPLATE)
    assert settings.stop == ("end", "\nUser:")
    assert with_plain_stop(settings, PLAIN_TEMPLATE) == settings
    assert with_plain_stop(Settings(raw=True), PLAIN_TEMPLATE).stop == with_plain_stop(Settings(), "{{ x }}").stop == ()


def test_an_empty_template_file_has_the_plain_stop_too() -> None:
    Path("empty.jinja").touch()
    given: list[dict[str, SettingValue]] = [{"chat_template": "empty.jinja"}, {}]
    chosen, own = (read_question(resolve([Layer("flag", one)]), "Q", print) for one in given)
    first, second = make_requests(engine_with(TEMPLATE), [chosen, own], Cancellation())
    assert first.prompt.text == "User: Q\nAssistant:"
    assert (first.settings.stop, second.settings.stop) == (("\nUser:",), ())


@pytest.mark.parametrize(
    ("template", "given", "warning"),
    [
        ("{% if not x is defined %}{% set x = 1 %}{% endif %}{{ x }}", ("x=2",), None),
        ("{% macro m(a) %}{{ effort ~ a }}{% endmacro %}{{ m(1) }}{% for y in tools %}{{ y }}{% endfor %}",
         ("effort=1", "efort=1", "y=1", "tools=[]"), (["efort", "y"], "did you mean 'effort'?")),
        ("{% set x = 1 %}{{ x }}{% if think %}{{ tools }}{% endif %}", ("x=2",), (["x"], "it reads think, tools")),
        ("", ("x=2",), (["x"], "")),
        ("chatml", ("x=2",), (["x"], "")),
        ("{{ x }}", (), None),
    ],
)  # fmt: skip
def test_a_variable_that_no_template_reads_is_told(
    template: str, given: tuple[str, ...], warning: tuple[list[str], str] | None
) -> None:
    source = template if template in ("", "chatml") else template + "{{ messages[-1].content }}"
    settings = Settings(template_arg=given, chat_template=source)
    found = unread_arguments(build_prompt(engine_with(None), settings, "Q", None), settings)
    if warning is None:
        assert found is None
    else:
        text = f"template_arg {', '.join(warning[0])} has no effect: the chat template does not read it"
        assert found == (text, warning[1])


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


def test_equal_questions_share_one_prompt() -> None:
    values: list[dict[str, SettingValue]] = [{}, {"regex": "a"}, {"prefill": "P"}, {"template_arg": ("a=1",)}]
    questions = [read_question(resolve([Layer("flag", one)]), "Q", print) for one in values]
    requests = make_requests(FakeEngine(), questions, Cancellation())
    first, second, *others = [one.prompt for one in requests]
    assert first is second
    assert len({id(one) for one in (first, *others)}) == 3
    assert requests[1].constraint == read_constraint(Settings(regex="a"))


def test_an_error_of_a_question_has_its_label() -> None:
    with pytest.raises(UsageError, match=r"^top_k=3: grammar and regex cannot be used together$") as caught:
        read_question(resolve([Layer("flag", {"grammar": "a", "regex": "a"})]), "Q", print, "top_k=3")
    assert caught.value.hint == "use one of them; the value `none` removes the other"
