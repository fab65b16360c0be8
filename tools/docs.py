"""Writes the generated parts of the project: tables of the manual, completion scripts, and snapshots of all texts.

`python -m tools.docs` writes them. With `--check` it only lists those that are not up to date, and the status is 1.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

from llmcli.errors import ExitStatus
from llmcli.params.param import Field
from llmcli.params.settings import fields
from llmcli.ui.commands.registry import commands
from tools.texts import snapshots

ROOT = Path(__file__).parent.parent
# shell -> file, with the name that the shell expects
COMPLETIONS = {"bash": "llmcli.bash", "zsh": "_llmcli", "fish": "llmcli.fish", "powershell": "llmcli.ps1"}


def parameter_table() -> str:
    """One table for each group of settings: option, key, meaning, default and range."""
    parts = []
    for title, group in groupby(fields().values(), key=lambda field: field.group):
        parts.append(f"**{title}**\n\n| flag | key | what it does | default | valid |\n|---|---|---|---|---|")
        parts[-1] += "".join(f"\n{_row(field)}" for field in group)
    return "\n\n".join(parts)


def _row(field: Field) -> str:
    flags = " ".join(f"`{flag}`" for flag in field.flags)
    default = field.format(field.default)
    cells = flags, f"`{field.key}`", field.help, f"`{default}`" if default else "none", field.valid_values
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", "\\n") for cell in cells) + " |"


def status_table() -> str:
    """The table of exit statuses."""
    rows = [f"| {status.value} | {status.meaning} |" for status in ExitStatus]
    return "\n".join(["| status | meaning |", "|---|---|", *rows])


def command_table() -> str:
    """The table of slash commands, with their headings."""
    rows = ["| command | what it does |", "|---|---|"]
    for heading, group in groupby(commands().values(), key=lambda one: one.heading):
        rows.append(f"| **{heading}** | |")
        for one in group:
            rows.append(f"| `/{_escaped(one.usage)}` | {_escaped(one.help)} |")
    return "\n".join(rows)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def completion_script(shell: str) -> str:
    """The completion script that Typer prints for a shell."""
    environment = os.environ | {"_LLMCLI_COMPLETE": f"source_{shell}"}
    done = subprocess.run([sys.executable, "-m", "llmcli"], env=environment, capture_output=True, text=True, check=True)
    script = done.stdout.strip() + "\n"
    if shell == "bash":  # bash splits words at a colon, and owner/repo:Q4_K_M has one
        script += "\nCOMP_WORDBREAKS=${COMP_WORDBREAKS//:}\n"
    return script


BLOCKS: dict[str, Callable[[], str]] = {
    "parameters": parameter_table,
    "statuses": status_table,
    "commands": command_table,
}


def pages() -> list[Path]:
    """The README and the pages of the manual."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def render_page(text: str) -> str:
    """A page with each generated block in it replaced."""
    for name, make in BLOCKS.items():
        head, tail = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, found, rest = text.partition(head)
        if found:
            text = before + head + make() + "\n" + tail + rest.partition(tail)[2]
    return text


def wanted() -> dict[Path, str]:
    """Every generated file and its content."""
    files = {page: render_page(page.read_text(encoding="utf-8")) for page in pages()}
    files |= {ROOT / "completions" / name: completion_script(shell) for shell, name in COMPLETIONS.items()}
    return files | snapshots()


def main(check: bool) -> int:
    """Write the files, or list those that are not up to date; the exit status."""
    files = wanted()
    stale = [path for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{'stale' if check else 'written'}: {path.relative_to(ROOT)}")
        if not check:
            path.write_text(files[path], encoding="utf-8", newline="\n")
    if check and stale:
        print("run `make docs`")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
