"""emotion2vec: every variant against its formulas written out, keys of the published file, loading."""

import json
import math
import os
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from memo_modules.audio.emotion2vec import Emotion2Vec, Emotion2VecConfig, alibi_slopes, load_emotion2vec
from memo_modules.errors import CheckpointError
from memo_modules.models.layers import Layers
from memo_modules.store.catalogue import CATALOGUE

MANIFEST = Path(__file__).resolve().parents[1] / "manifests" / "manifest_emotion2vec.json"

TINY = Emotion2VecConfig(
    d=24,
    depth=2,
    prenet_depth=1,
    heads=4,
    d_mlp=40,
    extra_tokens=3,
    conv_layers=((8, 10, 5), (8, 3, 2), (12, 2, 2)),
    conv_pos_kernel=5,
    conv_pos_depth=2,
    conv_pos_groups=4,
    alibi_heads=4,
)

VARIANTS = {
    "published": TINY,
    "group norm": replace(TINY, front_norm="group_norm"),
    "scale per layer": replace(TINY, alibi_layers=3),
    "one scale for all heads": replace(TINY, d=128, heads=2, alibi_heads=1),
    "six heads": replace(TINY, heads=6, alibi_heads=6),
    "norm first": replace(TINY, layer_norm_first=True),
    "norm first, bare prenet": replace(TINY, layer_norm_first=True, prenet_norm=False),
    "pre norm of positions": replace(TINY, conv_pos_pre_ln=True),
    "even kernel": replace(TINY, conv_pos_kernel=4),
    "no extra tokens": replace(TINY, extra_tokens=0),
    "deep prenet": replace(TINY, prenet_depth=4, depth=1, conv_pos_depth=3, alibi_layers=5),
}


def random_encoder(config: Emotion2VecConfig) -> Emotion2Vec:
    torch.manual_seed(0)
    encoder = Emotion2Vec(config, Layers()).eval()
    for name, parameter in encoder.named_parameters():
        if parameter.ndim == 1 or "alibi" in name or "tokens" in name:
            torch.nn.init.normal_(parameter, mean=0.5)
    return encoder


def written_out(config: Emotion2VecConfig, w: dict, x: torch.Tensor) -> torch.Tensor:
    """emotion2vec as plain formulas on the state dict ``w``; x (1 samples) -> (t d)."""

    def norm(x, key):
        return F.layer_norm(x, x.shape[-1:], w[key + ".weight"], w[key + ".bias"])

    def attention(x, key, bias):
        q, k, v = (x @ w[key + ".qkv.weight"].T + w[key + ".qkv.bias"]).chunk(3, dim=-1)
        width, out = config.d // config.heads, []
        for h in range(config.heads):
            part = slice(h * width, (h + 1) * width)
            scores = q[:, part] @ k[:, part].T / width**0.5 + bias[h]
            out.append(scores.softmax(dim=-1) @ v[:, part])
        return torch.cat(out, dim=-1) @ w[key + ".proj.weight"].T + w[key + ".proj.bias"]

    def mlp(x, key):
        h = F.gelu(x @ w[key + ".fc1.weight"].T + w[key + ".fc1.bias"])
        return h @ w[key + ".fc2.weight"].T + w[key + ".fc2.bias"]

    def block(x, key, bias):
        if config.layer_norm_first:
            x = x + attention(norm(x, key + "norm1"), key + "attn", bias)
            x = mlp(norm(x, key + "norm2"), key + "mlp")
            return x + x
        x = norm(x + attention(x, key + "attn", bias), key + "norm1")
        return norm(x + mlp(x, key + "mlp"), key + "norm2")

    front = "modality_encoders.AUDIO."
    x = x[None]
    for i, (_, _, stride) in enumerate(config.conv_layers):
        key = f"{front}local_encoder.conv_layers.{i}."
        x = F.conv1d(x, w[key + "0.weight"], stride=stride)
        if config.front_norm == "layer_norm":
            x = norm(x.mT, key + "2.1").mT
        elif i == 0:
            x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
            x = x * w[key + "2.weight"][:, None] + w[key + "2.bias"][:, None]
        x = F.gelu(x)
    x = norm(x.mT, front + "project_features.1") @ w[front + "project_features.2.weight"].T + w[front + "project_features.2.bias"]
    key, p = front + "relative_positional_encoder.", x
    if config.conv_pos_pre_ln:
        p, key = norm(p, key + "0"), key + "1."
    for i in range(1, config.conv_pos_depth + 1):
        p = F.conv1d(p.mT, w[f"{key}{i}.0.weight"], w[f"{key}{i}.0.bias"], padding=config.conv_pos_kernel // 2, groups=config.conv_pos_groups)
        p = F.gelu(F.layer_norm(p[..., : x.shape[1]].mT, p.shape[1:2]))
    x = (x + p)[0]
    if config.extra_tokens:
        x = torch.cat([w[front + "extra_tokens"][0], x])

    def bias(layer):
        n = config.extra_tokens
        scale = w[front + "alibi_scale"][layer if config.alibi_layers > 1 else 0].flatten().clamp(min=0)
        bias = torch.zeros(config.heads, len(x), len(x))
        for h, slope in enumerate(alibi_slopes(config.heads)):
            for i in range(n, len(x)):
                for j in range(n, len(x)):
                    bias[h, i, j] = -abs(i - j) * slope * scale[h if config.alibi_heads > 1 else 0]
        return bias

    prenet_norm = front + "context_encoder.norm"
    if config.prenet_norm and not config.layer_norm_first:
        x = norm(x, prenet_norm)
    for i in range(config.prenet_depth):
        x = block(x, f"{front}context_encoder.blocks.{i}.", bias(i))
    if config.prenet_norm and config.layer_norm_first:
        x = norm(x, prenet_norm)
    for i in range(config.depth):
        x = block(x, f"blocks.{i}.", bias(config.prenet_depth + i))
    return (norm(x, "norm") if config.layer_norm_first else x)[config.extra_tokens :]


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_variant_computes_its_formulas(config):
    encoder = random_encoder(config)
    waveform = torch.randn(1, 700, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        found = encoder(waveform)[0]
        expected = written_out(config, encoder.state_dict(), waveform)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_configuration_is_read_from_the_weights(config):
    assert Emotion2VecConfig.from_weights(Emotion2Vec(config, Layers(device="meta")).state_dict()) == config


def test_full_size_has_the_published_keys():
    published = json.loads(MANIFEST.read_text(encoding="utf-8"))["keys"]
    encoder = Emotion2Vec(Emotion2VecConfig(), Layers(device="meta"))
    assert {key: list(value.shape) for key, value in encoder.state_dict().items()} == published
    shapes = {key: torch.empty(shape, device="meta") for key, shape in published.items()}
    assert Emotion2VecConfig.from_weights(shapes) == Emotion2VecConfig()
    assert Emotion2VecConfig().receptive_field == 400
    [file] = CATALOGUE["emotion2vec"].files
    numbers = sum(map(math.prod, published.values())) + 9 * 1024 + 9  # with the head that tells emotions
    assert 0 < file.size - 3 * 4 * numbers < 200_000, "each with the two moments of its optimizer"


def test_slopes():
    assert alibi_slopes(8) == [2.0**-i for i in range(1, 9)]
    assert alibi_slopes(1) == [2.0**-8]
    assert alibi_slopes(12) == pytest.approx(alibi_slopes(8) + [2.0 ** -(i + 0.5) for i in range(4)])


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "model_state_dict", None])
@pytest.mark.parametrize("prefix", ["module.", "", "d2v_model.", "module.d2v_model."])
def test_the_published_kinds_of_file_load(tmp_path, wrapper, prefix):
    encoder = random_encoder(TINY)
    weights = {prefix + key: value for key, value in encoder.state_dict().items()}
    copy = "_ema.modality_encoders.AUDIO.project_features.2.weight"
    weights = {prefix + copy: torch.zeros(2, 2), **weights}
    for training_only in ("modality_encoders.AUDIO.decoder.blocks.0.0.weight", "_ema.blocks.0.attn.qkv.weight"):
        weights[prefix + training_only] = torch.zeros(2)
    weights[prefix.removesuffix("d2v_model.") + "proj.weight"] = torch.zeros(9, 2)
    path = tmp_path / "model.pt"
    torch.save({wrapper: weights, "epoch": 3} if wrapper else weights, path)
    loaded = load_emotion2vec(path)
    waveform = torch.randn(1, 500)
    with torch.inference_mode():
        assert torch.equal(loaded(waveform), encoder(waveform))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_training_checkpoint_loads_and_runs_nothing(tmp_path, zipped):
    """With objects that torch does not read as weights alone, as fairseq leaves them."""
    encoder, path = random_encoder(TINY), tmp_path / "model.pt"
    weights = {f"d2v_model.{key}": value for key, value in encoder.state_dict().items()}
    held = {"args": Namespace(lr=1), "model": weights, "extra_state": {"val_loss": numpy.float64(2)}, "payload": Payload(tmp_path / "it ran")}
    torch.save(held, path, _use_new_zipfile_serialization=zipped)
    loaded = load_emotion2vec(path).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in encoder.state_dict().items())
    assert not (tmp_path / "it ran").exists()


class Payload:
    """Makes a folder when it is read."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_safetensors_load(tmp_path):
    encoder = random_encoder(TINY)
    save_file({key: value.half() for key, value in encoder.state_dict().items()}, tmp_path / "model.safetensors")
    loaded = load_emotion2vec(tmp_path / "model.safetensors")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in loaded.parameters()) and not loaded.training


def test_bad_files_are_named(tmp_path):
    path = tmp_path / "model.pt"
    with pytest.raises(CheckpointError, match="model.pt is missing"):
        load_emotion2vec(path)
    torch.save({"model": {"something.else": torch.zeros(3)}}, path)
    with pytest.raises(CheckpointError, match="model.pt is not an emotion2vec model"):
        load_emotion2vec(path)
    weights = random_encoder(TINY).state_dict()
    del weights["blocks.1.mlp.fc2.bias"]
    torch.save({"model": weights}, path)
    with pytest.raises(CheckpointError, match="blocks.1.mlp.fc2.bias"):
        load_emotion2vec(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="model.pt cannot be read"):
        load_emotion2vec(path)
