"""Endpoints: servers with OpenAI's API that answer in place of a model file, their profiles, and their keys."""

import os
import re
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from llmcli.config import config_file
from llmcli.errors import DiskError, NotAllowedError, UsageError, error_text
from llmcli.files import config_path, read_limited
from llmcli.text import did_you_mean, ellipsize

API_KEY = "LLMCLI_API_KEY"
KINDS = ("llmcli", "llama-server", "vllm", "sglang", "ollama", "openai", "other")  # of servers
_FIELDS = ("url", "model", "kind", "api_key_file", "keyring")
_ROUTES = ("/chat/completions", "/completions", "/models")  # of a URL that was copied from an example
_VERSION = re.compile(r"v\d+\w*")
_MAX_KEY = 8192  # characters


@dataclass(frozen=True)
class Endpoint:
    """A server, and what proves that the user may ask it. The key is in no text of this object."""

    base: str  # the URL in front of /chat/completions, such as https://HOST/v1
    name: str = ""  # of its profile
    model: str = ""  # that the profile names
    kind: str = ""  # one of KINDS, if the profile names it
    key: str = field(default="", repr=False)
    key_source: str = ""  # a variable, a file or the keyring
    is_key_shared: bool = False  # whether other users of this machine can read its file

    @property
    def host(self) -> str:
        """Host and port, for messages."""
        return urlsplit(self.base).netloc

    @property
    def root(self) -> str:
        """The URL of the server's own routes, beside those of OpenAI."""
        return re.sub(r"/v\d+\w*\Z", "", self.base)

    def quoted(self, text: str, length: int) -> str:
        """A text of the server for a message: at most so many characters, and never the key."""
        return ellipsize(text.replace(self.key, "[key]") if self.key else text, length)

    @property
    def option(self) -> str:
        """Option and value that name it in a command, for messages."""
        return f"--endpoint {self.name or self.root}"

    @property
    def is_loopback(self) -> bool:
        """Whether the server runs on this machine."""
        return _is_loopback(urlsplit(self.base).hostname or "")

    @property
    def warnings(self) -> list[str]:
        """Who else can read the key."""
        notes: list[str] = []
        if self.key and urlsplit(self.base).scheme == "http" and not self.is_loopback:
            notes.append(f"the key is sent to {self.host} without encryption: others on the way can read it")
        if self.is_key_shared:
            notes.append(f"other users can read the key in {self.key_source}: run chmod 600 {self.key_source}")
        return notes


def find_endpoint(text: str) -> Endpoint:
    """The endpoint of a URL, or of the name of a profile. Raises LlmcliError if it, or its key, is not valid."""
    profiles = endpoint_profiles()
    if text in profiles:
        return _of_profile(text, profiles[text])
    if "," in text:
        names = endpoint_names(text)
        if not names:
            raise UsageError("endpoint names no server", "as in http://localhost:8080")
        if len(names) > 1:
            hint = "give one: only `llmcli batch` shares its lines among several"
            raise UsageError("endpoint names several servers", hint)
        return find_endpoint(names[0])
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        return _without_scheme(text, profiles)
    return _with_key(Endpoint(base_url(text)), {})


def endpoint_names(text: str) -> list[str]:
    """The URLs and profiles of a list with commas, each once, however its URL is written. Raises UsageError."""
    profiles, names = endpoint_profiles(), filter(None, map(str.strip, text.split(",")))
    servers: dict[str, str] = {}
    for name in names:
        servers.setdefault(name if name in profiles else find_endpoint(name).base, name)
    return list(servers.values())


def endpoint_profiles() -> dict[str, Mapping[str, object]]:
    """The tables `[endpoints.NAME]` of the configuration file. Raises UsageError if they are not tables."""
    return config_file.table(config_file.ENDPOINTS, dict, "a table with a url")


def base_url(text: str) -> str:
    """The URL in front of /chat/completions. Raises UsageError, which does not show a password in it."""
    try:
        parts = urlsplit(text.strip())
        host, _port = parts.hostname, parts.port
    except ValueError:
        raise UsageError("endpoint is not a valid URL", "write http://HOST:PORT or https://HOST/v1") from None
    if "@" in parts.netloc:
        hint = f"remove it, and put the key into {API_KEY}, or into a file that a profile names"
        raise UsageError(
            "endpoint contains a user or a password, which others could read in the list of processes", hint
        )
    if parts.scheme not in ("http", "https") or not host or re.search(r"[\s\x00-\x1f]", text.strip()):
        raise UsageError(f"endpoint must be an http or https URL, got {text[:80]!r}", "as in http://localhost:8080")
    if parts.query or parts.fragment:
        raise UsageError("endpoint must be a URL without ? and #", "write only what comes before /chat/completions")
    path = parts.path.rstrip("/")
    for route in _ROUTES:
        path = path.removesuffix(route)
    if not any(map(_VERSION.fullmatch, path.split("/"))):
        path += "/v1"
    return SplitResult(parts.scheme, parts.netloc, path, "", "").geturl()


def _without_scheme(text: str, profiles: Mapping[str, object]) -> Endpoint:
    """`localhost:8080` is a URL; of any other host only the user knows whether it speaks https."""
    name = re.sub(r"(:\d+)?(/.*)?\Z", "", text)
    if _is_loopback(name.strip("[]")):
        return _with_key(Endpoint(base_url(f"http://{text}")), {})
    shown = text[:80].rpartition("@")[2]
    if re.search(r"[.:/@]", text):
        raise UsageError(f"endpoint must be an http or https URL, got {shown!r}", "write it with https:// or http://")
    hint = (
        did_you_mean(text, profiles) or f"give a URL, or write [endpoints.{text[:40]}] with a url into {config_path()}"
    )
    raise UsageError(f"unknown endpoint {shown!r}", hint)


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _of_profile(name: str, table: Mapping[str, object]) -> Endpoint:
    where = f"{config_path()}: [{config_file.ENDPOINTS}.{name}]"
    if "api_key" in table:  # a file of settings is often shown to others
        raise UsageError(
            f"{where} has a key itself", "put the key into a file of its own, and its name into api_key_file"
        )
    for key, value in table.items():
        if key not in _FIELDS:
            raise UsageError(
                f"{where}: unknown key {key[:40]!r}", did_you_mean(key, _FIELDS) or f"use {', '.join(_FIELDS)}"
            )
        if not isinstance(value, str) or not value.strip():
            raise UsageError(f"{where}: {key} must be a text", "correct it with `llmcli config edit`")
    texts = {key: str(value) for key, value in table.items()}
    kind = texts.get("kind", "")
    if kind and kind not in KINDS:
        raise UsageError(f"{where}: kind must be one of {', '.join(KINDS)}, got {kind[:40]!r}")
    if "url" not in texts:
        raise UsageError(f"{where} has no url", "add one, as in url = 'http://localhost:8080'")
    try:
        base = base_url(texts["url"])
    except UsageError as error:
        raise UsageError(f"{where}: {str(error).replace('endpoint', 'url', 1)}", error.hint) from None
    return _with_key(Endpoint(base, name, texts.get("model", ""), kind), texts)


def _with_key(endpoint: Endpoint, profile: Mapping[str, str]) -> Endpoint:
    """The endpoint with its key: that of its profile, else of the environment."""
    if file := profile.get("api_key_file"):
        path = Path(os.path.expanduser(file))
        path = path if path.is_absolute() else config_path().parent / path
        return replace(_keyed(endpoint, _read_key(path), str(path)), is_key_shared=_is_shared(path))
    if service := profile.get("keyring"):
        return _keyed(endpoint, _ask_keyring(service, endpoint.name), f"the keyring ({service})")
    return _keyed(endpoint, os.environ.get(API_KEY, ""), API_KEY)


def _keyed(endpoint: Endpoint, key: str, source: str) -> Endpoint:
    key = key.strip()
    if not key:
        return endpoint
    if len(key) > _MAX_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise NotAllowedError(f"the key from {source} is not valid: it must be one word", "copy it again")
    return replace(endpoint, key=key, key_source=source)


def _read_key(path: Path) -> str:
    try:
        text = read_limited(path).decode("utf-8-sig", "replace").strip()
    except FileNotFoundError:
        raise DiskError(f"the file with the key does not exist: {path}", "write the key into it") from None
    except OSError as error:
        raise DiskError(f"cannot read the file with the key, {path}: {error_text(error)}") from None
    if not text:
        raise NotAllowedError(f"the file with the key is empty: {path}", "write the key into it")
    return text


def _is_shared(path: Path) -> bool:
    """Whether others can read a file. Windows has no such bits: there its folder protects it."""
    return sys.platform != "win32" and bool(stat.S_IMODE(path.stat().st_mode) & 0o077)


def _ask_keyring(service: str, name: str) -> str:
    """The password that the keyring of the system has for this service and user, the name of the profile."""
    try:
        keyring = import_module("keyring")
    except ImportError:
        raise NotAllowedError(
            f"[endpoints.{name}] names the keyring, and the package keyring is not installed",
            "install it with `pip install keyring`, or use api_key_file",
        ) from None
    try:
        key: object = keyring.get_password(service, name)
    except Exception as error:  # whatever the keyring of a system raises: locked, none at all, ...
        raise NotAllowedError(f"the keyring does not answer: {type(error).__name__}", "unlock it") from None
    if not isinstance(key, str) or not key:
        hint = f"store it with `keyring set {service} {name}`"
        raise NotAllowedError(f"the keyring has no key for the service {service!r} and the user {name!r}", hint)
    return key
