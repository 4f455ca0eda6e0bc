"""The memory-guided motion module: linear attention over time with a decaying memory of all past frames.

The memory depends on nothing but the reference features of the past frames, never on noise or timestep, so it is
made once per clip and handed in. Paper: MEMO (arXiv 2412.04448), section 3.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..types import AttentionMemory
from .attention import FeedForward, FusibleProjections
from .config import MotionConfig
from .kernels.in_place import add_to_picture, lent
from .kernels.memory_attention import DECAY, ONES, by_head
from .layers import Layers, ModuleList

_NORM_GROUPS = 32  # whatever norm_num_groups says elsewhere


class PositionTable(nn.Module):
    """Sinusoids (1 max_len d), stored in the checkpoint."""

    pe: Tensor

    def __init__(self, layers: Layers, max_len: int, d: int):
        super().__init__()
        self.register_buffer("pe", torch.empty(1, max_len, d, dtype=layers.dtype, device=layers.device))


@dataclass(frozen=True)
class TimeConstants:
    """What a MemoryLinearAttention makes of its weights once per video, to move less in each step.

    in_time: queries, keys and values of all places in time (max_len 3d); added to those of a picture, they save adding places to it. None
    without places. to_out: the weight of its last product with the bias as one more column (d d+ONES), for the ones after what attention
    finds: such a product adds to what is there already, too. None where that weight is not lent.
    """

    in_time: Tensor | None = None
    to_out: Tensor | None = None


class MemoryLinearAttention(FusibleProjections):
    """Linear attention of each picture position over the frames of a clip and the memory of those before it."""

    def __init__(self, layers: Layers, d: int, config: MotionConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.attention = layers.memory_attention
        self.add_projections(layers, "to_qkv", ("to_q", "to_k", "to_v"), d, d)
        self.to_out = ModuleList([layers.linear(d, d)])
        has_positions = config.temporal_position_encoding
        self.pos_encoder = PositionTable(layers, config.temporal_position_encoding_max_len, d) if has_positions else None

    def add_to(self, residual: Tensor, x: Tensor, memory: AttentionMemory, constants: TimeConstants | None = None) -> Tensor:
        """``residual`` and what attention from x finds, both (b f t d), t positions of a picture. The memory has a row for each position of
        each b. With ``constants`` the result may overwrite ``residual``."""
        in_time = to_out = None
        if constants is not None:
            in_time, to_out = None if constants.in_time is None else constants.in_time[: x.shape[1]], constants.to_out
        if self.pos_encoder is not None and in_time is None:
            x = x + self.pos_encoder.pe[0, : x.shape[1], None].to(x)
        found = self.attention(*self._qkv(x), memory, in_time, 0 if to_out is None else ONES, self.heads)
        if to_out is None:
            return self.to_out[0](found) + residual
        rows = residual.flatten(0, 2)
        return torch.addmm(rows, found.flatten(0, 2), to_out.mT, out=rows).view(residual.shape)

    def constants(self, like: Tensor) -> TimeConstants:
        """In the dtype of ``like``."""
        to_out = in_time = None
        with lent(self.to_out[0], like) as weights:
            if weights and weights[1] is not None:
                to_out = F.pad(torch.cat([weights[0], weights[1][:, None]], dim=1), (0, ONES - 1))
        if self.pos_encoder is not None:
            in_time = self.project_in_one("to_qkv", ("to_q", "to_k", "to_v"), self.pos_encoder.pe[0].to(like))
        return TimeConstants(in_time, to_out)

    def update_memory(self, past: Tensor, memory: AttentionMemory | None, stands_for: Sequence[int] | None = None) -> AttentionMemory:
        """The memory after past frames (b n t d), oldest first; they carry no positions. stands_for: see DiffusionNet.update_memory."""
        n = past.shape[1] if stands_for is None else sum(stands_for)
        age = torch.arange(n - 1, -1, -1, device=past.device)
        k, v = (by_head(y, self.heads) for y in self._qkv(past)[1:])
        if stands_for is None:
            decay = (DECAY**age).to(past.dtype)[:, None]
            k, v = k.softmax(dim=-2) * decay, v * decay  # both decay, so kv fades by the square and z does not
        else:
            k, v = _as_if_repeated(k, v, DECAY ** age.float(), stands_for)
        kv, z = (y.unflatten(0, (-1, self.heads)) for y in (k.mT @ v, k.sum(dim=-2)))
        if memory is None:
            return AttentionMemory(kv, z)
        return AttentionMemory(torch.add(kv, memory.kv, alpha=DECAY**n), torch.add(z, memory.z, alpha=DECAY**n))

    def _qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.project("to_qkv", ("to_q", "to_k", "to_v"), x)


def _as_if_repeated(k: Tensor, v: Tensor, decay: Tensor, stands_for: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Keys and values (rows n d) whose products and sums are those of frames that are each there ``stands_for`` times, decayed one by one."""
    count = torch.tensor(stands_for, dtype=torch.float32, device=k.device)[:, None]
    groups = decay.split(list(stands_for))
    keys = torch.stack([group.sum() for group in groups])[:, None]
    both = torch.stack([group.square().sum() for group in groups])[:, None]
    share = (k + count.log().to(k.dtype)).softmax(dim=-2)  # of all of the equal frames together
    return share * (keys / count).to(k.dtype), v * (both / keys).to(v.dtype)


class TemporalTransformerBlock(nn.Module):
    def __init__(self, layers: Layers, d: int, config: MotionConfig):
        super().__init__()
        count = len(config.attention_block_types)
        self.attention_blocks = ModuleList([MemoryLinearAttention(layers, d, config) for _ in range(count)])
        self.norms = ModuleList([layers.layer_norm(d) for _ in range(count)])
        self.ff = FeedForward(layers, d)
        self.ff_norm = layers.layer_norm(d)

    def forward(
        self, x: Tensor, memories: tuple[AttentionMemory, ...], constants: Sequence[TimeConstants] | None = None, with_bias: bool = True
    ) -> Tensor:
        """x (b f t d) -> the same shape, with ``constants`` of each attention maybe in its place. with_bias: of ``ff``."""
        each = constants or [None] * len(memories)
        for attention, norm, memory, own in zip(self.attention_blocks, self.norms, memories, each, strict=True):
            x = attention.add_to(x, norm(x), memory, own)
        return self.ff.add_to(x, self.ff_norm(x), with_bias)

    def update_memory(
        self, past: Tensor, memories: Sequence[AttentionMemory | None], stands_for: Sequence[int] | None = None
    ) -> list[AttentionMemory]:
        blocks = zip(self.attention_blocks, self.norms, memories, strict=True)
        return [attention.update_memory(norm(past), memory, stands_for) for attention, norm, memory in blocks]


class TemporalTransformer(nn.Module):
    """Transformer blocks over time. Past frames are projected once and reach every block as they are."""

    def __init__(self, layers: Layers, c: int, config: MotionConfig):
        super().__init__()
        head_dim = c // config.num_attention_heads // config.temporal_attention_dim_div
        self.d = d = config.num_attention_heads * head_dim
        self.norm = layers.stream_norm(_NORM_GROUPS, c, eps=1e-6)
        self.proj_in = layers.linear(c, d)
        self.transformer_blocks = ModuleList([TemporalTransformerBlock(layers, d, config) for _ in range(config.num_transformer_block)])
        self.proj_out = layers.linear(d, c)

    def forward(
        self,
        x: Tensor,
        memories: tuple[AttentionMemory, ...],
        frames: int,
        ahead: Tensor | None = None,
        constants: Sequence[TimeConstants] | None = None,
    ) -> Tensor:
        """x ((b f) c h w) -> the same shape. ahead, constants: see LayerBiases."""
        h = self._tokens(x, frames, ahead)
        first = 0
        for block in self.transformer_blocks:
            last = first + len(block.attention_blocks)
            h = block(h, memories[first:last], constants and constants[first:last], ahead is None or block is not self.transformer_blocks[-1])
            first = last
        if ahead is not None:
            return add_to_picture(x, self.proj_out, h.flatten(0, 2))
        h = self.proj_out(h.flatten(0, 2)).view(len(x), -1, x.shape[1])
        return x + h.mT.unflatten(2, x.shape[2:])  # a sum is laid out as its first term

    def constants(self, like: Tensor) -> list[TimeConstants]:
        """Those of all attentions."""
        return [attention.constants(like) for block in self.transformer_blocks for attention in block.attention_blocks]

    def update_memory(
        self, past: Tensor, memories: tuple[AttentionMemory, ...] | None, frames: int, stands_for: Sequence[int] | None = None
    ) -> tuple[AttentionMemory, ...]:
        """The memories of all blocks after ``past``: reference features of ((b n)) pictures, tokens (.. t c) or maps (.. c h w);
        frames = n, oldest first."""
        tokens = self._tokens(past.mT if past.ndim == 3 else past, frames)
        updated: list[AttentionMemory] = []
        for block in self.transformer_blocks:
            count = len(block.attention_blocks)
            old = [None] * count if memories is None else memories[len(updated) : len(updated) + count]
            updated += block.update_memory(tokens, old, stands_for)
        return tuple(updated)

    def _tokens(self, x: Tensor, frames: int, ahead: Tensor | None = None) -> Tensor:
        """x ((b f) c ..) -> (b f t d), t = all positions."""
        x = self.norm(x, ahead).flatten(2).mT
        return self.proj_in(x.flatten(0, 1)).view(-1, frames, *x.shape[1:2], self.d)


class MotionModule(nn.Module):
    """One motion module of the diffusion net; the wrapper is part of the published key names."""

    def __init__(self, layers: Layers, c: int, config: MotionConfig):
        super().__init__()
        self.temporal_transformer = TemporalTransformer(layers, c, config)

    def forward(self, x: Tensor, memories: tuple[AttentionMemory, ...], frames: int, *constants) -> Tensor:
        return self.temporal_transformer(x, memories, frames, *constants)

    def update_memory(
        self, past: Tensor, memories: tuple[AttentionMemory, ...] | None, frames: int, stands_for: Sequence[int] | None = None
    ) -> tuple[AttentionMemory, ...]:
        return self.temporal_transformer.update_memory(past, memories, frames, stands_for)
