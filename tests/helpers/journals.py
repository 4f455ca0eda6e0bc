"""Journals of long videos whose clips are made up."""

import torch

from memo_modules.sampler.sampling import REPLAYED_CLIPS
from memo_modules.types import VideoState
from memo_modules.video.journal import Inputs, Journal

MADE_OF = Inputs({"seed": "42", "image": "abc"}, {"face": torch.arange(1.0, 5.0)})


def state(clips: int) -> VideoState:
    """After so many clips, with tensors that tell."""
    past = tuple(torch.full((2, 4, 1, 1), float(number)) for number in range(max(0, clips - REPLAYED_CLIPS), clips))
    return VideoState(past, torch.full((16, 4, 1, 1), float(clips)), 16, clips, torch.Generator().manual_seed(clips).get_state(), "model")


def fill(journal: Journal, clips: int) -> None:
    for number in range(len(journal.segments), clips):
        segment = journal.segment(".mp4")
        segment.write_bytes(b"video" * (number + 1))
        journal.append(state(number + 1), segment)


def equal(first: VideoState, second: VideoState) -> bool:
    tensors = [(state.latents, state.generator, *state.past_latents) for state in (first, second)]
    same = all(torch.equal(a, b) for a, b in zip(*tensors, strict=True))
    return same and (first.clips, first.last_frames, first.model) == (second.clips, second.last_frames, second.model)
