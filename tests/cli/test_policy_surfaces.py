"""A temperature policy means the same as an option, in the file, a preset, a variable, JSON or a command."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Run

SAME = ("--seed", "5", "-n", "24", "-c", "512", "-t", "1", "--ignore-eos")
POLICIES = ("0.3..1.3^0.7", "sentence:1.4,0.6,clamp=0.2..1.2", "linear:1.6->0.3@20", "think=1,answer=edt:1.2,theta=0.2")


def by_flag(inside: Run, policy: str) -> str:
    return inside("generate", "hi", *SAME, "--temp", policy).text


def by_configuration(inside: Run, policy: str) -> str:
    assert inside("config", "set", "temperature", policy).status == 0
    return inside("generate", "hi", *SAME).text


def by_preset(inside: Run, policy: str) -> str:
    file = Path(inside("config", "path").text.strip())
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"[presets.mine]\ntemperature = {json.dumps(policy)}\n")
    return inside("generate", "hi", *SAME, "--preset", "mine").text


def by_variable(inside: Run, policy: str) -> str:
    return inside("generate", "hi", *SAME, env={"LLMCLI_TEMPERATURE": policy}).text


def by_command(inside: Run, policy: str) -> str:
    return inside("chat", *SAME, stdin=f"/temp {policy}\nhi\n").text


def by_json(inside: Run, policy: str) -> str:
    """The policy is a field of `params`, which `replay` reads."""
    told = inside("generate", "hi", *SAME, "--temp", policy, "--json").text
    assert json.loads(told)["params"]["temperature"] == policy.replace(
        "answer=edt:1.2,theta=0.2", "answer=(edt:1.2,theta=0.2)"
    )
    return inside("replay", "-", stdin=told).text


WAYS: tuple[Callable[[Run, str], str], ...] = (by_configuration, by_preset, by_variable, by_command, by_json)


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_gives_the_same_text_from_every_surface(inside: Run, with_tiny: Path, policy: str) -> None:
    text = by_flag(inside, policy)
    assert text != by_flag(inside, "0")
    for way in WAYS:
        assert way(inside, policy) == text, way.__name__


def test_a_range_is_llama_cpp_s_dynamic_temperature(inside: Run, with_tiny: Path) -> None:
    ranged = by_flag(inside, "0.3..1.3")
    assert inside("generate", "hi", *SAME, "--temperature", "0.8", "--dynatemp-range", "0.5").text == ranged


def test_what_a_policy_prints_is_not_in_the_answer(inside: Run, with_tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "waves.py"
    file.write_text("def wave(step):\n    print('called')\n    return 0.0\n")
    ran = inside("generate", "hi", *SAME, "--temp-policy-file", f"{file}:wave")
    assert ran.text == inside("generate", "hi", *SAME, "--temp", "0").text
    assert ran.stderr.count("called\n") == 24


def test_a_policy_file_runs_once_for_each_answer(inside: Run, with_tiny: Path, tmp_path: Path) -> None:
    file, ran = tmp_path / "waves.py", tmp_path / "ran"
    file.write_text(
        f"with open({str(ran)!r}, 'a') as ran:\n    ran.write('x')\nhot = 2\n\n"
        "def wave(step):\n    global hot\n    hot *= 0.5\n    return hot\n"
    )
    given = (*SAME, "--temp-policy-file", f"{file}:wave")
    texts = set()
    for count in (1, 2):  # the state of the first answer is not that of the second
        texts.add(inside("generate", "hi", *given).text)
        assert ran.read_text() == "x" * count
    assert len(texts) == 1
    assert inside("compare", "hi", *given, "--answers", "2", "--json").status == 0
    assert ran.read_text() == "x" * 4
    assert inside("chat", *given, stdin="hi\nhi\n").status == 0
    assert ran.read_text() == "x" * 6
