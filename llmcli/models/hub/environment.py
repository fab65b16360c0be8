"""The user's settings for the Hub (URL, cache folder, token, offline mode), and the errors that they explain.

The rules are those of huggingface_hub's constants.py. They are read from the environment without importing it,
because a downloaded model must start at once.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli import __version__
from llmcli.errors import LlmcliError, ModelNotFoundError, NetworkError, NotAllowedError

if TYPE_CHECKING:
    import httpx2

    from llmcli.models.reference import HubReference

_TRUE = {"1", "ON", "YES", "TRUE"}


def endpoint() -> str:
    """The URL of the Hub or of the mirror in HF_ENDPOINT, without a slash at its end."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def repo_url(repo: str) -> str:
    """The URL of the repository's web page."""
    return f"{endpoint()}/{repo}"


def hub_cache() -> Path:
    """The cache shared with other Hugging Face tools: HF_HUB_CACHE, HF_HOME/hub or ~/.cache/huggingface/hub."""
    old = os.environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(_expanded(os.environ.get("HF_HUB_CACHE") or old or str(_home() / "hub")))


def token_source() -> str:
    """Where the Hugging Face token comes from: a variable's name, the path of a file, or "" if there is none."""
    if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in _TRUE:
        return ""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(name, "").strip():
            return name
    return str(token_file()) if os.path.isfile(token_file()) else ""


def token_file() -> Path:
    """The file to which `hf auth login` writes the token."""
    return Path(_expanded(os.environ.get("HF_TOKEN_PATH") or str(_home() / "token")))


def is_offline() -> bool:
    """True when the environment forbids every request: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE."""
    return (os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or "").upper() in _TRUE


def check_online(offline: bool, what: str) -> None:
    """Raise NetworkError in offline mode; `what` is what needs the network."""
    if offline or is_offline():
        why = "--offline" if offline else "HF_HUB_OFFLINE"
        raise NetworkError(f"{what} needs the network, but {why} is set", f"remove {why} to allow it")


def hub_headers() -> dict[str, str]:
    """The headers for the Hub itself: the user agent, and the user's token if there is one."""
    import logging

    _check_timeouts()
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    try:
        from huggingface_hub.errors import HfHubHTTPError
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # lazily exported
    except ValueError:  # it parses the URL
        raise NetworkError(f"HF_ENDPOINT is not a valid URL: '{endpoint()}'", "write https://HOST") from None
    try:
        headers = build_hf_headers(library_name="llmcli", library_version=__version__)
    except (OSError, HfHubHTTPError, ValueError) as error:
        message = f"cannot read the Hugging Face token: {type(error).__name__}"
        raise NetworkError(message, "set a new token with `hf auth login`") from None
    if not headers.get("authorization", "").isascii():
        raise NotAllowedError(
            "the Hugging Face token contains invalid characters", "set a new token with `hf auth login`"
        )
    return headers


def _check_timeouts() -> None:
    """Refuse what huggingface_hub, which reads these variables when it is imported, cannot read."""
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        value = os.environ.get(name, "0")
        try:
            int(value)
        except ValueError:
            message = f"{name} must be a whole number of seconds, got {value[:40]!r}"
            raise NetworkError(message, f"correct {name}, or unset it") from None


def unofficial_endpoint() -> str:
    """The host to which a token would be sent, if it is not the official Hub; "" for the official one."""
    from urllib.parse import urlsplit  # imported here: it costs 4 ms, and most starts do not need it

    try:
        parts = urlsplit(endpoint())
    except ValueError:  # not a URL
        return endpoint()
    host = (parts.hostname or "").lower()
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"  # never a password
    if parts.scheme != "https":
        return f"{shown}, unencrypted"
    return "" if host in ("huggingface.co", "hf.co") or host.endswith(".huggingface.co") else shown


def http_error(response: "httpx2.Response", reference: "HubReference") -> LlmcliError:
    """The error for a response that is not a success. The Hub's texts are untrusted, so they are not repeated."""
    status, code = response.status_code, response.headers.get("x-error-code", "")
    if code == "GatedRepo":
        return gated_error(reference.repo)
    if code == "RevisionNotFound":
        revision = reference.revision or "main"
        return ModelNotFoundError(f"{reference.repo} has no revision '{revision}'", "omit @REVISION")
    if code == "EntryNotFound":
        hint = f"list its files with `llmcli models files {reference.repo}`"
        return ModelNotFoundError(f"{reference.repo} has no file '{reference.file}'", hint)
    if "disabled" in response.headers.get("x-error-message", ""):
        return NotAllowedError(f"the Hub has disabled {reference.repo}", "choose another repository")
    if "Invalid credentials" in response.headers.get("x-error-message", ""):
        source = token_source() or "your configuration"
        return NotAllowedError(
            f"the Hub refused the token from {source}", "create a new token at https://huggingface.co/settings/tokens"
        )
    if code == "RepoNotFound" or status in (401, 404):
        search = f"search for it with `llmcli models search {reference.repo.split('/')[-1]}`"
        if token_source():
            return ModelNotFoundError(f"the Hub has no repository '{reference.repo}' that your token can read", search)
        return ModelNotFoundError(
            f"the Hub has no repository '{reference.repo}'", f"{search}, or run `hf auth login` if it is private"
        )
    if status == 403:
        return NotAllowedError(f"the Hub denies access to {reference.repo}", f"see {repo_url(reference.repo)}")
    return NetworkError(f"the Hub returned status {status} for {reference.repo}", "try again later")


def gated_error(repo: str) -> NotAllowedError:
    """The error for a gated repository: the user must accept its terms first."""
    if token_source():
        return NotAllowedError(f"{repo} is gated and your token has no access", f"request access at {repo_url(repo)}")
    return NotAllowedError(
        f"{repo} is gated", f"accept its terms at {repo_url(repo)}, then run `hf auth login` or set HF_TOKEN"
    )


def _home() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(_expanded(os.environ.get("HF_HOME") or os.path.join(cache, "huggingface")))


def _expanded(path: str) -> str:
    return os.path.expandvars(os.path.expanduser(path))
