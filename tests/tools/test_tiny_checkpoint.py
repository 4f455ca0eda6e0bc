"""The tiny checkpoint: every file is loaded and run by the package or the part that takes the published one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from memo_modules.audio.emotion import load_emotion_classifier
from memo_modules.audio.emotion2vec import load_emotion2vec
from memo_modules.audio.vocals import VocalSeparator
from memo_modules.models.layers import Layers
from memo_modules.portrait.face import FaceAnalyzer
from memo_modules.types import Audio
from memo_modules.vae import DiffusersVAE, load_autoencoder
from memo_modules.weights.checkpoints import NETS, load_net, read_json
from tools.make_tiny_checkpoint import write_tiny_checkpoint

WEIGHTS = "diffusion_pytorch_model.safetensors"
FILES = {
    *(f"memo/tiny/{net}/{file}" for net in NETS for file in ("config.json", WEIGHTS)),
    *(f"memo/tiny/misc/audio_emotion_classifier/{file}" for file in ("config.json", WEIGHTS)),
    *(f"memo/{name}/misc/face_analysis/models/{file}.onnx" for name in ("tiny", "tiny_two_faces") for file in ("scrfd_10g_bnkps", "glintr100")),
    "memo/tiny/misc/vocal_separator/Kim_Vocal_2.onnx",
    "memo/emotion2vec_plus_large/model.pt",
    *(f"audio_encoders/wav2vec2-base-960h/{file}" for file in ("config.json", "model.safetensors", "preprocessor_config.json")),
    *(f"vae/sd-vae-ft-mse/{file}" for file in ("config.json", WEIGHTS)),
    "vae_approx/taesd_decoder.safetensors",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    models = tmp_path_factory.mktemp("modèles of ComfyUI")
    assert write_tiny_checkpoint(models) == models / "memo" / "tiny"
    return models


def test_layout(models):
    files = {path.relative_to(models).as_posix(): path.stat().st_size for path in models.rglob("*") if path.is_file()}
    assert files.keys() == FILES
    assert sum(files.values()) < 40e6


def test_a_seed_means_the_same_weights(models, tmp_path):
    write_tiny_checkpoint(tmp_path / "again", name="tiny")
    write_tiny_checkpoint(tmp_path / "seed 1", seed=1)
    for name in ("audio_encoders/wav2vec2-base-960h/model.safetensors", "memo/tiny/misc/vocal_separator/Kim_Vocal_2.onnx"):
        assert (tmp_path / "again" / name).read_bytes() == (models / name).read_bytes()
        assert (tmp_path / "seed 1" / name).read_bytes() != (models / name).read_bytes()


@pytest.mark.parametrize("net", NETS)
def test_nets_load(models, net):
    loaded = load_net(models / "memo" / "tiny", net, Layers(dtype=torch.float32))
    assert all(tensor.isfinite().all() and tensor.std() > 0 for tensor in loaded.state_dict().values())
    if net in ("reference_net", "diffusion_net"):
        assert loaded.config.block_out_channels[0] >= 64  # 32 groups of 1 x 1 latents hold two values each
    else:
        config = read_json(models / "memo" / "tiny" / net / "config.json")
        assert config.keys() == {"_class_name", "_diffusers_version"}  # so that sizes are read from the weights


def test_nets_fit_one_another(models):
    names = ("reference_net", "image_proj", "audio_proj")
    reference_net, image_proj, audio_proj = (load_net(models / "memo" / "tiny", net, Layers(dtype=torch.float32)) for net in names)
    face_tokens = image_proj(torch.randn(2, 512))
    assert audio_proj(torch.randn(3, 5, 2, 64)).shape[2] == face_tokens.shape[2]
    latents = torch.randn(1, 4, 8, 8).expand(2, -1, -1, -1)
    tokens = reference_net(latents, face_tokens).layers[-1]
    assert tokens.isfinite().all() and (tokens[0] - tokens[1]).abs().max() > 0.01  # the face is seen


def test_position_tables_are_sinusoids(models):
    weights = load_file(models / "memo" / "tiny" / "diffusion_net" / WEIGHTS)
    tables = [tensor.float() for key, tensor in weights.items() if key.endswith("pos_encoder.pe")]
    angles = [position * 10000 ** (-(channel - channel % 2) / 64) for position in range(32) for channel in range(64)]
    expected = torch.tensor([np.cos(a) if i % 2 else np.sin(a) for i, a in enumerate(angles)], dtype=torch.float32).reshape(1, 32, 64)
    assert len(tables) == 2 * (4 + 1 + 8)  # two attention blocks of each motion module
    for table in tables:
        assert (table - expected).abs().max() < 1e-3


def test_faces(models):
    """One face, two faces, and none in a black picture."""
    picture = np.full((256, 256, 3), 128, np.uint8)
    one, two = (FaceAnalyzer.load(models / "memo" / name / "misc/face_analysis/models") for name in ("tiny", "tiny_two_faces"))
    assert [len(analyzer.detect(picture)) for analyzer in (one, two)] == [1, 2]
    assert [len(analyzer.detect(picture * 0)) for analyzer in (one, two)] == [0, 0]


def test_vocal_separator(models):
    separator = VocalSeparator.load(models / "memo/tiny/misc/vocal_separator/Kim_Vocal_2.onnx")
    time = torch.arange(20000) / 16000
    audio = Audio(0.3 * torch.sin(2 * torch.pi * 440 * time)[None], 16000)
    vocals = separator.separate(audio)
    assert vocals.waveform.shape == (1, 20000)
    inner = slice(4000, -4000)
    gain = (vocals.waveform[0, inner].square().mean() / audio.waveform[0, inner].square().mean()).sqrt()
    assert 0.6 < gain < 1  # 0.8 of the mix, and a little of the other channels


def test_wav2vec2_loads_in_transformers(models):
    from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    folder = models / "audio_encoders" / "wav2vec2-base-960h"
    keys = load_file(folder / "model.safetensors").keys()
    assert {"wav2vec2.encoder.pos_conv_embed.conv.weight_g", "wav2vec2.encoder.pos_conv_embed.conv.weight_v", "lm_head.weight"} <= keys
    model, loading = Wav2Vec2ForCTC.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"] and not loading["mismatched_keys"]
    waveform = np.random.default_rng(0).standard_normal(16000, dtype=np.float32)
    inputs = Wav2Vec2FeatureExtractor.from_pretrained(folder)(waveform, sampling_rate=16000, return_tensors="pt")
    logits = model.eval()(**inputs).logits
    assert logits.shape == (1, 49, 32) and logits.isfinite().all() and logits.std() > 0


def test_emotion_models_fit_one_another(models):
    path = models / "memo" / "emotion2vec_plus_large" / "model.pt"
    pickled = torch.load(path, weights_only=True)
    assert pickled.keys() == {"model"} and "proj.weight" in pickled["model"]
    features = load_emotion2vec(path)(torch.randn(1, 16000))
    assert features.shape == (1, 49, 128)
    probabilities = load_emotion_classifier(models / "memo/tiny/misc/audio_emotion_classifier").probabilities(features.mean(dim=1))
    assert probabilities.shape == (1, 9) and probabilities.sum() == pytest.approx(1)


def load_diffusers_vae(folder: Path):
    from diffusers import AutoencoderKL

    vae, loading = AutoencoderKL.from_pretrained(folder, output_loading_info=True, low_cpu_mem_usage=False)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    return vae


def test_vae_loads_in_diffusers(models):
    vae = load_diffusers_vae(models / "vae" / "sd-vae-ft-mse")
    latents = vae.encode(torch.rand(1, 3, 64, 64) * 2 - 1).latent_dist.mean
    assert latents.shape == (1, 4, 8, 8)
    picture = vae.decode(latents).sample
    assert picture.shape == (1, 3, 64, 64) and picture.isfinite().all() and picture.std() > 0.1
    assert vae.config.scaling_factor == 0.18215


@pytest.mark.slow
def test_full_width_vae_loads_in_diffusers(tmp_path):
    """Random weights under the keys of the full manifest."""
    manifest = json.loads((Path(__file__).resolve().parents[1] / "manifests" / "manifest_vae.json").read_text(encoding="utf-8"))
    generator = torch.Generator().manual_seed(0)
    weights = {key: torch.randn(shape, generator=generator) * 0.02 for key, shape in manifest["keys"].items()}
    save_file(weights, tmp_path / WEIGHTS)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL", **manifest["constructor_kwargs"]}), encoding="utf-8")
    vae = load_diffusers_vae(tmp_path)
    assert sum(parameter.numel() for parameter in vae.parameters()) == manifest["n_params"]
    latents = vae.encode(torch.rand(1, 3, 64, 64)).latent_dist.mean
    assert latents.shape == (1, 4, 8, 8) and vae.decode(latents).sample.isfinite().all()


def test_the_vae_makes_pictures(models):
    """Neither flat nor all black and white, or tests on frames would compare nothing."""
    vae = DiffusersVAE(load_autoencoder(models / "vae" / "sd-vae-ft-mse"))
    pictures = vae.decode(torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)))
    inside = ((pictures > 0) & (pictures < 1)).float().mean()
    assert pictures.shape == (1, 3, 128, 128) and inside > 0.7 and pictures.std() > 0.05
