"""What a network is built from, read from the checkpoint's config.json.

A key that the file leaves out has the value of the published constructor. An option that the published classes know
and that is not built here raises and names itself; keys that they do not know mean nothing to them and are ignored.
"""

from dataclasses import dataclass, fields

from ..errors import CheckpointError

_ONLY = {
    "act_fn": ("silu",),
    "addition_embed_type": (None,),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "downsample_padding": (1,),
    "dropout": (0,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "mid_block_only_cross_attention": (False,),
    "mid_block_scale_factor": (1,),
    "motion_module_resolutions": ((1, 2, 4, 8),),
    "num_attention_heads": (None,),
    "num_class_embeds": (None,),
    "only_cross_attention": (False, (False,) * 4),
    "resnet_time_scale_shift": ("default",),
    "reverse_transformer_layers_per_block": (None,),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
    "transformer_layers_per_block": (1, (1,) * 4),
    "unet_use_cross_frame_attention": (False,),
    "unet_use_temporal_attention": (False,),
    "upcast_attention": (False,),
    "use_linear_projection": (False,),
}
"""Options of the published constructors with the only values that are built here; null always means left out."""

_RANGES = {
    "in_channels": (1, 64),
    "out_channels": (1, 64),
    "block_out_channels": (1, 8192),
    "layers_per_block": (1, 16),
    "cross_attention_dim": (1, 16384),
    "audio_attention_dim": (1, 16384),
    "attention_head_dim": (1, 256),
    "norm_num_groups": (1, 8192),
    "num_attention_heads": (1, 256),
    "num_transformer_block": (1, 16),
    "temporal_position_encoding_max_len": (1, 4096),
    "temporal_attention_dim_div": (1, 64),
}
"""Far beyond every model there is; a number from a damaged file would have millions of layers made."""

_BLOCK_TYPES = {
    "down_block_types": ("CrossAttnDownBlock",) * 3 + ("DownBlock",),
    "mid_block_type": "UNetMidBlock",
    "up_block_types": ("UpBlock",) + ("CrossAttnUpBlock",) * 3,
}


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
        config = {key: _tuple(value) for key, value in config.items()}
        _check_options(config, source)
        known = {field.name: config[field.name] for field in fields(cls) if config.get(field.name) is not None}
        known.update(cls._nested(config, source))
        built = cls(**known)
        built.check(source)
        return built

    def check(self, source: str) -> None:
        """Raises CheckpointError naming ``source`` and the number with which no net can be built."""
        channels, heads = self.block_out_channels, self.attention_head_dim
        if not isinstance(channels, tuple) or len(channels) != 4 or (isinstance(heads, tuple) and len(heads) != 4):
            raise CheckpointError(f"{source}: expected four levels, got block_out_channels {channels!r} and attention_head_dim {heads!r}.")
        _check_numbers(self, source)
        for c in channels:
            for name, count in (("norm_num_groups", self.norm_num_groups), *(("attention_head_dim", self.heads(level)) for level in range(4))):
                if c % count:
                    raise CheckpointError(f"{source}: block_out_channels {channels} is not divisible by {name} {count}.")

    @classmethod
    def _nested(cls, config: dict, source: str) -> dict:
        return {}

    def heads(self, level: int) -> int:
        """Attention heads of a level, 0 the finest."""
        return self.attention_head_dim[level] if isinstance(self.attention_head_dim, tuple) else self.attention_head_dim


@dataclass(frozen=True)
class DiffusionNetConfig(ReferenceNetConfig):
    """diffusion_net. use_inflated_groupnorm: group statistics of each frame, otherwise of the whole clip."""

    out_channels: int = 8
    audio_attention_dim: int = 768
    use_inflated_groupnorm: bool = False
    motion_module_kwargs: MotionConfig = MotionConfig()

    @classmethod
    def _nested(cls, config: dict, source: str) -> dict:
        options = config.get("motion_module_kwargs") or {}
        if not isinstance(options, dict):
            raise CheckpointError(f"{source}: motion_module_kwargs: expected options by name, got {options!r}.")
        options = {key: _tuple(value) for key, value in options.items()}
        known = {field.name for field in fields(MotionConfig)}
        foreign = options.keys() - known - {"zero_initialize"}  # only decides how training starts
        if foreign:
            raise CheckpointError(f"{source}: motion_module_kwargs has {sorted(foreign)}, which is not supported.")
        motion = MotionConfig(**{key: value for key, value in options.items() if key in known})
        kinds = motion.attention_block_types
        if not isinstance(kinds, tuple) or not 0 < len(kinds) <= 16 or any(kind != "Temporal_Self" for kind in kinds):
            raise CheckpointError(f"{source}: attention_block_types: expected only 'Temporal_Self', got {kinds!r}, which is not supported.")
        return {"motion_module_kwargs": motion}

    def check(self, source: str) -> None:
        super().check(source)
        motion = self.motion_module_kwargs
        _check_numbers(motion, source)
        for c in self.block_out_channels:
            if c % (motion.temporal_attention_dim_div * motion.num_attention_heads):
                raise CheckpointError(f"{source}: block_out_channels {self.block_out_channels} is not divisible by the heads of {motion}.")


def _check_options(config: dict, source: str) -> None:
    for option, supported in _ONLY.items():
        if config.get(option) is not None and config[option] not in supported:
            raise CheckpointError(f"{source}: {option} = {config[option]!r} is not supported, expected {supported[0]!r}.")
    for option, expected in _BLOCK_TYPES.items():
        kinds = config.get(option)
        if kinds is None:
            continue
        # the published files name 2-D and 3-D variants of the same blocks
        if option == "mid_block_type":
            fits = str(kinds).startswith(expected)
        else:
            fits = isinstance(kinds, tuple) and len(kinds) == 4 and all(kind in (name + "2D", name + "3D") for kind, name in zip(kinds, expected))
        if not fits:
            raise CheckpointError(f"{source}: {option} = {kinds!r} is not supported, expected {expected!r} (2D or 3D).")


def _check_numbers(config: object, source: str) -> None:
    for field in fields(config):
        name, value = field.name, getattr(config, field.name)
        if name in _RANGES:
            several = isinstance(value, tuple) and isinstance(field.default, tuple) or name == "attention_head_dim" and isinstance(value, tuple)
            for number in value if several else (value,):
                check_whole(number, name, *_RANGES[name], source)
        elif isinstance(field.default, bool) and not isinstance(value, bool):
            raise CheckpointError(f"{source}: {name}: expected true or false, got {value!r}.")
        elif isinstance(field.default, float) and not (isinstance(value, float | int) and 0 < value < 1):
            raise CheckpointError(f"{source}: {name}: expected a number between 0 and 1, got {value!r}.")


def check_whole(value: object, name: str, lowest: int, highest: int, source: str) -> None:
    """Raises CheckpointError when ``value`` is no whole number in that range."""
    if type(value) is not int or not lowest <= value <= highest:
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:60]} ..."
        raise CheckpointError(f"{source}: {name}: expected a whole number from {lowest} to {highest}, got {shown}, which is not supported.")


def _tuple(value):
    return tuple(_tuple(item) for item in value) if isinstance(value, list) else value
