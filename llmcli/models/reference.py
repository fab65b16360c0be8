"""References to models: what a user types for a model, and the grammar of a reference to the Hub."""

import re
from dataclasses import dataclass

from llmcli.errors import ModelNotFoundError
from llmcli.models.hub.repo_files import is_safe_path, quantization_of

FORMS = (
    "give the path of a .gguf file, owner/repo, owner/repo:Q4_K_M or owner/repo/file.gguf (each with an optional "
    "@revision), a URL of huggingface.co or of a .gguf file, ollama:NAME, or starter"
)
MAIN = "main"

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"  # the Hub's rule for owners and repositories
_REPO = re.compile(rf"{_PART}/{_PART}")
_HUB = re.compile(rf"(?P<repo>{_PART}/{_PART})(?P<file>(?:/[^/@:]+)*?)(?P<marks>(?:[:@][^:@]+){{0,2}})")
_QUANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
# A branch, tag or commit whose name is safe as a file name.
REVISION = re.compile(r"(?!.*(?:\.\.|//|\.lock$|[/.]$))[A-Za-z0-9_][A-Za-z0-9._/-]{0,127}")


class Reference:
    """A model as the user names it; `str` gives the text. Each source has its own kind of reference."""


class RemoteReference(Reference):
    """A reference to a model that a source can download."""


@dataclass(frozen=True)
class HubReference(RemoteReference):
    """A model on the Hub: one quantization or file of a repository; without both, the best choice for this machine."""

    repo: str
    quant: str | None = None
    file: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        what = f"/{self.file}" if self.file else f":{self.quant}" if self.quant else ""
        return f"{self.repo}{what}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class LocalReference(Reference):
    """A model on this machine, by one text."""

    text: str

    def __str__(self) -> str:
        return self.text


class PathReference(LocalReference):
    """A file."""


class NameReference(LocalReference):
    """A plain name: the starter, a model of the catalog, or a model in an imported folder."""


def parse_local(text: str) -> LocalReference | None:
    """A path or a plain name; None for a text with the form of a reference to a source."""
    is_path = text.startswith((".", "~", "/", "\\")) or "\\" in text or bool(_DRIVE.match(text))
    if is_path or (text.count("/") < 2 and text.lower().endswith(".gguf") and ":" not in text):
        return PathReference(text)
    return None if "/" in text or ":" in text else NameReference(text)


def is_repo(text: str) -> bool:
    """True for owner/name, as the Hub allows them."""
    return bool(_REPO.fullmatch(text)) and "--" not in text and ".." not in text and not text.endswith(".git")


def parse_hub(text: str, typed: str) -> HubReference:
    """Parse owner/repo[/file.gguf][:quantization][@revision]; the last two can be in either order.

    Raises ModelNotFoundError that shows `typed`; the hint has the form that was probably meant.
    """
    match = _HUB.fullmatch(text)
    marks = re.findall(r"([:@])([^:@]+)", match["marks"]) if match else []
    is_printable = text.isprintable()  # a URL can contain %0a
    if not match or not is_repo(match["repo"]) or not is_printable or len(marks) > len(dict(marks)):
        raise form_error(typed)
    repo, file = match["repo"], match["file"].strip("/")
    quant, revision = dict(marks).get(":"), dict(marks).get("@")
    if revision and not REVISION.fullmatch(revision):
        raise ModelNotFoundError(f"{revision!r} is not a valid revision", "give a branch, a tag or a commit")
    if file and quant:
        raise ModelNotFoundError(f"'{typed}' has both a file and a quantization", f"did you mean '{repo}/{file}'?")
    if file and not file.lower().endswith(".gguf"):
        hint = f"did you mean '{repo}:{file}'?" if quantization_of(f"x-{file}.gguf") else FORMS
        raise ModelNotFoundError(f"'{typed}' is not a .gguf file", hint)
    if file and not is_safe_path(file):
        raise ModelNotFoundError(f"'{typed}' is not a valid path in a repository", FORMS)
    if quant and quant.lower().endswith(".gguf"):
        raise ModelNotFoundError(f"'{typed}' is not a valid model reference", f"did you mean '{repo}/{quant}'?")
    if quant and not _QUANT.fullmatch(quant):
        raise ModelNotFoundError(f"{quant!r} is not a valid quantization", f"did you mean '{repo}:Q4_K_M'?")
    return HubReference(repo, quant, file or None, revision)


def form_error(text: str) -> ModelNotFoundError:
    """The error for a text without the form of a reference; the hint has the form that was probably meant."""
    guess = re.sub(r"\s+", "", text).replace(":", "/", 1)
    hint = f"did you mean '{guess}' or 'ollama:{text}'?" if "/" not in text and is_repo(guess) else FORMS
    return ModelNotFoundError(f"'{text}' is not a valid model reference", hint)
