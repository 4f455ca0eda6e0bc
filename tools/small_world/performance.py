"""What a face does in time: head, lids, gaze and brows from a seed and a mood, the mouth from the sound."""

from dataclasses import dataclass

import numpy as np

from memo_modules.types import EMOTIONS
from tools.small_world.mouth import mouth_from_sound
from tools.small_world.seeds import random_state, smooth

FPS = 30
FRAMING = 1.1
"""Scale of a head in the middle of its way: as large as its hair and its sway leave room for."""

WIDEST_EYES = 1.25
"""Times the neutral opening; surprise gets there."""


@dataclass(frozen=True)
class Expression:
    """How a mood looks. raise_, tilt of the brows: -1..1, tilt above 0 lifts their inner ends. eyes: factor on their
    opening. slant: -1..1, above 0 the upper lids fall towards the nose. squint: 0..1. corners of the mouth: -1..1."""

    raise_: float = 0.0
    tilt: float = 0.0
    eyes: float = 1.0
    slant: float = 0.0
    squint: float = 0.0
    corners: float = 0.1


EXPRESSIONS = {
    "angry": Expression(raise_=-0.75, tilt=-1.0, eyes=0.85, slant=1.0, squint=0.3, corners=-0.55),
    "disgusted": Expression(raise_=-0.5, tilt=-0.4, eyes=0.65, slant=0.4, squint=0.8, corners=-0.7),
    "fearful": Expression(raise_=0.7, tilt=0.75, eyes=1.15, slant=-0.4, corners=-0.45),
    "happy": Expression(raise_=0.4, tilt=0.05, eyes=0.95, squint=0.75, corners=1.0),
    "neutral": Expression(),
    "other": Expression(),
    "sad": Expression(raise_=0.1, tilt=1.0, eyes=0.72, slant=-1.0, corners=-1.0),
    "surprised": Expression(raise_=1.0, tilt=0.1, eyes=WIDEST_EYES, corners=0.1),
    "unknown": Expression(),
}


@dataclass(frozen=True)
class Tracks:
    """Ground truth, one row per frame, all float32 but ``emotion``; what is here is what is drawn.

    opening, width: of the mouth, [0, 1]. eyes: opening of the lids in [0, 1], 0.8 is a neutral face's, 0 shut.
    brow_raise, brow_tilt, slant, corners: [-1, 1], squint: [0, 1], as in Expression.
    pose: (frames 6) x, y (half a picture is 1, down and right), roll (radians, clockwise), scale (factor), yaw,
    pitch (-1..1, right and down). gaze: (frames 2) in [-1, 1], right and down. emotion: int64, index into EMOTIONS.
    """

    opening: np.ndarray
    width: np.ndarray
    eyes: np.ndarray
    brow_raise: np.ndarray
    brow_tilt: np.ndarray
    slant: np.ndarray
    squint: np.ndarray
    corners: np.ndarray
    pose: np.ndarray
    gaze: np.ndarray
    emotion: np.ndarray

    def __len__(self) -> int:
        return len(self.opening)

    def __getitem__(self, rows: slice) -> "Tracks":
        return Tracks(**{name: track[rows] for name, track in vars(self).items()})


def perform(waveform: np.ndarray, emotions: np.ndarray, seed: int, blinks: float = 1.0) -> Tracks:
    """A face that says ``waveform`` (samples, 16 kHz) with a mood for each frame.

    emotions: (frames) indices into EMOTIONS. The mouth hangs on the sound alone, the brows on the mood, and head, lids
    and gaze on ``seed``. blinks: factor on how often there are some.
    """
    frames = len(emotions)
    opening, width = mouth_from_sound(waveform, frames, FPS)
    random = random_state(seed, "face")
    # Moods come and go within a third of a second, and nobody holds a face quite still.
    intensity = 0.9 + 0.1 * _sway(random, frames, 0.4)
    looks = {
        name: smooth(np.array([getattr(EXPRESSIONS[EMOTIONS[e]], name) for e in emotions], dtype=np.float64), 4)
        for name in Expression.__dataclass_fields__
    }
    speech = smooth(opening.astype(np.float64), 5)
    tracks = {
        "opening": opening,
        "width": width,
        "eyes": _lids(random, frames, blinks) * looks["eyes"] / WIDEST_EYES,
        "brow_raise": looks["raise_"] * intensity + 0.3 * (speech - 0.35),
        "brow_tilt": looks["tilt"] * intensity,
        "slant": looks["slant"] * intensity,
        "squint": looks["squint"] * intensity,
        "corners": looks["corners"] * intensity,
        "pose": _pose(random, frames, speech),
        "gaze": _gaze(random, frames),
    }
    # Rounded, so that the last bits of another machine's sines do not show.
    rounded = {name: np.clip(np.round(track, 5), -2, 2).astype(np.float32) for name, track in tracks.items()}
    return Tracks(**rounded, emotion=np.asarray(emotions, dtype=np.int64))


def _sway(random: np.random.RandomState, frames: int, hz: float) -> np.ndarray:
    """A slow, smooth, endless wandering within [-1, 1]: (frames)."""
    seconds = np.arange(frames) / FPS
    rates, phases = hz * random.uniform(0.4, 1.2, 3), random.uniform(0, 2 * np.pi, 3)
    return (np.sin(2 * np.pi * rates * seconds[:, None] + phases) * (0.5, 0.3, 0.2)).sum(axis=1)


def _pose(random: np.random.RandomState, frames: int, speech: np.ndarray) -> np.ndarray:
    x, y, roll, scale, yaw, pitch = (_sway(random, frames, hz) for hz in (0.22, 0.25, 0.2, 0.15, 0.22, 0.25))
    nod = 0.02 * (speech - 0.35)
    return np.stack((0.05 * x, 0.03 + 0.03 * y + nod, 0.075 * roll, FRAMING + 0.03 * scale, yaw, 0.7 * pitch + 8 * nod), axis=1)


def _lids(random: np.random.RandomState, frames: int, often: float) -> np.ndarray:
    """1 open, 0 shut: (frames). A blink every 3.5 s or so, or ``often`` times as often, irregularly, shut faster than it opens."""
    lids = np.ones(frames)
    stroke = np.array((0.55, 0.1, 0.0, 0.25, 0.65, 0.9))
    at = random.uniform(0.3, 3.0) / often
    while (first := int(at * FPS)) < frames:
        part = stroke[: frames - first]
        lids[first : first + len(part)] = part
        at += max(0.3, (0.6 + random.gamma(3.0, 0.95)) / often)
    return lids


def _gaze(random: np.random.RandomState, frames: int) -> np.ndarray:
    """Mostly into the camera, now and then aside, in quick jumps: (frames 2)."""
    gaze = np.zeros((frames, 2))
    at = 0
    while at < frames:
        aside = random.uniform() < 0.45
        gaze[at:] = random.uniform((-0.8, -0.5), (0.8, 0.5)) if aside else random.uniform(-0.08, 0.08, 2)
        at += int(FPS * random.uniform(0.5, 1.2 if aside else 2.6))
    return np.stack([smooth(axis, 0.6) for axis in gaze.T], axis=1)
