"""A world small enough to train in: nets of 32 channels, a VAE of factor 2, and prepared videos of 32 pixels, in files."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

from memo_modules.models.config import DiffusionNetConfig, MotionConfig, ReferenceNetConfig
from memo_modules.models.diffusion_net import DiffusionNet
from memo_modules.models.layers import Layers
from memo_modules.models.projections import AudioProjection, ImageProjection
from memo_modules.models.reference_net import ReferenceNet
from memo_modules.preparation.tensor_files import write_tensor
from tools.benchmarking.random_nets import random_weights
from tools.small_world import make_clip
from tools.small_world.videos import write_video

SIZE = 32
REFERENCE_NET = ReferenceNetConfig(block_out_channels=(32,) * 4, layers_per_block=1, cross_attention_dim=32, attention_head_dim=4)
DIFFUSION_NET = DiffusionNetConfig(
    **asdict(REFERENCE_NET),
    out_channels=4,
    audio_attention_dim=32,
    use_inflated_groupnorm=True,
    motion_module_kwargs=MotionConfig(num_attention_heads=4, num_transformer_block=1, temporal_position_encoding=True),
)
D_FACE, AUDIO = 8, (2, 4)


def write_checkpoint(folder: Path) -> Path:
    layers = Layers()
    nets = {
        "reference_net": (ReferenceNet(REFERENCE_NET, layers), asdict(REFERENCE_NET)),
        "diffusion_net": (DiffusionNet(DIFFUSION_NET, layers), asdict(DIFFUSION_NET)),
        "image_proj": (ImageProjection(layers, D_FACE, 2, 32), {"_class_name": "ImageProjModel"}),
        "audio_proj": (AudioProjection(layers, 5 * AUDIO[0] * AUDIO[1], 16, 3, 32), {"_class_name": "AudioProjModel"}),
    }
    for name, (net, config) in nets.items():
        (folder / name).mkdir(parents=True)
        save_file(random_weights(net.state_dict(), 0, torch.device("cpu"), torch.float32), folder / name / "diffusion_pytorch_model.safetensors")
        (folder / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def write_vae(folder: Path) -> Path:
    torch.manual_seed(1)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    AutoencoderKL(**blocks, block_out_channels=(8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4).save_pretrained(folder)
    return folder


def write_videos(folder: Path, count: int = 5, frames: int = 16) -> Path:
    """Returns their metadata.jsonl."""
    generator, lines = torch.Generator().manual_seed(2), []
    for i in range(count):
        write_video(folder / f"{i}.mp4", make_clip(i, frames / 30), SIZE)
        tensors = {
            "face_emb": torch.randn(D_FACE, generator=generator),
            "audio_emb": torch.randn(frames, *AUDIO, generator=generator),
            "audio_emotion": torch.full((frames,), i % 9, dtype=torch.int32),
        }
        for field, tensor in tensors.items():
            write_tensor(folder / f"{i}_{field}.safetensors", field, tensor)
        lines.append(json.dumps({"video": f"{i}.mp4"} | {field: f"{i}_{field}.safetensors" for field in tensors}))
    path = folder / "metadata.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_training(folder: Path, **settings) -> Path:
    """All of it, and the YAML of a training on the CPU with ``settings`` in it. Returns that file."""
    data = {"metadata": [str(write_videos(folder / "data"))], "width": SIZE, "height": SIZE, "frames": 3, "past_frames": 2, "workers": 0}
    values = {
        "checkpoint": str(write_checkpoint(folder / "start")),
        "vae": str(write_vae(folder / "vae")),
        "output_dir": str(folder / "out"),
        "dtype": "fp32",
        "steps": 6,
        "save_every": 3,
        "log_every": 1,
        "loggers": [],
        "robust_threshold": None,
        "data": data,
        **settings,
    }
    path = folder / "train.yaml"
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")  # JSON is YAML
    return path
