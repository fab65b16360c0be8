"""Temperature policies of the user's own: from a file, and from an installed package."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmcli.errors import UsageError
from llmcli.params.policy import registry
from llmcli.params.policy.compiled import compiled, spoken
from llmcli.params.policy.grammar import parse_policy
from llmcli.params.policy.step import TokenStep
from llmcli.params.policy.tree import Fixed, Named, Policy
from llmcli.params.samplers import check, plan
from llmcli.params.settings import Settings, fields, parse_data, to_data
from llmcli.params.temperature import policy_in_force

FIELD = fields()["temp_policy_file"]
WAVE = "def wave(step, base=0.5, *, swing=0.25):\n    return base + swing * (step.index % 2)\n"
Write = Callable[[str], str]


@pytest.fixture(autouse=True)
def _no_other_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_ANNOUNCED", {})


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a policy file and returns the place of its function `wave`."""

    def call(text: str) -> str:
        (tmp_path / "my rules.py").write_text(text, encoding="utf-8")
        return f"{tmp_path / 'my rules.py'}:wave"

    return call


def place(text: str) -> str:
    """The setting as it is typed; this makes the name known."""
    return str(FIELD.parse_text(text))


def token(index: int, **counts: Any) -> TokenStep:
    return TokenStep(lambda: ((0.5, 0.5), 0.6931471805599453), index, **counts)


def over(policy: Policy, count: int = 3) -> list[float]:
    at = compiled(policy)
    return [at(token(index)) for index in range(count)]


def refusal(typed: str, temperature: str = "0.8") -> UsageError:
    """What is said when the policy is put together for an answer, in one line."""
    settings = Settings(temp_policy_file=place(typed), temperature=parse_policy(temperature))
    with pytest.raises(UsageError) as caught:
        check(settings)
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


def test_a_function_of_a_file_is_the_policy(write: Write) -> None:
    settings = Settings(temp_policy_file=place(write(WAVE)))
    assert policy_in_force(settings) == Named("wave")
    assert over(policy_in_force(settings)) == [0.5, 0.75, 0.5]
    assert spoken(Named("wave"))(token(0)) == "wave"


@pytest.mark.parametrize(
    ("temperature", "policy", "values"),
    [
        ("wave", Named("wave"), [0.5, 0.75, 0.5]),
        ("wave:1", Named("wave", (1.0,)), [1.0, 1.25, 1.0]),
        ("wave:1,swing=0.5", Named("wave", (1.0,), (("swing", 0.5),)), [1.0, 1.5, 1.0]),
        ("wave : swing = -0.5", Named("wave", (), (("swing", -0.5),)), [0.5, 0.0, 0.5]),
        ("wave:-0.25,swing=0.5", Named("wave", (-0.25,), (("swing", 0.5),)), [-0.25, 0.25, -0.25]),
        ("wave,clamp=0.6..0.7", Named("clamp", (Named("wave"), 0.6, 0.7)), [0.6, 0.7, 0.6]),
        ("sentence:wave:1,0.3", Named("sentence", (Named("wave", (1.0,)), Fixed(0.3))), [1.0, 1.25, 1.0]),
        ("think=0,answer=wave", Named("think", (Fixed(0.0), Named("wave"))), [0.5, 0.75, 0.5]),
    ],
)
def test_the_temperature_may_use_the_function_by_its_name(
    write: Write, temperature: str, policy: Policy, values: list[float]
) -> None:
    own = place(write(WAVE))
    settings = Settings(temp_policy_file=own, temperature=parse_policy(temperature))
    assert policy_in_force(settings) == policy
    assert over(policy) == values
    assert parse_policy(str(policy)) == policy
    assert parse_data(to_data(settings), "a file")["temperature"] == policy


def test_a_temperature_that_does_not_name_the_function_gives_way_to_it(write: Write) -> None:
    settings = Settings(temp_policy_file=place(write(WAVE)), temperature=parse_policy("sentence:1,0.5"))
    assert policy_in_force(settings) == Named("wave")


def test_of_two_files_with_the_same_function_the_one_in_the_settings_counts(tmp_path: Path) -> None:
    settings = []
    for number in (1, 2):
        (tmp_path / f"{number}.py").write_text(f"def wave(step):\n    return {number}\n")
        settings.append(Settings(temp_policy_file=place(f"{tmp_path / str(number)}.py:wave")))
    for one in (*settings, settings[0]):
        assert over(policy_in_force(one), 1) == [int(Path(one.temp_policy_file.rpartition(":")[0]).stem)]  # type: ignore[union-attr]


def test_nothing_of_the_file_is_run_before_an_answer_needs_it(write: Write, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    typed = write(f"with open({str(ran)!r}, 'a') as file:\n    file.write('x')\n" + WAVE)
    settings = Settings(temp_policy_file=place(typed), temperature=parse_policy("sentence:wave:1,2"))
    plan(Settings(**vars(settings) | {"seed": 1}))
    str(policy_in_force(settings))
    assert not ran.exists()
    compiled(policy_in_force(settings))
    assert ran.read_text() == "x"


def test_a_changed_file_counts_from_the_next_answer_on(write: Write) -> None:
    settings = Settings(temp_policy_file=place(write(WAVE)))
    before = compiled(policy_in_force(settings))
    write("def wave(step):\n    return 2\n")
    assert before(token(0)) == 0.5
    assert compiled(policy_in_force(settings))(token(0)) == 2


def test_a_file_in_the_home_folder_and_one_with_a_mark_of_its_byte_order(home: Path) -> None:
    folder = home.parent / "user"
    folder.mkdir()
    (folder / "p.py").write_bytes(b"\xef\xbb\xbf" + WAVE.encode())
    assert over(policy_in_force(Settings(temp_policy_file=place("~/p.py:wave")))) == [0.5, 0.75, 0.5]


@pytest.mark.parametrize("text", ["wave", "wave.py", "wave.py:", ":wave", "wave.py:2nd", "wave.py:a b", "wave.py:a.b"])
def test_what_names_no_function_of_a_file_is_refused(text: str) -> None:
    with pytest.raises(
        UsageError, match=r"^temp_policy_file: must be FILE.py:NAME, a Python file and a function of it"
    ):
        FIELD.parse_text(text)


@pytest.mark.parametrize("name", ["edt", "linear", "sentence", "think", "clamp"])
def test_a_name_of_ours_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=rf"must be a function with a name of its own \({name} comes with llmcli\)"):
        FIELD.parse_text(f"wave.py:{name}")


@pytest.mark.parametrize("value", [1, True, ["wave.py:wave"], {}])
def test_the_place_takes_no_other_data(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^temp_policy_file: must be FILE.py:NAME"):
        FIELD.parse_data(value)


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    absent = tmp_path / "absent.py"
    assert str(refusal(f"{absent}:wave")) == f"cannot read the policy file {absent}: No such file or directory"
    (tmp_path / "folder.py").mkdir()
    assert f"cannot read the policy file {tmp_path / 'folder.py'}: " in str(refusal(f"{tmp_path / 'folder.py'}:wave"))


def test_a_file_that_is_no_text_is_said(tmp_path: Path) -> None:
    for data, says in ((b"wave = '\xff'\n", " is no Python: 'utf-8' codec"), (b"\0", " does not parse: source code")):
        (tmp_path / "data.py").write_bytes(data)
        assert f"the policy file {tmp_path / 'data.py'}{says}" in str(refusal(f"{tmp_path / 'data.py'}:wave"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n\ndef wave(step:\n    return 1\n", "does not parse: line 3: '(' was never closed"),
        ("def wave(step):\nreturn 1\n", "does not parse: line 2: expected an indented block"),
        ("x = 1\n\nx / 0\n", "failed: ZeroDivisionError: division by zero (line 3)"),
        ("import no_such_one\n", "failed: ModuleNotFoundError: No module named 'no_such_one' (line 1)"),
        ("import os\n\nos.path.join(1)\n", "failed: TypeError: expected str, bytes or os.PathLike object, not int"),
        ("def f():\n    raise OSError('a\\nb')\nf()\n", "failed: OSError: a b (line 2)"),
        ("import sys\nsys.exit('no')\n", "failed: SystemExit: no (line 2)"),
        ("raise ValueError('x' * 10000)\n", "failed: ValueError: " + "x" * 197 + "... (line 1)"),
        ("def f():\n    f()\nf()\n", "failed: RecursionError: maximum recursion depth exceeded"),
        ("(" * 300 + "1" + ")" * 300, "does not parse: line 1: too many nested parentheses"),
        ("-" * 100_000 + "1\n", "is no Python: "),
    ],
)  # fmt: skip
def test_a_file_that_fails_is_said_with_the_line(write: Write, text: str, says: str) -> None:
    error = str(refusal(write(text)))
    assert f"the policy file {write(text).removesuffix(':wave')} {says}" in error


@pytest.mark.parametrize("text", ["\n\n\n\n1 / 0\n", "\n\n\nfrom fractions import Fraction\nFraction(1, 0)\n"])
def test_the_line_is_that_of_the_user_s_file_whatever_it_is_called(tmp_path: Path, text: str) -> None:
    (tmp_path / "policy.txt").write_text(text)
    assert str(refusal(f"{tmp_path / 'policy.txt'}:wave")).endswith(" (line 5)")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("def weave(step):\n    return 1\n\ndef _hidden(step):\n    return 2\n", "it has weave"),
        ("def a(step):\n    return 1\n\nb = lambda step: 1\nc = 2\n", "it has a, b"),
        ("wave = 0.8\n", ""),
        ("", ""),
    ],
)
def test_a_file_without_the_function_is_said_with_what_it_has(write: Write, text: str, hint: str) -> None:
    error = refusal(write(text))
    assert str(error).startswith("there is no function wave in ")
    assert error.hint == hint


@pytest.mark.parametrize(
    ("text", "temperature", "says"),
    [
        ("def wave():\n    return 1\n", "0.8", "wave: too many positional arguments"),
        ("def wave(step, base):\n    return base\n", "wave", "wave: missing a required argument: 'base'"),
        (WAVE, "wave:1,depth=2", "wave:1,depth=2: got an unexpected keyword argument 'depth'"),
        ("def wave(step):\n    return 1\n", "sentence:wave:1,2", "wave:1: too many positional arguments"),
    ],
)
def test_a_function_that_does_not_take_what_it_is_given_is_said(
    write: Write, text: str, temperature: str, says: str
) -> None:
    typed = write(text)
    own = place(typed)
    assert str(refusal(own, temperature)) == f"wave of {own.removesuffix(':wave')} does not take {says}"


def test_a_function_without_a_signature_is_taken_as_it_is(write: Write) -> None:
    assert callable(compiled(policy_in_force(Settings(temp_policy_file=place(write("wave = max\n"))))))
