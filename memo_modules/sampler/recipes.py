"""Presets: what of the published computation may be left out to make a video cheaper, and by how much.

Each preset is a set of SamplerSettings, and every one of them can be set alone. What each costs in quality on the small model
is in docs/evaluation.md, what it saves is counted by ``cost.tflop``.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from ..errors import InputError
from ..types import SamplerSettings

PRESETS = ("exact", "fast", "draft", "turbo")
"""exact: as published. fast, draft: ever fewer passes of the diffusion net. turbo: as the model's own config.json says, for models
that were distilled into a few passes."""

_GUIDED: Mapping[str, Mapping] = MappingProxyType(
    {
        "exact": {},
        "fast": {"steps": 6, "schedule": "even", "solver": "adams_bashforth", "unconditional_every": 2, "past_every": 4},
        "draft": {"steps": 4, "schedule": "even", "solver": "adams_bashforth", "unconditional_every": 2, "past_every": 4},
    }
)

_UNGUIDED: Mapping[str, Mapping] = MappingProxyType(
    {
        "exact": {},
        "fast": {"steps": 5, "schedule": "even", "solver": "adams_bashforth", "past_every": 4},
        "draft": {"steps": 4, "schedule": "even", "solver": "adams_bashforth", "past_every": 4, "whole_every": 2},
    }
)
"""Without guidance a pass costs half, and DeepCache (``whole_every``) saves more than it loses."""

OF_STUDENTS = ("steps", "guidance_scale", "schedule", "solver", "unconditional_every", "past_every", "whole_every")
"""Settings that a distilled model may bring along as ``recipe`` in the config.json of its diffusion net."""


def apply(preset: str, settings: SamplerSettings, student: Mapping | None = None) -> SamplerSettings:
    """``settings`` as ``preset`` changes them.

    student: the recipe of a distilled model, see OF_STUDENTS; None for other models.

    Raises InputError for an unknown preset, and for "turbo" with a model that was not distilled.
    """
    if preset not in PRESETS:
        raise InputError(f"preset: expected one of {', '.join(PRESETS)}, got {preset!r}.")
    if preset != "turbo":
        return replace(settings, **(_GUIDED if settings.guided else _UNGUIDED)[preset])
    if student is None:
        raise InputError("preset: turbo needs a model that was distilled into a few passes (scripts/distil.py). Choose fast or draft with this one.")
    return replace(settings, **student)
