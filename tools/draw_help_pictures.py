"""Draws every node as ComfyUI's front end shows it, for the help pages: web/docs/<NodeId>.png.

    python tools/draw_help_pictures.py [NodeId ...]

With a Python that runs ComfyUI, which is looked for in COMFYUI_PATH and ~/comfy/ComfyUI; it needs Chromium.
"""

import argparse
import tempfile
import time
from pathlib import Path

from PIL import Image, PngImagePlugin

from memo_modules.audio.timeline import EXAMPLE
from tools.front_end import FrontEnd, desk
from tools.make_tiny_checkpoint import write_tiny_checkpoint

ROOT = Path(__file__).resolve().parents[1]

DOCS = ROOT / "web" / "docs"
SHOWS = "Description"
"""The PNG's text that holds what contents() said when it was drawn."""
SETTINGS = {"Comfy.NodeBadge.NodeSourceBadgeMode": "None"}
WIDGETS = {"MemoEmotionTimeline": {"timeline": EXAMPLE}}
MARGIN = 12
COLORS = 256
WIDTH = 350  # at least, or names are cut off
_SETTLED = 0.5  # seconds until the elements that lie on a node have found their places


def contents(info: dict) -> str:
    """What a picture of a node shows: title, inputs and outputs. info: of the node in /object_info."""
    order = info["input_order"]
    return ", ".join([info["display_name"], *order.get("required", ()), *order.get("optional", ()), *info["output_name"]])


def draw(page: FrontEnd, node: str, info: dict, file: Path) -> None:
    """The node alone on the canvas, with a margin around it, as a PNG of few colours."""
    page.clear()
    left, top, width, height = page.add(node, width=WIDTH)
    page.set_widgets(WIDGETS)
    time.sleep(_SETTLED)
    page.picture(file, (left - MARGIN, top - MARGIN, width + 2 * MARGIN, height + 2 * MARGIN))
    with Image.open(file) as picture:
        reduced = picture.convert("RGB").quantize(COLORS)
    said = PngImagePlugin.PngInfo()
    said.add_text(SHOWS, contents(info))
    reduced.save(file, optimize=True, pnginfo=said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "nodes", nargs="*", default=sorted(page.stem for page in DOCS.glob("*.md")), metavar="NodeId", help="which nodes (default: all)"
    )
    nodes = parser.parse_args().nodes
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        write_tiny_checkpoint(base / "models", "memo")  # so that the lists show the published names
        with desk(base, **SETTINGS) as (server, page):
            for node in nodes:
                draw(page, node, server.get(f"/object_info/{node}")[node], DOCS / f"{node}.png")
                print(DOCS / f"{node}.png", flush=True)


if __name__ == "__main__":
    main()
