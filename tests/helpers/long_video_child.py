"""Makes a long video of the tiny nets as a process of its own, which may be killed at any moment.

    python long_video_child.py MODELS_DIR JOURNALS_DIR TARGET CLIPS

Prints a line as each phase of the work begins: sampling, decoding, encoding, journal, joining. Exits with 3 when the disk is full.
"""

import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project

import torch

from memo_modules.errors import StorageError
from memo_modules.host import Host
from memo_modules.pipeline import Conditioning, MemoPipeline
from memo_modules.types import Audio
from memo_modules.video import long_videos
from memo_modules.video.formats import VideoFormat
from memo_modules.video.journal import Inputs, Journal, opened
from tests.helpers.tiny_video import FACE, FAST, HAPPY, PORTRAIT, SIZE, speech

STEPS = 3


def tell(phase: str) -> None:
    print(phase, flush=True)


def telling(owner, name: str, phase: str) -> None:
    """Have ``owner.name`` tell that ``phase`` begins whenever it is called."""
    function = getattr(owner, name)

    def call(*values, **options):
        tell(phase)
        return function(*values, **options)

    setattr(owner, name, call)


def main(models: Path, journals: Path, target: Path, clips: int) -> None:
    torch.set_num_threads(1)
    pipeline = MemoPipeline.from_models(models, "tiny")
    telling(pipeline.vae, "decode", "decoding")
    telling(long_videos, "write_segment", "encoding")
    telling(Journal, "append", "journal")
    telling(long_videos, "join_segments", "joining")

    frames = 16 * clips - 5
    audio, sound = speech(frames), Audio(torch.linspace(-1, 1, frames * 1600)[None], 48000)
    settings, conditioning = replace(FAST, steps=STEPS), Conditioning(PORTRAIT, FACE, audio, HAPPY)
    video = long_videos.LongVideo(audio, 0, (SIZE, SIZE), sound, VideoFormat(), Fraction(30), {"workflow": "{}"})

    def sample(state, done):
        return iter(pipeline.sample(conditioning, settings, state=state, done=done, host=Host(lambda *_: tell("sampling"))))

    with opened(journals, "video", Inputs({"clips": str(clips)}, {})) as journal:
        print("clips", len(journal.segments), flush=True)
        long_videos.sample_to_file(video, journal, sample, lambda: target)


if __name__ == "__main__":
    try:
        main(*map(Path, sys.argv[1:4]), int(sys.argv[4]))
    except StorageError as error:
        print(error, file=sys.stderr)
        sys.exit(3)
