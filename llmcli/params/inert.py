"""Settings that the user set and that have no effect."""

from collections.abc import Mapping
from dataclasses import replace

from llmcli.params.chain import SAMPLERS
from llmcli.params.param import Field
from llmcli.params.policies.policy import Entropy, Fixed
from llmcli.params.settings import Settings, fields
from llmcli.params.temperature import policy_in_force

_CHAT_ONLY = ("system", "chat_template", "think")


def inert(settings: Settings, origins: Mapping[str, str]) -> dict[str, str]:
    """For each setting that was set to a value other than its default and has no effect: the reason."""
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
        return f"temp_policy_file replaces it (use the policy {policy} in temperature to combine them)"
    if field.key.startswith("dynatemp") and not isinstance(policy, Fixed):
        return f"the temperature '{policy}' has its own range"
    if p.mirostat and (field.key in ("samplers", "min_keep") or sampler not in ("", "mirostat", "temperature")):
        return f"mirostat {p.mirostat} replaces the chain"
    if p.mirostat and field.key.startswith("dynatemp"):
        return f"mirostat {p.mirostat} needs a fixed temperature"
    if p.mirostat and field.key == "temperature" and isinstance(p.temperature, Entropy):
        return f"mirostat {p.mirostat} uses the middle of the range"
    if sampler and sampler not in p.samplers and sampler != "mirostat":
        return f"{sampler} is not in samplers"
    if field.param.switch and not any(_differs(p, key) for key in field.param.switch):
        return f"needs {' or '.join(field.param.switch)}"
    if sampler in SAMPLERS and _off_either_way(field, p):
        return f"other settings turn {sampler} off"
    if field.key == "min_keep" and not _min_keep_matters(p):
        return "no active sampler uses it"
    if p.raw and field.key in _CHAT_ONLY:
        return "raw completion has no chat template"
    return ""


def _differs(p: Settings, key: str) -> bool:
    return bool(getattr(p, key) != fields()[key].default)


def _off_either_way(field: Field, p: Settings) -> bool:
    """Whether the step is off both with the value of the setting and with its default."""
    p = replace(p, seed=0)
    other = replace(p, **{field.key: field.default})
    step = SAMPLERS[field.param.sampler]
    return step(p) is None and step(other) is None


def _min_keep_matters(p: Settings) -> bool:
    """Whether another min_keep changes the arguments of any step."""
    p = replace(p, seed=0)
    other = replace(p, min_keep=p.min_keep + 1)
    return any(SAMPLERS[name](p) != SAMPLERS[name](other) for name in p.samplers if name in SAMPLERS)
