"""A user's temperature policies from a Python file."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmcli.errors import UsageError
from llmcli.params.policies.policy import Fixed, PolicyCall, parse_policy
from llmcli.params.policies.rules import Policy, TokenStep
from llmcli.params.sampler_chain import build_chain, check_chain, effective_policy
from llmcli.params.settings import Layer, Settings, fields, parse_data, resolve, to_data

FIELD = fields()["temp_policy_file"]
WAVE = "def wave(step, base=0.5, *, swing=0.25):\n    return base + swing * (step.index % 2)\n"
Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a policy file; returns the setting for its function `wave`."""

    def call(text: str) -> str:
        (tmp_path / "my rules.py").write_text(text, encoding="utf-8")
        return f"{tmp_path / 'my rules.py'}:wave"

    return call


def parse_setting(text: str) -> str:
    return str(FIELD.parse_text(text))


def loaded(settings: Settings) -> Policy:
    """The policy that an answer with these settings uses."""
    policy = effective_policy(settings)
    policy.load()
    return policy


def token(index: int, **counts: Any) -> TokenStep:
    return TokenStep(lambda: ((0.5, 0.5), 0.6931471805599453), index, **counts)


def temperatures(policy: Policy, count: int = 3) -> list[float]:
    return [policy(token(index)) for index in range(count)]


def policy_error(typed: str, temperature: str = "0.8") -> UsageError:
    """The error when the policy is loaded for an answer; its message is one line."""
    settings = Settings(temp_policy_file=parse_setting(typed), temperature=parse_policy(temperature))
    with pytest.raises(UsageError) as caught:
        check_chain(settings)
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


def test_a_function_in_a_file_is_the_policy(write: Write) -> None:
    settings = Settings(temp_policy_file=parse_setting(write(WAVE)))
    assert effective_policy(settings) == PolicyCall("wave")
    assert temperatures(effective_policy(settings)) == [0.5, 0.75, 0.5]
    assert PolicyCall("wave").explain(token(0)) == "wave"


@pytest.mark.parametrize(
    ("temperature", "policy", "values"),
    [
        ("wave", PolicyCall("wave"), [0.5, 0.75, 0.5]),
        ("wave:1", PolicyCall("wave", (1.0,)), [1.0, 1.25, 1.0]),
        ("wave:1,swing=0.5", PolicyCall("wave", (1.0,), (("swing", 0.5),)), [1.0, 1.5, 1.0]),
        ("wave : swing = -0.5", PolicyCall("wave", (), (("swing", -0.5),)), [0.5, 0.0, 0.5]),
        ("wave:-0.25,swing=0.5", PolicyCall("wave", (-0.25,), (("swing", 0.5),)), [-0.25, 0.25, -0.25]),
        ("wave,clamp=0.6..0.7", PolicyCall("clamp", (PolicyCall("wave"), 0.6, 0.7)), [0.6, 0.7, 0.6]),
        ("sentence:wave:1,0.3", PolicyCall("sentence", (PolicyCall("wave", (1.0,)), Fixed(0.3))), [1.0, 1.25, 1.0]),
        ("think=0,answer=wave", PolicyCall("think", (Fixed(0.0), PolicyCall("wave"))), [0.5, 0.75, 0.5]),
    ],
)
def test_the_temperature_can_use_the_function_by_name(
    write: Write, temperature: str, policy: Policy, values: list[float]
) -> None:
    own = parse_setting(write(WAVE))
    settings = Settings(temp_policy_file=own, temperature=parse_policy(temperature))
    assert effective_policy(settings) == policy
    assert temperatures(effective_policy(settings)) == values
    assert parse_policy(str(policy)) == policy
    assert parse_data(to_data(settings), "a file")["temperature"] == policy


def test_the_function_replaces_a_temperature_without_it(write: Write) -> None:
    settings = Settings(temp_policy_file=parse_setting(write(WAVE)), temperature=parse_policy("sentence:1,0.5"))
    assert effective_policy(settings) == PolicyCall("wave")


def test_the_file_in_the_settings_wins_over_one_with_same_name(tmp_path: Path) -> None:
    settings = []
    for number in (1, 2):
        (tmp_path / f"{number}.py").write_text(f"def wave(step):\n    return {number}\n")
        settings.append(Settings(temp_policy_file=parse_setting(f"{tmp_path / str(number)}.py:wave")))
    for one in (*settings, settings[0]):
        assert temperatures(effective_policy(one), 1) == [int(Path(one.temp_policy_file.rpartition(":")[0]).stem)]  # type: ignore[union-attr]


def test_a_policy_file_runs_only_when_an_answer_needs_it(write: Write, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    typed = write(f"with open({str(ran)!r}, 'a') as file:\n    file.write('x')\n" + WAVE)
    settings = Settings(temp_policy_file=parse_setting(typed), temperature=parse_policy("sentence:wave:1,2"))
    build_chain(Settings(**vars(settings) | {"seed": 1}))
    str(effective_policy(settings))
    assert not ran.exists()
    loaded(settings)
    assert ran.read_text() == "x"


def test_the_next_answer_uses_the_function_that_a_check_loaded(write: Write, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    typed = write(f"with open({str(ran)!r}, 'a') as file:\n    file.write('x')\n" + WAVE)
    settings = Settings(temp_policy_file=parse_setting(typed), temperature=parse_policy("sentence:wave,2"))
    for _ in range(2):
        check_chain(settings)
    for count in (1, 2):  # a later answer loads the file again
        assert temperatures(loaded(settings)) == [0.5, 0.75, 0.5]
        assert ran.read_text() == "x" * count


def test_settings_over_those_of_a_model_use_what_a_check_loaded(write: Write, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    typed = write(f"with open({str(ran)!r}, 'a') as file:\n    file.write('x')\n" + WAVE)
    asked = resolve([Layer("flag", {"temp_policy_file": parse_setting(typed)})])
    check_chain(asked.settings)
    settings = asked.over(Layer("model", {"temperature": Fixed(0.3), "top_k": 7})).with_seed().settings
    assert (settings.temperature, settings.top_k) == (Fixed(0.3), 7)
    assert temperatures(loaded(settings)) == [0.5, 0.75, 0.5]
    assert ran.read_text() == "x"


def test_settings_resolved_again_load_the_policy_file_again(write: Write) -> None:
    layers = [Layer("flag", {"temp_policy_file": parse_setting(write(WAVE))})]
    check_chain(resolve(layers).settings)
    write("def wave(step):\n    return 2\n")
    assert loaded(resolve(layers).settings)(token(0)) == 2


def test_a_copy_of_settings_with_another_policy_file_uses_that(write: Write, tmp_path: Path) -> None:
    settings = Settings(temp_policy_file=parse_setting(write(WAVE)))
    check_chain(settings)
    (tmp_path / "other.py").write_text("def wave(step):\n    return 2\n")
    assert loaded(replace(settings, temp_policy_file=f"{tmp_path / 'other.py'}:wave"))(token(0)) == 2
    assert effective_policy(replace(settings, temp_policy_file=None)) == Fixed(0.8)


def test_a_changed_policy_file_applies_to_the_next_answer(write: Write) -> None:
    settings = Settings(temp_policy_file=parse_setting(write(WAVE)))
    before = loaded(settings)
    write("def wave(step):\n    return 2\n")
    assert before(token(0)) == 0.5
    assert loaded(settings)(token(0)) == 2


def test_a_policy_file_can_be_in_home_and_have_a_bom(home: Path) -> None:
    folder = home.parent / "user"
    folder.mkdir(parents=True)
    (folder / "p.py").write_bytes(b"\xef\xbb\xbf" + WAVE.encode())
    assert temperatures(effective_policy(Settings(temp_policy_file=parse_setting("~/p.py:wave")))) == [0.5, 0.75, 0.5]


@pytest.mark.parametrize("text", ["wave", "wave.py", "wave.py:", ":wave", "wave.py:2nd", "wave.py:a b", "wave.py:a.b"])
def test_a_text_without_file_and_function_is_an_error(text: str) -> None:
    with pytest.raises(UsageError, match=r"^temp_policy_file must be FILE.py:NAME, a Python file and a function in it"):
        FIELD.parse_text(text)


@pytest.mark.parametrize("name", ["edt", "linear", "sentence", "think", "clamp"])
def test_a_function_named_like_a_builtin_policy_is_an_error(name: str) -> None:
    with pytest.raises(UsageError, match=rf"must be a function that is not named like a built-in policy \({name}\)"):
        FIELD.parse_text(f"wave.py:{name}")


@pytest.mark.parametrize("value", [1, True, ["wave.py:wave"], {}])
def test_a_policy_file_setting_rejects_other_data(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^temp_policy_file must be FILE.py:NAME"):
        FIELD.parse_data(value)


def test_an_unreadable_policy_file_is_an_error(tmp_path: Path) -> None:
    absent = tmp_path / "absent.py"
    assert str(policy_error(f"{absent}:wave")) == f"cannot read the policy file {absent}: No such file or directory"
    (tmp_path / "folder.py").mkdir()
    assert f"cannot read the policy file {tmp_path / 'folder.py'}: " in str(
        policy_error(f"{tmp_path / 'folder.py'}:wave")
    )


def test_a_binary_policy_file_is_an_error(tmp_path: Path) -> None:
    for data, says in (
        (b"wave = '\xff'\n", " is not valid Python: 'utf-8' codec"),
        (b"\0", " is not valid Python: source code"),
    ):
        (tmp_path / "data.py").write_bytes(data)
        assert f"the policy file {tmp_path / 'data.py'}{says}" in str(policy_error(f"{tmp_path / 'data.py'}:wave"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n\ndef wave(step:\n    return 1\n", "is not valid Python: line 3: '(' was never closed"),
        ("def wave(step):\nreturn 1\n", "is not valid Python: line 2: expected an indented block"),
        ("x = 1\n\nx / 0\n", "failed: ZeroDivisionError: division by zero (line 3)"),
        ("import no_such_one\n", "failed: ModuleNotFoundError: No module named 'no_such_one' (line 1)"),
        ("import os\n\nos.path.join(1)\n", "failed: TypeError: expected str, bytes or os.PathLike object, not int"),
        ("def f():\n    raise OSError('a\\nb')\nf()\n", "failed: OSError: a b (line 2)"),
        ("import sys\nsys.exit('no')\n", "failed: SystemExit: no (line 2)"),
        ("raise GeneratorExit\n", "failed: GeneratorExit (line 1)"),
        ("raise ValueError('x' * 10000)\n", "failed: ValueError: " + "x" * 199 + "… (line 1)"),
        ("def f():\n    f()\nf()\n", "failed: RecursionError: maximum recursion depth exceeded"),
        ("(" * 300 + "1" + ")" * 300, "is not valid Python: line 1: too many nested parentheses"),
        ("-" * 100_000 + "1\n", "is not valid Python: "),
    ],
)  # fmt: skip
def test_an_error_in_a_policy_file_is_reported_with_its_line(write: Write, text: str, says: str) -> None:
    error = str(policy_error(write(text)))
    assert f"the policy file {write(text).removesuffix(':wave')} {says}" in error


@pytest.mark.parametrize("text", ["\n\n\n\n1 / 0\n", "\n\n\nfrom fractions import Fraction\nFraction(1, 0)\n"])
def test_the_reported_line_is_in_the_policy_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "policy.txt").write_text(text)
    assert str(policy_error(f"{tmp_path / 'policy.txt'}:wave")).endswith(" (line 5)")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("def weave(step):\n    return 1\n\ndef _hidden(step):\n    return 2\n", "use one of its functions: weave"),
        ("def a(step):\n    return 1\n\nb = lambda step: 1\nc = 2\n", "use one of its functions: a, b"),
        ("wave = 0.8\n", ""),
        ("", ""),
    ],
)
def test_a_missing_function_is_an_error_with_those_it_has(write: Write, text: str, hint: str) -> None:
    error = policy_error(write(text))
    assert str(error).startswith("function 'wave' not found in ")
    assert error.hint == hint


@pytest.mark.parametrize(
    ("text", "temperature", "says"),
    [
        ("def wave():\n    return 1\n", "0.8", "'wave': too many positional arguments"),
        ("def wave(step, base):\n    return base\n", "wave", "'wave': missing a required argument: 'base'"),
        (WAVE, "wave:1,depth=2", "'wave:1,depth=2': got an unexpected keyword argument 'depth'"),
        ("def wave(step):\n    return 1\n", "sentence:wave:1,2", "'wave:1': too many positional arguments"),
    ],
)
def test_a_function_that_rejects_its_arguments_is_an_error(
    write: Write, text: str, temperature: str, says: str
) -> None:
    typed = write(text)
    own = parse_setting(typed)
    assert (
        str(policy_error(own, temperature))
        == f"'wave' of {own.removesuffix(':wave')} does not accept the arguments of {says}"
    )


def test_a_function_without_a_signature_is_accepted(write: Write) -> None:
    assert callable(loaded(Settings(temp_policy_file=parse_setting(write("wave = max\n")))))


def test_what_a_policy_file_prints_goes_to_stderr(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    loaded(Settings(temp_policy_file=parse_setting(write("print('loaded')\n" + WAVE))))
    assert capsys.readouterr() == ("", "loaded\n")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no /dev/zero")
def test_a_policy_file_without_an_end_is_refused() -> None:
    error = policy_error("/dev/zero:f")
    assert str(error) == "cannot read the policy file /dev/zero: /dev/zero is larger than 64 MiB"
