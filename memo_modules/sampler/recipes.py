"""Presets: what of the published computation may be left out to make a video cheaper, and by how much.

Each preset is a set of SamplerSettings, and every one of them can be set alone. What it saves is counted by cost.Cost; what it costs in
quality, ``python -m tools.evaluate`` measures.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import Any

from ..errors import InputError
from ..types import DEFAULT_SETTINGS, SamplerSettings

PRESETS = ("exact", "fast", "draft", "turbo")
"""exact: as published. fast, draft: ever fewer passes of the diffusion net. turbo: as the model's own config.json says, for models
that were distilled into a few passes."""

_CHEAP = {"schedule": "even", "solver": "adams_bashforth", "past_every": 4}

_GUIDED: Mapping[str, Mapping[str, Any]] = {
    "exact": {},
    "fast": _CHEAP | {"steps": 6, "unconditional_every": 2},
    "draft": _CHEAP | {"steps": 4, "unconditional_every": 2},
}

_UNGUIDED: Mapping[str, Mapping[str, Any]] = {
    "exact": {},
    "fast": _CHEAP | {"steps": 5},
    "draft": _CHEAP | {"steps": 4, "whole_every": 2},
}
"""Without guidance a pass costs half, and DeepCache (``whole_every``) saves more than it loses."""

CHEAPER = ("schedule", "solver", "unconditional_every", "past_every", "whole_every")
"""Settings that leave something out."""

NO_STUDENT: Mapping[str, Any] = MappingProxyType({})


def apply(preset: str, settings: SamplerSettings, student: Mapping[str, Any] = NO_STUDENT) -> SamplerSettings:
    """``settings`` as ``preset`` changes them.

    student: ``recipe`` in the config of a distilled model's diffusion net; empty for other models.

    Raises InputError for an unknown preset, and for "turbo" with a model that was not distilled.
    """
    if preset not in PRESETS:
        raise InputError(f"preset: expected one of {', '.join(PRESETS)}, got {preset!r}.")
    if preset != "turbo":
        return replace(settings, **(_GUIDED if settings.guided else _UNGUIDED)[preset])
    if not student:
        raise InputError(
            "preset: turbo needs a model that was distilled into a few passes and says so in its config.json. Choose fast or draft with this one."
        )
    return replace(settings, **student)


def published(settings: SamplerSettings) -> SamplerSettings:
    """``settings`` with nothing left out, in 20 steps."""
    return replace(settings, **{name: getattr(DEFAULT_SETTINGS, name) for name in ("steps", *CHEAPER)})


def named(settings: SamplerSettings) -> dict[str, Any]:
    """All settings by name; of those that leave something out only the ones that do, so that exact videos are what they always were."""
    return {name: value for name, value in asdict(settings).items() if name not in CHEAPER or value != getattr(DEFAULT_SETTINGS, name)}
