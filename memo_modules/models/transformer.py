"""Spatial attention: picture tokens attend to themselves, to the reference picture and to the face."""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from .attention import CrossAttention, FeedForward, FewTokens, SelfAttention
from .kernels.in_place import add_to_picture
from .layers import Layers, ModuleList


@dataclass(frozen=True)
class SpatialContext:
    """What one spatial transformer attends to besides the picture itself, projected once.

    face: one row per guidance branch. reference: keys and values side by side, (g r t 2d), or None; the last g of the b branches see
    it, and frame j of such a branch sees row j mod r. The branches before them are unconditional and see no reference.
    """

    face: FewTokens
    reference: Tensor | None


class TransformerBlock(nn.Module):
    def __init__(self, layers: Layers, d: int, heads: int, d_face: int):
        super().__init__()
        self.norm1 = layers.layer_norm(d)
        self.attn1 = SelfAttention(layers, d, heads)
        self.norm2 = layers.layer_norm(d)
        self.attn2 = CrossAttention(layers, d, heads, d_context=d_face)
        self.norm3 = layers.layer_norm(d)
        self.ff = FeedForward(layers, d)

    def context(self, face_tokens: Tensor, reference_tokens: Tensor | None) -> SpatialContext:
        face = self.attn2.context(face_tokens)
        if reference_tokens is None:
            return SpatialContext(face, None)
        _, k, v = self.attn1.qkv(reference_tokens)
        return SpatialContext(face, torch.cat([k, v], dim=-1))

    def forward(self, x: Tensor, context: SpatialContext, with_bias: bool = True) -> tuple[Tensor, Tensor]:
        """x ((b f) t d) -> the same shape, and the normed tokens that entered attn1 (what the reference net reports). with_bias: of ``ff``."""
        tokens = self.norm1(x)
        frames = x.shape[0] // context.face.scores.shape[0]
        x = self._with_self_attention(x, tokens, context.reference, frames)
        x = self.attn2.add_to(x, self.norm2(x), context.face)
        return self.ff.add_to(x, self.norm3(x), with_bias), tokens

    def _with_self_attention(self, x: Tensor, tokens: Tensor, reference: Tensor | None, frames: int) -> Tensor:
        attention = self.attn1
        if reference is None:
            return attention(tokens) + x
        split = tokens.shape[0] - reference.shape[0] * frames  # rows of the unconditional branches come first
        parts = [attention.attend(*attention.qkv(tokens[:split]))] if split else []
        parts.append(attention.attend(*attention.qkv_before([tokens[split:]], _per_frame(reference, frames))))
        if torch.is_grad_enabled() or not x.is_contiguous():
            return attention.to_out[0](torch.cat(parts)) + x
        for part, rows in zip(parts, x.tensor_split([split])[-len(parts) :], strict=True):  # to join them moves more than two products
            rows += attention.to_out[0](part)
        return x


class SpatialTransformer(nn.Module):
    """The block between a norm and two 1×1 convs, with a residual around all of it."""

    def __init__(self, layers: Layers, c: int, heads: int, d_face: int, groups: int):
        super().__init__()
        self.norm = layers.stream_norm(groups, c, eps=1e-6)
        self.proj_in = layers.conv2d(c, c, 1)
        self.transformer_blocks = ModuleList([TransformerBlock(layers, c, heads, d_face)])
        self.proj_out = layers.conv2d(c, c, 1)

    def context(self, face_tokens: Tensor, reference_tokens: Tensor | None = None) -> SpatialContext:
        """Project face_tokens (b t d_face) and reference_tokens (g r t c); see SpatialContext."""
        return self.transformer_blocks[0].context(face_tokens, reference_tokens)

    def forward(self, x: Tensor, context: SpatialContext, ahead: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x ((b f) c h w) -> the same shape, and the tokens ((b f) (h w) c) that entered attn1. ahead: see LayerBiases."""
        h = rearrange(self.proj_in(self.norm(x, ahead)), "r c h w -> r (h w) c")
        h, tokens = self.transformer_blocks[0](h, context, ahead is None)
        if ahead is not None:
            return add_to_picture(x, self.proj_out, h.flatten(0, 1)), tokens
        return x + self.proj_out(rearrange(h, "r (h w) c -> r c h w", h=x.shape[2])), tokens  # a sum is laid out as its first term


def _per_frame(rows: Tensor, frames: int) -> Tensor:
    """(b r t d) -> (b .. t d), as many as there are frames in each b, as a view where r divides them: frame j takes row j mod r."""
    r = rows.shape[1]
    if frames % r:
        return rows.repeat(1, -(-frames // r), 1, 1)[:, :frames]
    return rows[:, None].expand(-1, frames // r, -1, -1, -1)
