"""Times what comes before the sampler: audio features and emotions, on random weights of the published sizes, and the ONNX models for face
and vocals if their files are available."""

import argparse
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from memo_modules.audio.emotion import detect_emotion
from memo_modules.audio.emotion2vec import Emotion2Vec, Emotion2VecConfig
from memo_modules.audio.features import AudioEncoder, encode_audio
from memo_modules.audio.vocals import VocalSeparator
from memo_modules.models.emotion_classifier import EmotionClassifier
from memo_modules.models.layers import Layers
from memo_modules.portrait.face import FaceAnalyzer, embed_face
from memo_modules.types import Audio
from memo_modules.weights.checkpoints import assign_weights
from memo_modules.weights.onnx_sessions import OnnxModel
from tools.benchmarking.device import Device
from tools.benchmarking.random_nets import random_weights

FPS = Fraction(30)
WARM_UP_S = 4.0
STAGES = ("features", "emotion", "face", "vocals")

_AUDIO_ENCODER = {  # what transformers' defaults leave out is that of wav2vec2-base-960h
    "full": {},
    "tiny": {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "conv_dim": [16] * 7,
             "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4},
}  # fmt: skip
_EMOTION2VEC = {
    "full": Emotion2VecConfig(),
    "tiny": Emotion2VecConfig(d=64, depth=2, prenet_depth=1, heads=4, alibi_heads=4, d_mlp=64, conv_layers=((16, 10, 5),) + ((16, 3, 2),) * 6),
}


def measure(arguments: argparse.Namespace, device: Device) -> dict:
    """One entry; every time is a median, and whole: sound and picture come from the CPU, and what is made of them goes there."""
    size, seconds, rate, at = arguments.size, arguments.seconds, arguments.rate, {"device": device.torch}
    with torch.device("meta"):
        encoder = AudioEncoder(_AUDIO_ENCODER[size])
    encoder = _filled(encoder, device)
    emotion2vec = _filled(Emotion2Vec(_EMOTION2VEC[size], Layers(device="meta")), device)
    classifier = _filled(EmotionClassifier(Layers(device="meta"), d_in=_EMOTION2VEC[size].d), device)
    voice = Audio(torch.randn(2, round(seconds * rate), generator=torch.Generator().manual_seed(0)).mul(0.1), rate)

    entry = {"device": device.name, "size": size, "seconds": seconds, "sample_rate": rate, "dtype": "float32"}
    stages = {
        "features": lambda audio: encode_audio(encoder, audio, FPS, **at),
        "emotion": lambda audio: detect_emotion(emotion2vec, classifier, audio, **at),
    }
    if arguments.face:
        analyzer = FaceAnalyzer.load(arguments.face, cuda=device.is_cuda)
        portrait = picture(arguments.portrait)
        stages["face"] = lambda _: embed_face(analyzer, portrait)
        entry["face_provider"] = provider(analyzer)
    if arguments.separator:
        separator = VocalSeparator.load(arguments.separator, cuda=device.is_cuda)
        stages["vocals"] = separator.separate
        entry["vocals_provider"] = provider(separator)
    for stage, hear in stages.items():
        hear(replace(voice, waveform=voice.waveform[:, : round(WARM_UP_S * rate)]))
        entry[f"{stage}_s"] = device.median_seconds(partial(hear, voice), arguments.repeats)
    return entry


def picture(path: Path) -> Tensor:
    """Float (h w 3), RGB in [0, 1]."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))) / 255


def provider(model: OnnxModel) -> str:
    return "CUDA" if model.on_cuda else "CPU"


def _filled(module: nn.Module, device: Device) -> nn.Module:
    """``module``, of the meta device, with random weights on ``device``."""
    weights = random_weights(module.state_dict(), 0, device.torch, torch.float32)
    assign_weights(module, weights, Path(f"random {type(module).__name__}"))
    return module.eval()


def report(entry: dict) -> str:
    providers = {stage: f" (onnxruntime on {entry[f'{stage}_provider']})" for stage in ("face", "vocals") if f"{stage}_s" in entry}
    times = [f"{stage:10}{entry[f'{stage}_s']:8.3f}{providers.get(stage, '')}" for stage in STAGES if f"{stage}_s" in entry]
    return "\n".join([f"{entry['device']}, {entry['size']}: seconds for {entry['seconds']:g} s of audio", *times])


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.py conditioning", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--seconds", type=float, default=60.0, help="of audio")
    parser.add_argument("--rate", type=int, default=44100, help="samples per second of it; 16000 needs no PyAV, nothing is resampled then")
    parser.add_argument("--face", type=Path, metavar="DIR", help="a folder with the face analysis' ONNX files, to be timed too")
    parser.add_argument("--portrait", type=Path, metavar="FILE", help="the picture that it is to look at")
    parser.add_argument("--separator", type=Path, metavar="FILE", help="a vocal separator's ONNX file, to be timed too")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="append the results to FILE")
    arguments = parser.parse_args(argv)
    if bool(arguments.face) != bool(arguments.portrait):
        raise ValueError("--face and --portrait: expected both or none.")
    return arguments
