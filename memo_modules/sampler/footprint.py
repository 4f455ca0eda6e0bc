"""How much memory a video takes beside the weights, in bytes, so that a host can make room before it starts.

tests/sampler/test_footprint.py holds these numbers against what the nets allocate.
"""

from ..models.config import DiffusionNetConfig
from ..models.unet import down_specs, mid_spec, up_specs
from ..types import SamplerSettings
from .streaming import PLACES

_ROUNDING = 3 * 2**28
"""Bytes that torch's allocator may take beyond what is asked of it, seldom more."""


def motion_memory_bytes(config: DiffusionNetConfig, latent_size: tuple[int, int], halves: int, itemsize: int) -> int:
    """Size of a MotionMemory: grows with the picture's area, not with the length of the video."""
    return sum(_module_numbers(config, latent_size)) * halves * itemsize


def streamed_memory_bytes(config: DiffusionNetConfig, latent_size: tuple[int, int], itemsize: int) -> int:
    """What a StreamedMemory takes on the device: one half's largest modules, the one in use and those on their way."""
    return max(_module_numbers(config, latent_size)) * PLACES * itemsize


def resident_share(config: DiffusionNetConfig, latent_size: tuple[int, int], halves: int, itemsize: int, left: int) -> float:
    """How much of a motion memory may stay on the device in low-memory mode, where all else leaves ``left`` bytes."""
    return min(1.0, max(0, left - _ROUNDING) / motion_memory_bytes(config, latent_size, halves, itemsize))


def working_bytes(config: DiffusionNetConfig, latent_size: tuple[int, int], settings: SamplerSettings, clip_frames: int, itemsize: int) -> int:
    """What sampling takes beside weights and motion memory, everything on the device: features of the portrait and of a clip's
    past, and a step."""
    past = max(settings.num_init_past_frames, settings.num_past_frames)
    features = reference_bytes(config, latent_size, settings.halves * (1 + past), itemsize)
    return features + activation_bytes(config, latent_size, max(clip_frames, past), settings.halves, itemsize)


def low_memory_bytes(
    config: DiffusionNetConfig, latent_size: tuple[int, int], settings: SamplerSettings, clip_frames: int, itemsize: int
) -> dict[str, int]:
    """The same in low-memory mode, by phase (see MemoNets): one half at a time, and the features of the past put by."""
    past = max(settings.num_init_past_frames, settings.num_past_frames)
    portrait = reference_bytes(config, latent_size, settings.halves, itemsize)
    return {
        "reference": portrait + reference_bytes(config, latent_size, past, itemsize) + activation_bytes(config, latent_size, past, 1, itemsize),
        "diffusion": portrait
        + _layer_bytes(config, latent_size, past, itemsize)
        + activation_bytes(config, latent_size, max(clip_frames, past), 1, itemsize),
    }


def reference_bytes(config: DiffusionNetConfig, latent_size: tuple[int, int], pictures: int, itemsize: int) -> int:
    """Size of the ReferenceFeatures of ``pictures`` pictures."""
    return sum(c * positions for c, positions in _layers(config, latent_size)) * pictures * itemsize


def _layer_bytes(config: DiffusionNetConfig, latent_size: tuple[int, int], pictures: int, itemsize: int) -> int:
    """Size of the largest layer in the ReferenceFeatures of ``pictures`` pictures."""
    return max(c * positions for c, positions in _layers(config, latent_size)) * pictures * itemsize


def activation_bytes(config: DiffusionNetConfig, latent_size: tuple[int, int], frames: int, halves: int, itemsize: int) -> int:
    """Peak of the tensors alive inside one step, or while the reference net looks at as many pictures. It lies in a gated
    feed-forward at the finest level, whose inner width is 8 times the block's, beside the residual stream, the skips and
    the tensors of the attention around it: 20 pictures of the finest level's width in all."""
    h, w = latent_size
    return 20 * frames * halves * h * w * config.block_out_channels[0] * itemsize


def _module_numbers(config: DiffusionNetConfig, latent_size: tuple[int, int]) -> list[int]:
    """Numbers that each motion module remembers of one half."""
    motion = config.motion_module_kwargs
    blocks = motion.num_transformer_block * len(motion.attention_block_types)
    sizes = []
    for c, positions in _layers(config, latent_size):
        head_dim = c // motion.num_attention_heads // motion.temporal_attention_dim_div
        sizes.append(positions * blocks * motion.num_attention_heads * head_dim * (head_dim + 1))
    return sizes


def _layers(config: DiffusionNetConfig, latent_size: tuple[int, int]) -> list[tuple[int, int]]:
    """(channels, picture positions) of every layer in forward order."""
    sizes = [latent_size]
    for _ in range(3):
        h, w = sizes[-1]
        sizes.append((-(-h // 2), -(-w // 2)))
    levels = list(zip(down_specs(config), sizes)) + [(mid_spec(config), sizes[3])] + list(zip(up_specs(config), reversed(sizes)))
    return [(layer.c_out, h * w) for spec, (h, w) in levels for layer in spec.layers]
