"""Run by test_pasting.py in a process of its own: pastes frames back onto 24 megapixels, into a file, and prints the peak of its
memory in bytes.

Arguments: the file, the number of frames.
"""

import resource
import sys
from fractions import Fraction
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project

from memo_modules.portrait.framing import cut, face_square
from memo_modules.portrait.pasting import paste_to_file
from memo_modules.video.formats import VideoFormat

file, count = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
photo = torch.empty(1, 4000, 6000, 3)
for strip in photo[0].split(500):
    coarse = torch.rand(1, 3, 10, 120, generator=generator)
    strip.copy_(torch.nn.functional.interpolate(coarse, strip.shape[:2], mode="bilinear")[0].movedim(0, -1))
    strip += 0.02 * torch.rand(strip.shape, generator=generator)
photo.clamp_(0, 1)
crop = face_square((2600.0, 1200.0, 3200.0, 1950.0), (6000, 4000))
portrait = cut(photo, crop, 512)
frames = torch.empty(count, 512, 512, 3)
for k, frame in enumerate(frames):
    frame.copy_(portrait[0].roll((k % 32, k % 8), (0, 1)))
paste_to_file(file, photo, frames, crop, Fraction(30), VideoFormat(), color_match="border")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
