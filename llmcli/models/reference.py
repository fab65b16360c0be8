"""Parse model references: every form of a reference is parsed here, and nowhere else."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from llmcli.errors import ModelNotFoundError
from llmcli.models.hub.repo_files import is_safe_path, quantization_of

HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
FORMS = (
    "give the path of a .gguf file, owner/repo, owner/repo:Q4_K_M or owner/repo/file.gguf (each with an optional "
    "@revision), a URL of huggingface.co or of a .gguf file, ollama:NAME, or starter"
)
MAIN = "main"

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"  # the Hub's rule for owners and repositories
_REPO = re.compile(rf"(?P<owner>{_PART})/(?P<name>{_PART})")
_HUB = re.compile(rf"(?P<repo>{_PART}/{_PART})(?P<file>(?:/[^/@:]+)*?)(?P<marks>(?:[:@][^:@]+){{0,2}})")
_QUANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
_REVISION = re.compile(r"(?!.*(?:\.\.|//))[A-Za-z0-9_][A-Za-z0-9._/-]{0,127}")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


@dataclass(frozen=True)
class HubReference:
    """A model on the Hub: one quantization or file of a repository; without both, the best choice for this machine."""

    repo: str
    quant: str | None = None
    file: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        what = f"/{self.file}" if self.file else f":{self.quant}" if self.quant else ""
        return f"{self.repo}{what}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class OllamaReference:
    """A model in Ollama's store, by its name in Ollama."""

    name: str

    def __str__(self) -> str:
        return f"ollama:{self.name}"


@dataclass(frozen=True)
class UrlReference:
    """A .gguf file at a URL outside the Hub, with its sha256 if the URL ends in #sha256=HEX."""

    url: str
    sha256: str | None = None

    def __str__(self) -> str:
        return self.url + (f"#sha256={self.sha256}" if self.sha256 else "")


@dataclass(frozen=True)
class PathReference:
    """A file on this machine."""

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True)
class NameReference:
    """A plain name: the starter, a model of the catalog, or a model in an imported folder."""

    name: str

    def __str__(self) -> str:
        return self.name


Reference = HubReference | OllamaReference | UrlReference | PathReference | NameReference


def parse(text: str, aliases: Mapping[str, str] | None = None, endpoint: str = "") -> Reference:
    """Parse `text` without access to the disk; an alias is resolved once.

    `endpoint` is the URL of a mirror; URLs of its pages are references to models on the Hub.

    Raises:
        ModelNotFoundError: `text` is not a valid reference; the hint has the form that was probably meant.
    """
    text = (aliases or {}).get(text, text).strip()
    if text.count("/") == 2 and is_repo(text.removesuffix("/")):  # a shell adds a slash when it completes a folder
        text = text.removesuffix("/")
    if not text or not text.isprintable():
        raise ModelNotFoundError("the model reference is empty or contains control characters", FORMS)
    if text.startswith("ollama:"):
        if text == "ollama:":
            raise ModelNotFoundError("'ollama:' needs a model name", "write ollama:NAME or ollama:NAME:TAG")
        return OllamaReference(text.removeprefix("ollama:"))
    if "://" in text or re.split(r"[/:?#]", text.lower(), maxsplit=1)[0] in HUB_HOSTS:
        return _parse_url(text, endpoint)
    if looks_like_path(text) or (text.count("/") < 2 and text.lower().endswith(".gguf") and ":" not in text):
        return PathReference(text)
    if "/" not in text and ":" not in text:
        return NameReference(text)
    return _parse_hub(text, text)


def looks_like_path(text: str) -> bool:
    """True for a text that can only be a path."""
    return text.startswith((".", "~", "/", "\\")) or "\\" in text or bool(_DRIVE.match(text))


def is_repo(text: str) -> bool:
    """True for owner/name, as the Hub allows them."""
    return bool(_REPO.fullmatch(text)) and "--" not in text and ".." not in text and not text.endswith(".git")


def is_revision(text: str) -> bool:
    """True for a branch, tag or commit whose name is safe as a file name."""
    return bool(_REVISION.fullmatch(text)) and not text.endswith((".lock", "/", "."))


def _parse_hub(text: str, typed: str) -> HubReference:
    """Parse owner/repo[/file.gguf][:quantization][@revision]; the last two can be in either order."""
    match = _HUB.fullmatch(text)
    if not match or not is_repo(match["repo"]) or not text.isprintable():  # a URL can contain %0a
        raise _not_a_reference(typed)
    marks = re.findall(r"([:@])([^:@]+)", match["marks"])
    quant = next((value for mark, value in marks if mark == ":"), None)
    revision = next((value for mark, value in marks if mark == "@"), None)
    file = match["file"].strip("/") or None
    _check_marks(match["repo"], file, quant, revision, len(marks), typed)
    return HubReference(match["repo"], quant, file, revision)


def _check_marks(repo: str, file: str | None, quant: str | None, revision: str | None, count: int, typed: str) -> None:
    if count == 2 and not (quant and revision):
        raise _not_a_reference(typed)
    if revision is not None and not is_revision(revision):
        raise ModelNotFoundError(f"{revision!r} is not a valid revision", "give a branch, a tag or a commit")
    if file is not None and quant is not None:
        raise ModelNotFoundError(f"'{typed}' has both a file and a quantization", f"did you mean '{repo}/{file}'?")
    if file is not None and not file.lower().endswith(".gguf"):
        hint = f"did you mean '{repo}:{file}'?" if quantization_of(f"x-{file}.gguf") else FORMS
        raise ModelNotFoundError(f"'{typed}' is not a .gguf file", hint)
    if file is not None and not is_safe_path(file):
        raise ModelNotFoundError(f"'{typed}' is not a valid path in a repository", FORMS)
    if quant is None:
        return
    if quant.lower().endswith(".gguf"):
        raise ModelNotFoundError(f"'{typed}' is not a valid model reference", f"did you mean '{repo}/{quant}'?")
    if not _QUANT.fullmatch(quant):
        raise ModelNotFoundError(f"{quant!r} is not a valid quantization", f"did you mean '{repo}:Q4_K_M'?")


def _parse_url(text: str, endpoint: str) -> Reference:
    """Parse a URL: a page or file of the Hub, or a .gguf file anywhere."""
    if text.startswith("hf://"):
        return _parse_hub(text.removeprefix("hf://").removeprefix("models/"), text)
    try:
        parts, mirror = urlsplit(text if "://" in text else f"https://{text}"), urlsplit(endpoint)
    except ValueError:  # brackets without an IPv6 address between them
        raise ModelNotFoundError(f"'{text}' is not a valid URL", FORMS) from None
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ModelNotFoundError(f"'{text}' is not the URL of a model", "give an http or https URL")
    if parts.netloc.lower() in HUB_HOSTS:
        return _parse_hub_page(parts.path, text)
    base = mirror.path.rstrip("/") + "/"
    if mirror.netloc and parts.netloc.lower() == mirror.netloc.lower() and parts.path.startswith(base):
        return _parse_hub_page(parts.path.removeprefix(base), text)
    if not parts.path.lower().endswith(".gguf"):
        raise ModelNotFoundError(f"'{text}' does not end in .gguf", FORMS)
    if parts.username or parts.password:
        raise ModelNotFoundError("a URL with a user name or password is not allowed", "remove them from the URL")
    digest = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", parts.fragment)
    if parts.fragment.startswith("sha256") and not digest:
        raise ModelNotFoundError(
            f"'{text}' does not end in a valid sha256", "write #sha256=HEX with 64 hexadecimal digits"
        )
    return UrlReference(parts._replace(fragment="").geturl(), digest[1].lower() if digest else None)


def _parse_hub_page(path: str, text: str) -> HubReference:
    """Parse owner/repo, owner/repo:Q4_K_M, or .../blob|resolve|tree|raw/REVISION[/FILE]."""
    pieces = [unquote(piece) for piece in path.strip("/").split("/", 4)]  # split first: a revision can contain %2F
    if pieces[0] in ("datasets", "spaces"):
        raise ModelNotFoundError(f"'{text}' is not a model", "give the URL of a model repository")
    if len(pieces) < 4 or pieces[2] not in ("blob", "resolve", "tree", "raw"):
        return _parse_hub("/".join(pieces), text)
    repo, revision = "/".join(pieces[:2]), pieces[3]
    file = pieces[4] if len(pieces) > 4 and pieces[4].lower().endswith(".gguf") else ""
    return _parse_hub(repo + (f"/{file}" if file else "") + ("" if revision == MAIN else f"@{revision}"), text)


def _not_a_reference(text: str) -> ModelNotFoundError:
    guess = re.sub(r"\s+", "", text).replace(":", "/", 1)
    hint = f"did you mean '{guess}' or 'ollama:{text}'?" if "/" not in text and is_repo(guess) else FORMS
    return ModelNotFoundError(f"'{text}' is not a valid model reference", hint)
