"""Write random weights at small sizes in the folder layout of the published files.

    python -m tools.make_tiny_checkpoint DIR [--name tiny] [--seed 0]

DIR is the `models` folder of a ComfyUI. The files have the keys, file kinds and config.json of the published ones, so
the whole path runs on them in seconds; the pictures that come out are noise. Needs torch, safetensors, einops, numpy
and onnx.
"""

import argparse
import json
import math
import re
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Generator, Tensor

from memo_modules.models.config import DiffusionNetConfig, MotionConfig, ReferenceNetConfig
from memo_modules.models.diffusion_net import DiffusionNet
from memo_modules.models.layers import Layers
from memo_modules.models.reference_net import ReferenceNet
from tools import tiny_onnx, wav2vec2_config
from tools.benchmarking.random_nets import sinusoids
from tools.diffusers_layout import unet_config, write_diffusers, write_json

ROOT = Path(__file__).resolve().parents[1]

Shapes = dict[str, tuple[int, ...]]

D_CROSS = 64  # width of the face and audio tokens, 768 in the published nets
D_AUDIO = 64  # width of the wav2vec2 states, 768 published
AUDIO_LAYERS = 2  # 12 published
D_EMOTION = 128  # width of emotion2vec, 1024 published

REFERENCE_NET = ReferenceNetConfig(block_out_channels=(64, 64, 64, 64), layers_per_block=1, cross_attention_dim=D_CROSS)
DIFFUSION_NET = DiffusionNetConfig(
    **asdict(REFERENCE_NET),
    out_channels=4,
    audio_attention_dim=D_CROSS,
    use_inflated_groupnorm=True,
    motion_module_kwargs=MotionConfig(num_transformer_block=1, temporal_position_encoding=True, temporal_position_encoding_max_len=32),
)
WAV2VEC2 = wav2vec2_config.config(32, D_AUDIO, AUDIO_LAYERS, architectures=["Wav2Vec2ForCTC"])
VAE = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [8, 16, 24, 24],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 4,
    "out_channels": 3,
    "sample_size": 256,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}


def write_tiny_checkpoint(models: Path, name: str = "tiny", seed: int = 0) -> Path:
    """Write every file that a workflow needs under ``models``; the same seed writes the same weights.

    A second folder, `models/memo/name_two_faces`, has face analysis alone, with a detector that sees two. Returns
    `models/memo/name`.
    """
    models = Path(models)
    generator = Generator().manual_seed(seed)
    memo = models / "memo" / name
    _write_unets(memo, generator)
    _write_projections(memo, generator)
    _write_face_analysis(memo, tiny_onnx.ONE_FACE, seed)
    _write_face_analysis(memo.with_name(f"{name}_two_faces"), tiny_onnx.TWO_FACES, seed)
    tiny_onnx.write_vocal_separator(memo / "misc" / "vocal_separator" / "Kim_Vocal_2.onnx", seed)
    _write_wav2vec2(models / "audio_encoders" / "wav2vec2-base-960h", generator)
    _write_emotion2vec(models / "memo" / "emotion2vec_plus_large" / "model.pt", generator)
    _write_vae(models / "vae" / "sd-vae-ft-mse", generator)
    _write_small_decoder(models / "vae_approx" / "taesd_decoder.safetensors", generator)
    return memo


def _write_unets(memo: Path, generator: Generator) -> None:
    for folder, net, config in (("reference_net", ReferenceNet, REFERENCE_NET), ("diffusion_net", DiffusionNet, DIFFUSION_NET)):
        shapes = {key: tuple(tensor.shape) for key, tensor in net(config, Layers()).state_dict().items()}
        write_diffusers(memo / folder, unet_config(config), _random(shapes, generator, torch.float16))


def _write_projections(memo: Path, generator: Generator) -> None:
    """The nets whose config.json carry no sizes: they are in the shapes only."""
    nets = (
        ("image_proj", "ImageProjModel", {768: D_CROSS, 4 * 768: 4 * D_CROSS}),
        ("audio_proj", "AudioProjModel", {5 * 12 * 768: 5 * AUDIO_LAYERS * D_AUDIO, 512: 64, 32 * 768: 32 * D_CROSS, 768: D_CROSS}),
        ("emotion_classifier", "AudioEmotionClassifierModel", {1024: D_EMOTION, 2048: 64}),
    )
    for component, class_name, sizes in nets:
        folder = "misc/audio_emotion_classifier" if component == "emotion_classifier" else component
        weights = _random(_narrowed(component, sizes), generator)
        write_diffusers(memo / folder, {"_class_name": class_name}, weights)


def _write_face_analysis(memo: Path, faces: tiny_onnx.Boxes, seed: int) -> None:
    models = memo / "misc" / "face_analysis" / "models"
    tiny_onnx.write_detector(models / "scrfd_10g_bnkps.onnx", faces)
    tiny_onnx.write_recogniser(models / "glintr100.onnx", seed)


def _write_wav2vec2(folder: Path, generator: Generator) -> None:
    weights = _random(_wav2vec2_shapes(), generator)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", WAV2VEC2)
    write_json(folder / "preprocessor_config.json", wav2vec2_config.PREPROCESSOR)


def _wav2vec2_shapes() -> Shapes:
    """Keys of facebook/wav2vec2-base-960h, with the weight norm of the position convolution as it was saved."""
    d, d_hidden, c = D_AUDIO, WAV2VEC2["intermediate_size"], WAV2VEC2["conv_dim"][-1]
    taps, groups = WAV2VEC2["num_conv_pos_embeddings"], WAV2VEC2["num_conv_pos_embedding_groups"]
    shapes = {"masked_spec_embed": (d,), "feature_extractor.conv_layers.0.layer_norm.weight": (c,)}
    shapes["feature_extractor.conv_layers.0.layer_norm.bias"] = (c,)
    for i, kernel in enumerate(WAV2VEC2["conv_kernel"]):
        shapes[f"feature_extractor.conv_layers.{i}.conv.weight"] = (c, c if i else 1, kernel)
    shapes |= _affine("feature_projection.layer_norm", c) | _affine("feature_projection.projection", d, c)
    shapes |= _affine("encoder.layer_norm", d)
    shapes["encoder.pos_conv_embed.conv.weight_g"] = (1, 1, taps)
    shapes["encoder.pos_conv_embed.conv.weight_v"] = (d, d // groups, taps)
    shapes["encoder.pos_conv_embed.conv.bias"] = (d,)
    for i in range(AUDIO_LAYERS):
        layer = f"encoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _affine(f"{layer}.attention.{part}", d, d)
        shapes |= _affine(f"{layer}.layer_norm", d) | _affine(f"{layer}.final_layer_norm", d)
        shapes |= _affine(f"{layer}.feed_forward.intermediate_dense", d_hidden, d)
        shapes |= _affine(f"{layer}.feed_forward.output_dense", d, d_hidden)
    return {f"wav2vec2.{key}": shape for key, shape in shapes.items()} | _affine("lm_head", WAV2VEC2["vocab_size"], d)


def _write_emotion2vec(path: Path, generator: Generator) -> None:
    """One block before and one after, 16 heads; a pickle as of a model finetuned to tell emotions, with the weights under `model`,
    the encoder's by a name of its own, and parts that only training uses."""
    d = D_EMOTION
    shapes = _narrowed("emotion2vec", {512: 32, 64: d // 16, 1024: d, 3 * 1024: 3 * d, 4 * 1024: 4 * d})
    shapes = {key: shape for key, shape in shapes.items() if not re.search(r"blocks\.[1-9]", key)}
    shapes |= _affine("modality_encoders.AUDIO.decoder.proj", d, d)
    shapes = {f"d2v_model.{key}": shape for key, shape in shapes.items()} | _affine("proj", 9, d)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": _random(shapes, generator)}, path)


def _write_vae(folder: Path, generator: Generator) -> None:
    narrow, *_, wide = VAE["block_out_channels"]
    shapes = _narrowed("vae", {128: narrow, 256: VAE["block_out_channels"][1], 512: wide})
    write_diffusers(folder, VAE, {old_name(key): tensor for key, tensor in _random(shapes, generator).items()})


def _write_small_decoder(path: Path, generator: Generator, width: int = 8) -> None:
    """In the order of the published file: 0, a limit, and 2, 6, 11 and 16, which enlarge, have no weights."""
    shapes = _affine("1", width, 4, 3, 3) | _affine("19", 3, width, 3, 3)
    for block in (3, 4, 5, 8, 9, 10, 13, 14, 15, 18):
        for convolution in (0, 2, 4):
            shapes |= _affine(f"{block}.conv.{convolution}", width, width, 3, 3)
    shapes |= {f"{number}.weight": (width, width, 3, 3) for number in (7, 12, 17)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(_random(shapes, generator), path, metadata={"format": "pt"})


def old_name(key: str) -> str:
    """That of a part of a VAE in the published file, whose attention has the names of older versions of diffusers."""
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        key = key.replace(f".attentions.0.{new}.", f".attentions.0.{old}.")
    return key


def _affine(key: str, *shape: int) -> Shapes:
    return {f"{key}.weight": shape, f"{key}.bias": shape[:1]}


def _narrowed(component: str, sizes: dict[int, int]) -> Shapes:
    """The keys of a published file with each size in ``sizes`` replaced by a smaller one."""
    manifest = json.loads((ROOT / "tests" / "manifests" / f"manifest_{component}.json").read_text(encoding="utf-8"))
    return {key: tuple(sizes.get(n, n) for n in shape) for key, shape in manifest["keys"].items()}


def _random(shapes: Shapes, generator: Generator, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Weights that keep a signal's size: each of the four kinds of tensor by its key and shape."""
    weights = {}
    for key, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if key.endswith("pos_encoder.pe"):
            tensor = sinusoids(*shape[1:])
        elif key.endswith("embedding_table.weight"):
            tensor = noise
        elif len(shape) > 1:
            tensor = noise / math.sqrt(math.prod(shape[1:]))
        else:
            tensor = key.endswith(".weight") + 0.05 * noise
        weights[key] = tensor.to(dtype)
    return weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", type=Path, metavar="DIR", help="the `models` folder of a ComfyUI")
    parser.add_argument("--name", default="tiny", help="folder under DIR/memo (default: tiny)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(write_tiny_checkpoint(arguments.models, arguments.name, arguments.seed))


if __name__ == "__main__":
    main()
