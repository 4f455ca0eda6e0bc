"""Photos of any shape in the nodes: cropped, or said to be squashed before the first step; no face, and a box by hand."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from memo_modules.pipeline import load_picture
from memo_modules.portrait.face import FaceAnalyzer
from memo_modules.portrait.framing import crop_portrait
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


GENERATOR = np.random.default_rng(0)
PHOTO = Image.fromarray(GENERATOR.integers(60, 220, (8, 6, 3), dtype=np.uint8)).resize((180, 240), Image.Resampling.BICUBIC)
GREY = PHOTO.convert("L")
BATCH = r"MemoCropPortrait: image: expected one picture, got a batch of 3\. Pick one with Get Image from Batch\."


def animated(path: Path) -> None:
    others = [PHOTO.transpose(way) for way in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180)]
    PHOTO.save(path, save_all=True, append_images=others, duration=50)


def of_16_bits(path: Path) -> None:
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = *PHOTO.size, "rgb48be"
        frame = av.VideoFrame.from_ndarray(np.asarray(PHOTO).astype(np.uint16) * 257, format="rgb48le")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def with_alpha(premultiplied: bool) -> Image.Image:
    alpha = np.tile(np.linspace(0, 255, PHOTO.width).round().astype(np.uint8), (PHOTO.height, 1))
    pixels = np.asarray(PHOTO) * (alpha[..., None] / 255 if premultiplied else 1)
    return Image.fromarray(np.dstack([pixels.round().astype(np.uint8), alpha]))


FILES: dict[str, tuple[Callable[[Path], None], str | None]] = {
    "orientation 3.jpg": (lambda path: PHOTO.transpose(Image.Transpose.ROTATE_180).save(path, exif=oriented(3), quality=95), None),
    "orientation 6.jpg": (lambda path: PHOTO.transpose(Image.Transpose.ROTATE_90).save(path, exif=oriented(6), quality=95), None),
    "orientation 8.jpg": (lambda path: PHOTO.transpose(Image.Transpose.ROTATE_270).save(path, exif=oriented(8), quality=95), None),
    "cmyk.jpg": (lambda path: PHOTO.convert("CMYK").save(path, quality=95), None),
    "progressive.jpg": (lambda path: PHOTO.save(path, quality=95, progressive=True), None),
    "a phone's two pictures.jpg": (lambda path: PHOTO.save(path, "MPO", save_all=True, append_images=[PHOTO.resize((45, 60))], quality=95), None),
    "a JPEG called.png": (lambda path: PHOTO.save(path, "JPEG", quality=95), None),
    "16 bits.png": (of_16_bits, None),
    "grey and alpha.png": (lambda path: PHOTO.convert("LA").save(path), None),
    "palette.png": (lambda path: PHOTO.quantize(256).save(path, transparency=3), None),
    "palette.gif": (lambda path: PHOTO.quantize(256).save(path), None),
    "alpha.png": (lambda path: with_alpha(False).save(path), None),
    "premultiplied.png": (lambda path: with_alpha(True).save(path), None),
    "colour profile.jpg": (lambda path: PHOTO.save(path, icc_profile=profile(), quality=95), None),
    "photo.webp": (lambda path: PHOTO.save(path, quality=95), None),
    "photo.bmp": (lambda path: PHOTO.save(path), None),
    "photo.tif": (lambda path: PHOTO.save(path, compression="tiff_lzw"), None),
    "animation.gif": (animated, BATCH),
    "animation.png": (animated, BATCH),
    "animation.webp": (animated, BATCH),
    "small.png": (lambda path: PHOTO.resize((63, 84)).save(path), r"image: expected at least 64 x 64 pixels, got 63 x 84\."),
    "mask alone.png": (lambda path: black_below(GREY).save(path), r"image: expected a face, found none in 180 x 240 pixels"),
    "photo.heic": (lambda path: path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)), "error in LoadImage"),
}
"""Names of files to how they are written, and what is said of those that are refused."""


def oriented(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def profile() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def black_below(alpha: Image.Image) -> Image.Image:
    return Image.fromarray(np.dstack([np.zeros((*alpha.size[::-1], 3), np.uint8), np.asarray(alpha)]))


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_any_kind_is_cropped_as_it_looks_or_refused_in_words(comfyui_server, tiny_models, tmp_path, name):
    save, refusal = FILES[name]
    save(tmp_path / name)
    prompt = {
        "photo": node("LoadImage", image=comfyui_server.add_input(tmp_path / name)),
        "faces": node("MemoLoadFaceAnalysis", face_analysis="tiny"),
        "crop": node("MemoCropPortrait", face_analysis=["faces", 0], image=["photo", 0], index=0, margin=0.0, size=128),
        "end": node("SaveImage", images=["crop", 0], filename_prefix="kinds"),
    }
    if refusal:
        with pytest.raises(ServerError, match=refusal):
            comfyui_server.run(prompt)
        return
    [entry] = comfyui_server.run(prompt)["end"]["images"]
    made = np.asarray(Image.open(comfyui_server.output_file(entry)).convert("RGB")).astype(float)
    analyzer = FaceAnalyzer(tiny_models / "memo" / "tiny" / "misc" / "face_analysis" / "models")
    expected, _, _ = crop_portrait(analyzer, load_picture(tmp_path / name), margin=0.0, size=128)
    assert np.abs(made - 255 * expected[0].numpy()).mean() < 4
    looks = torch.from_numpy(np.array(GREY.convert("RGB") if name == "grey and alpha.png" else PHOTO)).float()
    if "premultiplied" not in name:
        assert (load_picture(tmp_path / name) * 255 - looks).abs().mean() < 8, "and the library reads it as it looks"
