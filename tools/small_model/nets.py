"""The small model's four nets before training: the published topology, narrow, in the published folder layout.

    python -m tools.small_model.nets MODELS_DIR [--seed 0]

Writes MODELS_DIR/memo/small-start, which scripts/train.py starts from.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from memo_modules.models.audio_module import AudioModule, EmotionAdaptiveNorm
from memo_modules.models.config import DiffusionNetConfig, MotionConfig, ReferenceNetConfig
from memo_modules.models.diffusion_net import DiffusionNet
from memo_modules.models.layers import Layers
from memo_modules.models.motion import TemporalTransformer
from memo_modules.models.projections import AudioProjection, ImageProjection
from memo_modules.models.reference_net import ReferenceNet
from memo_modules.models.resnet import ResnetBlock
from memo_modules.models.transformer import SpatialTransformer
from tools.diffusers_layout import unet_config, write_diffusers

D_CROSS, D_FACE, WINDOW = 64, 512, 5

REFERENCE_NET = ReferenceNetConfig(
    block_out_channels=(32, 64, 96, 96),
    layers_per_block=1,
    cross_attention_dim=D_CROSS,
    attention_head_dim=(1, 2, 2, 2),
    norm_num_groups=8,  # four channels each and more: one with a norm of its own forgets how bright it was
)
DIFFUSION_NET = DiffusionNetConfig(
    **asdict(REFERENCE_NET),
    out_channels=4,
    audio_attention_dim=D_CROSS,
    use_inflated_groupnorm=True,
    motion_module_kwargs=MotionConfig(
        num_attention_heads=4, num_transformer_block=1, temporal_position_encoding=True, temporal_position_encoding_max_len=32
    ),
)


def write_nets(folder: Path, audio_layers: int, d_audio: int, seed: int = 0) -> Path:
    """Random weights; what adds to a picture starts at nothing, so that the nets begin as the identity they deviate from.

    audio_layers, d_audio: of the audio encoder's states.
    """
    torch.manual_seed(seed)
    layers = Layers()
    nets = {
        "reference_net": (ReferenceNet(REFERENCE_NET, layers), unet_config(REFERENCE_NET)),
        "diffusion_net": (DiffusionNet(DIFFUSION_NET, layers), unet_config(DIFFUSION_NET)),
        "image_proj": (ImageProjection(layers, D_FACE, 4, D_CROSS), {"_class_name": "ImageProjModel"}),
        "audio_proj": (AudioProjection(layers, WINDOW * audio_layers * d_audio, 128, 8, D_CROSS), {"_class_name": "AudioProjModel"}),
    }
    for name, (net, config) in nets.items():
        net.apply(_start)
        if name == "diffusion_net":
            _zero(net.conv_out)
        write_diffusers(folder / name, config, net.state_dict())
    return folder


def _start(module: nn.Module) -> None:
    if isinstance(module, (SpatialTransformer, AudioModule, TemporalTransformer)):
        _zero(module.proj_out)
    elif isinstance(module, ResnetBlock):
        _zero(module.conv2)
    elif isinstance(module, EmotionAdaptiveNorm):
        _zero(module.adaLN_modulation[1])


def _zero(layer: nn.Module) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", type=Path, metavar="MODELS_DIR")
    parser.add_argument("--audio-layers", type=int, default=2)
    parser.add_argument("--d-audio", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(write_nets(arguments.models / "memo" / "small-start", arguments.audio_layers, arguments.d_audio, arguments.seed))


if __name__ == "__main__":
    main()
