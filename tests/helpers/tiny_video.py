"""What the sampler's tests make videos of: noise for a portrait, a face and a voice."""

from fractions import Fraction

import torch

from memo_modules.audio.emotion import constant_emotion
from memo_modules.clips import clip_count
from memo_modules.types import AudioFeatures, Face, SamplerSettings

SIZE = 64
HAPPY = constant_emotion(3)
FAST = SamplerSettings(steps=1, guidance_scale=1.0)
GUIDED = SamplerSettings(steps=1)
PORTRAIT = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1
FACE = Face(torch.randn(1, 512, generator=torch.Generator().manual_seed(2)), (0, 0, 9, 9), 0.9)


def speech(frames: int, fps: Fraction = Fraction(30)) -> AudioFeatures:
    """Features of a voice."""
    states = torch.randn(clip_count(frames) * 16, 2, 64, generator=torch.Generator().manual_seed(3))
    return AudioFeatures(states, fps, frames, 16)
