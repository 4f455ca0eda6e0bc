"""The ONNX files of faces and vocals: small graphs, loaded and run as the published ones are."""

from pathlib import Path

import torch

from memo_modules.audio.vocals import VocalSeparator
from memo_modules.portrait.face import DETECTOR_FILE, RECOGNISER_FILE, FaceAnalyzer, embed_face
from memo_modules.types import Audio
from tools import tiny_onnx
from tools.fuzzing.mutations import damaged_onnx
from tools.fuzzing.targets import Target, listed


def onnx_targets(folder: Path) -> dict[str, Target]:
    faces, vocals = folder / "face_analysis", folder / "vocal_separator" / "Kim_Vocal_2.onnx"
    tiny_onnx.write_detector(faces / DETECTOR_FILE)
    tiny_onnx.write_recogniser(faces / RECOGNISER_FILE)
    tiny_onnx.write_vocal_separator(vocals, dim_t=16)
    return {
        "faces": Target(faces, {DETECTOR_FILE: damaged_onnx, RECOGNISER_FILE: damaged_onnx}, _faces),
        "vocals": Target(vocals, {"": damaged_onnx}, _vocals),
    }


def _faces(place: Path) -> None:
    listed("face_analysis", place)
    embedding = embed_face(FaceAnalyzer.load(place), torch.linspace(0, 1, 128 * 128 * 3).reshape(128, 128, 3)).embedding
    assert embedding.shape[-1] == 512 and torch.isfinite(embedding).all(), "an embedding that no net takes"


def _vocals(place: Path) -> None:
    listed("vocal_separator", place)
    heard = VocalSeparator.load(place).separate(Audio(torch.linspace(-0.5, 0.5, 20_000).expand(2, -1), 44100)).waveform
    assert heard.shape == (2, 20_000) and torch.isfinite(heard).all(), "vocals that are none"
