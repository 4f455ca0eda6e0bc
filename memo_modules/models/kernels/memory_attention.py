"""Linear attention of a clip's frames to themselves and to the memory of the frames before them.

Paper: MEMO (arXiv 2412.04448), section 3.2.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ...types import AttentionMemory

DECAY = 0.9

ONES = 8
"""Columns of ones after what attention finds, by which the product that follows adds its bias: as many as keep rows whole for a GPU."""

MemoryAttentionFunction = Callable[[Tensor, Tensor, Tensor, AttentionMemory, Tensor | None, int, int], Tensor]
"""q, k and v (b f t heads·d), t positions of a picture, the memory of the b·t rows, what is added to q, k and v of each frame
(f 3·heads·d) without gradients, columns of ones to follow the result, not with gradients, heads -> (b f t heads·d + ones)."""


def memory_attention(q: Tensor, k: Tensor, v: Tensor, memory: AttentionMemory, in_time: Tensor | None, ones: int, heads: int) -> Tensor:
    """MemoryAttentionFunction in torch's own operations."""
    b, frames, t, d = q.shape
    added = (None, None, None) if in_time is None else in_time.chunk(3, dim=-1)
    q, k, v = (by_head(x, heads, each) for x, each in zip((q, k, v), added, strict=True))
    q, k = q.softmax(dim=-1), k.softmax(dim=-2)
    # (q kᵀ) v instead of q (kᵀ v): with 16 frames and 40 to 160 channels a head, it is the cheaper order.
    # Each row of q and each column of k sums to one, so the current frames add exactly 1 to the denominator.
    kv, z = memory.kv.flatten(0, 1), memory.z.flatten(0, 1)[..., None]
    numerator = torch.baddbmm(q @ kv, q @ k.mT, v, beta=DECAY)
    denominator = 1 + DECAY * (q @ z)
    if not ones:
        return (numerator / denominator).unflatten(0, (b, t, heads)).permute(0, 3, 1, 2, 4).flatten(3)
    out = q.new_empty(b, frames, t, d + ones)
    out[..., d:] = 1
    places = out[..., :d].unflatten(-1, (heads, -1)).permute(0, 2, 3, 1, 4)
    torch.div(*(each.unflatten(0, (b, t, heads)) for each in (numerator, denominator)), out=places)
    return out


def by_head(x: Tensor, heads: int, added: Tensor | None = None) -> Tensor:
    """(b f t heads·d) -> ((b t heads) f d), and what is added to each frame (f heads·d)."""
    x = x.unflatten(-1, (heads, -1)).permute(0, 2, 3, 1, 4)
    if added is None:
        return x.flatten(0, 2)
    added = added.unflatten(-1, (heads, -1)).transpose(0, 1)
    return torch.add(x, added, out=x.new_empty(x.shape)).flatten(0, 2)  # in the pass that reorders
