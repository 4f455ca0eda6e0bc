"""Softmax attention in one kernel for heads whose channels are no power of two: 40, 80 and 160 in the published model.

Other kernels fill them up to 64, 96 or 128 and 192 or 256. This one takes them in two parts that fill the matrix units,
32 + 16, 64 + 16 and 128 + 32, a quarter less to multiply at the finest level, where most of the attention is. Importing
this needs Triton; running it a C compiler, too. Method: FlashAttention-2 (arXiv 2307.08691).
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..layers import AttentionFunction

_jit: Any = triton.jit  # by its types a tl.constexpr could not be given as the number that it is


def attention_for(capability: tuple[int, int]) -> AttentionFunction:
    """AttentionFunction without gradients, built for GPUs of this compute capability."""
    hopper = capability[0] == 9

    def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        return _attention(q, k, v, heads, hopper)

    return attention


@torch.library.custom_op("memo::attention", mutates_args=())
def _attention(q: Tensor, k: Tensor, v: Tensor, heads: int, hopper: bool) -> Tensor:
    rows, queries, d = q.shape
    if k.stride() != v.stride() or k.stride(2) != 1:
        k, v = k.contiguous(), v.contiguous()
    if q.stride(2) != 1:
        q = q.contiguous()
    out = torch.empty((rows, queries, d), dtype=q.dtype, device=q.device)
    keys, sizes = k.shape[1], kernel_sizes(d // heads, hopper)
    scale = math.log2(math.e) / math.sqrt(d // heads)
    _kernel[(triton.cdiv(queries, sizes["block_q"]), rows * heads)](
        q, k, v, out, scale, queries, keys, q.stride(0), q.stride(1), k.stride(0), k.stride(1),
        heads=heads, head_dim=d // heads, even=keys % sizes["block_k"] == 0, **sizes,
    )  # fmt: skip
    return out


@_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, heads: int, hopper: bool) -> Tensor:
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


def kernel_sizes(head_dim: int, hopper: bool) -> dict[str, int]:
    """The two parts of a head, and what of queries and keys one program works on: as much as its registers hold."""
    low = max(16, 2 ** math.floor(math.log2(head_dim)))
    sizes = {"low": low, "high": max(16, triton.next_power_of_2(max(1, head_dim - low))), "block_q": 128, "block_k": 64}
    if low <= 32:
        return sizes | {"num_warps": 4 if hopper else 8, "num_stages": 3}
    if low == 64:
        return sizes | {"num_warps": 8, "num_stages": 3 if hopper else 2}
    return sizes | {"block_k": 64 if hopper else 32, "num_warps": 8, "num_stages": 2}


@_jit
def _kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, scale, queries, keys, q_row, q_token, k_row, k_token,
    heads: tl.constexpr, head_dim: tl.constexpr, even: tl.constexpr,
    low: tl.constexpr, high: tl.constexpr, block_q: tl.constexpr, block_k: tl.constexpr,
):  # fmt: skip
    """``block_q`` queries of one head. scale: of the scores, as powers of two. even: there are whole blocks of keys."""
    row, head = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    dtype = q_ptr.dtype.element_ty
    first, second = tl.arange(0, low)[None, :], low + tl.arange(0, high)[None, :]
    in_first, in_second = first < head_dim, second < head_dim
    query = tl.program_id(0) * block_q + tl.arange(0, block_q)[:, None]
    there = query < queries
    offset = q_ptr + row * q_row + query * q_token + head * head_dim
    q_first = tl.load(offset + first, mask=there & in_first, other=0.0)
    q_second = tl.load(offset + second, mask=there & in_second, other=0.0)

    highest = tl.full((block_q, 1), float("-inf"), tl.float32)
    total = tl.zeros((block_q, 1), tl.float32)
    out_first, out_second = tl.zeros((block_q, low), tl.float32), tl.zeros((block_q, high), tl.float32)
    offset = row * k_row + tl.arange(0, block_k)[:, None] * k_token + head * head_dim
    for start in range(0, keys, block_k):
        key = start + tl.arange(0, block_k)
        real = (key[:, None] < keys) | even
        k_first = tl.load(k_ptr + offset + first, mask=real & in_first, other=0.0)
        k_second = tl.load(k_ptr + offset + second, mask=real & in_second, other=0.0)
        scores = tl.dot(q_first, tl.trans(k_first), input_precision="ieee")
        scores = tl.dot(q_second, tl.trans(k_second), scores, input_precision="ieee")
        if not even:
            scores = tl.where(key[None, :] < keys, scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, axis=1)[:, None])
        weights = tl.exp2(scores * scale - higher * scale)
        fading = tl.exp2((highest - higher) * scale)
        total = total * fading + tl.sum(weights, axis=1)[:, None]
        v_first = tl.load(v_ptr + offset + first, mask=real & in_first, other=0.0)
        v_second = tl.load(v_ptr + offset + second, mask=real & in_second, other=0.0)
        weights = weights.to(dtype)
        out_first = tl.dot(weights, v_first, out_first * fading, input_precision="ieee")
        out_second = tl.dot(weights, v_second, out_second * fading, input_precision="ieee")
        highest = higher
        offset += block_k * k_token

    offset = out_ptr + (row * queries + query) * (heads * head_dim) + head * head_dim
    tl.store(offset + first, (out_first / total).to(dtype), mask=there & in_first)
    tl.store(offset + second, (out_second / total).to(dtype), mask=there & in_second)
