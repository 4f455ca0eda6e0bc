"""The noise of clips: normal within each of them, and in smooth noise no step from one to the next."""

from itertools import pairwise

import pytest
import torch

from memo_modules.sampler.noise import NOISES, clip_noise

FRAMES, SIZE = 16, (4, 64, 64)


def noises(kind: str, clips: int, seed: int = 42) -> torch.Tensor:
    """(clips f n), n numbers per frame."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [clip_noise(kind, generator, clip, FRAMES, SIZE) for clip in range(clips)]
    assert all(noise.shape == (FRAMES, *SIZE) and noise.dtype == torch.float32 for noise in drawn)
    return torch.stack(drawn).flatten(2)


def alike(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Correlation of frames (f n), (f)."""
    return (a * b).mean(dim=1)


@pytest.mark.parametrize("kind", NOISES)
def test_within_a_clip_it_is_normal_noise_each_frame_apart(kind):
    for clip in noises(kind, 6):
        products = clip @ clip.T / clip.shape[1]
        torch.testing.assert_close(products, torch.eye(FRAMES), rtol=0, atol=0.05)
        assert abs((clip.abs() < 1).float().mean() - 0.6827) < 0.005


def test_smooth_noise_continues_over_the_border():
    clips = noises("smooth", 6)
    for before, after in pairwise(clips):
        assert alike(before[-1:], after[:1]) > 0.97
        mirrored = alike(before.flip(0), after)
        assert (mirrored.diff() < 0.02).all() and mirrored[-1] < 0.5, "alike at the border, and less and less after it"
    assert alike(clips[0], clips[2]).mean() == pytest.approx(0.318, abs=0.03)
    assert alike(clips[0], clips[4]).abs().max() < 0.05, "four clips on nothing is left of it"


def test_independent_noise_does_not():
    clips = noises("independent", 3)
    for before, after in pairwise(clips):
        assert alike(before, after).abs().max() < 0.05 and alike(before.flip(0), after).abs().max() < 0.05


@pytest.mark.parametrize("kind", NOISES)
def test_a_clip_takes_one_drawing_from_the_generator(kind):
    """So a video continues from its generator alone, in noise of the other kind, too."""
    generator, other = (torch.Generator().manual_seed(7) for _ in range(2))
    clip_noise(kind, generator, 0, FRAMES, SIZE)
    torch.randn((4, FRAMES, 64, 64), generator=other)
    assert torch.equal(generator.get_state(), other.get_state())
