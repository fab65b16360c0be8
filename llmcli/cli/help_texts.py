"""The commands: where each one is, its one sentence, its examples (in examples.txt) and its most common options.

It imports nothing of the program, so that `llmcli` and `llmcli --help` are shown at once.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

PROGRAM = "llmcli"
ABOUT = "Run language models on this machine: chat, generate, compare."
DOCUMENTATION = "Manual: README.md and the folder docs/ of the project."


_REQUEST = ("--model", "--system", "--file", "--preset")


class Command(NamedTuple):
    """Where a command is (module:function or app), and the texts of its help."""

    place: str
    summary: str
    details: str = ""  # what `--help-all` adds to the summary
    common: tuple[str, ...] = ()  # the options that `--help` shows, in this order; without any it shows all of them
    shows_statuses: bool = False  # whether the help ends with the exit statuses


COMMANDS: Mapping[str, Command] = {
    "chat": Command(
        "llmcli.cli.chat:chat",
        "Chat with a model in the terminal.",
        "If stdin is not a terminal, each line of stdin is one message. Put a message of several lines between "
        'two lines of """.',
        common=(
            *("--model", "--continue", "--session", "--no-save", "--character", "--system"),
            *("--preset", "--temperature", "--file", "--ctx-size"),
        ),
    ),
    "generate": Command(
        "llmcli.cli.generate:generate",
        "Generate one answer and print it to stdout.",
        "The prompt is PROMPT, stdin, or both. stdout contains the answer only. In a shell loop, use --no-stdin: "
        "otherwise the first run reads the input of the loop. Each --file follows PROMPT as a block under its "
        "name; a single file without PROMPT is the prompt itself. A note on stderr says when --max-tokens or the "
        "context ends the answer (status 0). If --timeout ends it, the status is 124 and the text so far is "
        "printed.",
        common=(*_REQUEST, "--temperature", "--max-tokens", "--seed", "--json-schema", "--json", "--no-stdin"),
        shows_statuses=True,
    ),
    "compare": Command(
        "llmcli.cli.compare:compare",
        "Answer one prompt with several settings, side by side.",
        "The table below the answers shows for each: its TOKENS and WORDS; DISTINCT-1, -2 and -3, the share of its "
        "sequences of 1, 2 or 3 tokens that are different (1.00: nothing occurs twice); MEAN P, the mean "
        "probability of its tokens; REPEATED, the share of its sequences of 4 tokens that occurred before; and "
        "END, its finish reason (stop, length, timeout, interrupt or error).",
        common=("--vary", "--answers", *_REQUEST, "--temperature", "--max-tokens", "--seed", "--json"),
    ),
    "tokenize": Command(
        "llmcli.cli.tokenize:tokenize", "Show the tokens of a text.", "One token on each line: its id and its text."
    ),
    "pull": Command(
        "llmcli.cli.models.hub:pull",
        "Download a model, or resume its download.",
        "A file from the Hub is verified by its sha256. The path of the model is printed to stdout.",
    ),
    "models": Command("llmcli.cli.models:app", "List, find, download, check and delete models."),
    "sessions": Command("llmcli.cli.sessions:app", "List, show, search, export and delete saved chats."),
    "trace": Command("llmcli.cli.trace:app", "Show how each token of an answer was sampled."),
    "replay": Command(
        "llmcli.cli.replay:replay",
        "Generate an earlier answer again and check that it is the same.",
        "If the answer differs, replay shows the first token that differs and the reason. The status is 1 then.",
    ),
    "config": Command("llmcli.cli.config:app", "Show and change the settings in the configuration file."),
    "doctor": Command(
        "llmcli.cli.doctor:doctor", "Check the installation and the configuration.", "The status is 1 on a problem."
    ),
}


def _examples() -> Mapping[str, str]:
    """The blocks of examples.txt: three lines of shell for each command, by its path ("" is llmcli itself)."""
    text = Path(__file__).with_name("examples.txt").read_text(encoding="utf-8")
    blocks = (block.partition("\n") for block in text.strip().split("\n\n"))
    return {title.strip("[]").removeprefix(PROGRAM).strip(): lines for title, _, lines in blocks}


EXAMPLES = _examples()
