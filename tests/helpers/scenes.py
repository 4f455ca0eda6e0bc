"""Videos of talking cartoons as people bring them: at the side, far away, cut, two of them, another halfway."""

from pathlib import Path

import numpy as np

from tests.helpers.tracks import Pictures, Sound, write_tracks
from tools.small_world import Clip, make_clip

GREY = 90


def placed(frames: np.ndarray, height: int, width: int, top: int, left: int) -> np.ndarray:
    """Pictures (f h w 3) with ``frames`` (f n n 3) in them, in front of grey."""
    whole = np.full((len(frames), height, width, 3), GREY, np.uint8)
    size = frames.shape[1]
    whole[:, top : top + size, left : left + size] = frames
    return whole


def write_scene(path: Path, frames: np.ndarray, clip: Clip, **options) -> Path:
    """A video of ``frames`` that are heard as ``clip``, however long that is. options: of the picture track."""
    pictures = Pictures(frames, "libx264", options={"crf": "12", "preset": "veryfast", "threads": "1"}, **options)
    samples = clip.audio[None, : round(len(frames) / pictures.fps * 16000)]
    return write_tracks(path, pictures, Sound(np.ascontiguousarray(samples), "aac" if path.suffix == ".mp4" else "pcm_s16le"))


def two_people(seconds: float = 1.6, size: int = 128) -> tuple[Clip, Clip, np.ndarray, np.ndarray]:
    """Two clips whose faces the small recogniser tells apart, and their frames."""
    one, other = (make_clip(seed, seconds) for seed in (7_000_100, 7_000_105))
    return one, other, one.frames(size), other.frames(size)
