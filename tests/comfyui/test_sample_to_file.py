"""MEMO Sample to File and MEMO_STATE in a running ComfyUI: the file, going on after a stop, going on with more audio."""

import json
import shutil

import av
import numpy as np
import pytest
from PIL import Image

from tests.helpers.graphs import PORTRAIT, Record, find, frames_of, free, node, saving_frames, talking_portrait, to_file, write_wav
from tools.comfyui_server import ComfyUIServer, ServerError

SAMPLES = 24000  # 45 frames, three clips


@pytest.fixture(scope="module")
def inputs(comfyui_server, tmp_path_factory) -> dict:
    """Inputs of the published workflow's nodes for a voice of three clips."""
    voice = write_wav(tmp_path_factory.mktemp("voice") / "three_clips.wav", SAMPLES, 16000)
    return {
        "LoadImage": {"image": comfyui_server.add_input(PORTRAIT)},
        "LoadAudio": {"audio": comfyui_server.add_input(voice)},
        "MemoSampler": {"steps": 2},
    }


@pytest.fixture
def graph(inputs) -> dict:
    return talking_portrait(**inputs)


@pytest.fixture(scope="module")
def frames(comfyui_server, inputs) -> np.ndarray:
    """What MEMO Sampler makes of it."""
    return frames_of(comfyui_server, comfyui_server.run(saving_frames(talking_portrait(**inputs))))


def read(path) -> tuple[np.ndarray, dict]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]), dict(container.metadata)


def the_file(server, outputs: dict, node_id: str):
    [entry] = outputs[node_id]["images"]
    return server.output_file(entry)


def unfinished(server) -> list[str]:
    return sorted(path.name for path in (server.base / "output" / "memo_unfinished").glob("*/clip-*.mp4"))


def test_with_a_photo_and_a_crop_the_frames_are_in_the_photo(comfyui_server, graph, tmp_path):
    before = np.asarray(Image.open(PORTRAIT).convert("RGB"))
    Image.fromarray(before).save(tmp_path / "photo.png")  # a JPEG may be decoded to values between the steps of 8 bits
    prompt = to_file(graph)
    prompt[find(prompt, "LoadImage")]["inputs"]["image"] = comfyui_server.add_input(tmp_path / "photo.png")
    sampler, photo = find(prompt, "MemoSampleToFile"), [find(prompt, "LoadImage"), 0]
    prompt |= {
        "analysis": node("MemoLoadFaceAnalysis", face_analysis="tiny_two_faces", download=False),
        "crop": node("MemoCropPortrait", face_analysis=["analysis", 0], image=photo, index=0, margin=0.1, size=64),
        "mask": node("MemoPasteBack", photo=photo, images=["crop", 0], crop=["crop", 1], feather=0.0, color_match="off"),
        "shown": node("MaskToImage", mask=["mask", 1]),
        "saved": node("SaveImage", images=["shown", 0], filename_prefix="mask"),
    }
    prompt[sampler]["inputs"] |= {"photo": photo, "feather": 0.0}
    with pytest.raises(ServerError, match="crop: expected it together with photo, got none. Connect both, or neither."):
        comfyui_server.run(prompt)
    prompt[sampler]["inputs"]["crop"] = ["crop", 1]
    outputs = comfyui_server.run(prompt)
    pictures, _ = read(the_file(comfyui_server, outputs, sampler))
    [entry] = outputs["saved"]["images"]
    outside = np.asarray(Image.open(comfyui_server.output_file(entry)).convert("L")) == 0
    assert pictures.shape == (45, *before.shape) and 0.1 < outside.mean() < 0.95
    assert all(np.array_equal(picture[outside], before[outside]) for picture in pictures)
    assert (pictures[:, ~outside] != before[~outside]).mean() > 0.5


def test_the_file_holds_the_frames_and_the_workflow(comfyui_server, graph, frames):
    prompt = to_file(graph)
    sampler = find(prompt, "MemoSampleToFile")
    prompt |= {
        "again": node("SaveVideo", video=[sampler, 0], filename_prefix="video/again", format="auto", codec="auto"),
        "parts": node("GetVideoComponents", video=[sampler, 0]),
        "rate": node("PreviewAny", source=["parts", 2]),
    }
    record = Record()
    outputs = comfyui_server.run(prompt, record)
    path = the_file(comfyui_server, outputs, sampler)
    pictures, metadata = read(path)
    assert path.parent == comfyui_server.base / "output" / "video" and path.name.startswith("long_0")
    assert np.abs(pictures.astype(int) - frames).max() <= 1, "PNG rounds down"
    assert json.loads(metadata["prompt"])[sampler]["class_type"] == "MemoSampleToFile"
    assert metadata["DigitalSourceType"].endswith("/trainedAlgorithmicMedia") and metadata["comment"].startswith("Synthetic media")
    again, kept = read(the_file(comfyui_server, outputs, "again"))
    assert np.array_equal(again, pictures)
    assert kept["DigitalSourceType"] == metadata["DigitalSourceType"], "what Save Video copies keeps the label"
    assert outputs["rate"]["text"] == ["30.0"]
    assert any(text.startswith("3 clips, 45 frames, about ") for text in record.texts), record.texts
    assert any(text.startswith("Clip 2 of 3, 0:00:") for text in record.texts), record.texts
    assert record.texts[-1] == f"Done: 45 frames, 0:01.5, video/{path.name}"
    assert unfinished(comfyui_server) == []


def test_cancelled_and_queued_again_it_continues(comfyui_server, graph, frames):
    prompt = to_file(graph, filename_prefix="video/cancelled")

    def cancel(kind, data):
        if kind == "progress_text" and data["text"].startswith("Clip 1 of 3"):
            comfyui_server.interrupt()

    record = Record()
    with pytest.raises(ServerError, match="interrupted"):
        comfyui_server.run(prompt, lambda kind, data: (record(kind, data), cancel(kind, data)))
    done = len(unfinished(comfyui_server))
    assert done in (1, 2)
    assert record.texts[-1] == f"Stopped: Run continues after clip {done}"
    record = Record()
    outputs = comfyui_server.run(prompt, record)
    assert any(text.startswith(f"Continuing after clip {done}. 3 clips") for text in record.texts)
    pictures, _ = read(the_file(comfyui_server, outputs, find(prompt, "MemoSampleToFile")))
    assert np.abs(pictures.astype(int) - frames).max() <= 1
    assert unfinished(comfyui_server) == []


def test_one_sample_of_the_voice_that_is_another_begins_anew(comfyui_server, graph, tmp_path):
    """A word that was changed must not be said with the lips of the old one; there is no sound that would tell."""
    prompt = to_file(graph, filename_prefix="video/changed")
    del prompt[find(prompt, "MemoSampleToFile")]["inputs"]["sound"]

    def cancel(kind, data):
        if kind == "progress_text" and data["text"].startswith("Clip 1 of 3"):
            comfyui_server.interrupt()

    with pytest.raises(ServerError, match="interrupted"):
        comfyui_server.run(prompt, cancel)
    voice = write_wav(tmp_path / "changed.wav", SAMPLES, 16000)
    content = bytearray(voice.read_bytes())
    content[-2 * 3000] ^= 1  # the least that 16 bits can tell
    voice.write_bytes(content)
    prompt[find(prompt, "LoadAudio")]["inputs"]["audio"] = comfyui_server.add_input(voice)
    record = Record()
    with pytest.raises(ServerError, match="interrupted"):
        comfyui_server.run(prompt, lambda kind, data: (record(kind, data), cancel(kind, data)))
    assert any(text.startswith("Starting over, because these changed: audio. 3 clips") for text in record.texts)
    shutil.rmtree(comfyui_server.base / "output" / "memo_unfinished")


@pytest.mark.slow
def test_a_killed_comfyui_continues_when_it_is_back(comfyui_path, tiny_models, comfyui_server, inputs, frames, tmp_path):
    """Everything that the video is made of is computed once more, and found to be what it was."""
    prompt = to_file(talking_portrait(**inputs), filename_prefix="video/killed")
    shutil.copytree(comfyui_server.base / "input", tmp_path / "input")

    def kill(kind, data):
        if kind == "progress_text" and data["text"].startswith("Clip 2 of 3"):
            server.process.kill()

    with ComfyUIServer(comfyui_path, tmp_path, tiny_models) as server, pytest.raises((ServerError, OSError)):
        server.run(prompt, kill)
    shutil.rmtree(tmp_path / "custom_nodes")
    record = Record()
    with ComfyUIServer(comfyui_path, tmp_path, tiny_models) as server:
        outputs = server.run(prompt, record)
        pictures, _ = read(the_file(server, outputs, find(prompt, "MemoSampleToFile")))
    assert any(text.startswith("Continuing after clip 2. 3 clips") for text in record.texts)
    assert np.abs(pictures.astype(int) - frames).max() <= 1, "PNG rounds down"
    assert list((tmp_path / "output" / "memo_unfinished").iterdir()) == []


def test_two_samplings_make_the_video_of_one(comfyui_server, graph, frames):
    """One Encode Audio, cut between the first clip and the second; the state goes from one sampler into the other."""
    prompt = saving_frames(graph)
    sampler = find(prompt, "MemoSampler")
    first, rest = dict(prompt[sampler]["inputs"]), dict(prompt[sampler]["inputs"])
    prompt["split"] = node("MemoSplitAudio", audio=first["audio"], sound=[find(prompt, "LoadAudio"), 0], clips=1)
    prompt[sampler]["inputs"] = first | {"audio": ["split", 0]}
    prompt["rest"] = node("MemoSampler", **rest | {"audio": ["split", 1], "state": [sampler, 2]})
    prompt["frames"]["inputs"]["images"] = ["rest", 0]
    prompt["rest of sound"] = node("SaveAudio", audio=["split", 3], filename_prefix="rest")
    outputs = comfyui_server.run(prompt)
    made = frames_of(comfyui_server, {"frames": outputs["frames"]})
    assert np.array_equal(made, frames[16:])
    with av.open(str(comfyui_server.output_file(outputs["rest of sound"]["audio"][0]))) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
    assert samples == SAMPLES - -(-16 * 16000 // 30)


def test_new_audio_continues_a_video(comfyui_server, graph):
    prompt = saving_frames(graph)
    sampler, encode, load = (find(prompt, kind) for kind in ("MemoSampler", "MemoEncodeAudio", "LoadAudio"))
    prompt["more"] = node("MemoEncodeAudio", **prompt[encode]["inputs"] | {"previous_audio": [load, 0]})
    prompt["continued"] = node("MemoSampler", **prompt[sampler]["inputs"] | {"audio": ["more", 0], "state": [sampler, 2]})
    prompt["frames"]["inputs"]["images"] = ["continued", 0]
    made = frames_of(comfyui_server, comfyui_server.run(prompt))
    assert made.shape == (45, 64, 64, 3) and made.std() > 5


@pytest.mark.parametrize("kind", [pytest.param("MemoSampler", marks=pytest.mark.slow), "MemoSampleToFile"])
def test_out_of_memory_continues_in_low_memory_mode(comfyui_server, graph, kind):
    # without guidance: branches that run apart round in another way, which the random net makes a hundred times as much in each clip
    graph[find(graph, "MemoSampler")]["inputs"]["guidance_scale"] = 1.0
    frames = frames_of(comfyui_server, comfyui_server.run(saving_frames(graph)))
    assert free(comfyui_server) == {}
    prompt = to_file(graph, filename_prefix="video/oom") if kind == "MemoSampleToFile" else saving_frames(graph)
    sampler = prompt[find(prompt, kind)]
    prompt["failing"] = node("FailingModel", model=sampler["inputs"]["model"], call=4)  # the second step of the second clip
    sampler["inputs"]["model"] = ["failing", 0]
    record = Record()
    outputs = comfyui_server.run(prompt, record)
    assert [text for text in record.texts if "Out of memory" in text] == ["Out of memory in clip 2. Continuing in low-memory mode, which is slower."]
    if kind == "MemoSampleToFile":
        made, _ = read(the_file(comfyui_server, outputs, find(prompt, kind)))
    else:
        made = frames_of(comfyui_server, outputs)
    assert np.abs(made.astype(int) - frames).max() <= 1, "PNG rounds down"


@pytest.mark.parametrize("prefix", ["../out", "/tmp/out", "video/../../out", "video/", "", "a\\..\\..\\b", "C:\\out\\.."])
def test_no_prefix_leaves_the_output_folder(comfyui_server, graph, prefix):
    with pytest.raises(ServerError, match="filename_prefix: expected the beginning of a file name inside"):
        comfyui_server.run(to_file(graph, filename_prefix=prefix))


def test_a_link_out_of_the_output_folder_is_not_followed(comfyui_server, graph, tmp_path):
    (comfyui_server.base / "output" / "link").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(ServerError, match="filename_prefix"):
        comfyui_server.run(to_file(graph, filename_prefix="link/out"))
    assert not any(tmp_path.iterdir())
