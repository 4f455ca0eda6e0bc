"""``group_norm_silu`` in kernels that read a picture twice and write it once, where torch's operations take nine passes: five for
the norm and SiLU, four to lay it out before and after. Importing this needs Triton; running it a C compiler, too.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS = 64, 64  # positions and channels of what one program works on; widths of the published nets are multiples of 64


def group_norm_silu(x: Tensor, weight: Tensor, bias: Tensor, ahead: Tensor | None, eps: float, silu: bool, groups: int) -> Tensor:
    """GroupNormSiluFunction."""
    n, t, c = x.shape
    chunks, group = -(-t // ROWS), c // groups
    moments = torch.empty((n, chunks, 2, c), dtype=torch.float32, device=x.device)
    statistics = torch.empty((n, groups, 2), dtype=torch.float32, device=x.device)
    out = torch.empty_like(x)
    blocks = (n * chunks * -(-c // COLUMNS),)
    _moments_kernel[blocks](x, ahead, moments, t, c, chunks, rows=ROWS, columns=COLUMNS)
    width = max(128, triton.next_power_of_2(group))
    _statistics_kernel[(n * groups,)](moments, statistics, t, c, chunks, eps, groups, group, width=width, rows=ROWS, at_once=32)
    _apply_kernel[blocks](x, ahead, weight, bias, statistics, out, t, c, chunks, groups, group, silu=silu, rows=ROWS, columns=COLUMNS)
    return out


_jit: Any = triton.jit  # by its types a tl.constexpr could not be given as the number that it is
_jit_for_all_widths: Any = triton.jit(do_not_specialize=["chunks", "groups", "group"])  # each net has many, compiled for seconds


@_jit
def _block(t, c, chunks, rows: tl.constexpr, columns: tl.constexpr):
    """Of this program: its picture and chunk of positions, their rows, the channels, which of them are there, and where they lie."""
    blocks = tl.cdiv(c, columns)
    block = tl.program_id(0)
    picture, chunk = (block // blocks // chunks).to(tl.int64), block // blocks % chunks
    row = chunk * rows + tl.arange(0, rows)[:, None]
    channel = block % blocks * columns + tl.arange(0, columns)
    there = (row < t) & (channel < c)[None, :]
    return picture, chunk, row, channel, there, (picture * t + row) * c + channel[None, :]


@_jit
def _loaded(x_ptr, ahead_ptr, offsets, channel, there):
    """Values of x, without what is ahead, if anything; 0 where there are none."""
    x = tl.load(x_ptr + offsets, mask=there, other=0.0).to(tl.float32)
    if ahead_ptr is not None:
        ahead = tl.load(ahead_ptr + channel[None, :], mask=there, other=0.0).to(tl.float32)
        x -= ahead
    return x


@_jit_for_all_widths
def _moments_kernel(x_ptr, ahead_ptr, moments_ptr, t, c, chunks, rows: tl.constexpr, columns: tl.constexpr):
    """Of each channel over the positions of a chunk: the mean, and the sum of squared deviations from it."""
    picture, chunk, row, channel, there, offsets = _block(t, c, chunks, rows, columns)
    x = _loaded(x_ptr, ahead_ptr, offsets, channel, there)
    mean = tl.sum(x, axis=0) / tl.minimum(rows, t - chunk * rows)
    deviation = tl.where(row < t, x - mean[None, :], 0.0)
    moments = moments_ptr + (picture * chunks + chunk) * 2 * c + channel
    tl.store(moments, mean, mask=channel < c)
    tl.store(moments + c, tl.sum(deviation * deviation, axis=0), mask=channel < c)


@_jit_for_all_widths
def _statistics_kernel(moments_ptr, statistics_ptr, t, c, chunks, eps, groups, group, width: tl.constexpr, rows: tl.constexpr, at_once: tl.constexpr):
    """Of one group of one picture: the mean and 1 / std, from those of its chunks and channels; no difference of large squares."""
    program = tl.program_id(0)
    column = tl.arange(0, width)[None, :]
    first = moments_ptr + (program // groups).to(tl.int64) * chunks * 2 * c + program % groups * group + column
    total = tl.zeros((at_once, width), tl.float32)
    for start in range(0, chunks, at_once):
        chunk = start + tl.arange(0, at_once)[:, None]
        there = (chunk < chunks) & (column < group)
        total += tl.load(first + chunk * 2 * c, mask=there, other=0.0) * tl.minimum(rows, t - chunk * rows)
    mean = tl.sum(total) / (t * group)
    squares = tl.zeros((at_once, width), tl.float32)
    for start in range(0, chunks, at_once):
        chunk = start + tl.arange(0, at_once)[:, None]
        there = (chunk < chunks) & (column < group)
        deviation = tl.load(first + chunk * 2 * c, mask=there, other=0.0) - mean
        within = tl.load(first + (chunk * 2 + 1) * c, mask=there, other=0.0)
        squares += tl.where(there, within + deviation * deviation * tl.minimum(rows, t - chunk * rows), 0.0)
    tl.store(statistics_ptr + program * 2, mean)
    tl.store(statistics_ptr + program * 2 + 1, 1 / tl.sqrt(tl.sum(squares) / (t * group) + eps))


@_jit_for_all_widths
def _apply_kernel(
    x_ptr, ahead_ptr, weight_ptr, bias_ptr, statistics_ptr, out_ptr, t, c, chunks, groups, group,
    silu: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    picture, chunk, row, channel, there, offsets = _block(t, c, chunks, rows, columns)
    inside = channel < c
    statistics = statistics_ptr + (picture * groups + channel // group) * 2
    mean, scale = tl.load(statistics, mask=inside, other=0.0), tl.load(statistics + 1, mask=inside, other=0.0)
    scale *= tl.load(weight_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    x = _loaded(x_ptr, ahead_ptr, offsets, channel, there)
    out = (x - mean[None, :]) * scale[None, :] + shift[None, :]
    if silu:
        out = out * tl.sigmoid(out)
    tl.store(out_ptr + offsets, out.to(out_ptr.dtype.element_ty), mask=there)
