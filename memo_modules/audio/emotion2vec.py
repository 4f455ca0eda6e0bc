"""emotion2vec, inference only: how speech sounds, 50 states per second.

Paper: emotion2vec (arXiv 2312.15185), the audio branch of data2vec 2.0 (arXiv 2212.07525). Module names are the keys
of the published checkpoint.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import CheckpointError
from ..models.layers import Layers
from ..models.options import Option, read_options, whole
from ..weights.checkpoints import SIZE_ERRORS, load_module, read_weights
from ..words import first_line

_AUDIO = "modality_encoders.AUDIO."


@dataclass(frozen=True)
class Emotion2VecConfig:
    """Sizes and variants; the defaults are those of emotion2vec_plus_large, whose file is as large as one with the weights of
    these sizes and the two moments of their optimizer.

    conv_layers: (channels, kernel, stride) each. front_norm: "layer_norm" after every convolution or "group_norm"
    after the first. alibi_layers: 1, or one distance scale for each of the prenet and main blocks. alibi_heads: 1 or
    ``heads``. layer_norm_first: where the blocks normalise. prenet_norm: whether the prenet has a norm of its own.
    """

    d: int = 1024
    depth: int = 8
    prenet_depth: int = 4
    heads: int = 16
    d_mlp: int = 4096
    extra_tokens: int = 10
    conv_layers: tuple[tuple[int, int, int], ...] = ((512, 10, 5),) + ((512, 3, 2),) * 4 + ((512, 2, 2),) * 2
    front_norm: str = "layer_norm"
    conv_pos_kernel: int = 19
    conv_pos_depth: int = 5
    conv_pos_groups: int = 16
    conv_pos_pre_ln: bool = False
    alibi_layers: int = 1
    alibi_heads: int = 16
    layer_norm_first: bool = False
    prenet_norm: bool = True
    norm_eps: float = 1e-5

    @staticmethod
    def from_weights(weights: dict[str, Tensor]) -> "Emotion2VecConfig":
        """What the keys and shapes show. Strides are the published ones; the head count, where one distance scale
        serves all heads, follows from their usual width of 64. Raises KeyError naming a key it needs."""

        def count(pattern: str) -> int:
            return len({match[0] for key in weights if (match := re.match(pattern, key))})

        d = weights[_PROJECTION].shape[0]
        convolutions = [weights[f"{_AUDIO}local_encoder.conv_layers.{i}.0.weight"].shape for i in range(count(_CONV_LAYER))]
        pre_ln = _AUDIO + "relative_positional_encoder.0.weight" in weights
        position = _AUDIO + "relative_positional_encoder." + ("1." if pre_ln else "")
        _, channels_per_group, kernel = weights[position + "1.0.weight"].shape
        alibi_layers, _, alibi_heads, _, _ = weights[_AUDIO + "alibi_scale"].shape
        tokens = weights.get(_AUDIO + "extra_tokens")
        return Emotion2VecConfig(
            d=d,
            depth=count(r"blocks\.\d+\."),
            prenet_depth=count(re.escape(_AUDIO) + r"context_encoder\.blocks\.\d+\."),
            heads=alibi_heads if alibi_heads > 1 else max(1, d // 64),
            d_mlp=weights["blocks.0.mlp.fc1.weight"].shape[0],
            extra_tokens=0 if tokens is None else tokens.shape[1],
            conv_layers=tuple((out, kernel, 5 if i == 0 else 2) for i, (out, _, kernel) in enumerate(convolutions)),
            front_norm="group_norm" if _AUDIO + "local_encoder.conv_layers.0.2.weight" in weights else "layer_norm",
            conv_pos_kernel=kernel,
            conv_pos_depth=count(re.escape(position) + r"[1-9]\d*\.0\.weight"),
            conv_pos_groups=d // channels_per_group,
            conv_pos_pre_ln=pre_ln,
            alibi_layers=alibi_layers,
            alibi_heads=alibi_heads,
            layer_norm_first="norm.weight" in weights,
            prenet_norm=_AUDIO + "context_encoder.norm.weight" in weights,
        )

    def check(self, source: str) -> None:
        """Raises CheckpointError naming ``source`` and the size with which no encoder can be built, or not at once."""
        read_options(vars(self), _RANGES, source)
        blocks = self.prenet_depth + self.depth
        for name, found, expected in (("alibi_layers", self.alibi_layers, (1, blocks)), ("alibi_heads", self.alibi_heads, (1, self.heads))):
            if found not in expected:
                raise CheckpointError(f"{source}: {name}: expected {expected[0]} or {expected[1]}, got {found}, which is not supported.")
        for name in ("heads", "conv_pos_groups"):
            if self.d % getattr(self, name):
                raise CheckpointError(f"{source}: d {self.d} is not divisible by {name} {getattr(self, name)}.")
        if self.receptive_field > _LONGEST_FIELD:
            raise CheckpointError(f"{source}: conv_layers: expected a state of at most {_LONGEST_FIELD} samples, got {self.receptive_field}.")

    @property
    def receptive_field(self) -> int:
        """Samples that one state is made of, the least that a waveform must have."""
        field = 1
        for _, kernel, stride in reversed(self.conv_layers):
            field = (field - 1) * stride + kernel
        return field


_RANGES = {
    "d": whole(1, 16384),
    "depth": whole(1, 96),
    "prenet_depth": whole(0, 96),
    "heads": whole(1, 256),
    "d_mlp": whole(1, 65536),
    "extra_tokens": whole(0, 1024),
    "conv_layers": Option("1 to 32 convolutions", lambda layers: 1 <= len(layers) <= 32),
    "conv_pos_kernel": whole(1, 1024),
    "conv_pos_depth": whole(1, 32),
    "conv_pos_groups": whole(1, 16384),
}
"""Far beyond every emotion2vec there is; names of weights without a value could have any number of blocks built."""

_LONGEST_FIELD = 16000
"""Samples that a state is made of, a second: 400 in every emotion2vec."""

_PROJECTION = _AUDIO + "project_features.2.weight"
_CONV_LAYER = re.escape(_AUDIO) + r"local_encoder\.conv_layers\.\d+\."


class Emotion2Vec(nn.Module):
    """Waveforms (b samples), 16 kHz, normalised over their length, to states (b t d)."""

    def __init__(self, config: Emotion2VecConfig, layers: Layers):
        super().__init__()
        self.config = config
        self.modality_encoders = nn.ModuleDict({"AUDIO": AudioFrontEnd(config, layers)})
        self.blocks = nn.ModuleList(Block(config, layers) for _ in range(config.depth))
        self.norm = layers.layer_norm(config.d, config.norm_eps) if config.layer_norm_first else None

    def forward(self, waveform: Tensor) -> Tensor:
        front = self.modality_encoders["AUDIO"]
        x, biases = front(waveform)
        for block, bias in zip(self.blocks, biases, strict=True):
            x = block(x, bias)
        if self.norm is not None:
            x = self.norm(x)
        return x[:, self.config.extra_tokens :]


class AudioFrontEnd(nn.Module):
    """Convolutions, positions, extra tokens and the first blocks (the prenet)."""

    def __init__(self, config: Emotion2VecConfig, layers: Layers):
        super().__init__()
        self.config = config
        channels = config.conv_layers[-1][0]
        self.local_encoder = ConvolutionStack(config, layers)
        self.project_features = nn.Sequential(Transpose(), layers.layer_norm(channels), layers.linear(channels, config.d))
        self.relative_positional_encoder = _positional_convolutions(config, layers)
        self.context_encoder = ContextEncoder(config, layers)
        scale_shape = (config.alibi_layers, 1, config.alibi_heads, 1, 1)
        self.alibi_scale = nn.Parameter(torch.ones(scale_shape, dtype=layers.dtype, device=layers.device))
        if config.extra_tokens:
            self.extra_tokens = nn.Parameter(torch.zeros(1, config.extra_tokens, config.d, dtype=layers.dtype, device=layers.device))

    def forward(self, waveform: Tensor) -> tuple[Tensor, list[Tensor]]:
        """States (b t d), extra tokens first, and the attention bias (1 heads t t) of each block that follows."""
        config = self.config
        x = self.project_features(self.local_encoder(waveform[:, None]))
        x = x + self.relative_positional_encoder(x)
        bias = F.pad(alibi_bias(x.shape[1], config.heads).to(x), (config.extra_tokens, 0, config.extra_tokens, 0))
        # Parameters outside of leaf modules do not move when weights are streamed: .to(x) brings them.
        scales = self.alibi_scale.to(x).clamp_min(0)
        if config.extra_tokens:
            x = torch.cat([self.extra_tokens.to(x).expand(x.shape[0], -1, -1), x], dim=1)
        scales = scales.expand(config.prenet_depth + config.depth, *scales.shape[1:]) if config.alibi_layers == 1 else scales
        biases = [bias * scale for scale in scales]
        return self.context_encoder(x, biases[: config.prenet_depth]), biases[config.prenet_depth :]


class ConvolutionStack(nn.Module):
    """Samples (b 1 n) to features (b c t)."""

    def __init__(self, config: Emotion2VecConfig, layers: Layers):
        super().__init__()
        self.conv_layers = nn.ModuleList()
        c_in = 1
        for i, (c_out, kernel, stride) in enumerate(config.conv_layers):
            if config.front_norm == "layer_norm":
                norm = [nn.Sequential(Transpose(), layers.layer_norm(c_out), Transpose())]
            else:
                norm = [layers.group_norm(c_out, c_out, 1e-5)] if i == 0 else []
            convolution = layers.conv1d(c_in, c_out, kernel, stride=stride, bias=False)
            # The second place is the dropout of training, which counts in the keys.
            self.conv_layers.append(nn.Sequential(convolution, nn.Identity(), *norm, nn.GELU()))
            c_in = c_out

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.conv_layers:
            x = layer(x)
        return x


def _positional_convolutions(config: Emotion2VecConfig, layers: Layers) -> nn.Module:
    """Relative positions (b t d) by a chain of grouped convolutions over the states (b t d)."""
    kernel = config.conv_pos_kernel
    convolutions = [
        nn.Sequential(
            layers.conv1d(config.d, config.d, kernel, padding=kernel // 2, groups=config.conv_pos_groups),
            DropLast(1 - kernel % 2),
            Transpose(),
            layers.layer_norm(config.d, affine=False),
            Transpose(),
            nn.GELU(),
        )
        for _ in range(config.conv_pos_depth)
    ]
    chain = nn.Sequential(Transpose(), *convolutions, Transpose())
    return nn.Sequential(layers.layer_norm(config.d), chain) if config.conv_pos_pre_ln else chain


class ContextEncoder(nn.Module):
    """The prenet: its norm comes before the blocks, or after them where the blocks normalise first."""

    def __init__(self, config: Emotion2VecConfig, layers: Layers):
        super().__init__()
        self.layer_norm_first = config.layer_norm_first
        self.norm = layers.layer_norm(config.d, config.norm_eps) if config.prenet_norm else nn.Identity()
        self.blocks = nn.ModuleList(Block(config, layers) for _ in range(config.prenet_depth))

    def forward(self, x: Tensor, biases: list[Tensor]) -> Tensor:
        if not self.layer_norm_first:
            x = self.norm(x)
        for block, bias in zip(self.blocks, biases, strict=True):
            x = block(x, bias)
        return self.norm(x) if self.layer_norm_first else x


class Block(nn.Module):
    """Transformer block on x (b t d) with an additive attention bias (1 heads t t)."""

    def __init__(self, config: Emotion2VecConfig, layers: Layers):
        super().__init__()
        self.layer_norm_first = config.layer_norm_first
        self.norm1 = layers.layer_norm(config.d, config.norm_eps)
        self.attn = BiasedAttention(config, layers)
        self.norm2 = layers.layer_norm(config.d, config.norm_eps)
        self.mlp = MLP(config, layers)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        if self.layer_norm_first:
            x = x + self.attn(self.norm1(x), bias)
            # The published model adds the MLP to itself here, not to x.
            return 2 * self.mlp(self.norm2(x))
        x = self.norm1(x + self.attn(x, bias))
        return self.norm2(x + self.mlp(x))


class BiasedAttention(nn.Module):
    """Self-attention with an additive bias, which the pack's common attention function does not take."""

    def __init__(self, config: Emotion2VecConfig, layers: Layers):
        super().__init__()
        self.heads = config.heads
        self.qkv = layers.linear(config.d, 3 * config.d)
        self.proj = layers.linear(config.d, config.d)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # b t (3 h d) -> 3 b h t d
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(x.transpose(1, 2).flatten(-2))  # b h t d -> b t (h d)


class MLP(nn.Module):
    def __init__(self, config: Emotion2VecConfig, layers: Layers):
        super().__init__()
        self.fc1 = layers.linear(config.d, config.d_mlp)
        self.fc2 = layers.linear(config.d_mlp, config.d)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Transpose(nn.Module):
    """(b c t) to (b t c) and back."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class DropLast(nn.Module):
    """Takes the last ``n`` states off (b c t): what an even kernel makes too many."""

    def __init__(self, n: int):
        super().__init__()
        self.n = n

    def forward(self, x: Tensor) -> Tensor:
        return x[..., : x.shape[-1] - self.n]


def alibi_bias(length: int, heads: int) -> Tensor:
    """-|i - j| times a slope per head: (1 heads length length) float32. Paper: ALiBi (arXiv 2108.12409)."""
    positions = torch.arange(length)
    distance = (positions[:, None] - positions).abs().float()
    return -distance * torch.tensor(alibi_slopes(heads))[None, :, None, None]


def alibi_slopes(heads: int) -> list[float]:
    """One slope per head: a geometric series for a power of two; else that of the closest smaller power of two,
    followed by every second slope of the double."""
    power = 2 ** int(math.log2(heads))
    first = 2.0 ** (-8 / power)
    slopes = [first ** (i + 1) for i in range(power)]
    return slopes if power == heads else slopes + alibi_slopes(2 * power)[::2][: heads - power]


def load_emotion2vec(path: Path, operations: Any = nn, header_only: bool = False) -> Emotion2Vec:
    """The encoder in ``path``, the published pickle (read without running code) or safetensors, in float32.

    What belongs to its training (decoder, averaged copies, output heads) is left out. header_only: everything is checked, but
    the weights stay on the meta device. Raises CheckpointError when the file is missing, damaged or of another model.
    """
    weights = _without_prefix(read_weights(path, header_only))
    try:
        config = Emotion2VecConfig.from_weights(weights)
    except SIZE_ERRORS as error:
        raise CheckpointError(
            f"{path} is not an emotion2vec model ({first_line(error, 200)} is missing or has the wrong shape). Use emotion2vec_plus_large."
        ) from error
    config.check(str(path))
    keys = Emotion2Vec(config, Layers(device="meta")).state_dict()
    weights = {key: weights[key] for key in keys if key in weights}
    return load_module(lambda meta: Emotion2Vec(config, meta), Layers(operations, dtype=torch.float32), weights, path)


def _without_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's part: in a model that was finetuned to tell emotions it has a name of its own (`d2v_model.`)."""
    prefix = min((key.removesuffix(_PROJECTION) for key in weights if key.endswith(_PROJECTION)), key=len, default="")
    return {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}
