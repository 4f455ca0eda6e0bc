"""Photos of any shape in the nodes: cropped, or said to be squashed before the first step; no face, and a box by hand."""

import pytest

from tests.helpers.graphs import LOADED, Record, find, node, talking_portrait, to_file
from tools.comfyui_server import ServerError

VOICE = {"audio": node("HandMadeAudio", shape="1 1 8000", sample_rate=16000, value="noise")}


def image(width: int, height: int, value: float = 0.5) -> dict:
    return node("HandMadeImage", shape=f"1 {height} {width} 3", value=value)


def all_in_one(picture: dict, **inputs) -> dict:
    settings = {"resolution": 64, "fps": 30.0, "steps": 1, "guidance_scale": 1.0, "seed": 42}
    return VOICE | {
        "image": picture,
        "models": node("MemoLoadAll", **LOADED),
        "portrait": node("MemoTalkingPortrait", models=["models", 0], image=["image", 0], audio=["audio", 0], **settings | inputs),
        "end": node("PreviewImage", images=["portrait", 0]),
    }


def chain(picture: dict, file: bool) -> dict:
    prompt = talking_portrait(MemoSampler={"guidance_scale": 1.0})
    prompt = to_file(prompt, codec="h264") if file else prompt
    return prompt | {find(prompt, "LoadImage"): picture, find(prompt, "LoadAudio"): VOICE["audio"]}


@pytest.mark.parametrize("file", [False, True], ids=["Sampler", "Sample to File"])
def test_a_sampler_says_that_it_squashes_before_the_first_step(comfyui_server, file):
    said, record = [], Record()

    def listen(kind: str, data: dict) -> None:
        if kind in ("progress_text", "progress") and data["node"] == sampler:
            said.append(data["text"] if kind == "progress_text" else "a step")
        record(kind, data)

    note = "image: 72 x 128 squashed to 64 x 64, 1.78 times too wide: MEMO Crop Portrait keeps its shape, with equal width and height."
    prompt = chain(image(72, 128), file)
    sampler = find(prompt, "MemoSampleToFile" if file else "MemoSampler")
    comfyui_server.run(prompt, listen)
    of_it = [k for k, text in enumerate(said) if note in text]
    assert of_it and of_it[0] < said.index("a step")
    assert any(text.startswith("Clip 1 of 1") and note in text for text in said), "it stays in the node"
    other = Record()
    comfyui_server.run(chain(image(128, 128), file), other)
    assert not any("squashed" in text for text in other.texts)


@pytest.mark.parametrize("size", [(72, 128), (128, 72), (96, 96)])
def test_talking_portrait_crops_by_default(comfyui_server, size):
    record = Record()
    assert len(comfyui_server.run(all_in_one(image(*size)), record)["end"]["images"]) == 15
    assert not any("squashed" in text for text in record.texts)


def test_talking_portrait_squashes_when_told(comfyui_server):
    record = Record()
    comfyui_server.run(all_in_one(image(72, 128), crop_face=False), record)
    assert any("image: 72 x 128 squashed to 64 x 64, 1.78 times too wide: crop_face keeps its shape." in text for text in record.texts)


def test_a_picture_without_a_face_can_talk_when_told(comfyui_server):
    with pytest.raises(ServerError, match=r"image: expected a face, found none in 72 x 128 pixels\. .* or switch on allow_no_face\."):
        comfyui_server.run(all_in_one(image(72, 128, 0.0)))
    assert len(comfyui_server.run(all_in_one(image(72, 128, 0.0), allow_no_face=True))["end"]["images"]) == 15


def test_a_box_by_hand(comfyui_server):
    crop = {"face_analysis": ["faces", 0], "image": ["photo", 0], "index": 0, "margin": 0.0, "size": 64}
    prompt = {
        "faces": node("MemoLoadFaceAnalysis", face_analysis="tiny"),
        "photo": image(200, 100, 0.0),
        "crop": node("MemoCropPortrait", **crop, box_size=50, box_x=100, box_y=50),
        "end": node("PreviewImage", images=["crop", 0]),
    }
    assert comfyui_server.run(prompt)["end"]["images"]
    prompt["crop"]["inputs"]["box_x"] = 151
    with pytest.raises(ServerError, match="box_size: expected a box inside of the photo of 200 x 100 pixels, got one that ends at 201 of 200"):
        comfyui_server.run(prompt)
