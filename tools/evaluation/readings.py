"""Measurements of one video, frame by frame, next to the truth."""

import hashlib
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import numpy as np

from memo_modules.clips import CLIP_FRAMES
from memo_modules.types import EMOTIONS
from tools.evaluation.reader import WORLD as READER_WORLD
from tools.evaluation.reader import Reader
from tools.evaluation.variants import Case
from tools.small_world import FPS, SAMPLE_RATE, Clip, Tracks, measure_mouth, perform
from tools.small_world.faces import render
from tools.small_world.scenery import backdrop

SHOWN = 8
"""Frames of a video that a sheet shows, and clip borders of the long one."""

SAMPLED = 10
"""Every so many frames sharpness is compared."""

APART = 8
"""Every so many frames videos are compared with each other, at every second pixel."""


@dataclass(frozen=True)
class Reading:
    """One video of f frames. All arrays float32 but ``stills``.

    opening, width: (2 f) of the mouth, in [0, 1], seen and true. moods: (f 4), log-probabilities of MOODS. identity: (f),
    distance to the portrait, where that of two characters is 1. eyes: (2 f), their opening, in this video and in the true one.
    backdrop: (f), mean error of the pixels that nobody ever covers, in [0, 1], NaN where there are none. motion: (f-1), mean
    change of a pixel, in [0, 1]. sharpness: mean gradient, where the true video's is 1. shown: (SHOWN size size 3) uint8,
    evenly over the video; true: the true ones next to them; around: (SHOWN 4 size size 3), two frames before and after some
    borders. seconds: per clip, to make it. digest: of all pixels. sampled: uint8 (n size/2 size/2 3), what ``distances`` compares.
    """

    case: Case
    opening: np.ndarray
    width: np.ndarray
    moods: np.ndarray
    identity: np.ndarray
    eyes: np.ndarray
    backdrop: np.ndarray
    motion: np.ndarray
    sharpness: float
    shown: np.ndarray
    true: np.ndarray
    around: np.ndarray
    seconds: tuple[float, ...]
    digest: str
    sampled: np.ndarray

    def without_pictures(self) -> "Reading":
        """The same without shown, true and around, which are most of it."""
        none = np.zeros((0, *self.shown.shape[1:]), dtype=np.uint8)
        return replace(self, shown=none, true=none, around=none)


def borders(frames: int) -> np.ndarray:
    """Indices into ``motion`` of the changes from one clip of the sampler to the next."""
    return np.arange(CLIP_FRAMES - 1, frames - 1, CLIP_FRAMES)


def read(case: Case, clip: Clip, frames: np.ndarray, reader: Reader, seconds: tuple[float, ...] = ()) -> Reading:
    """What is seen in ``frames``, uint8 (f size size 3), which should show ``clip``."""
    size, count = frames.shape[1], len(frames)
    seen, opening = reader.see(frames), measure_mouth(frames)
    portrait = reader.see(case.portrait(size)[None])
    shown = np.linspace(0, count - 1, SHOWN).round().astype(int)
    some = borders(count)[np.linspace(0, len(borders(count)) - 1, SHOWN).round().astype(int)] if len(borders(count)) else []
    sampled = slice(0, None, SAMPLED)
    return Reading(
        case=case,
        opening=np.stack((opening[0], clip.tracks.opening[:count])),
        width=np.stack((opening[1], clip.tracks.width[:count])),
        moods=seen.moods,
        identity=np.linalg.norm(seen.identity - portrait.identity, axis=1),
        eyes=np.stack((seen.eyes, clip.tracks.eyes[:count])),
        backdrop=_backdrop_error(clip, frames),
        motion=np.array([np.abs(b.astype(np.float32) - a).mean() / 255 for a, b in pairwise(frames)], dtype=np.float32),
        sharpness=_gradient(frames[sampled]) / _gradient(render(clip.who, clip.tracks[:count][sampled], size)),
        shown=frames[shown],
        true=np.concatenate([clip.frames(size, i, i + 1) for i in shown]),
        around=np.array([frames[i - 1 : i + 3] for i in some if i + 3 <= count]),
        seconds=seconds,
        digest=hashlib.sha256(frames.tobytes()).hexdigest(),
        sampled=frames[::APART, ::2, ::2],
    )


def _backdrop_error(clip: Clip, frames: np.ndarray) -> np.ndarray:
    """Heads sway, and another's sway is as good: so a pixel counts when it stays free while this character sways for a minute."""
    size = frames.shape[1]
    truth = (backdrop(clip.who, size) * 255).round()
    free = (np.abs(render(clip.who, _swaying(), size) - truth) <= 2).all(axis=(0, 3))
    if not free.any():
        return np.full(len(frames), np.nan, dtype=np.float32)
    return np.array([np.abs(frame[free] - truth[free]).mean() / 255 for frame in frames], dtype=np.float32)


@cache
def _swaying() -> Tracks:
    """One frame a second of a minute."""
    return perform(np.zeros(60 * SAMPLE_RATE), np.full(60 * FPS, EMOTIONS.index("neutral")), READER_WORLD)[::FPS]


def _gradient(frames: np.ndarray) -> float:
    frames = frames.astype(np.float32)
    return float(np.abs(np.diff(frames, axis=1)).mean() + np.abs(np.diff(frames, axis=2)).mean())
