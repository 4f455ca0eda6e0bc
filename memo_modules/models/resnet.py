"""Residual convolution blocks and the two resamplers, on pictures (rows c h w)."""

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .kernels.convolution import plus_shift
from .kernels.in_place import add_to_picture
from .layers import Layers


def clip_group_norm(norm: nn.Module, x: Tensor, frames: int) -> Tensor:
    """GroupNorm with one set of statistics per ``frames`` consecutive rows; 1 is the plain per-picture norm."""
    if frames == 1:
        return norm(x)
    return rearrange(norm(rearrange(x, "(b f) c h w -> b c f h w", f=frames)), "b c f h w -> (b f) c h w")


class ResnetBlock(nn.Module):
    """GroupNorm, SiLU, conv, twice, with the time embedding added in between; a 1×1 conv where the width changes."""

    def __init__(self, layers: Layers, c_in: int, c_out: int, d_time: int, groups: int, eps: float):
        super().__init__()
        self.to_memory_format = layers.to_memory_format
        self.norm1 = layers.stream_norm(groups, c_in, eps, silu=True)
        self.conv1 = layers.conv2d(c_in, c_out, 3, padding=1)
        self.time_emb_proj = layers.linear(d_time, c_out)
        self.norm2 = layers.group_norm(groups, c_out, eps, silu=True)
        self.conv2 = layers.conv2d(c_out, c_out, 3, padding=1)
        self.conv_shortcut = layers.of_stream().conv2d(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x: Tensor, time_embedding: Tensor, norm_frames: int = 1, ahead: Tensor | None = None) -> Tensor:
        """x (rows c_in h w) and time_embedding (rows or 1, d_time), activated, to (rows c_out h w).

        ahead (c_out,): is added, with the bias of ``conv_shortcut`` in it; see LayerBiases.
        """
        h = self.to_memory_format(clip_group_norm(self.norm1, x, norm_frames))
        h = plus_shift(self.conv1, h, self.time_emb_proj(time_embedding))
        h = self.to_memory_format(clip_group_norm(self.norm2, h, norm_frames))
        if ahead is not None:
            h = plus_shift(self.conv2, h, ahead[None])
            return h + x if self.conv_shortcut is None else add_to_picture(h, self.conv_shortcut, x.movedim(1, -1).flatten(0, 2))
        h = self.conv2(h)
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Downsample(nn.Module):
    """Halves the picture with a strided conv."""

    def __init__(self, layers: Layers, c: int):
        super().__init__()
        self.to_memory_format = layers.to_memory_format
        self.conv = layers.of_stream().conv2d(c, c, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.to_memory_format(x))


class Upsample(nn.Module):
    """Nearest-neighbour to ``size`` (h, w), the exact size of the skip that comes next, then a conv."""

    def __init__(self, layers: Layers, c: int):
        super().__init__()
        self.to_memory_format = layers.to_memory_format
        self.conv = layers.of_stream().conv2d(c, c, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return self.conv(F.interpolate(self.to_memory_format(x), size=size, mode="nearest"))
