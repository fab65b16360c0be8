"""The settings of a step of the sampler chain."""

from llmcli.params.settings import Settings, fields


def step_values(settings: Settings, name: str) -> str:
    """The settings that the step reads, as KEY=VALUE, without those that have no effect."""
    base = {"mirostat_v2": "mirostat", "dist": "seed"}.get(name, name)
    keys = [key for key, field in fields().items() if key == base or field.param.sampler == base]
    shown = [key for key in keys if key == base or _has_effect(settings, key)]
    return " ".join(f"{key}={fields()[key].format(getattr(settings, key))}" for key in shown)


def _has_effect(settings: Settings, key: str) -> bool:
    """Whether a setting differs from its default, or belongs to one that does."""
    return any(getattr(settings, one) != fields()[one].default for one in (key, *fields()[key].param.switch))
