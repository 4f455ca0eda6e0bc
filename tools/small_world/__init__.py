"""A small world to train on: talking cartoon portraits with voices, from seeds, and the truth about every frame.

    clip = make_clip(seed=7, seconds=4)
    clip.frames(128)            # uint8 (120 128 128 3)
    clip.audio                  # float32 (64000), 16 kHz
    clip.tracks.opening         # float32 (120): of the mouth, 0..1; more in Tracks
    measure_mouth(pictures)     # the same, seen in pictures, whoever made them

The mouth hangs on the sound, the brows and the voice's manner on the mood, everything else on seeds: what a net that was
trained on it should have found can be told in numbers.
"""

from tools.small_world.characters import Character, character
from tools.small_world.clips import MOODS, Clip, make_clip
from tools.small_world.measuring import correlation, measure_mouth
from tools.small_world.mouth import mouth_from_sound
from tools.small_world.performance import FPS, Tracks, perform
from tools.small_world.sheets import contact_sheet, strip
from tools.small_world.voices import SAMPLE_RATE

__all__ = [
    "FPS",
    "MOODS",
    "SAMPLE_RATE",
    "Character",
    "Clip",
    "Tracks",
    "character",
    "contact_sheet",
    "correlation",
    "make_clip",
    "measure_mouth",
    "mouth_from_sound",
    "perform",
    "strip",
]
