"""Spatial attention: picture tokens attend to themselves, to the reference picture and to the face."""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from .attention import CrossAttention, FeedForward, SelfAttention
from .layers import Layers, ModuleList


@dataclass(frozen=True)
class KeyValue:
    """Projected keys and values of tokens that do not change between steps."""

    k: Tensor
    v: Tensor


@dataclass(frozen=True)
class SpatialContext:
    """What one spatial transformer attends to besides the picture itself, projected once.

    face: (b t d), one row per guidance branch. reference: (g r t d) or None; the last g of the b branches see it, and frame
    j of such a branch sees row j mod r. The branches before them are unconditional and see no reference.
    """

    face: KeyValue
    reference: KeyValue | None


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
        face = KeyValue(self.attn2.to_k(face_tokens), self.attn2.to_v(face_tokens))
        if reference_tokens is None:
            return SpatialContext(face, None)
        _, k, v = self.attn1.qkv(reference_tokens)
        return SpatialContext(face, KeyValue(k.contiguous(), v.contiguous()))

    def forward(self, x: Tensor, context: SpatialContext) -> tuple[Tensor, Tensor]:
        """x ((b f) t d) -> the same shape, and the normed tokens that entered attn1 (what the reference net reports)."""
        frames = x.shape[0] // context.face.k.shape[0]
        tokens = self.norm1(x)
        x = self._self_attention(tokens, context.reference, frames) + x
        face_k, face_v = (_per_frame(y[:, None], frames) for y in (context.face.k, context.face.v))
        x = self.attn2(self.norm2(x), face_k, face_v) + x
        return self.ff(self.norm3(x)) + x, tokens

    def _self_attention(self, tokens: Tensor, reference: KeyValue | None, frames: int) -> Tensor:
        attention = self.attn1
        if reference is None:
            return attention(tokens)
        q, k, v = attention.qkv(tokens)
        split = tokens.shape[0] - reference.k.shape[0] * frames  # rows of the unconditional branches come first
        guided_k = torch.cat([k[split:], _per_frame(reference.k, frames)], dim=1)
        guided_v = torch.cat([v[split:], _per_frame(reference.v, frames)], dim=1)
        out = attention.attend(q[split:], guided_k, guided_v)
        if split:
            out = torch.cat([attention.attend(q[:split], k[:split], v[:split]), out])
        return attention.to_out[0](out)


class SpatialTransformer(nn.Module):
    """The block between a norm and two 1×1 convs, with a residual around all of it."""

    def __init__(self, layers: Layers, c: int, heads: int, d_face: int, groups: int):
        super().__init__()
        self.norm = layers.group_norm(groups, c, eps=1e-6)
        self.proj_in = layers.conv2d(c, c, 1)
        self.transformer_blocks = ModuleList([TransformerBlock(layers, c, heads, d_face)])
        self.proj_out = layers.conv2d(c, c, 1)

    def context(self, face_tokens: Tensor, reference_tokens: Tensor | None = None) -> SpatialContext:
        """Project face_tokens (b t d_face) and reference_tokens (g r t c); see SpatialContext."""
        return self.transformer_blocks[0].context(face_tokens, reference_tokens)

    def forward(self, x: Tensor, context: SpatialContext) -> tuple[Tensor, Tensor]:
        """x ((b f) c h w) -> the same shape, and the tokens ((b f) (h w) c) that entered attn1."""
        h = rearrange(self.proj_in(self.norm(x)), "r c h w -> r (h w) c")
        h, tokens = self.transformer_blocks[0](h, context)
        return x + self.proj_out(rearrange(h, "r (h w) c -> r c h w", h=x.shape[2])), tokens  # a sum is laid out as its first term


def _per_frame(rows: Tensor, frames: int) -> Tensor:
    """(b r t d) -> ((b frames) t d): frame j takes row j mod r."""
    r = rows.shape[1]
    if r == 1:
        return rows.expand(-1, frames, -1, -1).flatten(0, 1)
    return rows.repeat(1, -(-frames // r), 1, 1)[:, :frames].flatten(0, 1)
