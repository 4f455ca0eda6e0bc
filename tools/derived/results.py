"""What the workflows make with the small model, as pictures: a square one of each for ComfyUI's templates, and what single nodes show for
their help pages."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

from tools.comfyui_server import ROOT, ComfyUIServer
from tools.derived import stage
from tools.small_world import measure_mouth

API, DOCS = ROOT / "workflows" / "api", ROOT / "web" / "docs"
SEEN_ON = {
    "MemoCropPortrait": "crop_and_paste_back",
    "MemoDetectEmotion": "talking_portrait_all_nodes",
    "MemoEmotionTimeline": "emotion_timeline",
    "MemoPasteBack": "two_speakers_one_photo",
    "MemoPasteBackToFile": "crop_and_paste_back",
    "MemoSampleToFile": "long_video_to_file",
    "MemoSampler": "talking_portrait_all_nodes",
    "MemoTalkingPortrait": "talking_portrait",
}
"""Nodes whose help page shows a result, to the workflow that it comes from. What a loader gives cannot be seen."""
ALIKE = {
    "face_restoration_facerestore_cf": "talking_portrait",
    "save_with_video_helper_suite": "talking_portrait",
    "text_to_portrait": "talking_portrait",
    "text_to_speech_fill_chatterbox": "talking_portrait",
}
"""Workflows that need another pack or a model of other people, to the one whose result stands for theirs."""
SIDE, CELL = 512, 128
"""Pixels of a template's picture, and of the frames in it, which are as the small model makes them."""
WIDTH = 400
"""Of a help page's picture: what ComfyUI's panel has room for."""
INK, PAPER = (235, 190, 90), (28, 30, 38)


@dataclass(frozen=True)
class Run:
    """What a workflow made. shown: {class of a node: picture on it}. frames: uint8 (f h w 3). sound: float (samples)."""

    portrait: Image.Image
    shown: dict[str, Image.Image]
    frames: np.ndarray
    sound: np.ndarray


def run(server: ComfyUIServer, workflow: str) -> Run:
    """Run a workflow on the base of stage.py."""
    prompt = json.loads((API / f"{workflow}.json").read_text(encoding="utf-8"))
    for node in prompt.values():
        node["inputs"] |= {name: value for name, value in stage.WIDGETS.get(node["class_type"], {}).items() if name in node["inputs"]}
    pictures = [node["inputs"] for node in prompt.values() if node["class_type"] == "LoadImage"]
    if workflow in stage.PHOTOS:
        pictures[0]["image"] = stage.PHOTOS[workflow]
    outputs = {prompt[name]["class_type"]: output["images"] for name, output in server.run(prompt).items() if output and "images" in output}
    listed = {kind: server.output_file(files[0]) for kind, files in outputs.items()}
    video = next(file for file in listed.values() if file.suffix in (".mp4", ".mkv"))
    shown = {kind: Image.open(file).convert("RGB") for kind, file in listed.items() if file.suffix == ".png"}
    portrait = Image.open(server.base / "input" / (pictures[0]["image"] if pictures else next(iter(stage.PORTRAITS)))).convert("RGB")
    return Run(portrait, shown, *_decoded(video))


def _decoded(video: Path) -> tuple[np.ndarray, np.ndarray]:
    with av.open(str(video)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        container.seek(0)
        sound = np.concatenate([frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)])
    return frames, sound.astype(np.float32)


def template_picture(made: Run) -> Image.Image:
    """One frame large, with the portrait and the voice that it came from beside it, and others below; of a wide photo the frames alone."""
    picture, large = Image.new("RGB", (SIDE, SIDE), PAPER), int(np.argmax(measure_mouth(made.frames)[0]))
    if made.frames.shape[2] > made.frames.shape[1]:
        picture.paste(whole := _sized(made.frames[large], SIDE), (0, 0))
        picture.paste(_rows(_spread(made.frames, 4), SIDE // 2, columns=2), (0, whole.height))
        return picture
    picture.paste(_sized(made.frames[large], 3 * CELL), (0, 0))
    beside = [_sized(np.asarray(made.portrait), CELL), _waves(made.sound), *(_sized(frame, CELL) for frame in _spread(made.frames, 5))]
    places = [*((3 * CELL, CELL * row) for row in range(3)), *((CELL * column, 3 * CELL) for column in range(4))]
    for small, place in zip(beside, places, strict=True):
        picture.paste(small, place)
    return picture


def help_picture(node: str, made: Run) -> Image.Image:
    """What the node shows when it is done; where that is a video, some frames of it."""
    if (shown := made.shown.get(node)) is None:
        shown = _rows(_spread(made.frames, 4), WIDTH // 2, columns=2)
    return shown if shown.width <= WIDTH else shown.resize((WIDTH, round(shown.height * WIDTH / shown.width)), Image.Resampling.LANCZOS)


def _spread(frames: np.ndarray, count: int) -> Sequence[np.ndarray]:
    return frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]


def _rows(frames: Sequence[np.ndarray], across: int, columns: int) -> Image.Image:
    small = [_sized(frame, across) for frame in frames]
    height = small[0].height
    sheet = Image.new("RGB", (across * columns, -(-len(small) // columns) * height), PAPER)
    for i, frame in enumerate(small):
        sheet.paste(frame, (i % columns * across, i // columns * height))
    return sheet


def _sized(pixels: np.ndarray, width: int) -> Image.Image:
    picture = Image.fromarray(pixels)
    return picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)


def _waves(sound: np.ndarray) -> Image.Image:
    cell = Image.new("RGB", (CELL, CELL), PAPER)
    draw, middle = ImageDraw.Draw(cell), CELL / 2
    tall = [float(np.abs(part).max(initial=0)) for part in np.array_split(sound, CELL // 4 - 4)]
    for i, each in enumerate(tall):
        half = 2 + each / max(1e-6, *tall) * 0.35 * CELL
        draw.rounded_rectangle((8 + 4 * i, middle - half, 10 + 4 * i, middle + half), 1, fill=INK)
    return cell
