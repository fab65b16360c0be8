"""Bad input: one clear error, the right exit status, never a traceback, a hang or a core dump."""

import os
import shutil
from pathlib import Path

import pytest

from tests.cli_result import CliResult
from tests.conftest import Run
from tests.models.gguf_writer import MODEL, write_gguf

ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def assert_one_error(ran: CliResult, status: int, words: str) -> None:
    """One line with the error, perhaps a second one with the hint, and nothing else."""
    assert ran.status == status, ran.stderr
    error, *hints = ran.stderr.splitlines()
    assert error.startswith("error: ")
    assert not error.endswith(".")
    assert len(hints) <= 1, ran.stderr
    assert all(hint.startswith("  hint: ") for hint in hints)
    assert words in ran.stderr
    assert ran.stdout.strip() == b""


WRONG = [
    (["--temp", "nan"], 2, "temperature must be finite and at least 0"),
    (["--temp", "-1"], 2, "temperature"),
    (["--temp", ""], 2, "temperature"),
    (["--temp", "1.3..0.3"], 2, "0.3..1.3"),
    (["--top-p", "1.5"], 2, "top_p must be between 0 and 1, got 1.5"),
    (["--top-p", "nan"], 2, "top_p"),
    (["--min-p", "inf"], 2, "min_p"),
    (["--top-k", "3.7"], 2, "top_k must be an integer"),
    (["--top-k", "-1"], 2, "top_k"),
    (["--repeat-penalty", "0"], 2, "repeat_penalty"),
    (["--mirostat", "3"], 2, "mirostat must be one of 0, 1, 2"),
    (["--seed", "4294967296"], 2, "seed"),
    (["--samplers", "top_k,top_q"], 2, "top_p"),
    (["--logit-bias", "hello"], 2, "logit_bias"),
    (["--grammar", 'root ::= "a"', "--json-schema", "{}"], 2, "cannot be used together"),
    (["--json-schema", "{"], 2, "json_schema"),
    (["--think", "maybe"], 2, "think"),
    (["--flash-attn", "sometimes"], 2, "flash_attn"),
    (["--no-such-flag"], 2, "no such option '--no-such-flag'"),
    (["--top_p", "0.5"], 2, "did you mean '--top-p'? see `llmcli generate --help`"),
    (["--temperatur", "0.5"], 2, "did you mean '--temperature'?"),
    (["--rep-pen", "1.1"], 2, "did you mean '--repeat-penalty'?"),
    (["--typ-p", "0.9"], 2, "did you mean '--typical-p'?"),
    (["--ban-tokens", "x"], 2, "did you mean '--ban'?"),
    (["--dynatemp-low", "0.3"], 2, "use a range as temperature, such as 0.3..1.3; see"),
    (["--no-mmap"], 2, "use --load-mode: mmap, none (without mmap)"),
    (["--lora", "x"], 2, "llmcli does not have this option of llama.cpp yet; see"),
    (["--reasoning", "off"], 2, "use --think show, --think hide or --think off; see"),
    (["--no-think"], 2, "use --think show, --think hide or --think off; see"),
    (["--reasoning-effort", "low"], 2, "use --template-arg, such as 'reasoning_effort=\"low\"'; see"),
    (["--json-schema", ""], 2, "json_schema must be a non-empty text, got ''\n  hint: write none for no constraint"),
    (["--regex", " "], 2, "regex must be a non-empty text, got ' '"),
    (["--json-schema", "name, age"], 6, "hint: give a JSON schema, its file, or fields such as name: str"),
    (["--image", "x.png"], 2, "llmcli does not have this option of llama.cpp yet; see"),
    (["--outputfile", "x.txt"], 2, "use `llmcli generate -o FILE`, or shell redirection (> FILE); see"),
    (["-no-cnv"], 2, "no such option '-no-cnv'\n  hint: it is not needed"),
    (["--trace", "-"], 2, "--trace cannot write to stdout"),
    (["--grammar", "x.gbnf"], 2, "use --grammar-file for a file"),
    (["-ngl", "-1"], 2, "use all"),
    (["-c"], 2, "`llmcli chat -C` continues the last session; see `llmcli generate --help`"),
    (["-c", "and then?"], 2, "`llmcli chat -C` continues the last session"),
    (["--heat", "red"], 2, "--heat must be one of temperature, p, entropy, drafted, got 'red'"),
    (["more words"], 2, "unexpected extra argument 'more words'\n  hint: put a text of several words in quotes"),
    (["--file", "no such file"], 6, "file not found: no such file"),
    (["--file", "."], 6, "folder"),
    (["--system", "@no such file"], 6, "file not found: no such file"),
    (["-c", "32", "word " * 40], 2, "unexpected extra argument"),
    (["-t", "0.3"], 2, "-t is the number of threads; for the temperature, use --temp"),
    (["--temp", "0.2,1.4"], 2, "to compare several values, use `llmcli compare --vary temp=0.2,1.4`"),
    (["--top-k", "1,x"], 2, "got '1,x'\n"),
    (["--timeout", "5m"], 2, "timeout must be a number of seconds, got '5m'"),
    (["--cache-type-v", "q9_9"], 2, "cache_type_v"),
]  # fmt: skip
REAL = [case for case in WRONG if case[0] in (["--temp", "nan"], ["--no-such-flag"], ["--file", "no such file"])]
WRONG_FOR_THE_MODEL = [
    (["--logit-bias", "99999999=1"], 2, "token id 99999999 is out of range (0 to "),
    (["--grammar", "root ::= ["], 2, "grammar"),
    (["--chat-template", "{% if %}"], 2, "is not valid Jinja: Expected an expression, got 'end of statement block'"),
    (["--chat-template", "{{ a.b.c }}"], 2, "'a' is undefined\n  hint: correct the template, which gets messages"),
    (["--chat-template", "chatmll"], 6, "file not found: chatmll\n  hint: did you mean 'chatml'?"),
    (["--chat-template", "x\n{{ a b }}"], 2, "is not valid Jinja: line 2: expected token"),
    (["--chat-template", "{{ 'a' | wordwrap }}"], 2, "is not valid Jinja: No filter named 'wordwrap'"),
    (["--chat-template", "{{ bos_token }}"], 2, "does not write the last message of the user into the prompt"),
    (["--template-arg", "a=b"], 2, "template_arg must be KEY=JSON"),
    (["-ctv", "q4_0", "-fa", "off"], 2, "use -fa on"),
    (["--chat-template", ENDLESS], 2, "the chat template fails"),
    (["--chat-template", "{{ raise_exception('no thanks') }}"], 2, "no thanks"),
    (["-c", "64", "-s", "word " * 100], 7, "the prompt has"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "status", "words"), WRONG)
def test_a_wrong_option_or_value_is_one_error(
    inside: Run, with_tiny: Path, args: list[str], status: int, words: str
) -> None:
    assert_one_error(inside("generate", "hi", *args), status, words)


@pytest.mark.parametrize(("args", "status", "words"), REAL)
def test_a_wrong_option_beside_a_model_that_loads(
    run: Run, with_starter: Path, args: list[str], status: int, words: str
) -> None:
    assert_one_error(run("generate", "hi", *args), status, words)


@pytest.mark.slow  # one takes until the limit of templates
@pytest.mark.parametrize(("args", "status", "words"), WRONG_FOR_THE_MODEL)
def test_a_value_that_only_the_model_can_refuse(
    inside: Run, with_tiny: Path, args: list[str], status: int, words: str
) -> None:
    assert_one_error(inside("generate", "hi", *args), status, words)


def test_a_command_that_is_nearly_right_is_suggested(inside: Run) -> None:
    assert_one_error(inside("generat", "hi"), 2, "did you mean 'generate'?")
    assert_one_error(inside("hello", "world"), 2, 'use `llmcli generate "hello world"` to ask')


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (
            ("summarize", "notes.txt"),
            "use `llmcli generate --task summarize --file FILE` for the task, or `llmcli generate",
        ),
        (("commit-message",), "use `llmcli generate --task commit-message --file FILE` for the task"),
        (("perplexity", "a b"), 'use `llmcli score "a b"`, or `llmcli score --file FILE`'),
        (("similarity", "a", "b"), "use `llmcli embed --similarity TEXT TEXT`"),
        (("../secret",), 'use `llmcli generate "../secret"` to ask'),
        (("batch", "a.txt", "b.txt"), "join several files, as in `cat a.txt b.txt | llmcli batch -`"),
        (("score", "a", "b"), "score several texts with --lines"),
    ],
)
def test_what_another_command_does_is_suggested(inside: Run, args: tuple[str, ...], hint: str) -> None:
    ran = inside(*args)
    assert (ran.status, ran.stdout) == (2, b"")
    assert f"  hint: {hint}" in ran.stderr


def test_files_of_a_pattern_each_need_an_option(inside: Run, tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in ("a.txt", "b.txt")]
    for name in names:
        Path(name).write_text("text\n")
    assert_one_error(inside("generate", "-f", *names, "Summarize this"), 2, "give each file its own --file")
    assert_one_error(inside("compare", *names), 2, "use `llmcli generate -T compare -f FILE --var other=@FILE`")


def test_an_empty_source_of_the_prompt_is_named(inside: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n")
    assert_one_error(inside("generate", "-T", "commit-message", stdin=""), 2, "no prompt: stdin is empty")
    ran = inside("generate", "--no-stdin", "-f", str(tmp_path / "a.txt"))
    assert_one_error(ran, 2, "a.txt is empty")


def test_an_empty_prompt_is_an_error(run: Run, inside: Run) -> None:
    assert_one_error(run("generate", stdin=""), 2, "no prompt")
    for args, stdin in (((), ""), (("",), ""), (("  ",), ""), ((), "\n\n")):
        assert_one_error(inside("generate", *args, stdin=stdin), 2, "no prompt")


def test_a_prompt_that_is_given_twice_is_an_error(inside: Run) -> None:
    assert_one_error(inside("generate", "a", "--prompt", "b"), 2, "given twice")


def test_a_wrong_environment_variable_is_an_error(run: Run, inside: Run) -> None:
    assert_one_error(run("generate", "hi", env={"LLMCLI_TOP_P": "2"}), 2, "LLMCLI_TOP_P: top_p must be between 0 and 1")
    assert_one_error(inside("generate", "hi", env={"LLMCLI_TOPP": "0.5"}), 2, "LLMCLI_TOP_P")
    assert_one_error(inside("generate", "hi", env={"LLMCLI_FOO": "1"}), 2, "hint: see `llmcli config list --all`")
    assert_one_error(inside("generate", "hi", env={"LLMCLI_QUIET": "1"}), 2, "quiet is a flag only: --quiet")


def test_a_wrong_configuration_file_is_an_error(run: Run, inside: Run, home: Path) -> None:
    file = home / "config" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text("top_p = 3.0\n")
    assert_one_error(run("generate", "hi"), 2, "config.toml: top_p must be between 0 and 1, got 3")
    file.write_text("topp = 0.3\n")
    assert_one_error(inside("generate", "hi"), 2, "did you mean 'top_p'?")
    file.write_text("top_p = = 3\n")
    assert_one_error(inside("generate", "hi"), 2, "line 1")


@pytest.fixture(scope="module")
def bad_models(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files that are not models."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "empty.gguf").touch()
    (folder / "tiny.gguf").write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 41)
    (folder / "page.gguf").write_text("<!DOCTYPE html><html><head><title>404</title></head></html>")
    (folder / "pointer.gguf").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 98362432\n"
    )
    with starter.open("rb") as whole:
        head = whole.read(30 << 20)
    (folder / "cut.gguf").write_bytes(head)
    (folder / "cut-in-the-header.gguf").write_bytes(head[:500_000])
    write_gguf(folder / "layers.gguf", MODEL | {"llama.block_count": 600})
    return folder


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("empty.gguf", 8, "empty"),
        ("tiny.gguf", 8, "tiny.gguf"),
        ("page.gguf", 8, "web page"),
        ("pointer.gguf", 8, "LFS"),
        ("cut.gguf", 8, "cut"),
        ("cut-in-the-header.gguf", 8, "cut-in-the-header.gguf"),
        ("layers.gguf", 8, "600"),
        ("missing.gguf", 3, "missing.gguf"),
        ("", 3, "folder"),
    ],
)
def test_a_file_that_is_not_a_model(
    run: Run, inside: Run, bad_models: Path, name: str, status: int, words: str
) -> None:
    start = run if name in ("cut.gguf", "layers.gguf", "missing.gguf") else inside
    assert_one_error(start("generate", "hi", "-m", str(bad_models / name)), status, words)


def test_pull_takes_no_projector_because_nothing_can_use_it(inside: Run) -> None:
    for args in (("--mmproj",), ("--mmproj", "F16")):
        hint = "llmcli does not have this option of llama.cpp yet; see `llmcli pull --help`"
        assert_one_error(inside("pull", "owner/repo", *args), 2, f"no such option '--mmproj'\n  hint: {hint}\n")


def test_a_model_with_damaged_weights_is_refused(run: Run, tmp_path: Path, starter: Path) -> None:
    broken = tmp_path / "rubbish.gguf"
    shutil.copy(starter, broken)
    with broken.open("r+b") as file:
        file.seek(40 << 20)
        file.write(b"\xff" * (20 << 20))
    ran = run("generate", "hi", "-n", "4", "--json", "-m", str(broken))
    assert_one_error(ran, 8, "rubbish.gguf computes NaN (not a number) instead of probabilities")


def test_debug_shows_the_traceback(run: Run, inside: Run) -> None:
    for start, args, env in ((run, ("--debug",), {}), (inside, (), {"LLMCLI_DEBUG": "1"})):
        ran = start("generate", "hi", "-m", "missing.gguf", *args, env=env)
        assert ran.status == 3
        assert "Traceback" in ran.stderr


def test_a_home_that_cannot_be_written_is_an_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = run("config", "set", "top_k", "3", env={"LLMCLI_HOME": str(tmp_path / "file" / "home")})
    assert_one_error(ran, 6, "file")
    assert not os.path.exists(tmp_path / "file" / "home")
