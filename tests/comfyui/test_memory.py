"""What the pack keeps: a replaced model file is noticed, and POST /free gives everything back."""

import os
import shutil
from pathlib import Path

import pytest

from tests.helpers.graphs import PORTRAIT, ROOT, Record, alive, find, free, look_until, node, talking_portrait, write_wav
from tests.helpers.in_comfyui import found_by

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
    """Put a new file with the same content, a second older, instead of ``file``."""
    times = file.stat()
    copy = Path(shutil.copyfile(file, file.with_suffix(".new")))
    os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns - 10**9))
    os.replace(copy, file)


@pytest.fixture
def workflow(comfyui_server, tmp_path) -> dict:
    voice = comfyui_server.add_input(write_wav(tmp_path / "voice_for_memory.wav", 4000, 16000))
    return talking_portrait(LoadImage={"image": comfyui_server.add_input(PORTRAIT)}, LoadAudio={"audio": voice})


@pytest.fixture
def preparations(workflow) -> dict:
    """The part of the workflow that uses ONNX files, and what that needs."""
    part, needed = {}, [find(workflow, "MemoSeparateVocals"), find(workflow, "MemoEmbedFace")]
    while needed:
        name = needed.pop()
        part[name] = workflow[name]
        needed += [value[0] for value in workflow[name]["inputs"].values() if isinstance(value, list)]
    return part


SESSIONS = {"VocalSeparator": 1, "FaceAnalyzer": 1, "InferenceSession": 3}
CLOSED = {"VocalSeparator": 1, "FaceAnalyzer": 1}


def sessions(found: dict[str, int]) -> dict[str, int]:
    """Of what is alive, the ONNX sessions and what they are open for."""
    return {name: count for name, count in found.items() if name in SESSIONS}


def look_behind(graph: dict, **nodes: dict) -> dict:
    """``graph`` with a look at what is alive when all of ``nodes``, or of its own, are done."""
    after = [[name, 0] for name in nodes] or [[find(graph, kind), 0] for kind in ("MemoSeparateVocals", "MemoEmbedFace")]
    return graph | nodes | {"alive": node("Alive", after=after[0], and_after=after[1])}


def unload(server, graph: dict) -> dict[str, int]:
    """Have ComfyUI unload its models, not drop what it has cached of ``graph``; returns what is alive of SESSIONS then."""
    server.post("/free", {"unload_models": True})
    return sessions(look_until(server, graph, lambda found: "InferenceSession" not in found))


def test_onnx_sessions_stay_open_until_comfyui_unloads_them(comfyui_server, preparations):
    """And open again when they are used again."""
    assert free(comfyui_server) == {}
    graph = look_behind(preparations)
    assert sessions(alive(comfyui_server.run(graph))) == SESSIONS
    assert sessions(alive(comfyui_server.run(graph))) == SESSIONS
    assert unload(comfyui_server, graph) == CLOSED
    graph[find(graph, "MemoEmbedFace")]["inputs"]["allow_no_face"] = True
    assert sessions(alive(comfyui_server.run(graph))) == CLOSED | {"InferenceSession": 2}  # only what ran again
    assert unload(comfyui_server, graph) == CLOSED


def test_onnx_sessions_that_only_a_loader_opened_are_unloaded_too(comfyui_server, copies):
    assert free(comfyui_server) == {}
    graph = look_behind({}, **{name: LOADERS[name] for name in ("face", "vocals")})
    assert sessions(alive(comfyui_server.run(graph))) == SESSIONS
    assert unload(comfyui_server, graph) == CLOSED


def test_onnx_sessions_make_room_for_another_model(comfyui_server, preparations):
    assert free(comfyui_server) == {}
    used = {kind: [find(preparations, kind), 0] for kind in ("MemoSeparateVocals", "MemoEmbedFace")}
    rooms = {f"room after {kind}": node("MakeRoom", after=output) for kind, output in used.items()}
    assert sessions(alive(comfyui_server.run(look_behind(preparations, **rooms)))) == CLOSED


@pytest.mark.parametrize("where", ["on the GPU", pytest.param("on the CPU", marks=pytest.mark.slow)])
def test_onnx_sessions_make_room_on_a_card(comfyui_path, tiny_models, where):
    """Sessions that onnxruntime has on the CPU at the same time take none of its memory, and are unloaded all the same."""
    folder = tiny_models / "memo" / "tiny" / "misc" / "face_analysis" / "models"
    arena = 2**30  # that onnxruntime keeps there
    size = arena + sum(file.stat().st_size for file in folder.iterdir()) if where == "on the GPU" else 0
    is_open, closed = [size, size, True], [size, 0, False]
    assert found_by("pretend_card.py", comfyui_path, ROOT, folder, where) == {
        "loaded": is_open,
        "unloaded": closed,
        "brought in": is_open,
        "with a small model": is_open,
        "with a large model": closed,
    }


def test_free_gives_everything_back(comfyui_server, workflow, copies):
    """Also what a loader opened and no other node has used yet."""
    look = node("Alive", after=[find(workflow, "MemoSampler"), 0], and_after=["face", 0])
    found = alive(comfyui_server.run(workflow | ALL_LOADERS | {"alive": look}))
    assert {"DiffusionNet", "ReferenceNet", "AudioEncoder", "Emotion2Vec", "InferenceSession", "ModelPatcher"} <= found.keys()
    assert free(comfyui_server) == {}
