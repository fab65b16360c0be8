"""With which values does a step of the sampler chain run?"""

from llmcli.params.settings import Settings, fields


def step_values(settings: Settings, name: str) -> str:
    """The settings that the step reads, by their names; those that were left alone and play no part stay away."""
    base = {"mirostat_v2": "mirostat", "dist": "seed"}.get(name, name)
    keys = [key for key, field in fields().items() if key == base or field.param.sampler == base]
    shown = [key for key in keys if key == base or _plays(settings, key)]
    return " ".join(f"{key}={fields()[key].format(getattr(settings, key))}" for key in shown)


def _plays(settings: Settings, key: str) -> bool:
    """Whether a setting differs from its default, or belongs to one that does."""
    return any(getattr(settings, one) != fields()[one].default for one in (key, *fields()[key].param.switch))
