"""config, tokenize, doctor, --version, --help, completion."""

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from llmcli.engine.llama.waiting import thread_waits
from llmcli.params.settings import fields
from tests.conftest import Run
from tools import docs

HEAVY = (
    *("llama_cpp", "llama_cpp.llama_cpp", "numpy", "huggingface_hub", "prompt_toolkit", "jinja2"),
    *("llmcli.engine.generation", "llmcli.engine.scheduler", "llmcli.inference.local"),
)


def test_config_set_get_list_and_unset(run: Run, inside: Run, home: Path) -> None:
    assert run("config", "set", "temp", "0.3..1.3").status == 0
    assert inside("config", "set", "stop", "END", "\\n\\n").status == 0
    assert run("config", "get", "temperature").text == "0.3..1.3\n"
    listed = {line.split()[0]: line for line in inside("config", "list").text.splitlines()}
    assert set(listed) == {"temperature", "stop"}
    assert listed["temperature"].split() == ["temperature", "0.3..1.3", "config"]
    data = json.loads(run("config", "list", "--all", "--json").text)
    assert data["stop"] == {"value": ["END", "\n\n"], "from": "config"}
    assert data["top_k"] == {"value": 40, "from": "default"}
    assert run("config", "unset", "temp").status == 0
    assert inside("config", "get", "temperature").text == "0.8\n"
    assert inside("config", "path").text.strip() == str(home / "config" / "config.toml")


@pytest.mark.parametrize("key", ["max_tokens", "adaptive_target"])
def test_config_sets_a_negative_number(inside: Run, key: str) -> None:
    assert inside("config", "set", key, "-1").status == 0
    assert inside("config", "get", key).text == "-1\n"
    assert "must be" in inside("config", "set", key, "--force").stderr


def test_config_unset_removes_keys_that_are_not_settings(inside: Run, home: Path) -> None:
    file = home / "config" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text("topp = 1\ntop_k = 3\n[foo]\na = 1\n")
    assert inside("config", "list").stderr.endswith(
        "config.toml: unknown setting 'topp'\n  hint: did you mean 'top_p'? remove it with `llmcli config unset topp`, "
        "or fix it with `llmcli config edit`\n"
    )
    assert inside("config", "unset", "topp", "foo", "top_k").status == 0
    assert file.read_text() == ""
    assert inside("config", "unset", "presets").status == 2


def test_config_set_with_an_equals_sign_gets_a_hint(inside: Run) -> None:
    ran = inside("config", "set", "temperature=0.4")
    assert (ran.status, "put a space between name and value, no `=`" in ran.stderr) == (2, True)


def test_config_keeps_comments(inside: Run, home: Path) -> None:
    file = home / "config" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text("# mine\ntop_k = 5 # low\nseed = 1\n")
    inside("config", "set", "top_k", "6")
    inside("config", "unset", "seed")
    assert file.read_text() == "# mine\ntop_k = 6 # low\n"


def test_config_refuses_a_value_that_is_not_valid(run: Run, inside: Run) -> None:
    ran = run("config", "set", "top_p", "7")
    assert (ran.status, ran.stdout) == (2, b"")
    assert "between 0 and 1" in ran.stderr
    assert "did you mean 'top_p'" in inside("config", "get", "topp").stderr


def test_config_refuses_an_unknown_preset(inside: Run) -> None:
    ran = inside("config", "set", "preset", "creativ")
    assert (ran.status, ran.stderr) == (2, "error: unknown preset 'creativ'\n  hint: did you mean 'creative'?\n")
    assert inside("config", "set", "preset", "creative").status == 0
    assert inside("config", "get", "preset").text == "creative\n"


@pytest.mark.skipif(sys.platform == "win32", reason="the editor is a shell line")
def test_config_edit_opens_the_editor_and_checks_the_file(run: Run, inside: Run, home: Path) -> None:
    good = run("config", "edit", env={"VISUAL": "", "EDITOR": "sh -c 'echo top_k = 9 >> \"$0\"'"})
    assert good.status == 0
    assert inside("config", "get", "top_k").text == "9\n"
    bad = inside("config", "edit", env={"VISUAL": "sh -c 'echo top_k = -9 > \"$0\"'"})
    assert bad.status == 2
    assert "top_k" in bad.stderr
    assert inside("config", "edit", env={"VISUAL": "no-such-editor"}).status == 6


def test_tokenize_shows_ids_and_pieces(run: Run, inside: Run, with_starter: Path) -> None:
    data = json.loads(run("tokenize", "Hello world", "--json").text)
    assert data["pieces"] == ["Hello", " world"]
    assert run("tokenize", "--ids", stdin="Hello world").text.split() == [str(token) for token in data["ids"]]
    assert run("tokenize", "--count", "Hello world").text == "2\n"
    assert inside("tokenize", "--count", "<|im_end|>", "--special").text == "1\n"
    assert int(inside("tokenize", "--count", "<|im_end|>").text) > 1
    assert inside("tokenize", "a", "--ids", "--count").status == 2


def test_version_names_llama_cpp_and_its_devices(run: Run) -> None:
    text = run("--version").text
    for word in ("llmcli 0.", "llama-cpp-python 0.3.", "llama.cpp", "devices:", "CPU"):
        assert word in text


def test_doctor_reports_everything_and_hides_the_token(run: Run, home: Path) -> None:
    ran = run("doctor", "--json", env={"HF_TOKEN": "hf_SENTINEL"})
    facts = json.loads(ran.text)["facts"]
    assert ran.status == 0
    expected = {"python", "llama-cpp-python", "features", "GPU offload", "device 0", "cores", "memory"}
    assert expected | {"config folder", "data folder", "cache folder", "starter", "HF token"} <= set(facts)
    assert facts["HF token"] == "present (HF_TOKEN)"
    assert "SENTINEL" not in ran.text + ran.stderr + run("doctor", env={"HF_TOKEN": "hf_SENTINEL"}).text
    assert not home.exists()  # looking changes nothing


def test_doctor_fails_when_a_folder_cannot_be_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = run("doctor", env={"LLMCLI_HOME": str(tmp_path / "file")})
    assert ran.status == 1
    assert ran.stderr.startswith("error: cannot write to ")
    assert "\n  hint: set LLMCLI_HOME to a folder that you can write to\n" in ran.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("modl = 'q05'\n", "'modl'"),
        ("[presets.x]\nprompt = 'hi'\n", "prompt cannot be part of a preset"),
        ("[aliases]\na = 1\n", "[aliases] must"),
        ("top_p = \n", "not valid TOML"),
    ],
)
def test_doctor_fails_when_the_configuration_is_not_valid(inside: Run, home: Path, text: str, words: str) -> None:
    (home / "config").mkdir(parents=True)
    (home / "config" / "config.toml").write_text(text)
    ran = inside("doctor", "--json")
    data = json.loads(ran.text)
    assert ran.status == 1
    assert data["facts"]["config file"].endswith("(not valid)")
    assert [words in problem["message"] for problem in data["problems"]] == [True]
    assert ran.stderr.startswith("error: ")


def test_doctor_fails_when_a_variable_is_not_valid(inside: Run) -> None:
    ran = inside("doctor", "--json", env={"LLMCLI_TOPP": "1"})
    assert ran.status == 1
    assert "LLMCLI_TOPP" in json.loads(ran.text)["problems"][0]["message"]


def test_config_list_shows_only_what_is_set_and_says_so(inside: Run) -> None:
    empty = inside("config", "list")
    assert (empty.status, empty.text) == (0, "")
    assert empty.stderr == "all settings have their defaults: `llmcli config list --all`\n"
    inside("config", "set", "top_k", "5")
    assert json.loads(inside("config", "list", "--json").text) == {"top_k": {"value": 5, "from": "config"}}
    assert len(inside("config", "list", "--all").text.splitlines()) == len(fields())


def test_verbose_shows_settings_the_model_and_timings_only(run: Run, with_tiny: Path) -> None:
    once = run("generate", "hi", "-n", "2", "--temp", "0.3", "--verbose")
    assert "temperature = 0.3 (from flag)\n" in once.stderr
    assert f"model = {with_tiny}"[:60] in once.stderr
    assert "(from env)" in once.stderr
    assert "loaded in " in once.stderr
    assert " tokens/s" in once.stderr
    assert len(once.stderr.splitlines()) < 16
    twice = run("generate", "hi", "-n", "2", "--temp", "0.3", "-vv")
    assert "temperature = 0.3 (from flag)\n" in twice.stderr
    assert len(twice.stderr.splitlines()) > 100
    assert run("generate", "hi", "-n", "2", "--verbose", "--verbose").stderr.count("llama_") > 10


# What an answer in a pipe does without: each of them takes 1 to 40 ms.
NOT_IN_A_PIPE = {
    *(
        "typer",
        "rich",
        "prompt_toolkit",
        "markdown_it",
        "pygments",
        "httpx",
        "huggingface_hub",
        "shellingham",
        "asyncio",
    ),
    *("msgspec", "platformdirs", "numpy", "llama_cpp", "diskcache", "starlette", "tomlkit", "tomllib", "jsonschema_rs"),
    *("llguidance", "subprocess", "multiprocessing", "tempfile", "hashlib", "importlib.metadata", "platform", "uuid"),
    *("difflib", "gettext", "locale", "xml", "email", "http", "ssl", "logging", "llmcli.cli.typer_app"),
    *("llmcli.chat", "llmcli.server", "llmcli.pipelines.tasks", "llmcli.inference.decision", "llmcli.inference.warm"),
    *("llmcli.inference.embedding", "llmcli.inference.endpoint", "llmcli.inference.json_schema", "llmcli.ui.markdown"),
    *("llmcli.models.sources", "llmcli.models.download", "llmcli.engine.sampling.grammar", "jinja2"),
}
OF_TEMPLATES = {"jinja2", "tempfile", "hashlib"}  # Jinja imports the others


@pytest.mark.slow
def test_an_answer_in_a_pipe_imports_no_more_than_it_needs(with_starter: Path) -> None:
    code = "import sys; from llmcli.cli.app import run; run(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    for more, allowed in ((["--raw"], set[str]()), ([], OF_TEMPLATES)):
        command = [sys.executable, "-c", code, "generate", "hi", "-n", "2", "-q", "--no-stdin", *more]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout
        assert sorted(NOT_IN_A_PIPE & {*done.stderr.split()} - allowed) == []


@pytest.mark.slow
@pytest.mark.parametrize("command", ["", "generate", "chat", "compare", "tokenize", "replay", "config", "sessions"])
def test_help_and_completion_load_nothing_heavy(command: str) -> None:
    code = f"""
import sys
from llmcli.cli.app import run
try:
    run(sys.argv[1:])
finally:
    print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    complete = {
        "_LLMCLI_COMPLETE": "complete_bash",
        "COMP_WORDS": f"llmcli {command} --",
        "COMP_CWORD": str(len(command.split()) + 1),
    }
    for args, env in (([*command.split(), "--help"], {}), ([], complete)):
        done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, env=os.environ | env)
        assert done.stdout
        assert done.stderr.strip() == "[]"


def completes(start: Run, line: str) -> list[str]:
    """The completions of bash for the last word of `line`."""
    words = line.split(" ")
    env = {"_LLMCLI_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    return start(env=env).text.splitlines()


def test_commands_flags_values_and_models_complete(
    run: Run, inside: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = partial(completes, inside)
    assert complete("llmcli generate -m ~nobody-has-this-name/x") == [""]
    (tmp_path / "mine.gguf").touch()
    (tmp_path / "other.txt").touch()
    monkeypatch.chdir(tmp_path)
    assert completes(run, "llmcli gen") == complete("llmcli gen") == ["generate"]
    assert {"--top-k", "--top-p", "--top-a", "--top-n-sigma"} <= set(complete("llmcli generate --top"))
    assert complete("llmcli generate --flash-attn o") == ["on", "off"]
    assert complete("llmcli generate --mirostat ") == ["0", "1", "2"]
    assert complete("llmcli generate --samplers top_k,te") == ["top_k,temperature"]
    assert complete("llmcli generate -m s") == ["starter"]
    assert completes(run, "llmcli generate --model m") == complete("llmcli generate --model m") == ["mine.gguf"]
    assert complete(f"llmcli generate -m {tmp_path}/m") == [f"{tmp_path}/mine.gguf"]
    assert "top_p" in complete("llmcli config set top")


@pytest.mark.slow
@pytest.mark.parametrize("shell", docs.COMPLETIONS)
def test_the_completion_scripts_are_those_the_program_makes(shell: str) -> None:
    stored = (docs.ROOT / "completions" / docs.COMPLETIONS[shell]).read_text(encoding="utf-8")
    assert stored == docs.completion_script(shell)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs bash")
def test_the_bash_script_completes_in_bash() -> None:
    script = docs.ROOT / "completions" / "llmcli.bash"
    line = (
        f'source "{script}"; llmcli() {{ "{sys.executable}" -m llmcli "$@"; }}; export -f llmcli;'
        "COMP_WORDS=(llmcli generate --temper); COMP_CWORD=2; COMP_LINE='llmcli generate --temper';"
        f'eval "$(declare -f _llmcli_completion | sed \'s|\\$1|"{sys.executable}" -m llmcli|\')"; _llmcli_completion;'
        'echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert done.stdout.strip() == "--temperature"


def test_doctor_says_what_the_loading_flags_come_to(run: Run, home: Path) -> None:
    run("config", "set", "load_mode", "mlock")
    ran = run("doctor", "--json", "-t", "3", "--check-tensors", env={"LLMCLI_N_THREADS_BATCH": "1"})
    facts = json.loads(ran.text)["facts"]
    assert ran.status == 0
    assert facts["threads"] == "3 for generation, 1 for prompts"
    assert facts["load mode"].startswith("mlock")
    assert facts["load mode"].endswith(", weights checked")
    assert "node" in facts["NUMA"]


def test_doctor_says_how_threads_wait(run: Run) -> None:
    if not thread_waits():
        pytest.skip("the threads of this build are not those of libgomp")
    found = [
        json.loads(run("doctor", "--json", env=variables).text)["facts"]["waiting threads"]
        for variables in ({}, {"OMP_WAIT_POLICY": "active"})
    ]
    assert found == ["sleep soon while other programs compute", "as OpenMP says (OMP_WAIT_POLICY)"]


def test_doctor_names_a_device_that_is_not_there(run: Run) -> None:
    ran = run("doctor", "--device", "CUDA99")
    assert ran.status == 1
    assert "error: device 'CUDA99' does not exist" in ran.stderr


@pytest.mark.parametrize("command", [("doctor",), ("generate", "hi")])
@pytest.mark.parametrize("flag", ["-t", "-tb"])
def test_a_number_of_threads_beyond_the_limit_is_refused(inside: Run, command: tuple[str, ...], flag: str) -> None:
    ran = inside(*command, flag, "100000")
    assert ran.status == 2
    assert "must be between 0 and 512, got 100000" in ran.stderr


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        ((), "as many of 3 as fit on the RPC servers"),
        (("--gpu-layers", "2"), "2 of 3"),
        (("--device", "none"), "0 of 3"),
    ],
)
def test_show_does_not_say_that_rpc_servers_get_no_layer(
    inside: Run, with_tiny: Path, flags: tuple[str, ...], shown: str
) -> None:
    ran = inside("models", "show", str(with_tiny), "--json", "--rpc", "127.0.0.1:1", *flags)
    assert ran.status == 0, ran.stderr
    assert json.loads(ran.text)["loading"]["gpu layers"] == shown


def test_show_lists_the_settings_for_loading(inside: Run, with_tiny: Path) -> None:
    flags = ("--rope-scale", "4", "--override-kv", "llama.context_length=int:512", "--no-swa-full")
    ran = inside("models", "show", str(with_tiny), "--json", *flags)
    info = json.loads(ran.text)
    assert ran.status == 0, ran.stderr
    assert info["memory"]["n_ctx"] == 512
    assert info["loading"]["gpu layers"] == "0 of 3"
    expected = {"rope_scale": "4", "swa_full": "false", "override_kv": '["llama.context_length=int:512"]'}
    assert info["loading"].items() >= expected.items()
    shown = inside("models", "show", str(with_tiny), *flags, "--load-mode", "none").text
    rows = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in shown.splitlines())
    assert rows.items() >= {**expected, "load mode": "none", "gpu layers": "0 of 3"}.items()
    assert "load_mode" not in rows


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--override-kv", "llama.context_length=float:1"), "llama.context_length has the type int, not float"),
        (("--override-kv", "nonsense"), "override_kv must be KEY=TYPE:VALUE"),
        (("--override-kv", "a=int:x"), "KEY=int:VALUE, where VALUE is an integer"),
        (("--override-kv", f"a=int:{2**70}"), "at most 64 bits"),
        (("--override-kv", f"a=str:{'x' * 128}"), "at most 127 bytes"),
        (("--tensor-split", "3,x"), "tensor_split must be numbers"),
        (("--tensor-split", "0,0"), "one of them above 0"),
        (("--load-mode", "fast"), "load_mode must be one of auto, none, mmap, mlock, mmap+mlock, dio"),
        (("--device", "CUDA99"), "device 'CUDA99' does not exist"),
        (("--rope-scale", "2", "--rope-freq-scale", "0.5"), "two names of one factor"),
        (("--poll", "101"), "poll must be between 0 and 100"),
    ],
)
def test_a_loading_flag_that_cannot_work_is_refused(
    inside: Run, with_tiny: Path, flags: tuple[str, ...], words: str
) -> None:
    ran = inside("generate", "hi", "-n", "1", *flags)
    assert (ran.status, ran.stdout) == (2, b"")
    assert words in ran.stderr


def test_several_overrides_work_in_one_flag_and_in_several(inside: Run, with_tiny: Path) -> None:
    first, second = "llama.context_length=int:512", "tokenizer.ggml.add_bos_token=bool:false"
    for flags in ((f"{first},{second}",), (first, "--override-kv", second)):
        ran = inside("generate", "hi", "-n", "1", "-t", "1", "--json", "--override-kv", *flags)
        assert json.loads(ran.text)["params"]["override_kv"] == [first, second]
