"""Softmax attention and the gated feed-forward, under the names of the published checkpoints."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .kernels.in_place import Weights, add_product, is_bare, lent
from .layers import Layers

Names = tuple[str, str, str]
"""Of the projections to queries, keys and values."""


class FusibleProjections(nn.Module):
    """A module with three linears of one input, which are one matmul where ``layers.fused`` asks for it.

    A state dict names them apart either way: fused rows are joined when it is loaded and come apart, as views, when it
    is made, so that one file fits both.
    """

    def add_projections(self, layers: Layers, fused: str, names: Names, d_in: int, d_out: int, bias: bool = False) -> None:
        """Add the linears ``names``, or the one linear ``fused`` instead, for ``project``."""
        if not layers.fused:
            for name in names:
                setattr(self, name, layers.linear(d_in, d_out, bias))
            return
        self.fused_rows = {**getattr(self, "fused_rows", {}), **{name: (fused, number * d_out, d_out) for number, name in enumerate(names)}}
        layer = layers.linear(d_in, 3 * d_out, bias)
        setattr(self, fused, layer)
        self._register_state_dict_hook(partial(_split_rows, fused=fused, names=names))
        stored = layers.dtype if layers.scaled else layers.storage or layers.dtype
        # rows with scales are rounded from what is in the file
        dtypes = {"weight": None if hasattr(layer, "row_scale") else stored, "bias": layers.dtype}
        self._register_load_state_dict_pre_hook(partial(_join_rows, fused=fused, names=names, dtypes=dtypes))

    def project(self, fused: str, names: Names, x: Tensor, *more: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the linears ``names`` make of x (b .. d), or of it and ``more`` one after the other, as views of one tensor where they are fused."""
        with self._lent(fused, x) if more else nullcontext() as weights:
            if weights and weights[1] is None:
                parts = [x, *more]
                joined = x.new_empty(sum(map(len, parts)), *x.shape[1:-1], len(weights[0]))
                for part, rows in zip(parts, joined.split([len(part) for part in parts]), strict=True):
                    torch.mm(part.flatten(0, -2), weights[0].mT, out=rows.flatten(0, -2))
                q, k, v = joined.chunk(3, dim=-1)
                return q, k, v
        x = torch.cat([x, *more]) if more else x
        if fused in self._modules:
            q, k, v = getattr(self, fused)(x).chunk(3, dim=-1)
        else:
            q, k, v = (getattr(self, name)(x) for name in names)
        return q, k, v

    def project_in_one(self, fused: str, names: Names, x: Tensor) -> Tensor:
        """The same side by side."""
        return getattr(self, fused)(x) if fused in self._modules else torch.cat(self.project(fused, names, x), dim=-1)

    def project_before(self, fused: str, names: Names, parts: Sequence[Tensor], others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``project`` of ``parts``, together (b t d), followed along t by the keys and values, or queries, keys and values, of other tokens,
        which are side by side in ``others`` (.. s n·d_out), whose first dimensions make b."""
        b, t = sum(map(len, parts)), parts[0].shape[1]
        with self._lent(fused, parts[0]) as weights:
            if weights and weights[1] is None:
                joined = parts[0].new_empty(b, t + others.shape[-2], len(weights[0]))
                for part, rows in zip(parts, joined.split([len(part) for part in parts]), strict=True):
                    torch.bmm(part, weights[0].mT.expand(len(part), -1, -1), out=rows[:, :t])
                joined[:, t:, -others.shape[-1] :].unflatten(0, others.shape[:-2]).copy_(others)
                q, k, v = joined.chunk(3, dim=-1)
                return q if others.shape[-1] == joined.shape[-1] else q[:, :t], k, v
        q, k, v = self.project(fused, names, *parts)
        *q_other, k_other, v_other = others.flatten(0, -3).chunk(others.shape[-1] // k.shape[-1], dim=-1)
        return torch.cat([q, *q_other], dim=1), torch.cat([k, k_other], dim=1), torch.cat([v, v_other], dim=1)

    def _lent(self, fused: str, x: Tensor) -> AbstractContextManager[Weights | None]:
        """The weights of ``fused`` where what it makes can go where it is needed, else None."""
        return lent(getattr(self, fused), x) if fused in self._modules and joins_in_place(x) else nullcontext()


def held_weight(net: nn.Module, layer: str) -> tuple[str, tuple[int, int, int] | None]:
    """Where ``net`` has the weight of the linear or convolution ``layer`` of its state dict: the name of the parameter, and where it is fused
    with others the dimension along which it is a part, where it starts there and how long it is."""
    path, _, name = layer.rpartition(".")
    rows: dict[str, tuple[str, int, int]] = getattr(net.get_submodule(path), "fused_rows", {})
    if name not in rows:
        return f"{layer}.weight", None
    fused, start, length = rows[name]
    return f"{path}.{fused}.weight", (0, start, length)


def joins_in_place(x: Tensor) -> bool:
    """Whether products go where their results are needed, part by part: not for gradients and compilers, and on the CPU it is slow."""
    return x.device.type != "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _split_rows(module, state_dict, prefix, metadata, *, fused: str, names: Names) -> None:
    for kind in ("weight", "bias"):
        rows = state_dict.pop(f"{prefix}{fused}.{kind}", None)
        if rows is not None:
            state_dict.update({f"{prefix}{name}.{kind}": part for name, part in zip(names, rows.chunk(3), strict=True)})


def _join_rows(state_dict, prefix, *_, fused: str, names: Names, dtypes: dict[str, torch.dtype | None]) -> None:
    for kind, dtype in dtypes.items():
        keys = [f"{prefix}{name}.{kind}" for name in names]
        if all(key in state_dict for key in keys):  # or the keys stay, and are reported as what does not fit
            state_dict[f"{prefix}{fused}.{kind}"] = torch.cat([state_dict.pop(key).to(dtype=dtype) for key in keys])


class SelfAttention(FusibleProjections):
    """Multi-head attention of (b t d) to itself; inner width ``d_inner``, q, k and v without bias."""

    def __init__(self, layers: Layers, d: int, heads: int, d_inner: int | None = None):
        super().__init__()
        d_inner = d_inner or d
        self.heads = heads
        self.attention = layers.attention
        self.add_projections(layers, "to_qkv", ("to_q", "to_k", "to_v"), d, d_inner)
        self.to_out = nn.ModuleList([layers.linear(d_inner, d)])

    def qkv(self, x: Tensor, *more: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (b t d_inner), of tokens in one tensor or several that are (b t d) together."""
        return self.project("to_qkv", ("to_q", "to_k", "to_v"), x, *more)

    def qkv_before(self, parts: Sequence[Tensor], others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same, followed by those of other tokens; see project_before."""
        return self.project_before("to_qkv", ("to_q", "to_k", "to_v"), parts, others)

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        """Self-attention of tokens, see ``qkv``, projected back to d."""
        return self.to_out[0](self.attend(*self.qkv(x, *more)))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of projected tokens, before the output projection."""
        return self.attention(q, k, v, self.heads)


@dataclass(frozen=True)
class FewTokens:
    """Tokens that a CrossAttention attends to, as two matrices that stay the same over a video.

    scores (b d heads·s): from what attends to each token's score in each head. values (b heads·s d): what each adds to the result,
    with its part of the output's bias, since the weights of a head add up to one.
    """

    scores: Tensor
    values: Tensor


class CrossAttention(nn.Module):
    """Multi-head attention from (b t d) to a few context tokens (b s d_context); q, k and v without bias.

    With fewer tokens in all heads than channels, (x Wq) kᵀ is dearer than x (Wq kᵀ), and (p v) Wo than p (v Wo).
    """

    def __init__(self, layers: Layers, d: int, heads: int, d_context: int):
        super().__init__()
        self.heads = heads
        self.to_q = layers.linear(d, d, bias=False)
        self.to_k = layers.linear(d_context, d, bias=False)
        self.to_v = layers.linear(d_context, d, bias=False)
        self.to_out = nn.ModuleList([layers.linear(d, d)])

    def context(self, tokens: Tensor) -> FewTokens:
        """What ``forward`` takes of tokens (b s d_context)."""
        k, v = self.to_k(tokens), self.to_v(tokens)
        k = k - k.mean(dim=1, keepdim=True)  # which no softmax sees, and 16 bits hold the smaller scores more exactly
        k, v = (self._head_by_head(y) for y in (k, v))
        to_out = self.to_out[0]
        bias = to_out(torch.zeros_like(v[:1, :1]))
        scores = self._times_query_weight(k) * (k.shape[-1] // self.heads) ** -0.5
        return FewTokens(scores.mT, to_out(v) - bias * (1 - 1 / self.heads))

    def _head_by_head(self, y: Tensor) -> Tensor:
        """(b s heads·d) -> (b heads·s heads·d): each head of each token in a row of its own, between zeros."""
        rows = torch.diag_embed(y.unflatten(-1, (self.heads, -1)).mT, dim1=1, dim2=3)
        return rows.flatten(3).flatten(1, 2)

    def _times_query_weight(self, k: Tensor) -> Tensor:
        """k Wq; where Wq is not at hand, it is made of its results."""
        to_q: Any = self.to_q
        with lent(to_q, k) as weights:
            if weights:
                return k @ weights[0]
        return k @ (to_q.weight if is_bare(to_q, k) else to_q(k.new_ones(to_q.in_features).diag_embed()).mT)

    def add_to(self, residual: Tensor, x: Tensor, context: FewTokens) -> Tensor:
        """``residual`` and what attention from x finds, both ((b f) t d). Without gradients the result overwrites ``residual``."""
        b = context.scores.shape[0]
        x, rows = (y.view(b, -1, y.shape[-1]) for y in (x, residual))
        weights = (x @ context.scores).unflatten(-1, (self.heads, -1)).softmax(dim=-1).flatten(-2)
        graph = torch.is_grad_enabled() or torch.compiler.is_compiling()
        return torch.baddbmm(rows, weights, context.values, out=None if graph else rows).view(residual.shape)


class GatedProjection(nn.Module):
    """value · gelu(gate) from one projection."""

    def __init__(self, layers: Layers, d: int, d_inner: int):
        super().__init__()
        self.proj = layers.linear(d, 2 * d_inner)
        self.geglu = layers.geglu

    def forward(self, x: Tensor) -> Tensor:
        """x (n d) -> (n d_inner)."""
        x = self.proj(x)
        if torch.is_grad_enabled() or torch.compiler.is_compiling():  # a compiler would copy both halves to write one
            value, gate = x.chunk(2, dim=-1)
            return value * F.gelu(gate)
        return self.geglu(x)


class FeedForward(nn.Module):
    """Gated feed-forward of inner width 4·d. Slot 1 of ``net`` is the dropout of training, which holds no weights."""

    def __init__(self, layers: Layers, d: int):
        super().__init__()
        self.net = nn.Sequential(GatedProjection(layers, d, 4 * d), nn.Identity(), layers.linear(4 * d, d))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(0, -2)).view(x.shape)  # as a matrix, or the bias is a pass of its own

    def add_to(self, residual: Tensor, x: Tensor, with_bias: bool) -> Tensor:
        """``residual`` and what is made of x, both (.. t d). Without the last bias it may overwrite ``residual``, see add_product."""
        if with_bias:
            return self(x) + residual
        return add_product(residual.flatten(0, -2), self.net[2], self.net[0](x.flatten(0, -2))).view(x.shape)
