"""What is rendered: cases, each a character with a voice and a mood, and variants of the sampler's settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from memo_modules.sampler import recipes
from memo_modules.types import SamplerSettings
from tools.small_world import MOODS, Clip, make_clip

WORLD = 900_000_000
"""Characters and voices of the evaluation have the million seeds from here on, those that the reader learns from the next
million: the worlds of seeds 900 and 901, which nothing else is to be trained on."""

VOICES, PORTRAITS = 100_000, 200_000
"""Where seeds of voices and of portraits start, from WORLD on."""

MEMORIES = ("carried", "reset_clip", "reset_step")


@dataclass(frozen=True)
class Case:
    """One video. identity, voice: numbers from 0 on. mood: of the voice, and commanded. words: it speaks some, or the given ones, instead of
    babbling."""

    identity: int
    voice: int
    mood: str
    seconds: float
    words: bool | str = False

    def clip(self) -> Clip:
        """The true video."""
        return make_clip(WORLD + VOICES + self.voice, self.seconds, self.mood, WORLD + self.identity, self.words)

    def portrait(self, size: int) -> np.ndarray:
        """uint8 (size size 3): the character with a neutral face, eyes open and mouth shut, from a video of its own. So no
        mood can be copied from it."""
        clip = make_clip(WORLD + PORTRAITS + self.identity, 1.5, "neutral", WORLD + self.identity)
        best = int(np.argmax(clip.tracks.eyes - 2 * clip.tracks.opening))
        return clip.frames(size, best, best + 1)[0]


@dataclass(frozen=True)
class Variant:
    """A way to run the sampler.

    memory: of past frames, one of MEMORIES: "carried" over all clips as published; "reset_clip": each clip remembers its own
    past frames alone; "reset_step": that memory is forgotten and made anew at each step, as in samplers that announce new audio on
    every call. mood: "set" as commanded or "heard" by detect_emotion. changes: of SamplerSettings. equal_to: a variant whose
    frames should be the same, bit by bit; where the first case shows that they are, the others are not rendered again.
    long: also renders the long video, for drift. preset: of recipes.PRESETS, on top of the changes; "turbo" runs the student.
    """

    title: str
    memory: str = "carried"
    mood: str = "set"
    changes: dict = field(default_factory=dict)
    equal_to: str | None = None
    long: bool = False
    preset: str = "exact"

    @property
    def guided(self) -> bool:
        """Whether it asks for guidance, or stands in for what does."""
        return self.changes.get("guidance_scale", 1.0) > 1

    def settings(self, base: SamplerSettings, student: Mapping[str, Any] = recipes.NO_STUDENT) -> SamplerSettings:
        return recipes.apply(self.preset, replace(base, **self.changes), student)


CONVERGES = {"steps": 12, "schedule": "even", "solver": "adams_bashforth"}

CONVERGED = {False: "converged", True: "converged_guided"}
"""Whether guided to the variant that others are compared with by ``distances``."""


def again(key: str) -> str:
    """The variant with noise of another seed."""
    return f"{key}_again"


TRUTH, VAE, BASE = "truth", "vae", "carried"

VARIANTS = {
    TRUTH: Variant("the true videos", long=True),
    VAE: Variant("the true videos through the VAE"),
    BASE: Variant("memory carried (as published)", long=True),
    "reset_every_clip": Variant("memory reset every clip", memory="reset_clip", long=True),
    "reset_every_step": Variant("memory reset every step", memory="reset_step", equal_to="reset_every_clip", long=True),
    "reference_aligned": Variant("reference_order aligned", changes={"reference_order": "aligned"}),
    "init_past_2": Variant("2 initial past frames", changes={"num_init_past_frames": 2}),
    "past_2": Variant("2 past frames throughout", changes={"num_init_past_frames": 2, "num_past_frames": 2}),
    "smooth_noise": Variant("smooth noise", changes={"noise": "smooth"}, long=True),
    "steps_20": Variant("20 steps", changes={"steps": 20}),
    "steps_10": Variant("10 steps", changes={"steps": 10}),
    "steps_5": Variant("5 steps", changes={"steps": 5}, long=True),
    "guidance_1": Variant("no guidance", changes={"guidance_scale": 1.0}),
    "guidance_2": Variant("guidance 2", changes={"guidance_scale": 2.0}),
    "guidance_2_aligned": Variant("guidance 2, reference_order aligned", changes={"guidance_scale": 2.0, "reference_order": "aligned"}),
    "mood_heard": Variant("mood heard in the voice", mood="heard"),
    "published": Variant("20 steps, guidance 2", changes={"steps": 20, "guidance_scale": 2.0}, long=True),
    "fast_guided": Variant("fast, guidance 2", changes={"guidance_scale": 2.0}, preset="fast", long=True),
    "draft_guided": Variant("draft, guidance 2", changes={"guidance_scale": 2.0}, preset="draft", long=True),
    "fast": Variant("fast, no guidance", changes={"guidance_scale": 1.0}, preset="fast", long=True),
    "draft": Variant("draft, no guidance", changes={"guidance_scale": 1.0}, preset="draft", long=True),
    "even": Variant("even sigmas", changes={"schedule": "even"}),
    "adams_bashforth": Variant("Adams-Bashforth on even sigmas", changes={"schedule": "even", "solver": "adams_bashforth"}),
    "unconditional_every_2": Variant("guidance 2, unconditional every 2nd step", changes={"guidance_scale": 2.0, "unconditional_every": 2}),
    "past_every_4": Variant("every 4th past frame", changes={"past_every": 4}, long=True),
    "whole_every_2": Variant("DeepCache every 2nd step", changes={"whole_every": 2}),
}
"""By their keys in the JSON. Nothing is sampled for TRUTH and VAE: what they reach, no sampler can pass. BASE runs on the base
settings, the others on those with one thing changed."""

USUAL = tuple(VARIANTS)
"""Those that are rendered where nothing else is asked for."""

VARIANTS |= {
    "turbo": Variant("turbo, the student", changes={"guidance_scale": 2.0}, preset="turbo", long=True),
    "converged": Variant("12 even steps of Adams-Bashforth", changes=CONVERGES | {"guidance_scale": 1.0}),
    "converged_guided": Variant("the same, guidance 2", changes=CONVERGES | {"guidance_scale": 2.0}),
}
VARIANTS |= {
    again(key): replace(VARIANTS[key], title=f"{VARIANTS[key].title}, another seed", changes=VARIANTS[key].changes | {"seed": 1_000_042}, long=False)
    for key in ("converged", "converged_guided", "fast", "fast_guided", "draft", "draft_guided", "turbo")
}

SPEED = (
    *(TRUTH, VAE, BASE, "fast", "draft", "turbo", "even", "adams_bashforth", "past_every_4", "whole_every_2", "unconditional_every_2", "guidance_2"),
    *("fast_guided", "draft_guided", "converged", "published", "converged_guided"),
    *(again(key) for key in ("fast", "draft", "turbo", "converged", "fast_guided", "draft_guided", "converged_guided")),
)
"""What tells what the presets cost: each of them, each of their parts alone, the student, and what they are compared with."""


def short_cases(identities: int, seconds: float, moods: tuple[str, ...] = MOODS, words: bool = False) -> list[Case]:
    """Each character in each mood, every video with a voice of its own."""
    return [Case(i, i * len(MOODS) + m, mood, seconds, words) for i in range(identities) for m, mood in enumerate(moods)]


def long_cases(identities: int, seconds: float) -> list[Case]:
    """Characters that no short case has, each in one mood throughout."""
    return [Case(90_000 + i, 90_000 + i, "neutral", seconds) for i in range(identities)]
