"""Load All MEMO Models and MEMO Talking Portrait: the frames of the chain, and prompts of the pack whose nodes they replace."""

import av
import numpy as np
import pytest
from PIL import Image

from scripts import render
from tests.helpers.graphs import LOADED, PORTRAIT, TINY, Record, frames_of, node, saving_frames, talking_portrait, write_wav

SINGLE_LOADERS = [
    "MemoLoadModel",
    "MemoLoadVAE",
    "MemoLoadAudioEncoder",
    "MemoLoadEmotionModel",
    "MemoLoadVocalSeparator",
    "MemoLoadFaceAnalysis",
]
"""In the order of Load All's outputs after the first."""


@pytest.fixture(scope="module")
def given(comfyui_server, tmp_path_factory) -> dict:
    """Nodes that load a portrait and a voice of two clips."""
    voice = write_wav(tmp_path_factory.mktemp("voice") / "two_clips.wav", 14000, 24000)
    return {
        "image": node("LoadImage", image=comfyui_server.add_input(PORTRAIT)),
        "audio": node("LoadAudio", audio=comfyui_server.add_input(voice)),
    }


def test_one_node_makes_the_frames_of_the_chain(comfyui_server, given):
    inputs = {part["class_type"]: part["inputs"] for part in given.values()}
    expected = frames_of(comfyui_server, comfyui_server.run(saving_frames(talking_portrait(**inputs))))
    settings = {"resolution": 64, "fps": 30.0, "steps": 1, "guidance_scale": 3.5, "seed": 42}
    prompt = given | {
        "models": node("MemoLoadAll", **LOADED),
        "portrait": node("MemoTalkingPortrait", models=["models", 0], image=["image", 0], audio=["audio", 0], **settings),
        "frames": node("SaveImage", images=["portrait", 0], filename_prefix="one"),
        "rate": node("PreviewAny", source=["portrait", 1]),
        "video": node("SaveVideo", video=["portrait", 2], filename_prefix="video/one", format="auto", codec="auto"),
    }
    record = Record()
    outputs = comfyui_server.run(prompt, record)
    assert np.array_equal(frames_of(comfyui_server, outputs), expected) and len(expected) == 18
    assert outputs["rate"]["text"] == ["30.0"]
    assert "Clip 1 of 2" in record.texts and outputs["portrait"]["images"][0]["type"] == "temp"
    with av.open(str(comfyui_server.output_file(outputs["video"]["images"][0]))) as video:
        assert video.streams.video[0].frames == 18
        assert float(video.streams.audio[0].duration * video.streams.audio[0].time_base) == pytest.approx(14000 / 24000, abs=1e-3)


def test_a_job_of_render_has_the_frames_of_the_workflow(comfyui_server, given, tiny_models, tmp_path):
    """With a picture of which all decoders make the same, as they do not of a JPEG."""
    Image.open(PORTRAIT).convert("RGB").save(tmp_path / "portrait.png")
    image, audio = comfyui_server.add_input(tmp_path / "portrait.png"), given["audio"]["inputs"]["audio"]
    inputs = {"LoadImage": {"image": image}, "LoadAudio": {"audio": audio}, "MemoLoadModel": TINY["MemoLoadModel"] | {"weight_dtype": "fp32"}}
    expected = frames_of(comfyui_server, comfyui_server.run(saving_frames(talking_portrait(**inputs)))).astype(int)
    files = ["--image", tmp_path / "portrait.png", "--audio", comfyui_server.base / "input" / audio, "--output", tmp_path / "job.mp4"]
    settings = ["--models", tiny_models, "--checkpoint", "tiny", "--width", 64, "--height", 64, "--steps", 1, "--codec", "ffv1"]
    assert render.main([*map(str, [*files, *settings, "--device", "cpu"])]) == 0
    with av.open(str(tmp_path / "job.mp4")) as made:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in made.decode(video=0)]).astype(int)
    assert frames.shape == expected.shape and np.abs(frames - expected).max() <= 1  # Save Image cuts off what a video rounds


def test_a_try_takes_a_mood_by_hand_and_the_first_2_seconds(comfyui_server, tmp_path):
    voice = comfyui_server.add_input(write_wav(tmp_path / "three_seconds.wav", 3 * 16000, 16000))
    settings = {"resolution": 64, "fps": 8.0, "steps": 1, "guidance_scale": 1.0, "seed": 42, "first_2_seconds": True}
    prompt = {
        "image": node("LoadImage", image=comfyui_server.add_input(PORTRAIT)),
        "audio": node("LoadAudio", audio=voice),
        "models": node("MemoLoadAll", **LOADED),
        "mood": node("MemoSetEmotion", emotion="sad"),
        "portrait": node("MemoTalkingPortrait", models=["models", 0], image=["image", 0], audio=["audio", 0], emotion=["mood", 0], **settings),
        "video": node("SaveVideo", video=["portrait", 2], filename_prefix="video/try", format="auto", codec="auto"),
    }
    outputs = comfyui_server.run(prompt)
    with av.open(str(comfyui_server.output_file(outputs["video"]["images"][0]))) as video:
        assert (video.streams.video[0].frames, video.streams.video[0].width) == (16, 64)
        assert float(video.streams.audio[0].duration * video.streams.audio[0].time_base) == pytest.approx(2, abs=0.05)


def test_load_all_gives_what_each_single_loader_does(comfyui_server, given):
    """One loader for the whole chain: the same frames."""
    inputs = {part["class_type"]: part["inputs"] for part in given.values()}
    chain = saving_frames(talking_portrait(**inputs))
    expected = frames_of(comfyui_server, comfyui_server.run(chain))
    single = {id: part["class_type"] for id, part in chain.items() if part["class_type"] in SINGLE_LOADERS}
    for part in chain.values():
        for name, value in part["inputs"].items():
            if isinstance(value, list) and value[0] in single:
                part["inputs"][name] = ["models", SINGLE_LOADERS.index(single[value[0]]) + 1]
    prompt = {id: part for id, part in chain.items() if id not in single} | {"models": node("MemoLoadAll", **LOADED)}
    assert np.array_equal(frames_of(comfyui_server, comfyui_server.run(prompt)), expected)


def test_a_prompt_of_the_replaced_nodes_runs(comfyui_server, given):
    version = comfyui_server.get("/system_stats")["system"]["comfyui_version"]
    if tuple(map(int, version.split(".")[:2])) < (0, 33):
        pytest.skip(f"ComfyUI {version} replaces no nodes")
    assert comfyui_server.get("/node_replacements")["IF_MemoCheckpointLoader"][0]["output_mapping"] is None, "see replacements.register"
    names = ("reference_net", "diffusion_net", "vae", "image_proj", "audio_proj", "emotion_classifier")
    cables = {name: ["loader", slot] for slot, name in enumerate(names)} | {name: [name, 0] for name in given}
    settings = {
        "resolution": 64,
        "num_frames_per_clip": 16,
        "fps": 30,
        "inference_steps": 1,
        "cfg_scale": 1.0,
        "seed": 5,
        "output_name": "memo_video",
    }
    prompt = given | {"loader": node("IF_MemoCheckpointLoader", enable_xformers=True), "avatar": node("IF_MemoAvatar", **cables, **settings)}
    prompt["frames"] = node("SaveImage", images=["avatar", 0], filename_prefix="replaced")
    for part in prompt.values():
        part["_meta"] = {"title": ""}
    assert frames_of(comfyui_server, comfyui_server.run(prompt)).shape == (18, 64, 64, 3)
