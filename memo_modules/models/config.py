"""What a network is built from, read from the checkpoint's config.json.

A key that the file leaves out has the value of the published constructor. An option that the published classes know
and that is not built here raises and names itself; keys that they do not know mean nothing to them and are ignored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import CheckpointError
from ..words import quoted
from .options import Option, each, either, flag, fraction, number, only, read_options, whole, wholes

_LEVELS = 4


def _blocks(names: tuple[str, ...]) -> Option:
    """The published files name 2-D and 3-D variants of the same blocks."""

    def fits(value: object) -> bool:
        return (
            isinstance(value, tuple)
            and len(value) == len(names)
            and all(kind in (name + "2D", name + "3D") for kind, name in zip(value, names, strict=True))
        )

    return Option(f"{names!r} (2D or 3D)", fits)


_FIXED = {
    "act_fn": only("silu"),
    "addition_embed_type": only(None),
    "attention_type": only("default"),
    "center_input_sample": only(False),
    "class_embed_type": only(None),
    "class_embeddings_concat": only(False),
    "conv_in_kernel": only(3),
    "downsample_padding": only(1),
    "dropout": only(0),
    "dual_cross_attention": only(False),
    "encoder_hid_dim": only(None),
    "encoder_hid_dim_type": only(None),
    "flip_sin_to_cos": only(True),
    "freq_shift": only(0),
    "mid_block_only_cross_attention": only(False),
    "mid_block_scale_factor": only(1),
    "motion_module_resolutions": only((1, 2, 4, 8)),
    "num_attention_heads": only(None),
    "num_class_embeds": only(None),
    "only_cross_attention": only(False, (False,) * _LEVELS),
    "resnet_time_scale_shift": only("default"),
    "reverse_transformer_layers_per_block": only(None),
    "time_cond_proj_dim": only(None),
    "time_embedding_act_fn": only(None),
    "time_embedding_dim": only(None),
    "time_embedding_type": only("positional"),
    "timestep_post_act": only(None),
    "transformer_layers_per_block": only(1, (1,) * _LEVELS),
    "unet_use_cross_frame_attention": only(False),
    "unet_use_temporal_attention": only(False),
    "upcast_attention": only(False),
    "use_linear_projection": only(False),
    "down_block_types": _blocks(("CrossAttnDownBlock",) * 3 + ("DownBlock",)),
    "mid_block_type": Option("'UNetMidBlock...'", lambda value: isinstance(value, str) and value.startswith("UNetMidBlock")),
    "up_block_types": _blocks(("UpBlock",) + ("CrossAttnUpBlock",) * 3),
}
"""Options of the published constructors with the only values that are built here; null always means left out."""

_SIZES = {
    "in_channels": whole(1, 64),
    "block_out_channels": wholes(1, 8192, _LEVELS, _LEVELS),
    "layers_per_block": whole(1, 16),
    "cross_attention_dim": whole(1, 16384),
    "attention_head_dim": either(whole(1, 256), wholes(1, 256, _LEVELS, _LEVELS)),
    "norm_num_groups": whole(1, 8192),
    "norm_eps": fraction(),
}
"""Far beyond every model there is; a number from a damaged file would have millions of layers made."""

_OF_DIFFUSION = {
    "out_channels": whole(1, 64),
    "audio_attention_dim": whole(1, 16384),
    "use_inflated_groupnorm": flag(),
    "motion_module_kwargs": Option("options by name", lambda value: isinstance(value, dict)),
    "recipe": Option("settings by name", lambda value: isinstance(value, dict)),
}

_OF_RECIPE = {
    "steps": whole(1, 1000),
    "guidance_scale": number(0, 100),
    "schedule": only("published", "even"),
    "solver": only("euler", "adams_bashforth"),
    "unconditional_every": whole(1, 100),
    "past_every": whole(1, 16),
    "whole_every": whole(1, 100),
}
"""SamplerSettings that a distilled model brings along."""

_OF_MOTION = {
    "num_attention_heads": whole(1, 256),
    "num_transformer_block": whole(1, 16),
    "attention_block_types": each("Temporal_Self", 1, 16),
    "temporal_position_encoding": flag(),
    "temporal_position_encoding_max_len": whole(1, 4096),
    "temporal_attention_dim_div": whole(1, 64),
}

_MOST_MOTION = 32
"""Attentions of the motion modules in a block of a level; the published net has 4. More are built for seconds."""


@dataclass(frozen=True)
class MotionConfig:
    """The memory-guided motion module; names and defaults as in `motion_module_kwargs`."""

    num_attention_heads: int = 8
    num_transformer_block: int = 2
    attention_block_types: tuple[str, ...] = ("Temporal_Self", "Temporal_Self")
    temporal_position_encoding: bool = False
    temporal_position_encoding_max_len: int = 24
    temporal_attention_dim_div: int = 1


@dataclass(frozen=True)
class ReferenceNetConfig:
    """reference_net. attention_head_dim is the number of heads, as in every Stable Diffusion 1 config."""

    in_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    cross_attention_dim: int = 1280
    attention_head_dim: int | tuple[int, ...] = 8
    norm_num_groups: int = 32
    norm_eps: float = 1e-5

    @classmethod
    def from_dict(cls, config: dict, source: str):
        """Read a config.json. Raises CheckpointError naming ``source`` and the option that is not supported."""
        read_options(config, _FIXED, source)
        built = cls(**cls._read(config, source))
        built.check(source)
        return built

    @classmethod
    def _read(cls, config: dict, source: str) -> dict:
        return read_options(config, _SIZES, source)

    def check(self, source: str) -> None:
        """Raises CheckpointError naming ``source`` and the numbers that do not go together."""
        for c in self.block_out_channels:
            for name, count in (("norm_num_groups", self.norm_num_groups), *(("attention_head_dim", self.heads(level)) for level in range(_LEVELS))):
                if c % count:
                    raise CheckpointError(f"{source}: block_out_channels {self.block_out_channels} is not divisible by {name} {count}.")

    def heads(self, level: int) -> int:
        """Attention heads of a level, 0 the finest."""
        return self.attention_head_dim[level] if isinstance(self.attention_head_dim, tuple) else self.attention_head_dim


@dataclass(frozen=True)
class DiffusionNetConfig(ReferenceNetConfig):
    """diffusion_net. use_inflated_groupnorm: group statistics of each frame, otherwise of the whole clip. recipe: the SamplerSettings
    that it was distilled for, by name; empty for other models."""

    out_channels: int = 8
    audio_attention_dim: int = 768
    use_inflated_groupnorm: bool = False
    motion_module_kwargs: MotionConfig = MotionConfig()
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def _read(cls, config: dict, source: str) -> dict:
        known = super()._read(config, source) | read_options(config, _OF_DIFFUSION, source)
        options = known.get("motion_module_kwargs", {})
        foreign = options.keys() - _OF_MOTION.keys() - {"zero_initialize"}  # only decides how training starts
        if foreign:
            raise CheckpointError(f"{source}: motion_module_kwargs has {quoted(sorted(foreign))}, which is not supported.")
        known["motion_module_kwargs"] = MotionConfig(**read_options(options, _OF_MOTION, f"{source}: motion_module_kwargs"))
        if "recipe" in known:
            known["recipe"] = read_recipe(known["recipe"], source)
        return known

    def check(self, source: str) -> None:
        super().check(source)
        motion = self.motion_module_kwargs
        attentions = self.layers_per_block * motion.num_transformer_block * len(motion.attention_block_types)
        if attentions > _MOST_MOTION:
            raise CheckpointError(
                f"{source}: expected at most {_MOST_MOTION} for layers_per_block times num_transformer_block times the number of "
                f"attention_block_types, got {attentions}, which is not supported."
            )
        for c in self.block_out_channels:
            if c % (motion.temporal_attention_dim_div * motion.num_attention_heads):
                raise CheckpointError(f"{source}: block_out_channels {self.block_out_channels} is not divisible by the heads of {motion}.")


def read_recipe(recipe: Mapping[str, object], source: str) -> dict[str, Any]:
    """The SamplerSettings that a distilled model brings along. Raises CheckpointError, see read_options."""
    return read_options(recipe, _OF_RECIPE, f"{source}: recipe")
