"""How much a video computes: floating-point operations per frame, counted layer by layer.

Matrix products, convolutions and attention count, with two operations for each multiplication and its addition; norms and activations
are too small to matter. tests/sampler/test_cost.py holds the numbers against what torch counts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..clips import CLIP_FRAMES
from ..models.config import DiffusionNetConfig
from ..models.resnet import Downsample
from ..models.unet import BlockSpec, LayerSpec, down_specs, mid_spec, up_specs
from ..small_decoder import DECODERS
from ..types import SamplerSettings

FACE_TOKENS, AUDIO_TOKENS = 4, 32
"""Tokens of a face, and of the sound of a frame."""

VAE_ENCODE, VAE_DECODE = 2.73e8, 6.13e8
"""Operations of Stable Diffusion's VAE for each of the latents' pixels. Its attention, which grows faster, is an eighth of them at 512 x 512."""

SMALL_DECODE = 3.45e7
"""The same of small_decoder's."""


@dataclass(frozen=True)
class Cost:
    """The operations of a clip that is not the first, with a net of ``config``, latents of ``latent_size`` (h, w) and clips of ``frames``.
    decoder: of small_decoder.DECODERS."""

    config: DiffusionNetConfig
    latent_size: tuple[int, int]
    settings: SamplerSettings
    frames: int = CLIP_FRAMES
    decoder: str = DECODERS[0]

    @property
    def per_frame(self) -> float:
        return self.clip / self.frames

    @property
    def clip(self) -> float:
        s, (h, w) = self.settings, self.latent_size
        pictures = -(-s.num_past_frames // s.past_every)
        past = s.branches * pictures * (self.reference() + self.remembering())
        together = len(range(0, s.steps, s.unconditional_every)) if s.guided else 0
        steps = self._steps(together, self.guided) + self._steps(s.steps - together, self.a_pass)
        decode = self.frames * VAE_DECODE if self.decoder == "full" else self.frames * SMALL_DECODE + pictures * VAE_DECODE
        return past + steps + (pictures * VAE_ENCODE + decode) * h * w

    def _steps(self, calls: int, cost: Callable[[bool], float]) -> float:
        whole = -(-calls // self.settings.whole_every)
        return whole * cost(False) + (calls - whole) * cost(True)

    def guided(self, shallow: bool = False) -> float:
        """Both branches in one pass, which share what comes before the first attention; one after the other, in low-memory mode, each has it."""
        (_, layer, (h, w), _), c = next(self._layers()), self.config.block_out_channels[0]
        shared = self.frames * (2 * 9 * h * w * self.config.in_channels * c + self._resnet(layer, h * w))
        return self.a_pass(shallow) + self.a_pass(shallow, conditional=False) - shared

    def a_pass(self, shallow: bool = False, conditional: bool = True) -> float:
        """One branch through the diffusion net once. shallow: with DeepFeatures of a pass before."""
        config = self.config
        h, w = self.latent_size
        total = 2 * 9 * h * w * config.block_out_channels[0] * (config.in_channels + config.out_channels) * self.frames
        layers = list(self._layers())
        for spec, layer, (h, w), ends in layers if not shallow else [layers[0], *layers[-2:]]:
            total += self.frames * self._resnet(layer, h * w) * (2 if spec.part == "mid" else 1)
            total += self.frames * self._resampler(spec, layer, h, w) if ends else 0
            if spec.attends:
                total += self.frames * (
                    self._spatial(layer.c_out, spec.heads, h * w, conditional) + self._audio(layer, h * w, layer is layers[-1][1])
                )
            total += h * w * self._motion(layer.c_out)
        return total

    def reference(self) -> float:
        """The reference net over one picture."""
        layers, (h, w) = list(self._layers()), self.latent_size
        total = 2 * 9 * h * w * self.config.in_channels * self.config.block_out_channels[0]
        for number, (spec, layer, (h, w), ends) in enumerate(layers):
            total += self._resnet(layer, h * w) * (2 if spec.part == "mid" else 1)
            total += self._resampler(spec, layer, h, w) if ends else 0
            if number == len(layers) - 1:
                total += 2 * h * w * layer.c_out**2
            elif spec.attends:
                c = layer.c_out
                total += self._spatial(c, spec.heads, h * w, conditional=False)
                total += FACE_TOKENS * (4 * c * self.config.cross_attention_dim + 4 * spec.heads * c * c)
        return total

    def remembering(self) -> float:
        """The motion memory of one branch takes in one picture."""
        motion, total = self.config.motion_module_kwargs, 0
        for _, layer, (h, w), _ in self._layers():
            d = layer.c_out // motion.temporal_attention_dim_div
            attentions = motion.num_transformer_block * len(motion.attention_block_types)
            total += h * w * (2 * layer.c_out * d + attentions * (6 * d * d + 2 * d * (d // motion.num_attention_heads)))
        return total

    def _layers(self) -> Iterator[tuple[BlockSpec, LayerSpec, tuple[int, int], bool]]:
        """Every layer in forward order, with its block, the picture's size and whether the block's resampler follows it."""
        sizes = [self.latent_size]
        for _ in range(3):
            h, w = sizes[-1]
            sizes.append((-(-h // 2), -(-w // 2)))
        specs = [*down_specs(self.config), mid_spec(self.config), *up_specs(self.config)]
        for spec, size in zip(specs, [*sizes, sizes[3], *reversed(sizes)], strict=True):
            for layer in spec.layers:
                yield spec, layer, size, layer is spec.layers[-1] and spec.resampler is not None

    def _resnet(self, layer: LayerSpec, places: int) -> float:
        shortcut = layer.c_in * layer.c_out if layer.c_in != layer.c_out else 0
        return 2 * places * (9 * layer.c_in * layer.c_out + 9 * layer.c_out**2 + shortcut)

    def _resampler(self, spec: BlockSpec, layer: LayerSpec, h: int, w: int) -> float:
        places = -(-h // 2) * -(-w // 2) if spec.resampler is Downsample else 4 * h * w
        return 2 * 9 * layer.c_out**2 * places

    def _spatial(self, c: int, heads: int, tokens: int, conditional: bool) -> float:
        """A spatial transformer: its convolutions, two attentions, and the feed-forward. The face is projected once per video."""
        keys = tokens * (2 if conditional else 1) + FACE_TOKENS * heads
        return tokens * (4 * c * c + 8 * c * c + 24 * c * c + 4 * c * keys)

    def _audio(self, layer: LayerSpec, tokens: int, last: bool) -> float:
        c, d, d_audio, heard = layer.c_out, layer.d_audio, self.config.audio_attention_dim, AUDIO_TOKENS
        total = tokens * (4 * c * d + 8 * d * d + 8 * d * d + 24 * d * d + 4 * d * tokens)
        total += heard * (8 * d_audio * d + 4 * d * heard + 6 * d_audio * d + 2 * d * d) + 4 * d * (tokens + heard) ** 2
        return total + (0 if last else heard * (2 * d * d_audio + 24 * d_audio**2))

    def _motion(self, c: int) -> float:
        """One place of the picture through a motion module, over all frames."""
        motion, f = self.config.motion_module_kwargs, self.frames
        d = c // motion.temporal_attention_dim_div
        attention = f * (8 * d * d + 2 * d * (d // motion.num_attention_heads) + 4 * f * d + 2 * d)
        block = len(motion.attention_block_types) * attention + f * 24 * d * d
        return f * 4 * c * d + motion.num_transformer_block * block
