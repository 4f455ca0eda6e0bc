"""Crop Portrait and Paste Back in a running ComfyUI: from a photo to a portrait, and frames back into the photo."""

import json

import av
import numpy as np
import pytest
from PIL import Image

from tests.helpers.graphs import Record, node
from tools.comfyui_server import ServerError

WIDTH, HEIGHT = 640, 400


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Image.Image:
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(60, 255, (10, 16, 3), dtype=np.uint8))
    picture = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)) // 2 * 2 + generator.integers(
        0, 2, (HEIGHT, WIDTH, 3), dtype=np.uint8
    )
    return Image.fromarray(picture.astype(np.uint8))


@pytest.fixture
def graph(comfyui_server, photo, tmp_path) -> dict:
    """A photo, its portrait, and the photo with the portrait in its place."""
    photo.save(tmp_path / "photo.png")
    return {
        "photo": node("LoadImage", image=comfyui_server.add_input(tmp_path / "photo.png")),
        "analysis": node("MemoLoadFaceAnalysis", face_analysis="tiny_two_faces", download=False),
        "crop": node("MemoCropPortrait", face_analysis=["analysis", 0], image=["photo", 0], index=0, margin=0.1, size=256),
        "paste": node("MemoPasteBack", photo=["photo", 0], images=["crop", 0], crop=["crop", 1], feather=0.0, color_match="off"),
    }


def saved(server, outputs: dict, name: str) -> np.ndarray:
    [entry] = outputs[name]["images"]
    return np.asarray(Image.open(server.output_file(entry)).convert("RGB"))


def test_a_photo_goes_through_the_crop_and_back(comfyui_server, graph, photo):
    prompt = graph | {
        "portrait": node("SaveImage", images=["crop", 0], filename_prefix="portrait"),
        "pasted": node("SaveImage", images=["paste", 0], filename_prefix="pasted"),
        "mask": node("MaskToImage", mask=["paste", 1]),
        "mask image": node("SaveImage", images=["mask", 0], filename_prefix="mask"),
    }
    outputs = comfyui_server.run(prompt)
    assert saved(comfyui_server, outputs, "portrait").shape == (256, 256, 3)
    [preview] = outputs["crop"]["images"]
    assert preview["type"] == "temp"
    before, pasted, mask = np.asarray(photo), saved(comfyui_server, outputs, "pasted"), saved(comfyui_server, outputs, "mask image")[..., 0]
    assert pasted.shape == before.shape and mask.shape == before.shape[:2]
    square = mask > 0
    assert 200 * 200 < square.sum() < 320 * 320 and np.array_equal(pasted[~square], before[~square])
    assert np.abs(pasted[square].astype(int) - before[square]).mean() < 3


def test_into_a_file_at_the_photos_size(comfyui_server, graph, photo):
    prompt = {name: part for name, part in graph.items() if name != "paste"} | {
        "frames": node("RepeatImageBatch", image=["crop", 0], amount=5),
        "file": node(
            "MemoPasteBackToFile", photo=["photo", 0], images=["frames", 0], crop=["crop", 1], feather=0.0, color_match="border", fps=25.0,
            filename_prefix="video/pasted", codec="ffv1", crf=18, pixel_format="auto", audio_codec="auto",
        ),
        "parts": node("GetVideoComponents", video=["file", 0]),
        "rate": node("PreviewAny", source=["parts", 2]),
    }  # fmt: skip
    record = Record()
    outputs = comfyui_server.run(prompt, record)
    [entry] = outputs["file"]["images"]
    with av.open(str(comfyui_server.output_file(entry))) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert json.loads(container.metadata["prompt"])["file"]["class_type"] == "MemoPasteBackToFile"
    assert len(frames) == 5 and frames[0].shape == (HEIGHT, WIDTH, 3)
    same = (frames[0] == np.asarray(photo)).all(axis=-1)
    assert 0.5 < same.mean() < 1 and same[:, -100:].all()
    assert outputs["rate"]["text"] == ["25.0"] and record.progress["file"][-1] == (5, 5)


def test_more_than_the_memory_holds_is_refused_before_it_is_made(comfyui_server, graph):
    prompt = graph | {
        "large": node("HandMadeImage", shape="1 4000 6000 3", value=0.5),
        "frames": node("HandMadeImage", shape="30000 64 64 3", value=0.5),
        "show": node("PreviewImage", images=["paste", 0]),
    }
    prompt["crop"]["inputs"]["image"] = prompt["paste"]["inputs"]["photo"] = ["large", 0]
    prompt["paste"]["inputs"]["images"] = ["frames", 0]
    with pytest.raises(
        ServerError, match=r"images: 30000 frames of 6000 x 4000 need 8046\.\d GiB .* Use MEMO Paste Back to File, or scale the photo down"
    ):
        comfyui_server.run(prompt)
