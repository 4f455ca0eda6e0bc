"""What a wav2vec2's config.json may say, and the weights that a model of it has.

transformers builds whatever a config.json asks for: adapters of a hundred thousand layers, heads of a hundred million
labels, code of another repository. It is handed what is named here, and nothing else.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ..errors import CheckpointError
from ..models.options import either, flag, fraction, only, read_options, whole, wholes

_ACTIVATIONS = only("gelu", "gelu_new", "relu", "silu", "swish")
_MOST_CONVOLUTIONS = 32

_OPTIONS = {
    "hidden_size": whole(1, 16384),
    "num_hidden_layers": whole(1, 96),
    "num_attention_heads": whole(1, 256),
    "intermediate_size": whole(1, 65536),
    "hidden_act": _ACTIVATIONS,
    "layer_norm_eps": fraction(),
    "feat_extract_norm": only("group", "layer"),
    "feat_extract_activation": _ACTIVATIONS,
    "conv_dim": wholes(1, 8192, 1, _MOST_CONVOLUTIONS),
    "conv_kernel": wholes(1, 1024, 1, _MOST_CONVOLUTIONS),
    "conv_stride": wholes(1, 1024, 1, _MOST_CONVOLUTIONS),
    "conv_bias": flag(),
    "num_conv_pos_embeddings": whole(1, 1024),
    "num_conv_pos_embedding_groups": whole(1, 1024),
}
"""Far beyond every wav2vec2 there is; a number from a damaged file would have millions of layers made."""

_FIXED = {
    "do_stable_layer_norm": only(False),
    "num_feat_extract_layers": either(whole(1, _MOST_CONVOLUTIONS), only(None)),
}

_STRIDES = (80, 1280)
"""Samples from one state to the next: 320 in every wav2vec2. Few make states without end of little sound."""

_LONGEST_FIELD = 2000
"""Samples that a state is made of: 400 in every wav2vec2."""


@dataclass(frozen=True)
class EncoderConfig:
    """Names and defaults as in transformers, where they are those of wav2vec2-base."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    feat_extract_norm: str = "group"
    feat_extract_activation: str = "gelu"
    conv_dim: tuple[int, ...] = (512,) * 7
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16

    @classmethod
    def from_dict(cls, config: Mapping, source: str) -> "EncoderConfig":
        """Read a config.json. Raises CheckpointError naming ``source`` and the option that is not supported."""
        if config.get("do_stable_layer_norm"):
            raise CheckpointError(f"{source}: do_stable_layer_norm: expected false, got true (a wav2vec2-large). Use wav2vec2-base-960h.")
        read_options(config, _FIXED, source)
        built = cls(**read_options(config, _OPTIONS, source))
        built._check(source)
        counted = config.get("num_feat_extract_layers")
        if counted not in (None, len(built.conv_dim)):
            raise CheckpointError(f"{source}: num_feat_extract_layers: expected {len(built.conv_dim)}, as conv_dim has numbers, got {counted}.")
        return built

    @property
    def stride(self) -> int:
        """Samples from one state to the next."""
        return math.prod(self.conv_stride)

    @property
    def receptive_field(self) -> int:
        """Samples that one state is made of."""
        field = 1
        for kernel, stride in zip(reversed(self.conv_kernel), reversed(self.conv_stride), strict=True):
            field = (field - 1) * stride + kernel
        return field

    def for_transformers(self) -> dict:
        """The options of transformers' config."""
        return asdict(self)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the weights of AudioEncoder, by name."""
        d, shapes = self.hidden_size, {}
        channels = 1
        for i, (width, kernel) in enumerate(zip(self.conv_dim, self.conv_kernel, strict=True)):
            layer = f"feature_extractor.conv_layers.{i}"
            shapes[f"{layer}.conv.weight"] = (width, channels, kernel)
            if self.conv_bias:
                shapes[f"{layer}.conv.bias"] = (width,)
            if i == 0 or self.feat_extract_norm == "layer":
                shapes |= _affine(f"{layer}.layer_norm", width)
            channels = width
        shapes |= _affine("feature_projection.layer_norm", channels) | _affine("feature_projection.projection", d, channels)
        shapes |= _affine("encoder.pos_conv_embed.conv", d, d // self.num_conv_pos_embedding_groups, self.num_conv_pos_embeddings)
        shapes |= _affine("encoder.layer_norm", d)
        for i in range(self.num_hidden_layers):
            layer = f"encoder.layers.{i}"
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                shapes |= _affine(f"{layer}.attention.{part}", d, d)
            shapes |= _affine(f"{layer}.layer_norm", d) | _affine(f"{layer}.final_layer_norm", d)
            shapes |= _affine(f"{layer}.feed_forward.intermediate_dense", self.intermediate_size, d)
            shapes |= _affine(f"{layer}.feed_forward.output_dense", d, self.intermediate_size)
        return shapes

    def _check(self, source: str) -> None:
        lengths = {name: len(getattr(self, name)) for name in ("conv_dim", "conv_kernel", "conv_stride")}
        if len(set(lengths.values())) > 1:
            raise CheckpointError(f"{source}: expected lists of the same length, got {', '.join(f'{name} of {n}' for name, n in lengths.items())}.")
        for name in ("num_attention_heads", "num_conv_pos_embedding_groups"):
            if self.hidden_size % getattr(self, name):
                raise CheckpointError(f"{source}: hidden_size {self.hidden_size} is not divisible by {name} {getattr(self, name)}.")
        least, most = _STRIDES
        if not least <= self.stride <= most:
            raise CheckpointError(f"{source}: conv_stride: expected numbers whose product is {least} to {most}, got {self.stride}.")
        if self.receptive_field > _LONGEST_FIELD:
            raise CheckpointError(
                f"{source}: conv_kernel and conv_stride: expected a state of at most {_LONGEST_FIELD} samples, got {self.receptive_field}."
            )


def _affine(key: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{key}.weight": shape, f"{key}.bias": shape[:1]}
