"""Makes a long video of the tiny nets as a process of its own, which may be killed at any moment.

    python long_video_child.py MODELS_DIR JOURNALS_DIR TARGET CLIPS [WIDTH]

Prints a line as each phase of the work begins: sampling, decoding, encoding, journal, joining. Exits with 3 when the disk is full.
WIDTH: of a photo into which the frames go; then the peak of its memory, in bytes, is printed last.
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
from memo_modules.portrait.pasting import PastedSegments, Pasting
from memo_modules.types import Audio, Crop
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


def photo_of(width: int) -> torch.Tensor:
    """(1 h w 3) with some grain, two thirds as high as wide."""
    generator, photo = torch.Generator().manual_seed(0), torch.empty(1, width * 2 // 3, width, 3)
    for strip in photo[0].split(500):
        coarse = torch.rand(1, 3, 10, 120, generator=generator)
        strip.copy_(torch.nn.functional.interpolate(coarse, strip.shape[:2], mode="bilinear")[0].movedim(0, -1))
        strip.add_(torch.rand(strip.shape, generator=generator), alpha=0.02)
    return photo.clamp_(0, 1)


def main(models: Path, journals: Path, target: Path, clips: int, width: int = 0) -> None:
    torch.set_num_threads(1)
    pipeline = MemoPipeline.from_models(models, "tiny")
    telling(pipeline.vae, "decode", "decoding")
    telling(long_videos, "write_segment", "encoding")
    telling(PastedSegments, "write", "encoding")
    telling(Journal, "append", "journal")
    telling(long_videos, "join_segments", "joining")

    frames = 16 * clips - 5
    audio, sound = speech(frames), Audio(torch.linspace(-1, 1, frames * 1600)[None], 48000)
    settings, conditioning = replace(FAST, steps=STEPS), Conditioning(PORTRAIT, FACE, audio, HAPPY)
    crop = Crop(width * 2 // 5, width * 2 // 7, width // 5, (width, width * 2 // 3))
    pasting = Pasting(photo_of(width), crop, color_match="border") if width else None
    video = long_videos.LongVideo(audio, 0, (SIZE, SIZE), sound, VideoFormat(), Fraction(30), {"workflow": "{}"}, pasting=pasting)

    def sample(state, done):
        return iter(pipeline.sample(conditioning, settings, state=state, done=done, host=Host(lambda *_: tell("sampling"))))

    with opened(journals, "video", Inputs({"clips": str(clips)}, {})) as journal:
        print("clips", len(journal.segments), flush=True)
        long_videos.sample_to_file(video, journal, sample, lambda: target)
    if width:
        import resource  # which Windows lacks

        print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, flush=True)


if __name__ == "__main__":
    try:
        main(*map(Path, sys.argv[1:4]), *map(int, sys.argv[4:]))
    except StorageError as error:
        print(error, file=sys.stderr)
        sys.exit(3)
