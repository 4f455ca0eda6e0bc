"""Every choice of every list, run once: it works, or a sentence says truly why not, and what that advises works."""

import re

import pytest

from tests.helpers.graphs import PORTRAIT, find, node, talking_portrait, to_file, write_wav
from tools.comfyui_server import ServerError


@pytest.fixture(scope="module")
def graphs(comfyui_server, tmp_path_factory) -> dict[str, dict]:
    """By class of a node with lists, a graph with one of it whose result is looked at."""
    voice = write_wav(tmp_path_factory.mktemp("voice") / "half_a_second.wav", 8000, 16000)
    inputs = {
        "LoadImage": {"image": comfyui_server.add_input(PORTRAIT)},
        "LoadAudio": {"audio": comfyui_server.add_input(voice)},
    }
    whole = talking_portrait(**inputs)
    made = {part["class_type"]: whole for part in whole.values()} | {"MemoSampleToFile": to_file(whole)}
    frames = node("HandMadeImage", shape="2 64 64 3", value=0.5)
    photo = node("HandMadeImage", shape="1 96 96 3", value=0.5)
    faces = {"faces": node("MemoLoadFaceAnalysis", face_analysis="tiny"), "photo": photo, "frames": frames}
    crop = node("MemoCropPortrait", face_analysis=["faces", 0], image=["photo", 0], index=0, margin=0.4, size=64)
    pasted = {"photo": ["photo", 0], "images": ["frames", 0], "crop": ["crop", 1], "feather": 0.1, "color_match": "off"}
    chosen = {"fps": 30.0, "filename_prefix": "video/choices", "codec": "h264", "crf": 30, "pixel_format": "auto", "audio_codec": "auto"}
    sound = {"sound": node("HandMadeAudio", shape="1 2 8000", sample_rate=16000, value="noise")}
    paste = {"paste": node("MemoPasteBack", **pasted), "end": node("PreviewImage", images=["paste", 0])}
    to_a_file = sound | {"paste": node("MemoPasteBackToFile", **pasted, **chosen, sound=["sound", 0])}
    made["MemoPasteBack"] = faces | {"crop": crop} | paste
    made["MemoPasteBackToFile"] = faces | {"crop": crop} | to_a_file
    made["MemoSetEmotion"] = {"mood": node("MemoSetEmotion", emotion="sad"), "end": node("PreviewAny", source=["mood", 0])}
    everything = {"model": "tiny", "classifier": "tiny", "vocal_separator": "tiny", "face_analysis": "tiny"}
    everything |= {"vae": "sd-vae-ft-mse", "audio_encoder": "wav2vec2-base-960h", "emotion2vec": "emotion2vec_plus_large"}
    load_all = {"all": node("MemoLoadAll", **everything)}
    made["MemoLoadAll"] = load_all | {"end": node("PreviewAny", source=["all", 0])}
    settings = {"resolution": 64, "fps": 30.0, "steps": 1, "guidance_scale": 1.0, "seed": 42}
    given = {"image": node("LoadImage", **inputs["LoadImage"]), "audio": node("LoadAudio", **inputs["LoadAudio"])}
    portrait = node("MemoTalkingPortrait", models=["all", 0], image=["image", 0], audio=["audio", 0], **settings)
    made["MemoTalkingPortrait"] = load_all | given | {"portrait": portrait, "end": node("PreviewImage", images=["portrait", 0])}
    return made


def lists(server) -> list[tuple[str, str, list[str]]]:
    """Node, input and choices of each list of the pack, as the front end gets them."""
    found = []
    for kind, described in server.get("/object_info").items():
        for group in described["input"].values() if kind.startswith("Memo") else ():
            for name, (choices, *more) in group.items() if isinstance(group, dict) else ():
                choices = more[0]["options"] if choices == "COMBO" else choices
                found += [(kind, name, choices)] if isinstance(choices, list) else []
    return found


def said(server, graph: dict, kind: str, **inputs) -> str:
    """What a graph says when its node of that class has these inputs; nothing where it runs."""
    name = find(graph, kind)
    changed = graph | {name: {**graph[name], "inputs": graph[name]["inputs"] | inputs}}
    try:
        server.run(changed)
    except ServerError as error:
        return str(error)
    return ""


@pytest.mark.slow
def test_every_choice_of_every_list(comfyui_server, graphs):
    """None but those whose sentence is here: a loader's published names where nothing is downloaded, and models that lack a part."""
    unexpected, tried = {}, 0
    true = {
        "MemoLoadModel.weight_dtype": r"weight_dtype: this device \(cpu\) does not support \w+\. Choose (int8_scaled or )?auto\.",
        "MemoDetectEmotion.emotion_source": "",
        "MemoSampleToFile.pixel_format": "",
        "MemoSampler.preset": "turbo needs a model that was distilled",
        "MemoTalkingPortrait.preset": "turbo needs a model that was distilled",
        "MemoSampleToFile.preset": "turbo needs a model that was distilled",
        "MemoPasteBackToFile.pixel_format": r"pixel_format of h264: expected yuv420p, yuv444p, got bgr0\.",
    }
    for kind, name, choices in lists(comfyui_server):
        if (kind, name) == ("MemoTalkingPortrait", "quality"):  # of 512 pixels, see test_all_in_one.py
            continue
        for choice in choices:
            answer, tried = said(comfyui_server, graphs[kind], kind, **{name: choice}), tried + 1
            allowed = true.get(f"{kind}.{name}") or (r"download|lacks|is missing|expected" if kind.startswith("MemoLoad") else None)
            if answer and not (allowed and re.search(allowed, answer)):
                unexpected[f"{kind}.{name} {choice}"] = answer
    assert unexpected == {} and tried > 60
