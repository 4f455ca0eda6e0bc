"""The skeleton that both UNets share: blocks, layer widths, skips and the time embedding."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import ReferenceNetConfig
from .layers import Layers, ModuleList
from .resnet import Downsample, ResnetBlock, Upsample
from .transformer import SpatialTransformer

Run = Callable[..., Any]
"""``run(module, *args)``: what a region of a net (see acceleration.py) makes of its arguments."""


@dataclass(frozen=True)
class LayerSpec:
    """One layer: a resnet and what follows it. d_audio is the inner width of its audio module: the published file
    uses the width on the way in (down blocks) or of the next finer level (up blocks), not the layer's own."""

    c_in: int
    c_out: int
    d_audio: int


@dataclass(frozen=True)
class BlockSpec:
    """One block: its layers, whether they attend, with how many heads, and which resampler follows them."""

    part: Literal["down", "mid", "up"]
    layers: tuple[LayerSpec, ...]
    attends: bool
    heads: int
    resampler: type[Downsample] | type[Upsample] | None


def down_specs(config: ReferenceNetConfig) -> list[BlockSpec]:
    """The four down blocks; each layer's output and each downsampled picture is a skip."""
    specs, c = [], config.block_out_channels[0]
    for level, c_out in enumerate(config.block_out_channels):
        layers = []
        for _ in range(config.layers_per_block):
            layers.append(LayerSpec(c, c_out, d_audio=c))
            c = c_out
        coarsest = level == 3
        specs.append(BlockSpec("down", tuple(layers), not coarsest, config.heads(level), None if coarsest else Downsample))
    return specs


def mid_spec(config: ReferenceNetConfig) -> BlockSpec:
    c = config.block_out_channels[-1]
    return BlockSpec("mid", (LayerSpec(c, c, d_audio=c),), True, config.heads(3), None)


def up_specs(config: ReferenceNetConfig) -> list[BlockSpec]:
    """The four up blocks; each layer takes the last skip besides what comes from below."""
    specs, widths, c = [], config.block_out_channels, config.block_out_channels[-1]
    for level in reversed(range(4)):
        c_out, c_finer, layers = widths[level], widths[max(level - 1, 0)], []
        for j in range(config.layers_per_block + 1):
            c_skip = c_finer if j == config.layers_per_block else c_out
            layers.append(LayerSpec(c + c_skip, c_out, d_audio=c_finer))
            c = c_out
        specs.append(BlockSpec("up", tuple(layers), level < 3, config.heads(level), Upsample if level > 0 else None))
    return specs


class TimestepEmbedding(nn.Module):
    """Timesteps (b,) in [0, 1000] to embeddings (b 4·c), activated as all resnets take them; the sines in float32, the layers in ``dtype``."""

    def __init__(self, layers: Layers, c: int):
        super().__init__()
        self.channels = c
        self.linear_1 = layers.linear(c, 4 * c)
        self.linear_2 = layers.linear(4 * c, 4 * c)

    def forward(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        half = self.channels // 2
        steps = torch.arange(half, device=timestep.device, dtype=torch.float32)
        angles = timestep.float()[:, None] * torch.exp(-math.log(10000) * steps / half)
        embedding = torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype)
        return F.silu(self.linear_2(F.silu(self.linear_1(embedding))))


class UNetBlock(nn.Module):
    """The layers of one resolution. The mid block has a second resnet after its layer. Lists are empty where it has none."""

    def __init__(self, config: ReferenceNetConfig, layers: Layers, spec: BlockSpec):
        super().__init__()
        self.part = spec.part
        d_time, groups, d_face = 4 * config.block_out_channels[0], config.norm_num_groups, config.cross_attention_dim
        resnets, attends = spec.layers * (2 if spec.part == "mid" else 1), spec.layers if spec.attends else ()
        self.resnets = ModuleList([ResnetBlock(layers, s.c_in, s.c_out, d_time, groups, config.norm_eps) for s in resnets])
        self.attentions = ModuleList([SpatialTransformer(layers, s.c_out, spec.heads, d_face, groups) for s in attends])
        c = spec.layers[-1].c_out
        self.downsamplers = ModuleList([Downsample(layers, c)] if spec.resampler is Downsample else [])
        self.upsamplers = ModuleList([Upsample(layers, c)] if spec.resampler is Upsample else [])


Block = TypeVar("Block", bound=UNetBlock)


class UNet(nn.Module, Generic[Block]):
    """Down, mid and up blocks with skips. A subclass says what a layer does; layers are numbered in forward order."""

    def __init__(self, config: ReferenceNetConfig, layers: Layers, block: Callable[[Any, Layers, BlockSpec], Block]):
        super().__init__()
        self.config = config
        self.to_memory_format, self.stream = layers.to_memory_format, layers.stream
        c = config.block_out_channels[0]
        self.conv_in = layers.conv2d(config.in_channels, c, 3, padding=1)
        self.time_embedding = TimestepEmbedding(layers, c)
        self.down_blocks = ModuleList([block(config, layers, spec) for spec in down_specs(config)])
        self.mid_block = block(config, layers, mid_spec(config))
        self.up_blocks = ModuleList([block(config, layers, spec) for spec in up_specs(config)])
        self.compiled: dict[nn.Module, Callable] = {}  # see acceleration.py

    def run(self, module: nn.Module, *args):
        """What ``module`` makes of ``args``, compiled where it is."""
        return self.compiled.get(module, module)(*args)

    def numbered_layers(self) -> list[tuple[Block, int]]:
        """Every layer as (block, index in the block), in forward order."""
        down = [(block, j) for block in self.down_blocks for j in range(len(block.resnets))]
        up = [(block, j) for block in self.up_blocks for j in range(len(block.resnets))]
        return [*down, (self.mid_block, 0), *up]

    def enter(self, latents: Tensor) -> Tensor:
        """The picture that the layers add to."""
        x = self.conv_in(self.to_memory_format(latents))
        return x if self.stream is None else x.to(self.stream)

    def enter_layer(self, block: Block, x: Tensor, skips: list[Tensor]) -> Tensor:
        """What the next layer of ``block`` takes: x (rows c h w), in the up blocks with the last skip."""
        return torch.cat([x, skips.pop()], dim=1) if block.part == "up" else x

    def leave_layer(self, block: Block, j: int, x: Tensor, skips: list[Tensor]) -> Tensor:
        """What layer ``j`` of ``block`` hands to the next: x, resampled after the last layer of a block. The down blocks add to ``skips``."""
        if block.part == "down":
            skips.append(x)
        if j + 1 < len(block.resnets):
            return x
        for downsample in block.downsamplers:
            x = downsample(x)
            skips.append(x)
        for upsample in block.upsamplers:
            x = upsample(x, size=skips[-1].shape[2:])
        return x
