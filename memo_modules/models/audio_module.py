"""The emotion-aware audio module: picture and audio tokens attend jointly under norms set by the emotion."""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..types import NO_EMOTION
from .attention import FeedForward, SelfAttention, joins_in_place
from .kernels.in_place import add_to_picture
from .layers import Layers, ModuleList

Modulation = tuple[Tensor, Tensor]
"""Shift, and scale plus one, each (b 1 d)."""

EMOTION_NORMS = 4
"""Emotion-adaptive norms of one audio module."""


class LabelEmbedding(nn.Module):
    def __init__(self, layers: Layers, d: int):
        super().__init__()
        self.embedding_table = layers.embedding(NO_EMOTION + 1, d)


class EmotionAdaptiveNorm(nn.Module):
    """LayerNorm whose shift and scale come from the emotion."""

    def __init__(self, layers: Layers, d: int):
        super().__init__()
        self.class_embedder = LabelEmbedding(layers, d)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), layers.linear(d, 2 * d))

    def modulation(self, emotion: Tensor, dtype: torch.dtype) -> Modulation:
        """emotion (b,) integers in 0..9."""
        embedding = self.class_embedder.embedding_table(emotion).to(dtype)
        shift, scale = self.adaLN_modulation(embedding)[:, None].chunk(2, dim=-1)
        return shift, 1 + scale

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        """x ((b f) t d), returned in the modulation's dtype; each of the b emotions covers f consecutive rows."""
        shift, scale = modulation
        if len(shift) == 1 and x.dtype == shift.dtype:  # one emotion is what a layer norm has as its weights
            return F.layer_norm(x, x.shape[-1:], scale[0, 0], shift[0, 0])
        normed = F.layer_norm(x, x.shape[-1:]).to(shift.dtype)
        normed = normed.unflatten(0, (shift.shape[0], -1)).flatten(1, 2)  # b (f t) d
        return torch.addcmul(shift, normed, scale).view(x.shape)

    def by_emotion(self, x: Tensor, modulation: Modulation) -> list[Tensor]:
        """The same, the rows of each emotion for themselves where products join them again: for that no pass over all is needed."""
        shift, scale = modulation
        if not joins_in_place(x):
            return [self(x, modulation)]
        branches = zip(x.chunk(len(shift)), shift.split(1), scale.split(1), strict=True)
        return [self(rows, (own_shift, own_scale)) for rows, own_shift, own_scale in branches]


class JointAttention(SelfAttention):
    """One softmax over picture tokens and audio tokens; audio has projections of its own."""

    to_add_out: nn.Module | None

    def __init__(self, layers: Layers, d: int, heads: int, d_audio: int):
        super().__init__(layers, d, heads)
        self.add_projections(layers, "add_qkv_proj", ("add_q_proj", "add_k_proj", "add_v_proj"), d_audio, d, bias=True)
        self.to_add_out = layers.linear(d, d_audio)

    def forward(self, parts: Sequence[Tensor], audio: Tensor) -> tuple[Tensor, Tensor | None]:
        """parts: of the pictures, see ``project``."""
        audio_qkv = self.project_in_one("add_qkv_proj", ("add_q_proj", "add_k_proj", "add_v_proj"), audio)
        out, tokens = self.attend(*self.qkv_before(parts, audio_qkv)), parts[0].shape[1]
        # the few audio rows go through to_out too: without them it would be a matmul for every picture
        out_x, out_audio = self.to_out[0](out)[:, :tokens], out[:, tokens:].contiguous()
        return out_x, None if self.to_add_out is None else self.to_add_out(out_audio)


class AudioTransformerBlock(nn.Module):
    def __init__(self, layers: Layers, d: int, heads: int, d_audio: int):
        super().__init__()
        self.norm1 = EmotionAdaptiveNorm(layers, d)
        self.audio_norm1 = EmotionAdaptiveNorm(layers, d_audio)
        self.attn1 = SelfAttention(layers, d, heads)
        self.audio_attn1 = SelfAttention(layers, d_audio, heads, d_inner=d)
        self.norm2 = EmotionAdaptiveNorm(layers, d)
        self.audio_norm2 = EmotionAdaptiveNorm(layers, d_audio)
        self.attn2 = JointAttention(layers, d, heads, d_audio)
        self.norm3 = layers.layer_norm(d)
        self.ff = FeedForward(layers, d)
        self.audio_norm3 = layers.layer_norm(d_audio)
        self.audio_ff = FeedForward(layers, d_audio)

    def modulations(self, emotion: Tensor, dtype: torch.dtype) -> tuple[Modulation, ...]:
        """emotion (EMOTION_NORMS b): one row of labels per norm."""
        norms = (self.norm1, self.audio_norm1, self.norm2, self.audio_norm2)
        return tuple(norm.modulation(labels, dtype) for norm, labels in zip(norms, emotion, strict=True))

    def forward(self, x: Tensor, audio: Tensor, modulations: tuple[Modulation, ...], with_bias: bool = True) -> tuple[Tensor, Tensor | None]:
        """audio: in a dtype of its own, see AudioModule. with_bias: of ``ff``."""
        first, audio_first, second, audio_second = modulations
        x = self.attn1(*self.norm1.by_emotion(x, first)) + x
        audio = self.audio_attn1(self.audio_norm1(audio, audio_first)) + audio
        from_joint, audio_from_joint = self.attn2(self.norm2.by_emotion(x, second), self.audio_norm2(audio, audio_second))
        x = from_joint + x
        x = self.ff.add_to(x, self.norm3(x), with_bias)
        if audio_from_joint is None:
            return x, None
        audio = audio_from_joint + audio
        # a norm with weights takes their dtype alone; normed before, what it gets is small enough for any, and the same to it
        normed = audio if audio.dtype == x.dtype else F.layer_norm(audio, audio.shape[-1:]).to(x.dtype)
        return x, self.audio_ff(self.audio_norm3(normed)) + audio


class AudioModule(nn.Module):
    """The block between a norm and two 1×1 convs."""

    def __init__(self, layers: Layers, c: int, d: int, heads: int, d_audio: int, groups: int):
        super().__init__()
        self.norm = layers.stream_norm(groups, c, eps=1e-6)
        self.proj_in = layers.conv2d(c, d, 1)
        self.transformer_blocks = ModuleList([AudioTransformerBlock(layers, d, heads, d_audio)])
        self.proj_out = layers.conv2d(d, c, 1)

    def end_audio(self) -> None:
        """Drop what would give the audio on: the last module of the published net does not have it."""
        block = self.transformer_blocks[0]
        block.attn2.to_add_out = None
        del block.audio_norm3, block.audio_ff

    def modulations(self, emotion: Tensor, dtype: torch.dtype) -> tuple[Modulation, ...]:
        """Shifts and scales of the four norms for emotion (EMOTION_NORMS b), constant over a clip."""
        return self.transformer_blocks[0].modulations(emotion, dtype)

    def forward(self, x: Tensor, audio: Tensor, modulations: tuple[Modulation, ...], ahead: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """x ((b f) c h w) and audio ((b f) t d_audio), both returned in their shapes and dtypes, audio None after the last. ahead: see LayerBiases.

        Audio more than doubles in each module, sixteen times in the published net: beyond the range of float16.
        """
        h = rearrange(self.proj_in(self.norm(x, ahead)), "r c h w -> r (h w) c")
        h, audio_out = self.transformer_blocks[0](h, audio, modulations, ahead is None)
        if ahead is not None:
            x = add_to_picture(x, self.proj_out, h.flatten(0, 1))
        else:
            x = x + self.proj_out(rearrange(h, "r (h w) c -> r c h w", h=x.shape[2]))  # a sum is laid out as its first term
        # the published net adds the incoming audio once more, around the residuals inside the block
        return x, None if audio_out is None else audio_out + audio
