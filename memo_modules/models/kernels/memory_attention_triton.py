"""``memory_attention`` in one kernel: what torch's operations write and read again in between stays on the chip.

With 16 frames there is little to compute for each position, so the time goes into moving tensors, and torch's operations
move three times what goes in and comes out. Importing this needs Triton; running it a C compiler, too.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...types import AttentionMemory
from .memory_attention import DECAY

_jit: Any = triton.jit  # by its types a tl.constexpr could not be given as the number that it is


def memory_attention(q: Tensor, k: Tensor, v: Tensor, memory: AttentionMemory, in_time: Tensor | None, ones: int, heads: int) -> Tensor:
    """MemoryAttentionFunction without gradients. q, k and v may be parts of one tensor, with the same strides."""
    return _memory_attention(q, k, v, memory.kv, memory.z, in_time, ones, heads)


@torch.library.custom_op("memo::memory_attention", mutates_args=())
def _memory_attention(q: Tensor, k: Tensor, v: Tensor, kv: Tensor, z: Tensor, in_time: Tensor | None, ones: int, heads: int) -> Tensor:
    b, frames, positions, d = q.shape
    out = torch.empty((*q.shape[:3], d + ones), dtype=q.dtype, device=q.device)
    if k.stride() != q.stride() or v.stride() != q.stride() or q.stride(3) != 1:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    _kernel[(b * positions * heads,)](
        q, k, v, kv.contiguous(), z.contiguous(), in_time, out, *q.stride()[:3], positions, frames, DECAY,
        heads=heads, head_dim=d // heads, ones=ones, **kernel_sizes(d // heads, frames),
    )  # fmt: skip
    return out


@_memory_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, kv: Tensor, z: Tensor, in_time: Tensor | None, ones: int, heads: int) -> Tensor:
    return torch.empty((*q.shape[:3], q.shape[3] + ones), dtype=q.dtype, device=q.device)


def kernel_sizes(head_dim: int, frames: int) -> dict[str, int]:
    """Sizes of what one program works on. The matrix units take no less than 16 rows and columns."""
    width, frames_up = (max(16, 2 ** (size - 1).bit_length()) for size in (head_dim, frames))
    return {"frames_up": frames_up, "width": width, "chunk": 16 if width <= 128 else 32, "num_warps": max(1, width // 64)}


@_jit
def _loaded(x_ptr, in_time_ptr, times, column, there, other: tl.constexpr):
    """Values of x with what is added to their frames, if anything; ``other`` where there are none."""
    x = tl.load(x_ptr + column, mask=there, other=other).to(tl.float32)
    if in_time_ptr is not None:
        x += tl.load(in_time_ptr + times + column, mask=there, other=0.0).to(tl.float32)
    return x


@_jit
def _kernel(
    q_ptr, k_ptr, v_ptr, kv_ptr, z_ptr, in_time_ptr, out_ptr,
    branch_stride, frame_stride, position_stride, positions, frames, decay,
    heads: tl.constexpr, head_dim: tl.constexpr, ones: tl.constexpr, frames_up: tl.constexpr, width: tl.constexpr, chunk: tl.constexpr,
):  # fmt: skip
    """One head of one position. Channels of queries and keys, which are those of the products, are taken ``chunk`` at a time."""
    program = tl.program_id(0).to(tl.int64)
    row, head = program // heads, program % heads
    frame, column = tl.arange(0, frames_up)[:, None], tl.arange(0, width)[None, :]
    there = (frame < frames) & (column < head_dim)
    branch, position = row // positions, row % positions
    tokens = branch * branch_stride + position * position_stride + head * head_dim + frame * frame_stride
    dtype = q_ptr.dtype.element_ty

    # A maximum and a sum of what is not there are 0 and 1, so that nothing becomes infinite or not a number.
    width_in_time: tl.constexpr = heads * head_dim
    times = frame * (3 * width_in_time) + head * head_dim
    q = _loaded(q_ptr + tokens, in_time_ptr, times, column, there, float("-inf"))
    q_max = tl.where(frame < frames, tl.max(q, axis=1)[:, None], 0.0)
    q_sum = tl.where(frame < frames, tl.sum(tl.exp(q - q_max), axis=1)[:, None], 1.0)

    from_memory = tl.zeros((frames_up, width), tl.float32)
    scores = tl.zeros((frames_up, frames_up), tl.float32)
    weight = tl.zeros((frames_up,), tl.float32)
    for start in tl.static_range(0, head_dim, chunk):
        channel = start + tl.arange(0, chunk)
        across, down = channel[None, :], channel[:, None]
        inside = (frame < frames) & (across < head_dim)
        q_part = _loaded(q_ptr + tokens, in_time_ptr, times, across, inside, float("-inf"))
        q_part = tl.exp(q_part - q_max) / q_sum
        k_part = _loaded(k_ptr + tokens, in_time_ptr, times + width_in_time, across, inside, float("-inf"))
        k_part = tl.exp(k_part - tl.where(across < head_dim, tl.max(k_part, axis=0)[None, :], 0.0))
        k_part = k_part / tl.where(across < head_dim, tl.sum(k_part, axis=0)[None, :], 1.0)
        z = tl.load(z_ptr + program * head_dim + channel, mask=channel < head_dim, other=0.0).to(tl.float32)
        kv_places = program * head_dim * head_dim + down * head_dim + column
        kv = tl.load(kv_ptr + kv_places, mask=(down < head_dim) & (column < head_dim), other=0.0)
        weight += tl.sum(q_part * z[None, :], axis=1)
        q_part = q_part.to(dtype)
        from_memory = tl.dot(q_part, kv, from_memory, input_precision="ieee")
        scores = tl.dot(q_part, tl.trans(k_part.to(dtype)), scores, input_precision="ieee")

    v = _loaded(v_ptr + tokens, in_time_ptr, times + 2 * width_in_time, column, there, 0.0).to(dtype)
    numerator = tl.dot(scores.to(dtype), v, decay * from_memory, input_precision="ieee")
    out = numerator / (1 + decay * weight)[:, None]
    row_start = out_ptr + ((branch * frames + frame) * positions + position) * (heads * head_dim + ones) + head * head_dim
    tl.store(row_start + column, out.to(dtype), mask=there)
    if ones > 0:
        after = head_dim + tl.arange(0, ones)[None, :]  # of the last head
        tl.store(row_start + after, tl.full((frames_up, ones), 1.0, dtype), mask=(frame < frames) & (head == heads - 1))
