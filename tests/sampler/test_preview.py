"""Pictures of a running clip: colours as the VAE would decode them, another frame each time, seldom enough."""

import pytest
import torch
from torch.nn import functional as F

from memo_modules.sampler import preview
from memo_modules.sampler.preview import LatentPreview

TO_LATENTS = torch.tensor([[1.0, 0.5, -0.5, 0.2], [-0.3, 1.0, 0.4, 0.1], [0.2, -0.4, 1.0, 0.3]]).T


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(preview.time, "monotonic", lambda: now[0])
    return now


def encoded(pictures: torch.Tensor) -> torch.Tensor:
    """Latents (n 4 h w) of pictures (n 3 8h 8w) in [-1, 1], by a VAE that mixes colours."""
    return torch.einsum("kc,nchw->nkhw", TO_LATENTS, F.avg_pool2d(pictures, 8)) + 0.7


def test_colours_are_those_of_the_frame(clock):
    torch.manual_seed(0)
    portrait, frames = torch.rand(1, 3, 64, 48) * 2 - 1, torch.rand(5, 3, 64, 48) * 2 - 1
    shown = LatentPreview(portrait, encoded(portrait))
    clean, noise, sigma = encoded(frames), torch.randn(5, 4, 8, 6), torch.tensor([0.6])
    latents = (1 - sigma) * clean + sigma * noise
    velocity = shown.watch(lambda latents, sigma: noise - clean)
    assert torch.equal(velocity(latents, sigma), noise - clean)
    clock[0] += 1
    for step in (2, 8):  # another frame at each step, round and round
        expected = F.avg_pool2d(frames[step % 5], 8) / 2 + 0.5
        assert torch.allclose(shown.picture(step), expected, atol=1e-3)
        clock[0] += 1


def test_one_comes_now_and_then(clock):
    portrait = torch.zeros(1, 3, 16, 16)  # of one colour, which no matrix can be told from
    shown = LatentPreview(portrait, encoded(portrait))
    clock[0] += 9
    assert shown.picture(1) is None, "nothing is computed yet"
    shown.watch(lambda latents, sigma: torch.zeros_like(latents))(encoded(portrait), torch.tensor([1.0]))
    assert torch.allclose(shown.picture(1), torch.full((3, 2, 2), 0.5), atol=1e-3)
    clock[0] += preview.EVERY / 2
    assert shown.picture(2) is None
    clock[0] += preview.EVERY / 2
    assert shown.picture(3) is not None
