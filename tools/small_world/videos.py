"""Clips as files: mp4 with sound, as data preparation reads them, and the truth about it."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from memo_modules.clips import ceil_div
from tools.small_world.clips import Clip, make_clip
from tools.small_world.performance import FPS
from tools.small_world.seeds import random_state
from tools.small_world.voices import SAMPLE_RATE

CLIPS_PER_SEED = 1_000_000
"""Seeds of clips that one seed of a world has: worlds of different seeds share no character."""

AAC_FRAME = 1024
"""Samples that AAC takes at a time: a decoder fills up the last ones with silence."""

WHOLE = 48
"""Frames that last as long as a whole number of AAC_FRAMEs, 25: 1.6 s. The sound of other lengths is decoded longer than
the pictures, and would be stretched against them where its features are fitted to their number."""


def write_video(path: Path, clip: Clip, size: int = 128) -> None:
    """``clip`` as an mp4: h264 in yuv420p at ``size`` and 30 frames per second, AAC of 16 kHz in one channel.

    The sound is decoded up to AAC_FRAME - 1 samples too long where the clip is no multiple of WHOLE frames. size: even, as
    yuv420p wants it. Raises ValueError when it is odd.
    """
    if size % 2:
        raise ValueError(f"size: expected an even number of pixels, as h264 needs, got {size}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        picture = container.add_stream("libx264", rate=FPS, options={"crf": "12", "preset": "veryfast", "threads": "1"})
        picture.width, picture.height, picture.pix_fmt = size, size, "yuv420p"
        sound = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono", bit_rate=96000)
        for i, frame in enumerate(clip.frames(size)):
            shown = av.VideoFrame.from_ndarray(frame, format="rgb24")
            shown.pts, shown.time_base = i, Fraction(1, FPS)
            container.mux(picture.encode(shown))
        container.mux(picture.encode(None))
        for start in range(0, len(clip.audio), AAC_FRAME):
            heard = av.AudioFrame.from_ndarray(clip.audio[None, start : start + AAC_FRAME], format="fltp", layout="mono")
            heard.sample_rate, heard.pts, heard.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
            container.mux(sound.encode(heard))
        container.mux(sound.encode(None))


def write_world(
    folder: Path,
    clips: int,
    seed: int = 0,
    seconds: float = 4.8,
    size: int = 128,
    progress: Callable[[int, int], None] = lambda done, total: None,
    words: float = 0.0,
    blinks: float = 1.0,
    first: int = 0,
) -> list[Path]:
    """``clips`` videos of as many characters into ``folder``; the same arguments write the same pictures and sound.

    seconds: rounded up to whole multiples of 1.6, so that pictures and sound are equally long also when decoded.
    Next to each NAME.mp4 lies NAME.npz with the arrays of Tracks, the character's `identity` vector and the `audio` as it
    was before AAC; world.json says which seed each clip has. words: share of the clips that speak some, see words.py; the
    others babble. blinks: see make_clip. first: number of the first clip, so that a world can grow. Returns the videos' paths.
    """
    paths, listed = [], []
    frames = ceil_div(round(seconds * FPS), WHOLE) * WHOLE
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(clips):
        number = seed * CLIPS_PER_SEED + first + i
        speaks = bool(random_state(number, "speaks").uniform() < words)
        clip = make_clip(number, frames / FPS, words=speaks, blinks=blinks)
        path = folder / f"clip_{first + i:05d}.mp4"
        write_video(path, clip, size)
        np.savez_compressed(path.with_suffix(".npz"), **vars(clip.tracks), identity=clip.who.vector(), audio=clip.audio)
        listed.append({"video": path.name, "seed": clip.who.seed, "words": speaks})
        paths.append(path)
        progress(i + 1, clips)
    world = {"seed": seed, "frames": frames, "size": size, "fps": FPS, "sample_rate": SAMPLE_RATE, "blinks": blinks, "clips": listed}
    (folder / "world.json").write_text(json.dumps(world, indent=2) + "\n", encoding="utf-8")
    return paths
