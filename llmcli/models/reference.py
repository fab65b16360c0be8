"""What does a model reference mean? Every form of one is taken apart here, and nowhere else."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from llmcli.errors import ModelNotFoundError
from llmcli.models.hub.quantizations import quantization_of
from llmcli.models.hub.variants import is_safe_path

HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
FORMS = (
    "A model is the path of a .gguf file, owner/repo, owner/repo:Q4_K_M or owner/repo/file.gguf (each with @revision "
    "if you like), an address of huggingface.co or of a .gguf file, ollama:NAME, or `starter`."
)
MAIN = "main"

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"  # the hub's rule for owners and repositories
_REPO = re.compile(rf"(?P<owner>{_PART})/(?P<name>{_PART})")
_HUB = re.compile(rf"(?P<repo>{_PART}/{_PART})(?P<file>(?:/[^/@:]+)*?)(?P<marks>(?:[:@][^:@]+){{0,2}})")
_QUANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
_REVISION = re.compile(r"(?!.*(?:\.\.|//))[A-Za-z0-9_][A-Za-z0-9._/-]{0,127}")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


@dataclass(frozen=True)
class HubReference:
    """A model on the hub: one quantization or file of a repository, or (neither given) the one that suits."""

    repo: str
    quant: str | None = None
    file: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        what = f"/{self.file}" if self.file else f":{self.quant}" if self.quant else ""
        return f"{self.repo}{what}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class OllamaReference:
    """A model in Ollama's store, by Ollama's own name."""

    name: str

    def __str__(self) -> str:
        return f"ollama:{self.name}"


@dataclass(frozen=True)
class UrlReference:
    """A .gguf file behind an address outside the hub, with its sha256 if the address ends in #sha256=HEX."""

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
    """One word: the starter, a name of the catalogue, or a model in an imported folder."""

    name: str

    def __str__(self) -> str:
        return self.name


Reference = HubReference | OllamaReference | UrlReference | PathReference | NameReference


def parse(text: str, aliases: Mapping[str, str] | None = None, endpoint: str = "") -> Reference:
    """The meaning of `text`, which is not looked up on the disk; an alias is followed, once.

    `endpoint` is the address of a mirror, whose pages mean the hub's models too.

    Raises:
        ModelNotFoundError: when it is no reference, with the form that was probably meant.
    """
    text = (aliases or {}).get(text, text).strip()
    if text.count("/") == 2 and is_repo(text.removesuffix("/")):  # as a shell completes a folder
        text = text.removesuffix("/")
    if not text or not text.isprintable():
        raise ModelNotFoundError("the model reference is empty or not a name", FORMS)
    if text.startswith("ollama:"):
        return OllamaReference(_named(text.removeprefix("ollama:"), text))
    if "://" in text or re.split(r"[/:?#]", text.lower(), maxsplit=1)[0] in HUB_HOSTS:
        return _address(text, endpoint)
    if looks_like_path(text) or (text.count("/") < 2 and text.lower().endswith(".gguf") and ":" not in text):
        return PathReference(text)
    if "/" not in text and ":" not in text:
        return NameReference(text)
    return _hub(text, text)


def looks_like_path(text: str) -> bool:
    """True for what can only be meant as a place on this machine."""
    return text.startswith((".", "~", "/", "\\")) or "\\" in text or bool(_DRIVE.match(text))


def is_repo(text: str) -> bool:
    """True for owner/name, as the hub allows them."""
    return bool(_REPO.fullmatch(text)) and "--" not in text and ".." not in text and not text.endswith(".git")


def is_revision(text: str) -> bool:
    """True for a branch, tag or commit whose name is harmless as the name of a file."""
    return bool(_REVISION.fullmatch(text)) and not text.endswith((".lock", "/", "."))


def _named(name: str, text: str) -> str:
    if not name:
        raise ModelNotFoundError(f"{text} names no model", "Write ollama:NAME or ollama:NAME:TAG.")
    return name


def _hub(text: str, typed: str) -> HubReference:
    """owner/repo[/file.gguf][:quantization][@revision], the two marks in either order."""
    match = _HUB.fullmatch(text)
    if not match or not is_repo(match["repo"]) or not text.isprintable():  # %0a in an address was decoded
        raise _no_reference(typed)
    marks = re.findall(r"([:@])([^:@]+)", match["marks"])
    quant = next((value for mark, value in marks if mark == ":"), None)
    revision = next((value for mark, value in marks if mark == "@"), None)
    file = match["file"].strip("/") or None
    _check_marks(match["repo"], file, quant, revision, len(marks), typed)
    return HubReference(match["repo"], quant, file, revision)


def _check_marks(repo: str, file: str | None, quant: str | None, revision: str | None, count: int, typed: str) -> None:
    if count == 2 and not (quant and revision):
        raise _no_reference(typed)
    if revision is not None and not is_revision(revision):
        raise ModelNotFoundError(f"{revision!r} cannot be a revision", "A revision is a branch, a tag or a commit.")
    if file is not None and quant is not None:
        raise ModelNotFoundError(f"{typed} names a file and a quantization", f"Did you mean {repo}/{file}?")
    if file is not None and not file.lower().endswith(".gguf"):
        hint = f"Did you mean {repo}:{file}?" if quantization_of(f"x-{file}.gguf") else FORMS
        raise ModelNotFoundError(f"{typed} names no .gguf file", hint)
    if file is not None and not is_safe_path(file):
        raise ModelNotFoundError(f"{typed} names what cannot be a file of a repository", FORMS)
    if quant is None:
        return
    if quant.lower().endswith(".gguf"):
        raise ModelNotFoundError(f"{typed} is no reference", f"Did you mean {repo}/{quant}?")
    if not _QUANT.fullmatch(quant):
        raise ModelNotFoundError(f"{quant!r} cannot be a quantization", f"Did you mean {repo}:Q4_K_M?")


def _address(text: str, endpoint: str) -> Reference:
    """A pasted address: a page or file of the hub, or a .gguf file anywhere."""
    if text.startswith("hf://"):
        return _hub(text.removeprefix("hf://").removeprefix("models/"), text)
    try:
        parts, mirror = urlsplit(text if "://" in text else f"https://{text}"), urlsplit(endpoint)
    except ValueError:  # of brackets without an IPv6 address between them
        raise ModelNotFoundError(f"{text} is no address of a model", FORMS) from None
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ModelNotFoundError(f"{text} is no address of a model", "Only http and https addresses can be fetched.")
    if parts.netloc.lower() in HUB_HOSTS:
        return _hub_page(parts.path, text)
    base = mirror.path.rstrip("/") + "/"
    if mirror.netloc and parts.netloc.lower() == mirror.netloc.lower() and parts.path.startswith(base):
        return _hub_page(parts.path.removeprefix(base), text)
    if not parts.path.lower().endswith(".gguf"):
        raise ModelNotFoundError(f"{text} does not end in .gguf", FORMS)
    if parts.username or parts.password:
        raise ModelNotFoundError("an address with a password in it is not fetched", "Leave the user name out of it.")
    digest = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", parts.fragment)
    if parts.fragment.startswith("sha256") and not digest:
        raise ModelNotFoundError(f"{text} ends in no sha256", "It has 64 hexadecimal digits: #sha256=HEX.")
    return UrlReference(parts._replace(fragment="").geturl(), digest[1].lower() if digest else None)


def _hub_page(path: str, text: str) -> HubReference:
    """owner/repo, owner/repo:Q4_K_M, or .../blob|resolve|tree|raw/REVISION[/FILE]."""
    pieces = [unquote(piece) for piece in path.strip("/").split("/", 4)]  # in refs%2Fpr%2F1 a slash is no border
    if pieces[0] in ("datasets", "spaces"):
        raise ModelNotFoundError(f"{text} is no model", "Only repositories of models hold GGUF files.")
    if len(pieces) < 4 or pieces[2] not in ("blob", "resolve", "tree", "raw"):
        return _hub("/".join(pieces), text)
    repo, revision = "/".join(pieces[:2]), pieces[3]
    file = pieces[4] if len(pieces) > 4 and pieces[4].lower().endswith(".gguf") else ""
    return _hub(repo + (f"/{file}" if file else "") + ("" if revision == MAIN else f"@{revision}"), text)


def _no_reference(text: str) -> ModelNotFoundError:
    guess = re.sub(r"\s+", "", text).replace(":", "/", 1)
    if "/" not in text and is_repo(guess):
        return ModelNotFoundError(f"{text} is no model reference", f"Did you mean {guess}, or ollama:{text}?")
    return ModelNotFoundError(f"{text} is no model reference", FORMS)
