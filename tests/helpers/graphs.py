"""Graphs in API format that the server tests run, and what goes into them and comes out."""

import json
import shutil
import time
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PORTRAIT = ROOT / "assets" / "portrait.jpg"
WORKFLOW = Path(__file__).with_name("single_nodes.json")
"""A talking portrait made of single nodes, with a loader of its own for each model."""
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
OF_OTHER_PACKS = {
    "face_restoration_facerestore_cf": {"FaceRestoreModelLoader", "FaceRestoreCFWithModel"},
    "save_with_video_helper_suite": {"VHS_VideoCombine"},
    "text_to_speech_fill_chatterbox": {"FL_ChatterboxTTS"},
}
"""Workflows whose name says which pack they need, to that pack's nodes."""

TINY = {
    "MemoLoadVAE": {"vae": "sd-vae-ft-mse"},
    "MemoLoadModel": {"model": "tiny"},
    "MemoLoadFaceAnalysis": {"face_analysis": "tiny"},
    "MemoLoadVocalSeparator": {"vocal_separator": "tiny"},
    "MemoLoadAudioEncoder": {"audio_encoder": "wav2vec2-base-960h"},
    "MemoLoadEmotionModel": {"emotion2vec": "emotion2vec_plus_large", "classifier": "tiny"},
    "MemoSampler": {"width": 64, "height": 64, "steps": 1},
}
"""The tiny checkpoint, and pictures as small as they come."""

LOADED = {name: value for kind, inputs in TINY.items() if "Load" in kind for name, value in inputs.items()}
"""The same for Load All MEMO Models."""

_SMALL_PICTURES = {"steps": 2, "guidance_scale": 1.0}
SMALL = {
    "MemoLoadModel": {"model": "small"},
    "MemoLoadVAE": {"vae": "small"},
    "MemoLoadFaceAnalysis": {"face_analysis": "small"},
    "MemoLoadVocalSeparator": {"vocal_separator": "small"},
    "MemoLoadAudioEncoder": {"audio_encoder": "wav2vec2-small"},
    "MemoLoadEmotionModel": {"emotion2vec": "emotion2vec_small", "classifier": "small"},
    "MemoLoadAll": {
        "model": "small",
        "vae": "small",
        "audio_encoder": "wav2vec2-small",
        "emotion2vec": "emotion2vec_small",
        "classifier": "small",
        "vocal_separator": "small",
        "face_analysis": "small",
    },
    "MemoCropPortrait": {"size": 128},
    "MemoSampler": {"width": 128, "height": 128, **_SMALL_PICTURES},
    "MemoSampleToFile": {"width": 128, "height": 128, **_SMALL_PICTURES},
    "MemoTalkingPortrait": {"resolution": 128, **_SMALL_PICTURES},
    "UpscaleModelLoader": {"model_name": "tiny.safetensors"},
    "FrameInterpolationModelLoader": {"model_name": "tiny.safetensors"},
}
"""The small model of assets/models, in few steps, and what ``write_tiny_upscaler`` and ``write_tiny_interpolator`` write."""

STAND_INS = {"text_to_portrait": ("VAEDecode", "LoadImage"), "text_to_speech_fill_chatterbox": ("FL_ChatterboxTTS", "LoadAudio")}
"""Workflows with models or nodes that no test has: which node gives what they make, and which core node can give it instead."""


def given(photo: str, sound: str) -> dict[str, dict]:
    """The inputs of nodes that bring in a picture or a sound: files in ComfyUI's input folder, named for all of them."""
    return {"LoadImage": {"image": photo}, "LoadAudio": {"audio": sound}, "RecordAudio": {"audio": sound}}


def with_stand_in(prompt: dict, workflow: str) -> dict:
    """The graph of that workflow, whose inputs are still to be given, with its stand-in, if it has one."""
    kind, instead = STAND_INS.get(workflow, (None, None))
    return {name: node(instead) if part["class_type"] == kind else part for name, part in prompt.items()}


def talking_portrait(**inputs: dict) -> dict:
    """The talking portrait of single nodes on the tiny checkpoint; ``inputs``: class of a node to inputs that it gets."""
    prompt = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    for part in prompt.values():
        part["inputs"] |= TINY.get(part["class_type"], {}) | inputs.get(part["class_type"], {})
    return prompt


def to_file(prompt: dict, **inputs) -> dict:
    """The graph with its sampler and everything after it replaced by MEMO Sample to File, with ``inputs`` more."""
    sampler = find(prompt, "MemoSampler")
    sound = [find(prompt, "LoadAudio"), 0]
    kept = {name: part for name, part in prompt.items() if part["class_type"] not in ("MemoSampler", "CreateVideo", "SaveVideo")}
    chosen = {
        "sound": sound,
        "filename_prefix": "video/long",
        "codec": "ffv1",
        "crf": 18,
        "pixel_format": "auto",
        "audio_codec": "auto",
        "output_fps": 0.0,
        "unfinished": "output",
    }
    return kept | {sampler: node("MemoSampleToFile", **prompt[sampler]["inputs"] | chosen | inputs)}


def find(prompt: dict, kind: str) -> str:
    """The id of the one node of that class."""
    [name] = [name for name, part in prompt.items() if part["class_type"] == kind]
    return name


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


class Record:
    """Listens to a run: which nodes ran, which came from the cache, the sampler's progress, its previews and what it says."""

    def __init__(self):
        self.executed: list[str] = []
        self.cached: list[str] = []
        self.progress: dict[str, list[tuple[int, int]]] = {}
        self.previews: list[bytes] = []
        self.texts: list[str] = []

    def __call__(self, kind: str, data: dict) -> None:
        if kind == "executing" and data["node"]:
            self.executed.append(data["node"])
        elif kind == "execution_cached":
            self.cached += data["nodes"]
        elif kind == "progress":
            self.progress.setdefault(data["node"], []).append((data["value"], data["max"]))
        elif kind == "preview":
            self.previews.append(data["message"])
        elif kind == "progress_text":
            self.texts.append(data["text"])


ARGUMENT_DEFAULTS = ("Inert", "MotionConfig", "Named", "Option", "SamplerSettings", "VideoFormat")
"""Classes of which there are constants, in modules and as defaults of arguments."""


def alive(outputs: dict) -> dict[str, int]:
    """How many objects of each of the pack's classes, ONNX sessions and patchers the node Alive of a run found."""
    [found] = [output["alive"] for output in outputs.values() if "alive" in output]
    return {name: count for name, count in json.loads(found[0]).items() if name not in ARGUMENT_DEFAULTS}


def free(server) -> dict[str, int]:
    """POST /free, and wait until nothing of the pack is left; returns what is there after all."""
    server.free()
    return look_until(server, {"alive": node("Alive")}, lambda left: not left)


def look_until(server, graph: dict, fits: Callable[[dict[str, int]], bool]) -> dict[str, int]:
    """Run ``graph`` with its node Alive until what that found ``fits``, or for 20 seconds; returns what it found last."""
    deadline = time.monotonic() + 20
    while not fits(found := alive(server.run(graph))) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def write_wav(path: Path, samples: int, sample_rate: int, channels: int = 1) -> Path:
    """A tone that swells and fades, 16 bits."""
    time = np.arange(samples) / sample_rate
    tone = 0.3 * np.sin(2 * np.pi * 220 * time) * np.sin(2 * np.pi * 3 * time) ** 2
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(np.repeat((tone * 32767).astype("<i2")[:, None], channels, axis=1).tobytes())
    return path


def write_portraits(inputs: Path, portraits: dict[str, Path]) -> None:
    """The folder that folder_of_portraits names: {name: picture}, each with a text file that says its name."""
    (inputs / "portraits").mkdir(parents=True, exist_ok=True)
    for name, picture in portraits.items():
        shutil.copy(picture, inputs / "portraits" / f"{name}{picture.suffix}")
        (inputs / "portraits" / f"{name}.txt").write_text(name, encoding="utf-8")


def frames_of(server, outputs: dict) -> np.ndarray:
    return np.stack([np.asarray(Image.open(server.output_file(entry))) for entry in outputs["frames"]["images"]])


def saving_frames(prompt: dict) -> dict:
    """The graph with its frames written as PNG instead of a video."""
    kept = {name: part for name, part in prompt.items() if part["class_type"] not in ("CreateVideo", "SaveVideo")}
    return kept | {"frames": node("SaveImage", images=[find(prompt, "MemoSampler"), 0], filename_prefix="frames")}
