"""Settings that somebody chose and that the present chain ignores."""

from collections.abc import Mapping
from dataclasses import replace

from llmcli.params.param import Field
from llmcli.params.policy.tree import Entropy, Fixed
from llmcli.params.samplers import SAMPLERS
from llmcli.params.settings import Settings, fields
from llmcli.params.temperature import policy_in_force

_CHAT_ONLY = ("system", "chat_template", "think")


def inert(settings: Settings, origins: Mapping[str, str]) -> dict[str, str]:
    """The reason for each setting that was set, differs from its default, and changes nothing."""
    chosen = [field for field in fields().values() if origins[field.key] != "default"]
    reasons = {field.key: _reason(field, settings) for field in chosen if getattr(settings, field.key) != field.default}
    return {key: reason for key, reason in reasons.items() if reason}


def without_effect(settings: Settings) -> set[str]:
    """The settings that cannot change an answer at their present values, whether somebody chose them or not."""
    # The reason for a temperature tells how it is read, not that it is ignored.
    return {key for key, field in fields().items() if key != "temperature" and _reason(field, settings)}


def _reason(field: Field, p: Settings) -> str:
    sampler = field.param.sampler
    policy = policy_in_force(p)
    if field.key == "temperature" and policy != p.temperature:
        return f"temp_policy_file takes its place (name {policy} in it to use both)"
    if field.key.startswith("dynatemp") and not isinstance(policy, Fixed):
        return f"the temperature {policy} says its own range"
    if p.mirostat and (field.key in ("samplers", "min_keep") or sampler not in ("", "mirostat", "temperature")):
        return f"mirostat {p.mirostat} replaces the chain"
    if p.mirostat and field.key.startswith("dynatemp"):
        return f"mirostat {p.mirostat} takes a plain temperature"
    if p.mirostat and field.key == "temperature" and isinstance(p.temperature, Entropy):
        return f"mirostat {p.mirostat} takes a plain temperature: the middle of the range"
    if sampler and sampler not in p.samplers and sampler != "mirostat":
        return f"{sampler} is not in the samplers"
    if field.param.switch and not any(_differs(p, key) for key in field.param.switch):
        return f"needs {' or '.join(field.param.switch)}"
    if sampler in SAMPLERS and _off_anyway(field, p):
        return f"the other settings turn {sampler} off"
    if field.key == "min_keep" and not _keeps(p):
        return "no sampler that reads it is on"
    if p.raw and field.key in _CHAT_ONLY:
        return "raw completion uses no chat template"
    return ""


def _differs(p: Settings, key: str) -> bool:
    return bool(getattr(p, key) != fields()[key].default)


def _off_anyway(field: Field, p: Settings) -> bool:
    """Whether the step is off both with the setting and with its default."""
    p = replace(p, seed=0)
    other = replace(p, **{field.key: field.default})
    step = SAMPLERS[field.param.sampler]
    return step(p) is None and step(other) is None


def _keeps(p: Settings) -> bool:
    """Whether a different min_keep would change any step."""
    p = replace(p, seed=0)
    other = replace(p, min_keep=p.min_keep + 1)
    return any(SAMPLERS[name](p) != SAMPLERS[name](other) for name in p.samplers if name in SAMPLERS)
