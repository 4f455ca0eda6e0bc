"""The diffusion net: denoises the frames of one clip under portrait, face, audio, emotion and memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ..types import MotionMemory, ReferenceFeatures
from .audio_module import EMOTION_NORMS, AudioModule, Modulation
from .config import DiffusionNetConfig
from .kernels.in_place import bias_of, of_positions
from .layers import Layers, ModuleList
from .motion import MotionModule, TimeConstants
from .resnet import clip_group_norm
from .transformer import SpatialContext
from .unet import BlockSpec, Run, UNet, UNetBlock

SpatialContexts = tuple[SpatialContext | None, ...]
"""One per layer, None where the layer has no spatial attention. Constant over a video."""

Modulations = tuple[tuple[Modulation, ...] | None, ...]
"""One per layer, None where the layer has no audio module. Constant over a clip."""


@dataclass(frozen=True)
class LayerBiases:
    """What the picture carries ahead, each (c,) or None: when it leaves the layer's resnet, and when it enters each of the modules after it.

    A product adds to what is there already or to a bias, not to both. So the resnet, whose convolution adds a bias anyway, adds those of
    all modules of its layer: their last products then go into the picture in place, and their norms take off what is not yet due.

    attentions: of the motion module, what else is made once.
    """

    resnet: Tensor | None = None
    motion: Tensor | None = None
    audio: Tensor | None = None
    spatial: Tensor | None = None
    attentions: Sequence[TimeConstants] | None = None


@dataclass
class DeepFeatures:
    """What all layers but the first and the last two have made in one pass of the net, for passes that reuse it: the picture
    x ((b f) c h w) and the audio tokens on their way into the last layer but one. Empty until a pass fills it."""

    x: Tensor | None = None
    audio: Tensor | None = None


class DiffusionBlock(UNetBlock):
    """A UNet block whose layers continue with an audio module (where they attend) and a motion module."""

    def __init__(self, config: DiffusionNetConfig, layers: Layers, spec: BlockSpec):
        super().__init__(config, layers, spec)
        groups, d_audio, motion = config.norm_num_groups, config.audio_attention_dim, config.motion_module_kwargs
        attends = spec.layers if spec.attends else ()
        self.audio_modules = ModuleList([AudioModule(layers, s.c_out, s.d_audio, spec.heads, d_audio, groups) for s in attends])
        self.motion_modules = ModuleList([MotionModule(layers, s.c_out, motion) for s in spec.layers])


class DiffusionNet(UNet[DiffusionBlock]):
    """Everything that stays the same over a video or a clip is made by its own method and handed to ``forward``.

    unused: as in ReferenceNet; the last audio module has less than the others.
    """

    config: DiffusionNetConfig

    def __init__(self, config: DiffusionNetConfig, layers: Layers):
        super().__init__(config, layers, DiffusionBlock)
        self.up_blocks[-1].audio_modules[-1].end_audio()
        self.unused = (f"up_blocks.3.audio_modules.{config.layers_per_block}.",)
        c = config.block_out_channels[0]
        self.conv_norm_out = layers.stream_norm(config.norm_num_groups, c, config.norm_eps, silu=True)
        self.conv_out = layers.conv2d(c, config.out_channels, 3, padding=1)

    def spatial_contexts(self, face_tokens: Tensor, reference: ReferenceFeatures | None, guided: int = 1) -> SpatialContexts:
        """Keys and values of the face and of the portrait.

        face_tokens (b t d), one row per guidance branch; reference: features of (guided·r) portraits, r rows for each of
        the last ``guided`` branches, frame j of such a branch seeing row j mod r. Branches before those see no portrait, and
        with None no branch does.
        """
        contexts: list[SpatialContext | None] = []
        for number, (block, j) in enumerate(self.numbered_layers()):
            if block.attentions:
                tokens = None if reference is None else reference.layers[number].unflatten(0, (guided, -1))
                contexts.append(block.attentions[j].context(face_tokens, tokens))
            else:
                contexts.append(None)
        return tuple(contexts)

    def emotion_modulations(self, emotion: Tensor, dtype: torch.dtype) -> Modulations:
        """Shifts and scales of all emotion-adaptive norms.

        emotion (b,), one label per guidance branch, or (norms b), labels for each of ``emotion_norms`` in forward order.
        """
        labels = iter(emotion.expand(self.emotion_norms, -1).split(EMOTION_NORMS))
        return tuple(block.audio_modules[j].modulations(next(labels), dtype) if block.audio_modules else None for block, j in self.numbered_layers())

    @property
    def emotion_norms(self) -> int:
        """Emotion-adaptive norms in all."""
        return EMOTION_NORMS * sum(len(block.audio_modules) > 0 for block, _ in self.numbered_layers())

    def layer_biases(self, like: Tensor) -> tuple[LayerBiases, ...] | None:
        """One per layer, constant over a video, in the dtype of ``like``; None where no kernel of the norms takes them off, a compiler
        sums up by itself, products have another dtype than what they add to, or gradients are wanted, for which nothing is done in place."""
        if self.conv_norm_out.kernel is None or self.compiled or self.stream is not None or torch.is_grad_enabled():
            return None
        biases = []
        for block, j in self.numbered_layers():
            shortcut, temporal = block.resnets[j].conv_shortcut, block.motion_modules[j].temporal_transformer
            last_first = [temporal, *([block.audio_modules[j], block.attentions[j]] if block.attentions else [])]
            carried = list(accumulate(_bias_added_by(module, like) for module in last_first))
            resnet = carried[-1] if shortcut is None else carried[-1] + bias_of(shortcut, like)[0]
            biases.append(LayerBiases(resnet, *carried, attentions=temporal.constants(like)))
        return tuple(biases)

    def empty_memory(self) -> MotionMemory:
        """The memory at the start of a video."""
        return [None for _ in self.numbered_layers()]

    def update_memory(self, past: ReferenceFeatures, memory: MotionMemory, frames: int, stands_for: Sequence[int] | None = None) -> None:
        """Have ``memory`` remember ``frames`` past frames: features of ((b frames)) pictures, oldest first in each branch.

        stands_for: of each picture the number of successive frames that it stands for, by default 1. Module by module, so that the
        memory is never there twice.
        """
        for number, (block, j) in enumerate(self.numbered_layers()):
            memory[number] = block.motion_modules[j].update_memory(past.layers[number], memory[number], frames, stands_for)

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        audio_tokens: Tensor,
        spatial: SpatialContexts,
        emotion: Modulations,
        memory: MotionMemory,
        frames: int,
        run: Run | None = None,
        deep: DeepFeatures | None = None,
        biases: Sequence[LayerBiases] | None = None,
    ) -> Tensor:
        """The velocity ((b f) c h w) of ``latents`` at ``timestep`` (1,) or (b,).

        latents ((b f) c h w), or (f c h w) at one timestep where they are the same for all b: guidance branches differ from the first attention
        on, and share what comes before. audio_tokens ((b f) t d); frames = f, at most the length of the position tables. run: how the regions
        are run, by default ``self.run``; it is handed the items of ``memory`` as they are. deep: filled by this pass if it is empty; otherwise
        it replaces all layers but the first and the last two. biases: of ``layer_biases``, for fewer passes over the pictures.
        """
        run = run or self.run
        time_embedding = self.time_embedding(timestep, latents.dtype)
        if time_embedding.shape[0] > 1:
            time_embedding = time_embedding.repeat_interleave(frames, dim=0)
        norm_frames = 1 if self.config.use_inflated_groupnorm else frames
        audio = audio_tokens.float() if audio_tokens.dtype == torch.float16 else audio_tokens  # which it would leave, see AudioModule
        x = self.enter(latents)
        alike = len(audio) // len(x)
        skips = [_repeated(x, alike)]
        layers = list(enumerate(self.numbered_layers()))
        reused = deep is not None and deep.x is not None
        for number, (block, j) in layers if not reused else [layers[0], *layers[-2:]]:
            if deep is not None and number == len(layers) - 2:
                if deep.x is not None:
                    x, audio = deep.x, deep.audio
                    del skips[2:]
                deep.x, deep.audio = x, audio
            x = self.enter_layer(block, x, skips)
            ahead = LayerBiases() if biases is None else biases[number]
            x = run(block.resnets[j], x, time_embedding, norm_frames, ahead.resnet)
            if number == 0:
                x = _repeated(x, alike)
            if block.attentions:
                x, _ = run(block.attentions[j], x, spatial[number], ahead.spatial)
                x, audio = run(block.audio_modules[j], x, audio, emotion[number], ahead.audio)
            x = run(block.motion_modules[j], x, memory[number], frames, ahead.motion, ahead.attentions)
            if block is self.mid_block:
                x = run(block.resnets[1], x, time_embedding, norm_frames)
            x = self.leave_layer(block, j, x, skips)
        return self.conv_out(self.to_memory_format(clip_group_norm(self.conv_norm_out, x, norm_frames)))


def _repeated(x: Tensor, times: int) -> Tensor:
    """The pictures x (n c h w) several times over, in their memory format."""
    if times == 1:
        return x
    last = x.movedim(1, -1)
    if last.is_contiguous():
        return last.expand(times, *last.shape).flatten(0, 1).movedim(-1, 1)
    return x.expand(times, *x.shape).flatten(0, 1)


def _bias_added_by(module: Any, like: Tensor) -> Tensor:
    """What a transformer adds to all positions whatever they are: its last bias, and what it makes of that of its last feed-forward."""
    return of_positions(module.proj_out, bias_of(module.transformer_blocks[-1].ff.net[2], like))[0]
