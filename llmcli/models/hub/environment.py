"""Where the hub and its files are for this user: address, cache folder, token file, offline or not.

The rules are those of huggingface_hub's constants.py, read from the environment without importing it: a model
that is here must start at once.
"""

import os
from pathlib import Path

OFFICIAL = "https://huggingface.co"
_TRUE = {"1", "ON", "YES", "TRUE"}


def endpoint() -> str:
    """The address of the hub or of the mirror in HF_ENDPOINT, without a slash at its end."""
    return (os.environ.get("HF_ENDPOINT") or OFFICIAL).rstrip("/")


def hub_cache() -> Path:
    """The folder that the hub's tools share: HF_HUB_CACHE, HF_HOME/hub or ~/.cache/huggingface/hub."""
    old = os.environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(_expanded(os.environ.get("HF_HUB_CACHE") or old or str(_home() / "hub")))


def token_source() -> str:
    """Where the token of the hub comes from: HF_TOKEN, the path of a file, or "" when there is none."""
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
    """The file that `hf auth login` keeps the token in."""
    return Path(_expanded(os.environ.get("HF_TOKEN_PATH") or str(_home() / "token")))


def is_offline() -> bool:
    """True when the environment forbids every request: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE."""
    return (os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or "").upper() in _TRUE


def foreign_endpoint() -> str:
    """What is unusual about the endpoint a token would be sent to; "" for the official one."""
    from urllib.parse import urlsplit  # 4 ms, and a start asks only for the folder

    try:
        parts = urlsplit(endpoint())
    except ValueError:  # no address at all
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
