"""`llmcli cache`: the contexts that are stored on this disk."""

from dataclasses import dataclass
from typing import Annotated

from llmcli.chat.sessions import store
from llmcli.cli.command_line import Option
from llmcli.cli.options import Json
from llmcli.config.presets import resolve_settings
from llmcli.errors import ExitStatus, UsageError
from llmcli.inference.state_file import read_header
from llmcli.inference.state_store import StateStore, is_of_session
from llmcli.inference.warm import forget_tokens
from llmcli.params.settings import Layer
from llmcli.text import format_age, format_duration, format_size, plural, sanitize
from llmcli.ui.terminal.console import can_ask, confirm, console
from llmcli.ui.terminal.output import print_facts, print_json, print_rows

_MIB = 1 << 20


@dataclass(frozen=True)
class _Stored:
    """A stored context, as it is shown."""

    model: str
    session: str | None  # None: the beginning of a prompt, which belongs to no session; "": one that was deleted
    tokens: int
    size: int  # bytes
    seconds: float  # that it took to evaluate
    used: float  # when it was last written or read; seconds since 1970

    def data(self) -> dict[str, object]:
        """As JSON data."""
        return {**self.__dict__, "seconds": round(self.seconds, 3)}


def list_states(as_json: Json = False) -> None:
    found = _stored()
    if as_json:
        print_json([one.data() for one in found], indent=None)
        return
    if not found:
        console.note("no stored contexts")
        return
    heads = ("MODEL", "SESSION", "TOKENS", "SIZE", "SAVES", "USED")
    rows = [
        (
            sanitize(one.model),
            "(deleted)" if one.session == "" else one.session or "",
            str(one.tokens),
            format_size(one.size),
            _time(one.seconds),
            format_age(one.used),
        )
        for one in found
    ]
    print_rows(heads, rows, right=("TOKENS", "SIZE", "SAVES"), spare=("SAVES", "TOKENS"))


def show_statistics(as_json: Json = False) -> None:
    settings, found = resolve_settings(Layer("flag", {})), _stored()
    limit = StateStore(settings.kv_cache_limit * _MIB).capacity() if settings.kv_cache else 0
    n_sessions = sum(one.session is not None for one in found)
    size, tokens = sum(one.size for one in found), sum(one.tokens for one in found)
    if as_json:
        totals = {"states": len(found), "sessions": n_sessions, "tokens": tokens, "size": size, "limit": limit}
        print_json(totals, indent=None)
        return
    of_sessions = f"{plural(n_sessions, 'session')}, {plural(len(found) - n_sessions, 'beginning')} of prompts"
    of_limit = f"of at most {format_size(limit)}" if limit else "(storing is off)"
    print_facts(
        [
            ("contexts", f"{len(found)} ({of_sessions})"),
            ("tokens", str(tokens)),
            ("size", f"{format_size(size)} {of_limit}"),
            ("saves", _time(sum(one.seconds for one in found))),
        ]
    )


def clear_states(yes: Annotated[bool, Option("--yes", "-y", help="Delete without confirmation.")] = False) -> int:
    states = StateStore()
    states.check()
    entries = states.entries()
    size = format_size(sum(entry.size for entry in entries))
    if entries and not yes:
        if not can_ask():
            raise UsageError("cannot ask for confirmation to delete the stored contexts (not a terminal)", "use --yes")
        if not confirm(f"Delete {plural(len(entries), 'stored context')} ({size})?", False):
            return ExitStatus.FAILED
    forget_tokens()
    console.note(f"deleted {plural(states.clear(), 'stored context')} ({size})")
    return ExitStatus.OK


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else format_duration(seconds)


def _stored() -> list[_Stored]:
    """All states with a sound header, the last used first. Raises DiskError if the folder cannot be read."""
    names, found, states = store.names(), [], StateStore()
    states.check()
    for entry in sorted(states.entries(), key=lambda one: one.used, reverse=True):
        if stored := read_header(entry.path):
            session = next((name for name in names if is_of_session(entry.path, name)), "")
            model = str(stored.identity.get("name", ""))
            of_session = None if is_of_session(entry.path, "") else session
            found.append(_Stored(model, of_session, len(stored.tokens), entry.size, stored.seconds, entry.used))
    return found
