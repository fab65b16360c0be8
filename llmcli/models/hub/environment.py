"""The user's settings for the Hub: URL, cache folder, token file, offline mode.

The rules are those of huggingface_hub's constants.py. They are read from the environment without importing it,
because a downloaded model must start at once.
"""

import os
from pathlib import Path

OFFICIAL = "https://huggingface.co"
_TRUE = {"1", "ON", "YES", "TRUE"}


def endpoint() -> str:
    """The URL of the Hub or of the mirror in HF_ENDPOINT, without a slash at its end."""
    return (os.environ.get("HF_ENDPOINT") or OFFICIAL).rstrip("/")


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
    file = token_file()
    try:
        return str(file) if file.is_file() else ""
    except OSError:
        return ""


def token_file() -> Path:
    """The file to which `hf auth login` writes the token."""
    return Path(_expanded(os.environ.get("HF_TOKEN_PATH") or str(_home() / "token")))


def is_offline() -> bool:
    """True when the environment forbids every request: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE."""
    return (os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or "").upper() in _TRUE


def foreign_endpoint() -> str:
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


def _home() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(_expanded(os.environ.get("HF_HOME") or os.path.join(cache, "huggingface")))


def _expanded(path: str) -> str:
    return os.path.expandvars(os.path.expanduser(path))
