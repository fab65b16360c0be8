"""The commands: where each one is, its one sentence, its examples and the options that `--help` shows first.

It imports nothing of the program, so that `llmcli` and `llmcli --help` are shown at once.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

PROGRAM = "llmcli"
ABOUT = "Run language models on this machine: chat, generate, compare."
DOCUMENTATION = "Manual: README.md and the folder docs/ of the project."


class Command(NamedTuple):
    """Where a command is (module:function or app), its sentence, and what `--help-all` adds to the sentence."""

    place: str
    summary: str
    details: str = ""


COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        "chat": Command(
            "llmcli.cli.chat:chat",
            "Chat with a model in the terminal.",
            "If stdin is not a terminal, each line of stdin is one message. Put a message of several lines between "
            'two lines of """.',
        ),
        "generate": Command(
            "llmcli.cli.generate:generate",
            "Generate one answer and print it to stdout.",
            "The prompt is PROMPT, stdin, or both. stdout contains the answer only. In a shell loop, use --no-stdin: "
            "otherwise the first run reads the input of the loop. Each --file follows PROMPT as a block under its "
            "name; a single file without PROMPT is the prompt itself. A note on stderr says when --max-tokens or the "
            "context ends the answer (status 0). If --timeout ends it, the status is 124 and the text so far is "
            "printed.",
        ),
        "compare": Command(
            "llmcli.cli.compare:compare",
            "Answer one prompt with several settings, side by side.",
            "The table below the answers shows for each: its TOKENS and WORDS; DISTINCT-1, -2 and -3, the share of its "
            "sequences of 1, 2 or 3 tokens that are different (1.00: nothing occurs twice); MEAN P, the mean "
            "probability of its tokens; REPEATED, the share of its sequences of 4 tokens that occurred before; and "
            "END, its finish reason (stop, length, timeout, interrupt or error).",
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
)

START = r"""
    llmcli chat                             # the first run gets a small model
    llmcli generate "Why is the sky blue?"  # one answer
    llmcli models recommend                 # models that fit this machine
"""

# Three examples for each command, under its name: a command line, and behind `#` what it does.
EXAMPLES: Mapping[str, str] = MappingProxyType(
    {
        "chat": r"""
            llmcli chat                             # start a new chat
            llmcli chat --continue                  # continue the last one
            llmcli chat -m qwen3-4b -s "Be brief."  # choose model and system prompt
        """,
        "generate": r"""
            llmcli generate "Name three rivers in Asia"
            llmcli generate -f notes.txt "Summarize this"  # add a file to the prompt
            git diff | llmcli generate "Review this"       # add stdin to the prompt
        """,
        "compare": r"""
            llmcli compare "Name a cat" --vary temp=0.2,0.8,1.4
            llmcli compare "Name a cat" --vary preset=precise,creative
            llmcli compare "Name a cat" --answers 4 -n 20  # four seeds
        """,
        "tokenize": r"""
            llmcli tokenize "Hello, world"
            llmcli tokenize --count < book.txt      # print the number of tokens only
            llmcli tokenize --special "<|im_end|>"  # read control tokens
        """,
        "pull": r"""
            llmcli pull qwen3-4b                        # a name of the catalog
            llmcli pull Qwen/Qwen3-8B-GGUF:Q4_K_M       # a Hub repository
            llmcli pull https://example.com/model.gguf  # a URL
        """,
        "models": r"""
            llmcli models recommend      # models that fit this machine
            llmcli models list           # models on this machine
            llmcli models show qwen3-4b  # size, context, memory, license
        """,
        "models pull": r"""
            llmcli models pull qwen3-4b                   # a name of the catalog
            llmcli models pull Qwen/Qwen3-8B-GGUF:Q4_K_M  # a Hub repository
            llmcli models pull qwen3-4b --offline         # the downloaded file
        """,
        "models list": r"""
            llmcli models list
            llmcli models list --json                   # for scripts
            llmcli models list --model-folder ~/models  # with the models of a folder
        """,
        "models show": r"""
            llmcli models show starter
            llmcli models show Qwen/Qwen3-8B-GGUF  # before the download
            llmcli models show qwen3-4b -c 32768   # memory for a longer context
        """,
        "models files": r"""
            llmcli models files Qwen/Qwen3-8B-GGUF
            llmcli models files qwen3-4b                   # a name of the catalog
            llmcli models files Qwen/Qwen3-8B-GGUF --json  # for scripts
        """,
        "models search": r"""
            llmcli models search qwen3
            llmcli models search gemma 4b --limit 5
            llmcli models search coder --json        # for scripts
        """,
        "models rm": r"""
            llmcli models rm qwen3-4b                   # show what is deleted, then ask
            llmcli models rm Qwen/Qwen3-8B-GGUF:Q4_K_M
            llmcli models rm qwen3-4b --yes             # do not ask
        """,
        "models verify": r"""
            llmcli models verify           # all models
            llmcli models verify qwen3-4b  # one model
            llmcli models verify --json    # for scripts
        """,
        "models partials": r"""
            llmcli models partials           # list them
            llmcli models partials --resume  # resume all of them
            llmcli models partials --remove  # delete all of them
        """,
        "models alias": r"""
            llmcli models alias                            # list the aliases
            llmcli models alias small ~/models/small.gguf  # `-m small` is this file now
            llmcli models alias small --remove
        """,
        "models import": r"""
            llmcli models import                    # use models of Ollama, LM Studio
            llmcli models import ~/models           # use the models in a folder
            llmcli models import ~/models --forget  # stop using them
        """,
        "models recommend": r"""
            llmcli models recommend
            llmcli models recommend --json   # for scripts
            llmcli models recommend --quiet  # the table only
        """,
        "sessions": r"""
            llmcli sessions                          # list the saved chats
            llmcli sessions search dragon            # find a message
            llmcli sessions export novel novel.html
        """,
        "sessions list": r"""
            llmcli sessions list
            llmcli sessions list --json  # for scripts
            llmcli sessions list | head  # the latest ones
        """,
        "sessions show": r"""
            llmcli sessions show novel
            llmcli sessions show novel --all   # with the other branches
            llmcli sessions show novel | less
        """,
        "sessions search": r"""
            llmcli sessions search dragon
            llmcli sessions search "once upon a time"
            llmcli sessions search dragon --json       # for scripts
        """,
        "sessions export": r"""
            llmcli sessions export novel                     # Markdown on stdout
            llmcli sessions export novel novel.html          # a web page
            llmcli sessions export novel novel.json --force  # replace the file
        """,
        "sessions rm": r"""
            llmcli sessions rm novel        # ask first
            llmcli sessions rm novel poems
            llmcli sessions rm novel --yes  # do not ask
        """,
        "sessions rename": r"""
            llmcli sessions rename 2026-11-28-help novel
            llmcli sessions rename novel novel-2
            llmcli sessions rename draft.1 novel
        """,
        "trace": r"""
            llmcli trace show answer.jsonl                # one row for each token
            llmcli trace show answer.jsonl --heat p       # the answer in colors
            llmcli trace plot answer.jsonl -o answer.svg  # a picture
        """,
        "trace show": r"""
            llmcli trace show answer.jsonl
            llmcli trace show answer.jsonl --heat entropy  # the answer in colors
            llmcli trace show answer.jsonl --json          # for scripts
        """,
        "trace plot": r"""
            llmcli trace plot answer.jsonl -o answer.svg
            llmcli trace plot answer.jsonl -o answer.svg --force  # replace the file
            llmcli trace plot - -o - < answer.jsonl > answer.svg  # stdin and stdout
        """,
        "replay": r"""
            llmcli replay answer.json             # the output of `generate --json`
            llmcli replay novel:12                # the answer to message 12 of a session
            llmcli replay answers.jsonl --line 3
        """,
        "config": r"""
            llmcli config set model qwen3-4b
            llmcli config list                # the settings that are set
            llmcli config edit                # open the file in an editor
        """,
        "config list": r"""
            llmcli config list         # the settings that are set
            llmcli config list --all   # all settings
            llmcli config list --json  # for scripts
        """,
        "config get": r"""
            llmcli config get model
            llmcli config get temperature
            llmcli config get top_p
        """,
        "config set": r"""
            llmcli config set model qwen3-4b
            llmcli config set temperature 0.3..1.3
            llmcli config set stop END "###"        # a list
        """,
        "config unset": r"""
            llmcli config unset model
            llmcli config unset temperature
            llmcli config unset stop
        """,
        "config path": r"""
            llmcli config path
            cat "$(llmcli config path)"             # print the file
            cp "$(llmcli config path)" backup.toml
        """,
        "config edit": r"""
            llmcli config edit
            EDITOR=nano llmcli config edit  # with another editor
            VISUAL=vim llmcli config edit
        """,
        "doctor": r"""
            llmcli doctor
            llmcli doctor --json                # for a bug report
            llmcli doctor --quiet > report.txt
        """,
    }
)

_REQUEST = ("--model", "--system", "--file", "--preset")
# The options that `--help` shows, in this order; a command that is not here shows all of them.
COMMON: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "chat": (
            *("--model", "--continue", "--session", "--no-save", "--character", "--system"),
            *("--preset", "--temperature", "--file", "--ctx-size"),
        ),
        "generate": (*_REQUEST, "--temperature", "--max-tokens", "--seed", "--json-schema", "--json", "--no-stdin"),
        "compare": ("--vary", "--answers", *_REQUEST, "--temperature", "--max-tokens", "--seed", "--json"),
    }
)
WITH_STATUSES = ("generate",)  # the commands whose help ends with the exit statuses
