"""Clips: a character, what it says and how, and the pictures of it."""

from dataclasses import dataclass

import numpy as np

from memo_modules.types import EMOTIONS
from tools.small_world.characters import Character, character
from tools.small_world.faces import render
from tools.small_world.performance import FPS, Tracks, perform
from tools.small_world.seeds import random_state
from tools.small_world.voices import SAMPLE_RATE, STEP, babble, speaker
from tools.small_world.words import speak

MOODS = ("neutral", "happy", "sad", "angry")
"""Moods drawn where none is given: those that differ most. All of EMOTIONS can be asked for."""

MOOD_SECONDS = 0.55
"""How long a mood lasts about in a clip that changes it: three in the shortest one, about one in a clip that the nets see."""


@dataclass(frozen=True)
class Clip:
    """A talking portrait and the truth about it.

    audio: float32 (samples) in (-1, 1) at 16 kHz, samples = frames · 16000 // 30, so that the sound ends with the last
    frame. tracks: one row per frame.
    """

    who: Character
    audio: np.ndarray
    tracks: Tracks

    def __len__(self) -> int:
        return len(self.tracks)

    def frames(self, size: int = 128, start: int = 0, stop: int | None = None) -> np.ndarray:
        """uint8 (stop-start size size 3), RGB: any part of the clip, the same as cut from the whole."""
        return render(self.who, self.tracks[start:stop], size)


def make_clip(
    seed: int, seconds: float, mood: str | None = None, identity: int | None = None, words: bool | str = False, blinks: float = 1.0
) -> Clip:
    """The clip of this ``seed``, at 30 frames per second; nothing is drawn before its frames are asked for.

    mood: one of EMOTIONS for the whole clip; None draws one of MOODS, or, for every other clip, several that follow one
    another: only where it changes does the mood stand in the label alone, and not in the frames before it as well. identity:
    seed of the character and its voice, the clip's own where None. words: it speaks real ones, those of a text
    where one is given, instead of babbling; for which the program espeak-ng is needed, see words.py. blinks: factor on how often the eyes blink.
    """
    frames = round(seconds * FPS)
    moods = [mood] if mood else _draw_moods(seed, seconds)
    identity = seed if identity is None else identity
    samples = frames * SAMPLE_RATE // FPS
    emotions = _timeline(moods, frames)
    steps = np.minimum((np.arange(-(-samples // STEP)) * STEP + STEP // 2) * FPS // SAMPLE_RATE, frames - 1)
    who, moods = speaker(identity), [EMOTIONS[e] for e in emotions[steps]]
    audio = speak(who, moods, seed, words if isinstance(words, str) else None) if words else babble(who, moods, seed)
    audio = audio[:samples]
    return Clip(character(identity), audio, perform(audio, emotions, seed, blinks))


def _draw_moods(seed: int, seconds: float) -> list[str]:
    random = random_state(seed, "mood")
    moods = [MOODS[random.randint(len(MOODS))]]
    if random.uniform() < 0.5:
        while len(moods) < seconds / MOOD_SECONDS:
            moods.append(random.choice([mood for mood in MOODS if mood != moods[-1]]))
    return moods


def _timeline(moods: list[str], frames: int) -> np.ndarray:
    """int64 (frames): ``moods``, one after the other, in equal parts."""
    return np.array([EMOTIONS.index(moods[i * len(moods) // frames]) for i in range(frames)], dtype=np.int64)
