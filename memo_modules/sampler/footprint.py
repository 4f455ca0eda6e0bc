"""How much memory a video takes in addition to the weights, in bytes, so that a host can make room before it starts.

tests/sampler/test_footprint.py holds these numbers against what the nets allocate.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..clips import CLIP_FRAMES
from ..errors import InputError
from ..models.config import DiffusionNetConfig
from ..models.unet import down_specs, mid_spec, up_specs
from ..types import SamplerSettings
from ..words import memory_size
from .streaming import PLACES

_log = logging.getLogger(__name__)

MEMORY_MODES = ("auto", "normal", "low")
"""How the sampler uses the VRAM. normal: everything lies in it. low: the guidance branches run one after the other, the motion
memory lies in RAM, and only the nets that run are on the GPU. auto: low where normal does not fit, and then as much of the
motion memory stays in VRAM as there is room for."""

RESERVED = 2**29
"""Bytes of VRAM that other programs and CUDA itself hold."""

_ROUNDING = 3 * 2**28
"""Bytes that torch's allocator may take in addition to what is asked of it, seldom more."""


@dataclass(frozen=True)
class Plan:
    """How a video is to be sampled on a GPU.

    working: bytes in addition to the weights, by phase (see MemoNets), without the motion memory. memory_on_device: bytes of the
    motion memory in VRAM, of which the rest is ``memory_in_ram``. resident_share: of the motion memory that stays in VRAM in
    low-memory mode.
    """

    low_memory: bool
    resident_share: float
    working: Mapping[str, int]
    memory_on_device: int
    memory_in_ram: int


@dataclass(frozen=True)
class Footprint:
    """The memory that one video takes, with a net of ``config``, latents of ``latent_size`` (h, w) and numbers of ``itemsize`` bytes.
    stream_itemsize: of the pictures that residual blocks add to, see Layers.stream; by default the same."""

    config: DiffusionNetConfig
    latent_size: tuple[int, int]
    settings: SamplerSettings
    clip_frames: int = CLIP_FRAMES
    itemsize: int = 2
    stream_itemsize: int | None = None

    def plan(self, weights: Mapping[str, int], room: float, mode: str = "auto", reserved: int = RESERVED) -> Plan:
        """How to sample with ``room`` bytes of VRAM; infinity is no limit.

        weights: bytes of the nets by phase, all of them in VRAM in normal mode. mode: of MEMORY_MODES. reserved: what must stay free
        in mode auto. Raises InputError when not even low-memory mode has room for pictures of this size.
        """
        small, streamed = self.low_memory, self.streamed_memory
        if (needed := max(small.values()) + streamed) > room:
            raise InputError(
                f"width, height: frames of this size need {memory_size(needed)} in addition to the weights, even in low-memory mode; "
                f"this GPU has {memory_size(room)}. Choose a smaller width and height and upscale the frames."
            )
        fits = sum(weights.values()) + self.motion_memory + self.working <= room
        if mode == "normal" or (mode == "auto" and fits):
            return Plan(False, 1.0, dict.fromkeys(small, self.working), self.motion_memory, 0)
        share = 0.0
        if mode == "auto":
            left = room - reserved - streamed - max(small[phase] + weights[phase] for phase in small)
            share = min(1.0, max(0, left - _ROUNDING) / self.motion_memory)
        resident = int(share * self.motion_memory)
        return Plan(True, share, small, streamed + resident, self.motion_memory - resident)

    @property
    def motion_memory(self) -> int:
        """A MotionMemory: grows with the picture's area, not with the length of the video."""
        return sum(self._memory_numbers()) * self.settings.branches * self.itemsize

    @property
    def streamed_memory(self) -> int:
        """What a StreamedMemory takes in VRAM: one branch's largest modules, the one in use and those on their way."""
        return max(self._memory_numbers()) * PLACES * self.itemsize

    @property
    def working(self) -> int:
        """What sampling takes in addition to weights and motion memory, everything in VRAM: features of the portrait and of a
        clip's past, and a step."""
        branches = self.settings.branches
        return self.features(branches * (1 + self._past)) + self.activations(max(self.clip_frames, self._past), branches) + self._deep(branches)

    @property
    def low_memory(self) -> dict[str, int]:
        """The same in low-memory mode, by phase (see MemoNets): one branch at a time, and the features of the past in RAM."""
        portrait, past = self.features(self.settings.branches), self._past
        layer = max(c * positions for c, positions in self._layers()) * past * self.itemsize
        return {
            "reference": portrait + self.features(past) + self.activations(past, 1),
            "diffusion": portrait + layer + self.activations(max(self.clip_frames, past), 1) + self._deep(self.settings.branches),
        }

    def in_ram(self, plan: Plan, eight_bits: bool = False) -> dict[str, int]:
        """What a video takes of the RAM beside the weights, by what it is for: in low-memory mode the motion memory, and the features of a
        clip's past on their way into it; in any the frames of a clip, from the VAE and as they are handed over. eight_bits: see MemoNets."""
        memory, (h, w) = plan.memory_in_ram, self.latent_size
        if eight_bits:  # of kv, with a scale for each of its rows; z stays as it is
            rounded = sum(heads * d * (d + 2 * self.itemsize) for heads, d in self.memory_heads())
            memory = int(memory * rounded / (sum(self._memory_numbers()) * self.itemsize))
        features = self.features(self.settings.branches * self._past) if plan.low_memory else 0
        return {"motion memory": memory, "features": features, "frames": 2 * 4 * 3 * 64 * h * w * self.clip_frames}

    def needs_eight_bits(self, plan: Plan, has_room: Callable[[int], bool]) -> bool:
        """Whether the motion memory has to be kept in 8 bits, which the log then says. has_room: whether so many bytes of RAM are free."""
        if not plan.low_memory or has_room(needed := sum(self.in_ram(plan).values())):
            return False
        less = sum(self.in_ram(plan, eight_bits=True).values())
        _log.warning(
            "Low-memory mode would take %s of RAM, more than is free: past frames are kept in 8 bits, which takes %s, and changes the video "
            "by less than one can see.%s",
            *map(memory_size, (needed, less)),
            "" if has_room(less) else " That is not free either: close other programs, or choose frames of a smaller size.",
        )
        return True

    def features(self, pictures: int) -> int:
        """The ReferenceFeatures of ``pictures`` pictures."""
        return sum(c * positions for c, positions in self._layers()) * pictures * self.itemsize

    def activations(self, frames: int, branches: int) -> int:
        """Peak of the tensors alive inside one step, or while the reference net looks at as many pictures. It lies in a gated
        feed-forward at the finest level, whose inner width is 8 times the block's, with the residual stream, the skips and
        the tensors of the attention around it: 20 pictures of the finest level's width in all, of which 4 are the stream and the skips."""
        h, w = self.latent_size
        picture = 16 * self.itemsize + 4 * (self.stream_itemsize or self.itemsize)
        return frames * branches * h * w * self.config.block_out_channels[0] * picture

    def _deep(self, branches: int) -> int:
        """DeepFeatures that are kept from one pass to the next."""
        if self.settings.whole_every == 1:
            return 0
        h, w = self.latent_size
        return branches * self.clip_frames * h * w * self.config.block_out_channels[0] * self.itemsize

    @property
    def _past(self) -> int:
        """Past pictures of a clip that are looked at."""
        return -(-max(self.settings.num_init_past_frames, self.settings.num_past_frames) // self.settings.past_every)

    def _memory_numbers(self) -> list[int]:
        """Numbers that each motion module remembers of one branch."""
        return [heads * d * (d + 1) for heads, d in self.memory_heads()]

    def memory_heads(self) -> list[tuple[int, int]]:
        """Of each motion module how many heads remember, over all positions, and how many channels each of them has."""
        motion = self.config.motion_module_kwargs
        each = motion.num_attention_heads * motion.num_transformer_block * len(motion.attention_block_types)
        return [(positions * each, c // motion.num_attention_heads // motion.temporal_attention_dim_div) for c, positions in self._layers()]

    def _layers(self) -> list[tuple[int, int]]:
        """(channels, picture positions) of every layer in forward order."""
        sizes = [self.latent_size]
        for _ in range(3):
            h, w = sizes[-1]
            sizes.append((-(-h // 2), -(-w // 2)))
        specs = [*down_specs(self.config), mid_spec(self.config), *up_specs(self.config)]
        levels = zip(specs, [*sizes, sizes[3], *reversed(sizes)], strict=True)
        return [(layer.c_out, h * w) for spec, (h, w) in levels for layer in spec.layers]
