"""Models by path: split files, and what is remembered of a file that was tried once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer import Typer

from llmcli.cli.typer_app import make_app
from tests.cli.test_hub_end_to_end import error_line
from tests.conftest import Run
from tests.models.gguf_writer import write_gguf
from tests.models.split_writer import split_model

ASK = ("generate", "--raw", "The capital of France is", "--temp", "0", "-n", "8")


def test_split_model_loads_from_any_part(run: Run, with_tiny: Path, tmp_path: Path) -> None:
    parts = split_model(with_tiny, tmp_path, 3)
    whole = run(*ASK).stdout
    for part in (parts[0], parts[2]):
        ran = run(*ASK, "-m", str(part))
        assert (ran.status, ran.stdout) == (0, whole), ran.stderr
    parts[1].unlink()
    ran = run(*ASK, "-m", str(parts[0]))
    assert ran.status in (3, 8)
    assert parts[1].name in ran.stderr


def test_file_is_probed_again_only_when_it_changes(run: Run, tiny: Path, home: Path, tmp_path: Path) -> None:
    model = tmp_path / "mine.gguf"
    model.write_bytes(tiny.read_bytes())
    first, second = (run(*ASK, "-m", str(model)) for _ in range(2))
    assert (first.status, first.stdout) == (0, second.stdout)
    (note,) = (home / "data" / "notes").iterdir()
    assert json.loads(note.read_text())["path"] == str(model)
    with model.open("r+b") as file:
        file.write(b"GGUX")
    broken = run(*ASK, "-m", str(model))
    assert broken.status == 8
    assert "this is not a GGUF file" in error_line(broken.stderr)


def test_model_of_config_and_environment_is_used(run: Run, tiny: Path, tmp_path: Path) -> None:
    model = tmp_path / "mine.gguf"
    model.write_bytes(tiny.read_bytes())
    run("config", "set", "model", str(model))
    assert json.loads(run(*ASK, "--json").text)["model"] == "mine"
    assert json.loads(run(*ASK, "--json").text)["model"] == "mine"  # the second time with a head start
    other = tmp_path / "other.gguf"
    model.rename(other)
    assert json.loads(run(*ASK, "--json", env={"LLMCLI_MODEL": str(other)}).text)["model"] == "other"


def test_an_empty_name_of_a_folder_or_a_trace_is_an_error(inside: Run) -> None:
    for command in (("models", "import", ""), ("trace", "show", "")):
        ran = inside(*command)
        assert ran.status == 2
        assert "is empty" in error_line(ran.stderr)


def test_import_names_the_files_that_it_skips(inside: Run, tmp_path: Path) -> None:
    write_gguf(tmp_path / "good.gguf")
    (tmp_path / "page.gguf").write_text("<html>not found</html>")
    ran = inside("models", "import", str(tmp_path))
    assert ran.status == 0
    warning, note = ran.stderr.splitlines()
    assert warning == f"warning: skipped {tmp_path / 'page.gguf'}: not a GGUF model, or a part of it is missing"
    assert note == "1 model imported in place; use one with --model NAME"
    assert [line.split()[0] for line in ran.text.splitlines()] == ["NAME", "good"]


def test_import_skips_a_truncated_model(inside: Run, tmp_path: Path) -> None:
    write_gguf(tmp_path / "good.gguf")
    cut = write_gguf(tmp_path / "cut.gguf", missing=100)
    ran = inside("models", "import", str(tmp_path))
    assert ran.status == 0
    size = cut.stat().st_size
    assert ran.stderr.splitlines() == [
        f"warning: skipped {cut}: the file is truncated: {size} of {size + 100} bytes",
        "  hint: download it again",
        "1 model imported in place; use one with --model NAME",
    ]
    assert [line.split()[0] for line in ran.text.splitlines()] == ["NAME", "good"]


def test_long_texts_in_a_header_are_shortened(inside: Run, tmp_path: Path) -> None:
    texts = dict.fromkeys(("general.architecture", "general.name", "general.license"), "x" * 100_000)
    file = write_gguf(tmp_path / "long.gguf", texts)
    assert inside("models", "import", str(tmp_path)).status == 0
    for args in (("show", str(file)), ("list",)):
        ran = inside("models", *args)
        assert ran.status == 0
        assert max(map(len, (ran.text + ran.stderr).splitlines())) < 250


def test_list_names_a_truncated_model(inside: Run, tmp_path: Path) -> None:
    write_gguf(tmp_path / "good.gguf")
    cut = write_gguf(tmp_path / "cut.gguf", missing=100)
    assert inside("models", "import", str(tmp_path)).status == 0
    size, repair = cut.stat().st_size, "copy or download it again"
    for _ in range(2):  # the second time without a look at the file
        ran = inside("models", "list")
        rows = [line.split()[:2] for line in ran.text.splitlines()]
        assert rows == [["NAME", "KIND"], ["cut", "damaged"], ["good", "text"]]
        why = f"the file is truncated: {size} of {size + 100} bytes"
        assert ran.stderr == f"warning: cut is damaged: {why}\n  hint: {repair}\n"
        assert [one["damage"] for one in json.loads(inside("models", "list", "--json").text)] == [why, ""]
    write_gguf(cut)
    assert [one["damage"] for one in json.loads(inside("models", "list", "--json").text)] == ["", ""]


def test_verify_finds_a_truncated_file_without_a_published_checksum(inside: Run, tmp_path: Path) -> None:
    cut = write_gguf(tmp_path / "cut.gguf", missing=100)
    ran = inside("models", "verify", str(cut))
    assert (ran.status, ran.text.split()[3:5]) == (8, ["damaged", str(cut)])
    assert ran.stderr.splitlines()[-1] == "  hint: copy or download it again"


def test_import_of_only_a_truncated_model_is_an_error(inside: Run, tmp_path: Path) -> None:
    cut = write_gguf(tmp_path / "cut.gguf", missing=100)
    ran = inside("models", "import", str(tmp_path))
    assert ran.status == 8
    assert error_line(ran.stderr).startswith(f"{cut}: the file is truncated: ")
    assert inside("config", "get", "model_folders").text.strip() in ("", "none")


def test_one_command_of_the_group_starts_alone() -> None:
    for name in ("pull", "list", "show", "files", "search", "rm", "verify", "partials", "alias", "import", "recommend"):
        assert commands_of(make_app("models", name)) == [name]
    assert len(commands_of(make_app("models", "lst"))) == 11


def commands_of(app: Typer) -> list[str | None]:
    """The commands of the only group of an app."""
    (group,) = app.registered_groups
    assert group.typer_instance
    return [command.name for command in group.typer_instance.registered_commands]


@pytest.mark.slow
def test_list_of_models_imports_only_what_it_needs() -> None:
    code = "import sys; from llmcli.cli.app import run; run(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, "models", "list"], capture_output=True, text=True, check=True)
    modules = set(done.stderr.split())
    assert "llmcli.cli.models.manage" in modules
    assert not modules & {"llmcli.cli.models.show", "llmcli.cli.models.pull", "msgspec", "httpx2", "huggingface_hub"}
