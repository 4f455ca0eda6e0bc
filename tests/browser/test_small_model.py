"""The small model talks on the canvas, and what it made is seen in every theme. With MEMO_WRITE_SCREENSHOTS=1 pictures of it go to docs/."""

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.graphs import SMALL
from tools.front_end import FrontEnd

ROOT = Path(__file__).resolve().parents[2]
OWN = SMALL | {"LoadImage": {"image": "cartoon.png"}, "LoadAudio": {"audio": "cartoon.wav"}}
OWN["MemoSampler"] = SMALL["MemoSampler"] | {"steps": 8}
SIZE = (2050, 900)

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    shutil.copytree(ROOT / "assets" / "models", base / "models")
    (base / "input").mkdir()
    for file in ("cartoon.png", "cartoon.wav"):
        shutil.copy(ROOT / "assets" / file, base / "input")
    return base


def test_workflow_shows_what_it_heard_and_made_in_every_theme(chromium, server, tmp_path):
    with FrontEnd(chromium, tmp_path / "profile", server.url, SIZE) as page:
        page.drop_workflow(ROOT / "workflows" / "talking_portrait_all_nodes.json")
        page.set_widgets(OWN)
        page.run(timeout=600)
        page.wait_for("document.querySelector('video')?.readyState > 0")
        for node in ("MemoSampler", "MemoDetectEmotion"):
            shown = f"app.graph.nodes.find(({{ type }}) => type === {json.dumps(node)}).imgs?.[0]"
            page.wait_for(f"{shown}?.src.includes('/view?') && {shown}.naturalWidth > 300")
        page.evaluate("document.querySelector('video').currentTime = 1.3")
        for palette in ("dark", "light"):
            page.set("Comfy.ColorPalette", palette)
            page.evaluate("app.canvas.ds.scale = 0.68; app.canvas.ds.offset = [555, 195]; app.canvas.setDirty(true, true)")
            page.evaluate("new Promise(done => setTimeout(done, 2000))")  # in which the theme changes
            picture = Image.open(page.screenshot(tmp_path / f"{palette}.png")).convert("RGB")
            # the canvas's own colour, below the note
            assert (sum(picture.getpixel((214, SIZE[1] - 200))) > 3 * 128) == (palette == "light")
            if os.environ.get("MEMO_WRITE_SCREENSHOTS") == "1":
                picture.crop((60, 50, *SIZE)).save(ROOT / "docs" / f"talking_portrait_{palette}.jpg", quality=85)
        assert page.own_errors() == []
