"""What the pack keeps: a replaced model file is noticed, and POST /free gives everything back."""

import os
import shutil
from pathlib import Path

import pytest
from graphs import PORTRAIT, Record, alive, find, free, node, talking_portrait, write_wav

NET = "diffusion_pytorch_model.safetensors"
LOADERS = {
    "model": node("MemoLoadModel", model="copied"),
    "face": node("MemoLoadFaceAnalysis", face_analysis="copied"),
    "vocals": node("MemoLoadVocalSeparator", vocal_separator="copied"),
    "voice": node("MemoLoadAudioEncoder", audio_encoder="copied"),
    "emotion": node("MemoLoadEmotionModel", emotion2vec="copied_emotion2vec", classifier="copied"),
}
ALL_LOADERS = LOADERS | {f"{name} end": node("PreviewAny", source=[name, 0]) for name in LOADERS}


@pytest.fixture
def copies(comfyui_server, tiny_models):
    """A `models` folder of the server's own with copies of every model, which a test may change."""
    models = comfyui_server.base / "models"
    folders = {
        "memo/tiny": "memo/copied",
        "memo/emotion2vec_plus_large": "memo/copied_emotion2vec",
        "audio_encoders/wav2vec2-base-960h": "audio_encoders/copied",
    }
    for source, copy in folders.items():
        shutil.copytree(tiny_models / source, models / copy)
    yield models
    for copy in folders.values():
        shutil.rmtree(models / copy)


def loaders_run(server) -> set[str]:
    """Which loaders run when all are asked for; the others come from the cache."""
    record = Record()
    server.run(ALL_LOADERS, record)
    assert LOADERS.keys() <= set(record.executed) | set(record.cached)
    return LOADERS.keys() & set(record.executed) - set(record.cached)


def test_loaders_run_again_when_a_file_was_replaced(comfyui_server, copies):
    assert loaders_run(comfyui_server) == LOADERS.keys()
    assert loaders_run(comfyui_server) == set()
    for file, affected in (
        (f"memo/copied/image_proj/{NET}", {"model"}),
        ("memo/copied/misc/face_analysis/models/glintr100.onnx", {"face"}),
        ("memo/copied/misc/vocal_separator/Kim_Vocal_2.onnx", {"vocals"}),
        ("audio_encoders/copied/model.safetensors", {"voice"}),
        ("memo/copied_emotion2vec/model.pt", {"emotion"}),
        (f"memo/copied/misc/audio_emotion_classifier/{NET}", {"emotion"}),
    ):
        replace_with_copy(copies / file)
        assert loaders_run(comfyui_server) == affected, file


def replace_with_copy(file: Path) -> None:
    """Put a new file with the same content, a second older, in the place of ``file``."""
    times = file.stat()
    copy = Path(shutil.copyfile(file, file.with_suffix(".new")))
    os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns - 10**9))
    os.replace(copy, file)


@pytest.fixture
def workflow(comfyui_server, tmp_path) -> dict:
    voice = comfyui_server.add_input(write_wav(tmp_path / "voice_for_memory.wav", 4000, 16000))
    return talking_portrait(LoadImage={"image": comfyui_server.add_input(PORTRAIT)}, LoadAudio={"audio": voice})


def test_onnx_sessions_close_behind_the_node_that_used_them(comfyui_server, workflow):
    """ComfyUI cannot take their memory back by itself."""
    assert free(comfyui_server) == {}
    found = alive(comfyui_server.run(workflow | {"alive": node("Alive", after=[find(workflow, "MemoSampler"), 0])}))
    assert {"FaceAnalyzer", "VocalSeparator"} <= found.keys() and "InferenceSession" not in found


def test_free_gives_everything_back(comfyui_server, workflow, copies):
    """Also what a loader opened and no other node has used yet."""
    look = node("Alive", after=[find(workflow, "MemoSampler"), 0], and_after=["face", 0])
    found = alive(comfyui_server.run(workflow | ALL_LOADERS | {"alive": look}))
    assert {"DiffusionNet", "ReferenceNet", "AudioEncoder", "Emotion2Vec", "InferenceSession", "ModelPatcher"} <= found.keys()
    assert free(comfyui_server) == {}
