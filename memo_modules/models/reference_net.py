"""The reference net: a Stable Diffusion 1 UNet whose result is what each of its layers saw in a picture."""

import torch
from einops import rearrange
from torch import Tensor, nn

from ..types import ReferenceFeatures
from .config import ReferenceNetConfig
from .layers import Layers, ModuleList
from .unet import Run, UNet, UNetBlock


class TokenBlock(nn.Module):
    def __init__(self, layers: Layers, c: int):
        super().__init__()
        self.norm1 = layers.layer_norm(c)


class TokenTransformer(nn.Module):
    """The last spatial transformer: nothing follows it, so the published net ends at its first norm."""

    def __init__(self, layers: Layers, c: int, groups: int):
        super().__init__()
        self.norm = layers.stream_norm(groups, c, eps=1e-6)
        self.proj_in = layers.conv2d(c, c, 1)
        self.transformer_blocks = ModuleList([TokenBlock(layers, c)])

    def forward(self, x: Tensor) -> Tensor:
        return self.transformer_blocks[0].norm1(rearrange(self.proj_in(self.norm(x)), "n c h w -> n (h w) c"))


class ReferenceNet(UNet[UNetBlock]):
    """Pictures in, one tensor per layer out; see ReferenceFeatures. It has no output convolution.

    unused: beginnings of names of what a whole UNet has more; a file may hold it.
    """

    def __init__(self, config: ReferenceNetConfig, layers: Layers):
        super().__init__(config, layers, UNetBlock)
        self.up_blocks[-1].attentions[-1] = TokenTransformer(layers, config.block_out_channels[0], config.norm_num_groups)
        self.unused = ("conv_norm_out.", "conv_out.", f"up_blocks.3.attentions.{config.layers_per_block}.")

    def forward(self, latents: Tensor, face_tokens: Tensor, run: Run | None = None) -> ReferenceFeatures:
        """latents (n c h w), face_tokens (n t d): one face context per picture. The timestep is always 0.

        run: how the regions are run, by default ``self.run``.
        """
        run = run or self.run
        time_embedding = self.time_embedding(torch.zeros(1, device=latents.device), latents.dtype)
        x = self.enter(latents)
        skips, features = [x], []
        for block, j in self.numbered_layers():
            x = self.enter_layer(block, x, skips)
            x = run(block.resnets[j], x, time_embedding)
            if not block.attentions:
                features.append(x)
            elif isinstance(attention := block.attentions[j], TokenTransformer):
                features.append(attention(x))
            else:
                x, tokens = run(attention, x, attention.context(face_tokens))
                features.append(tokens)
            if block is self.mid_block:
                x = run(block.resnets[1], x, time_embedding)
            x = self.leave_layer(block, j, x, skips)
        return ReferenceFeatures(tuple(features))
